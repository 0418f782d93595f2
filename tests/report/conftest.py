"""A run that the tests of the report share, and how they read a page."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from landmark_lab.config import read
from landmark_lab.experiment import run
from landmark_lab.files import write_json

SETTINGS: dict[str, Any] = {
    "name": "small",
    "summary": "A run for the tests of the report.",
    "data": {"name": "toy_faces", "size": 32, "train": 24, "val": 16, "test": 16},
    "loader": {"batch_size": 8},
    "pairing": "synthetic",
    "method": {
        "name": "factorized",
        "landmarks": 4,
        "backbone": {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "groups": 4},
        "optimiser": {"name": "adam", "lr": 1e-3},
        "schedule": "constant",
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1},
    "evaluate": [
        "forward_nme",
        {"name": "forward_nme", "annotated": 5, "repeats": 3},
        "backward_nme",
        "equivariance",
    ],
    "rows": {"one": {"set": {}, "reported": {"backward_nme": 12.25}}, "two": {"set": {}}},
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with the report that it wrote; not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "small.yaml").write_text(yaml.safe_dump(SETTINGS))
    beside = {"protocols": {"backward_nme": {"value": 7.75, "low": 7.5, "high": 8}}}
    write_json(folder / "runs" / "small" / "two" / "001" / "results.json", beside)
    command = ["x/landmark-lab", "train", "small.yaml"]
    return run(read(folder / "small.yaml", row="one"), folder / "runs", command=command)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the run without some of its files, which a test may change."""

    def copy(*without: str) -> Path:
        folder = tmp_path / "copied"
        shutil.copytree(finished, folder)
        for pattern in ("report.html", *without):
            for path in folder.glob(pattern):
                path.unlink()
        return folder

    return copy
