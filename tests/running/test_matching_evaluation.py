"""Experiments whose method finds no landmarks are evaluated by its matches."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from landmark_lab.config import read
from landmark_lab.errors import LandmarkLabError
from landmark_lab.evaluation import load_predictions
from landmark_lab.experiment import run
from landmark_lab.files import read_json
from landmark_lab.report import write_report

BACKBONE = {
    "name": "hourglass",
    "width": 16,
    "depth": 1,
    "blocks": 1,
    "block": "basic",
    "stem": 0,
    "norm": "group",
    "groups": 4,
}
SETTINGS: dict[str, Any] = {
    "name": "vectors",
    "data": {"name": "toy_faces", "size": 32, "train": 8, "val": 0, "test": 8},
    "pairing": {"name": "synthetic", "annotation": False},
    "loader": {"batch_size": 8},
    "method": {"name": "dense", "backbone": BACKBONE},
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
}


def experiment(folder: Path, **changes: Any) -> Any:
    path = folder / "vectors.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return read(path)


def test_a_run_is_scored_by_matches_alone_and_again_when_it_is_continued(tmp_path: Path) -> None:
    same = {"name": "matching", "kind": "same", "pairs": 4, "pixels": 64}
    estimated = {"name": "symmetric_transfer", "reflection": "estimated"}
    folder = run(experiment(tmp_path, evaluate=[same]), tmp_path / "runs")
    assert read_json(folder / "results.json")["protocols"].keys() == {"matching"}
    again = experiment(tmp_path, evaluate=[same, "matching", estimated])
    run(again, tmp_path / "runs", resume=folder)
    scores = read_json(folder / "results.json")["protocols"]
    assert [score["images"] for score in scores.values()] == [4, 8, 8]
    for score in scores.values():
        assert score["low"] <= score["value"] <= score["high"]
        assert score["references"]["untrained"] > 0
    found = load_predictions(folder / "predictions" / "best.npz")
    assert found.splits["train"].landmarks.shape == (8, 0, 2)
    assert not (folder / "figures" / "landmarks.png").exists()
    page = write_report(folder).read_text(encoding="utf-8")
    assert "Not shown" not in page
    for reference in ("No motion", "No reflection", "Estimated plane"):
        assert reference in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate": ["forward_nme"]}, r"evaluate\[0\]: 'forward_nme' .* offers no landmarks"),
        ({"evaluate": ["symmetric_transfer"]}, "'dense' offers no reflection .*estimated"),
        (
            {"evaluate": [{"name": "symmetric_transfer", "reflection": "first_axis",
                           "partners": [["nose_tip", "chin"]]}]},
            "nose_tip and chin are no left-right partners",
        ),
        (
            {"evaluate": ["matching"], "data": {**SETTINGS["data"], "test": 0}},
            "no images in the split 'test'",
        ),
        (
            {"evaluate": ["matching"],
             "method": {"name": "factorized", "landmarks": 4, "backbone": BACKBONE,
                        "schedule": "constant"}},
            "'factorized' offers no correspondence",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused_before_any_work(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LandmarkLabError, match=message):
        run(experiment(tmp_path, **changes), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
