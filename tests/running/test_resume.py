"""A run that was interrupted and resumed equals the uninterrupted one, bit for bit on the CPU."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Callback

from landmark_lab.config import read
from landmark_lab.experiment import run
from landmark_lab.files import load_checkpoint

SETTINGS = {
    "summary": "a run small enough to be repeated from every step",
    "data": {"name": "toy_faces", "size": 32, "train": 12, "val": 8, "test": 4},
    "pairing": {"name": "synthetic"},
    "loader": {"batch_size": 4, "workers": 0, "colours": {}},
    "method": {
        "name": "factorized",
        "landmarks": 3,
        "backbone": {"name": "simple"},
        "optimiser": {"name": "adam", "lr": 1e-3},
        "schedule": {"name": "cosine", "warmup": 2},
    },
    "trainer": {"max_epochs": 3, "log_every_n_steps": 1, "accelerator": "cpu"},
    "save_every": 1,
}


class KeepEvery(Callback):
    """Copies the checkpoint of every step, and writes down which images were seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[tuple[int, int], list[int]] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._keep(trainer)
        self.seen[trainer.current_epoch, batch_idx] = batch.source.index.tolist()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._keep(trainer)

    def _keep(self, trainer: Any) -> None:
        last = next(self.folder.parent.glob("run/*/*/checkpoints/train/last.ckpt"), None)
        if last is not None:
            shutil.copy(last, self.folder / f"{trainer.global_step:03d}.ckpt")


def _experiment(folder: Path, **changes: Any) -> Path:
    path = folder / "resume.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return path


def _differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{path}: {a.keys() ^ b.keys()}"]
        return [d for key in a for d in _differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [path]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in _differences(x, y, f"{path}/{i}")]
    return [] if a == b else [f"{path}: {a} {b}"]


COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")


@pytest.mark.parametrize(
    ("workers", "accumulate", "schedule"),
    [(0, 1, "cosine"), (0, 2, "plateau"), (2, 1, "cosine"), (2, 2, "cosine")],
)
def test_resuming_from_every_step_equals_the_uninterrupted_run(
    tmp_path: Path, workers: int, accumulate: int, schedule: str
) -> None:
    loader = {**SETTINGS["loader"], "workers": workers}
    method = {**SETTINGS["method"], "schedule": schedule}
    if schedule == "plateau":
        method["schedule"] = {"name": "plateau", "patience": 0, "factor": 0.5}
    trainer = {**SETTINGS["trainer"], "accumulate_grad_batches": accumulate}
    path = _experiment(tmp_path, loader=loader, trainer=trainer, method=method)
    kept = tmp_path / "kept"
    kept.mkdir()
    whole = KeepEvery(kept)
    folder = run(read(path), tmp_path / "run", callbacks=[whole])
    final = load_checkpoint(folder / "checkpoints" / "train" / "done.ckpt")
    log = (folder / "metrics" / "train.csv").read_text()
    saved = sorted(kept.glob("*.ckpt"))
    steps = 12 // accumulate
    assert [int(p.stem) for p in saved] == list(range(1, steps + 1))
    # Workers cost seconds to start: with them, every third step.
    for file in saved[:: 3 if workers else 1]:
        (folder / "checkpoints" / "train" / "done.ckpt").unlink()
        shutil.copy(file, folder / "checkpoints" / "train" / "last.ckpt")
        again = KeepEvery(kept)
        run(read(path), tmp_path / "run", resume=folder, callbacks=[again])
        resumed = load_checkpoint(folder / "checkpoints" / "train" / "done.ckpt")
        for name in COMPARED:
            assert _differences(final[name], resumed[name], name) == [], file.stem
        assert (folder / "metrics" / "train.csv").read_text() == log, file.stem
        assert all(whole.seen[key] == value for key, value in again.seen.items()), file.stem
        assert len(again.seen) == 18 - int(file.stem) * accumulate
