"""The three generations of self-training, both stages: the loss falls and landmarks are found."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from landmark_lab.config import read
from landmark_lab.experiment import run
from tests.methods.constellations import BLOBS, write_constellations

BACKBONE = {"name": "hourglass", "width": 16, "depth": 2, "blocks": 1, "stem": 0, "groups": 4}
BACKBONE |= {"block": "basic", "norm": "group"}
ADAM = {"name": "adam", "lr": 3e-3}
MARK = {"radius": 1, "sigma": 0.75, "threshold": 0.3}
SHARED: dict[str, Any] = {"backbone": BACKBONE, "optimiser": ADAM}
AFFINE = {"name": "affine", "rotation": [8.0, 8.0], "translation": [0.05, 0.05]}
PLAIN = {"name": "synthetic", "annotation": False, "warps": AFFINE}
MIRRORED = {"name": "mirrored", "pairing": PLAIN}
SAME_BACKBONE = {"start_from": {"stage": "keypoints", "parts": ["network.backbone"]}}

# First and second stage, with the steps of each.
GENERATIONS: dict[str, dict[str, Any]] = {
    "template": {
        "pairing": MIRRORED,
        "keypoints": (
            {"name": "keypoint_self_training", "landmarks": BLOBS, "every": 100, "distil": 9},
            200,
        ),
        "landmarks": (
            {"name": "landmark_detector", "landmarks": BLOBS, "every": 100, "afresh": True},
            200,
        ),
    },
    "correspondence": {
        "pairing": PLAIN,
        "keypoints": (
            {
                "name": "self_training_correspondence",
                "clusters": 2 * BLOBS,
                "dimension": 16,
                "warm_up": 150,
                "every": 50,
                "weights": {"contrastive": 1.0, "detection": 10.0},
            },
            250,
        ),
        "landmarks": ({"name": "merging_detector", "clusters": 2 * BLOBS, "every": 75}, 200),
        **SAME_BACKBONE,
    },
    "self_training": {
        "pairing": MIRRORED,
        "keypoints": (
            {
                "name": "self_training",
                "landmarks": BLOBS,
                "clusters": 2 * BLOBS,
                "dimension": 16,
                "warm_up": 100,
                "every": 50,
                "restarts": 2,
                "schedule": "constant",
            },
            200,
        ),
        "landmarks": ({"name": "landmark_detector", "landmarks": BLOBS}, 150),
        **SAME_BACKBONE,
    },
}


def _experiment(folder: Path, generation: str) -> Path:
    """Write the data and the experiment file of a generation."""
    setting = GENERATIONS[generation]
    (first, steps), (second, more) = setting["keypoints"], setting["landmarks"]
    (folder / "data").mkdir()
    stages: dict[str, Any] = {
        "keypoints": {
            "method": {**SHARED, **MARK, "keypoints": "sift", **first},
            "trainer": {"max_steps": steps},
        },
        "landmarks": {
            "method": {**SHARED, "labels": {"stage": "keypoints"}, **second},
            "trainer": {"max_steps": more},
        },
    }
    if "start_from" in setting:
        stages["landmarks"]["start_from"] = setting["start_from"]
    settings = {
        "data": write_constellations(folder / "data", train=96, val=8, test=32),
        "pairing": setting["pairing"],
        "loader": {"batch_size": 16, "workers": 0, "colours": {}},
        "trainer": {"max_epochs": -1, "accelerator": "cpu"},
        "stages": stages,
        "evaluate": [{"name": "forward_nme", "normaliser": "image"}],
    }
    path = folder / f"{generation}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_short_training_finds_landmarks(
    generation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path / "cache"))
    folder = run(read(_experiment(tmp_path, generation)), tmp_path / "runs")
    for stage in ("keypoints", "landmarks"):
        with (folder / "metrics" / f"{stage}.csv").open() as file:
            rows = [row["train/detection"] for row in csv.DictReader(file)]
        losses = np.array([float(value) for value in rows if value])
        assert losses[-1] < 0.6 * losses[0]
    score = json.loads((folder / "results.json").read_text())["protocols"]["forward_nme"]
    assert score["value"] < 0.6 * score["references"]["untrained"]
