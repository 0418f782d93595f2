"""What every plugin of every role must pass; a new plugin is found here by itself."""

import inspect
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from landmark_lab.plugin import (
    Plugin,
    available,
    build,
    check,
    failures,
    parameters,
    roles,
    summary,
)

# Values for the parameters that have no default; "FOLDER" is a folder with images.
REQUIRED: dict[tuple[str, str], dict[str, Any]] = {
    ("data", "folder"): {"root": "FOLDER"},
    ("schedule", "steps"): {"epochs": [1, 2]},
    ("schedule", "drops"): {"steps": [10, 20]},
    ("method", "virtual_points"): {"base": "factorized", "points": 5},
    ("method", "nearest"): {"base": "dense", "points": 5},
    ("method", "landmark_detector"): {"labels": {"stage": "keypoints"}},
    ("method", "merging_detector"): {"labels": {"stage": "keypoints"}},
}

OURS = ("landmark_lab.", "landmark_lab_plugins.")
PLUGINS = [
    pytest.param(cls, id=f"{role}-{name}")
    for role, kind in roles().items()
    for name, cls in available(kind).items()
    if cls.__module__.startswith(OURS) and not cls.__module__.startswith("landmark_lab.user_")
]

each_plugin = pytest.mark.parametrize("cls", PLUGINS)


@pytest.fixture
def spec(cls: type[Plugin], tmp_path: Path) -> dict[str, Any]:
    """The plugin with nothing but what it requires."""
    for number in range(3):  # one for each split
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((16, 16, 3), 99, np.uint8))
    given = REQUIRED.get((cls.role, cls.plugin_name), {})
    values = {key: str(tmp_path) if value == "FOLDER" else value for key, value in given.items()}
    return {"name": cls.plugin_name, **values}


def role_of(cls: type[Plugin]) -> type[Plugin]:
    return roles()[cls.role]


def texts(cls: type[Plugin], key: str) -> list[str]:
    """Its docstring, and those of the bases whose field a parameter of a dataclass is."""
    bases = [base for base in cls.__mro__ if key in inspect.get_annotations(base)]
    return [inspect.getdoc(one) or "" for one in (cls, *bases)]


def test_every_plugin_module_can_be_imported() -> None:
    assert [str(f) for f in failures() if f.module.startswith(OURS)] == []


def test_there_are_plugins() -> None:
    found = {str(param.id).partition("-")[0] for param in PLUGINS}
    assert found >= {"backbone", "data", "method", "optimiser", "pairing", "protocol", "warps"}


@each_plugin
def test_it_builds_from_its_defaults(cls: type[Plugin], spec: dict[str, Any]) -> None:
    assert type(build(role_of(cls), spec)) is cls


@each_plugin
def test_only_listed_plugins_require_values(cls: type[Plugin]) -> None:
    required = {key for key, parameter in parameters(cls).items() if parameter.required}
    assert required == REQUIRED.get((cls.role, cls.plugin_name), {}).keys()


@each_plugin
def test_its_spec_makes_an_equal_one(cls: type[Plugin], spec: dict[str, Any]) -> None:
    complete = check(role_of(cls), spec)
    built = build(role_of(cls), spec)
    assert built.spec == complete
    assert list(complete) == ["name", *parameters(cls)]
    assert build(role_of(cls), built.spec).spec == complete


@each_plugin
def test_its_spec_survives_yaml_and_checkpoints(
    cls: type[Plugin], spec: dict[str, Any], tmp_path: Path
) -> None:
    found = build(role_of(cls), spec).spec
    assert yaml.safe_load(yaml.safe_dump(found)) == found
    torch.save(found, tmp_path / "spec.pt")
    assert torch.load(tmp_path / "spec.pt", weights_only=True) == found


@each_plugin
def test_it_is_documented(cls: type[Plugin]) -> None:
    first = summary(cls)
    assert first.endswith(".")
    assert len(first) <= 100, "the summary is printed on one line"
    missing = [
        key
        for key in parameters(cls)
        if not any(f"{key}:" in text or f"{key}," in text for text in texts(cls, key))
    ]
    assert missing == [], "parameters that the docstring does not explain"


@pytest.mark.parametrize("role", [r for r in roles().values() if r.__module__.startswith(OURS)])
def test_a_role_says_what_it_is(role: type[Plugin]) -> None:
    assert summary(role).endswith(".")
