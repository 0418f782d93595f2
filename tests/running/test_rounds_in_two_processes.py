"""Methods in rounds, trained by Lightning on two processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from landmark_lab.data.rounds import read_round
from landmark_lab.files import load_checkpoint
from tests.running.test_resume import differences

# Trains an experiment; every process keeps the table of each round under FOLDER/STAGE/RANK.
PROGRAM = """
import os
import sys
from pathlib import Path

import torch
from pytorch_lightning import Callback

from landmark_lab.config import read
from landmark_lab.experiment import run

name, folder = sys.argv[1], Path(sys.argv[2])


class Keep(Callback):
    def keep(self, trainer, module, *_):
        kept = folder / module.folder.name / str(trainer.global_rank)
        kept.mkdir(parents=True, exist_ok=True)
        torch.save(module.table.state(), kept / f"{module.number:03d}.pt")

    on_train_batch_end = on_train_end = keep


run(read(name, sys.argv[3:]), folder / "runs", callbacks=[Keep()])
(folder / f"ended_{os.environ.get('LOCAL_RANK', 0)}").touch()
"""
BACKBONE = {
    "name": "hourglass",
    "width": 16,
    "depth": 1,
    "blocks": 1,
    "stem": 0,
    "norm": "group",
    "groups": 4,
}
SETTINGS: dict[str, Any] = {
    "name": "rounds",
    "data": {"name": "toy_faces", "size": 32, "train": 16, "val": 4, "test": 4},
    "pairing": "mirrored",
    "loader": {"colours": {}},
    "trainer": {"max_epochs": -1, "accelerator": "cpu", "log_every_n_steps": 1},
    "log": {"pictures": None},
}
TWO = ("loader.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp")


def train(folder: Path, stages: dict[str, Any], *overrides: str) -> Path:
    """The run folder; beside it, the tables that each process had."""
    folder.mkdir()
    settings = {**SETTINGS, "stages": stages}
    (folder / "rounds.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "train.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "train.py", "rounds.yaml", str(folder), *overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LANDMARK_LAB_CACHE": str(folder / "cache")},
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(folder.glob("ended_*"))) == (2 if TWO[1] in overrides else 1)
    (run,) = (folder / "runs" / "rounds").iterdir()
    return run


def tables(run: Path, stage: str, rank: int) -> dict[str, dict[str, Any]]:
    """What a process learned from in each round, by the round's number."""
    files = sorted((run.parents[2] / stage / str(rank)).iterdir())
    return {file.stem: torch.load(file, weights_only=True) for file in files}


def check_files(run: Path, stage: str, rounds: int) -> None:
    """Both processes learned from what was written down."""
    files = sorted((run / "rounds" / stage).iterdir())
    written = {file.stem: read_round(file).table.state() for file in files}
    assert list(written) == [f"{number:03d}" for number in range(rounds)]
    for rank in (0, 1):
        assert differences(tables(run, stage, rank), written, f"{stage} in {rank}") == []


@pytest.mark.slow
@pytest.mark.timeout(1200)  # processes that import everything, perhaps on a busy machine
def test_two_processes_go_through_the_rounds_of_one(tmp_path: Path) -> None:
    first = {
        "name": "keypoint_self_training",
        "landmarks": 4,
        "keypoints": {"name": "mixture", "share": 1.0},
        "backbone": BACKBONE,
        "template": {"least": 0.25, "reach": 0.5},
        "every": 2,
        "distil": 2,
        "threshold": 0.0,
    }
    # One round: after so few steps the maps of the next would be so flat that rounding decides
    # where the highest cell is.
    second = {"name": "landmark_detector", "labels": {"stage": "points"}, "landmarks": 4}
    # RMSprop's first step would be as long for a gradient that is nothing but rounding.
    second |= {"backbone": BACKBONE, "optimiser": {"name": "sgd", "lr": 1e-2}}
    stages = {
        "points": {"method": first, "trainer": {"max_steps": 6}},
        "landmarks": {"method": second, "trainer": {"max_steps": 4}},
    }
    one = train(tmp_path / "one", stages, "loader.batch_size=8")
    two = train(tmp_path / "two", stages, *TWO)
    for stage, rounds in (("points", 3), ("landmarks", 1)):
        check_files(two, stage, rounds)
        alone, together = tables(one, stage, 0), tables(two, stage, 0)
        assert alone.keys() == together.keys()
        for number, table in alone.items():
            for column in ("image", "labels", "mirrored"):
                assert torch.equal(table[column], together[number][column]), (stage, number, column)
            torch.testing.assert_close(
                table["points"], together[number]["points"], rtol=0, atol=1e-6
            )
        weights = [
            load_checkpoint(run / "checkpoints" / stage / "done.ckpt")["state_dict"]
            for run in (one, two)
        ]
        # Each process divides by the landmarks known in its own share of the images.
        near = 1e-6 if stage == "points" else 5e-5
        torch.testing.assert_close(*weights, rtol=0, atol=near)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # processes that import everything, perhaps on a busy machine
def test_two_processes_share_clusters_to_the_end(tmp_path: Path) -> None:
    first = {
        "name": "self_training",
        "landmarks": 3,
        "clusters": 5,
        "keypoints": "grid",
        "backbone": BACKBONE,
        "dimension": 8,
        "warm_up": 2,
        "every": 2,
        "threshold": 0.0,
        "isolated": 0.0,
    }
    second = {"name": "landmark_detector", "labels": {"stage": "points"}, "landmarks": 3}
    second |= {"backbone": BACKBONE, "every": 2, "afresh": True}
    stages = {
        "points": {"method": first, "trainer": {"max_steps": 6}},
        "landmarks": {"method": second, "trainer": {"max_steps": 4}},
    }
    run = train(tmp_path / "two", stages, *TWO)
    # The last round is the one that closes the training.
    check_files(run, "points", 4)
    check_files(run, "landmarks", 2)
