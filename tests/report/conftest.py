"""A run that the tests of the report share, and how they read a page."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from landmark_lab.config import read
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import Labelled, write_round
from landmark_lab.experiment import run
from landmark_lab.figures import contact_sheet
from landmark_lab.files import write_json
from landmark_lab.report import write_report

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

METHOD: dict[str, Any] = {
    "name": "symmetric",
    "backbone": {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "groups": 4},
}
KEYPOINTS = 4
"""Of an image in the rounds of a run."""


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


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of a method that gives pixels vectors; not to be changed."""
    folder = tmp_path_factory.mktemp("embedded")
    settings = {
        **SETTINGS,
        "method": METHOD,
        "pairing": {"name": "mirrored", "pairing": "synthetic"},
        "trainer": {**SETTINGS["trainer"], "max_epochs": 1},
        "evaluate": [],
    }
    settings.pop("rows")
    (folder / "small.yaml").write_text(yaml.safe_dump(settings))
    return run(read(folder / "small.yaml"), folder / "runs")


@pytest.fixture(scope="session")
def with_rounds(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with three rounds of keypoints and pictures of the training."""
    folder = tmp_path_factory.mktemp("rounds") / "run"
    shutil.copytree(embedded, folder)
    for number in range(3):
        file = folder / "rounds" / "train" / f"{number:03d}.npz"
        write_round(file, *labelled(number), number, np.arange(24))
    sheet = np.full((32, 32, 3), 90, np.uint8)
    for step in (5, 60, 700):
        contact_sheet(folder / "figures" / "training" / f"train-{step:06d}.png", [sheet] * 3)
    write_report(folder)
    return folder


def labelled(number: int) -> tuple[Labelled, int]:
    """Four keypoints in each of the 24 images: in rows, their cluster the row; and a step."""
    generator = torch.Generator().manual_seed(number)
    labels = torch.arange(KEYPOINTS).repeat(24)
    image = torch.arange(24).repeat_interleave(KEYPOINTS)
    points = torch.stack([labels / 2 - 0.75, image / 24 - 0.5], -1)
    descriptors = 5 * torch.eye(KEYPOINTS)[labels] + torch.randn(96, KEYPOINTS, generator=generator)
    table = KeypointTable.of(24, image, points, torch.ones(96), labels, descriptors=descriptors)
    if number == 0:
        table = replace(table, labels=torch.full_like(labels, -1))
    merges = torch.tensor([[3.0, 1.0, 0.75, 2.0]])[: number // 2]
    return Labelled(table, {"merges": merges}, "faiss on cpu" if number else ""), 10 * number
