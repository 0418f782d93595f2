"""A run on two processes, started by Lightning, gives the run on one with the same global batch."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from landmark_lab.files import load_checkpoint

EXPERIMENT = """
name: pair
data: {name: toy_faces, size: 32, train: 16, val: 16, test: 4}
pairing: synthetic
method:
  name: factorized
  landmarks: 3
  backbone: {name: local, width: 8, norm: group, groups: 4}
  optimiser: {name: sgd, lr: 1e-5, momentum: 0.0}
  schedule: constant
trainer: {max_epochs: 2, log_every_n_steps: 1, accelerator: cpu}
"""


def train(folder: Path, runs: str, *overrides: str) -> Path:
    (folder / "pair.yaml").write_text(EXPERIMENT)
    command = [sys.executable, "-m", "landmark_lab.cli", "train", "pair.yaml", "--runs", runs]
    done = subprocess.run(
        [*command, *overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (folder / runs / "pair").iterdir()
    return run


def test_two_processes_equal_one(tmp_path: Path) -> None:
    one = train(tmp_path, "one", "loader.batch_size=8")
    two = train(tmp_path, "two", "loader.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp")
    logs = []
    for run in (one, two):
        with (run / "metrics" / "train.csv").open(newline="") as stream:
            logs.append(list(csv.DictReader(stream)))
    assert len(logs[0]) == len(logs[1]) == 6
    for first, second in zip(*logs, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert (value == "") == (second[name] == ""), name
            if value:
                assert float(second[name]) == pytest.approx(float(value), rel=2e-3, abs=1e-4), name
    states = [
        load_checkpoint(run / "checkpoints/train/done.ckpt")["state_dict"] for run in (one, two)
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-5)
