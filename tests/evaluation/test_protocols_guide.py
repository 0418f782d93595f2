"""docs/protocols.md says what is true."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from landmark_lab.cli.scored import parse_protocol
from landmark_lab.config import parse_override
from landmark_lab.evaluation import labels
from landmark_lab.evaluation.choices import PointProtocol
from landmark_lab.evaluation.predictions import save_predictions
from landmark_lab.plugin import available, build, parameters
from landmark_lab.roles import Protocol
from tests.evaluation.test_protocols import scene

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def table(heading):
    """The rows of the table below a heading, as lists of cells."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@pytest.mark.parametrize("snippet", blocks("yaml"))
def test_every_snippet_is_a_list_of_protocols(snippet):
    specs = yaml.safe_load(snippet)["evaluate"]
    built = [build(Protocol, spec) for spec in specs]
    assert len(set(labels(built))) == len(built) > 3


def test_every_protocol_is_in_a_table():
    named = {cells[0].strip("`") for cells in table("The protocols")}
    published = {cells[0].strip("`") for cells in table("Whose protocol is it?")}
    about_points = {
        name for name, cls in available(Protocol).items() if issubclass(cls, PointProtocol)
    }
    others = {"equivariance", "matching", "symmetric_transfer"}
    others |= {"keypoint_detection", "keypoint_clusters"}
    assert named | published == about_points | others
    assert not named & published


def test_the_table_of_choices_has_every_key():
    keys = set(re.findall(r"`(\w+)`", " ".join(cells[1] for cells in table("The choices"))))
    schema = parameters(available(Protocol)["forward_nme"])
    assert schema.keys() - keys == {"resamples", "seed", "failure"}
    assert keys <= schema.keys()
    text = " ".join(cells[2] for cells in table("The choices"))
    for key in ("regressor", "alpha_is", "coordinates", "points", "missing", "split", "normaliser"):
        for value in re.findall(r"'(\w+)'", schema[key].type_text):
            assert f"`{value}`" in text + " ".join(TEXT.split("##")[2:3]), (key, value)


def test_what_the_published_ones_fix():
    for name, _, regressor, bias, copies, missing, _ in table("Whose protocol is it?"):
        protocol = build(Protocol, name.strip("`"))
        keys = parameters(type(protocol))
        if hasattr(protocol, "regressor"):
            open_ = "–" in regressor
            assert open_ == ("regressor" in keys), name
            fitted = "ridge" if "ridge" in regressor else "least_squares"
            assert regressor == "–" or protocol.regressor == fitted, name
            assert bias == "–" or ("bias" not in keys and protocol.bias == (bias != "no")), name
        if hasattr(protocol, "copies"):
            assert copies == "–" or (protocol.copies > 0) == copies.startswith("warps"), name
            assert missing != "completion" or protocol.missing == "completion", name


def test_the_commands_and_the_python_example(tmp_path, monkeypatch):
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line)
        assert words[0] == "landmark-lab"
        if words[1] == "evaluate":
            for text in [word for word in words[3:] if not word.startswith("--")]:
                build(Protocol, parse_protocol(text))
        if words[1] == "train":
            keys, specs = parse_override(words[-1])
            assert keys == ("evaluate",)
            assert [build(Protocol, spec).plugin_name for spec in specs] == specs
    monkeypatch.chdir(tmp_path)
    save_predictions(scene(), "runs/demo/001/predictions/best.npz")
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path / "cache"))
    detector, example = blocks("python")
    names = {}
    exec(detector, names)
    assert 0 < names["score"].values["recall"].value < 100
    exec(example, names)
    assert names["points"](names["found"].splits["test"].landmarks).shape == (40, 5, 2)
