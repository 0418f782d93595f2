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

SETTINGS: dict[str, Any] = {
    "name": "short",
    "summary": "a run small enough to be repeated from every step",
    "data": {"name": "toy_faces", "size": 32, "train": 12, "val": 8, "test": 4},
    "pairing": {"name": "synthetic"},
    "loader": {"batch_size": 4, "workers": 0, "colours": {}},
    "method": {
        "name": "factorized",
        "landmarks": 3,
        "backbone": {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "groups": 4},
        "optimiser": {"name": "adam", "lr": 1e-3},
        "schedule": {"name": "cosine", "warmup": 2},
    },
    "trainer": {"max_epochs": 3, "log_every_n_steps": 1, "accelerator": "cpu"},
    "save_every": 1,
}
BATCHES = 9
COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")


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
        last = Path(trainer.default_root_dir) / "checkpoints" / "train" / "last.ckpt"
        if last.is_file():
            shutil.copy(last, self.folder / f"{trainer.global_step:03d}.ckpt")


def experiment(folder: Path, **changes: Any) -> Path:
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return path


def differences(a: Any, b: Any, path: str) -> list[str]:
    """Where two nested containers differ."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{path}: {a.keys() ^ b.keys()}"]
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f"{path}: {len(a)} {len(b)}"]
        pairs = zip(a, b, strict=True)
        return [d for i, (x, y) in enumerate(pairs) for d in differences(x, y, f"{path}/{i}")]
    return [] if a == b else [f"{path}: {a} {b}"]


def outcome(folder: Path) -> tuple[dict[str, Any], str]:
    """What a finished run must have in common with another one."""
    content = load_checkpoint(folder / "checkpoints" / "train" / "done.ckpt")
    kept = {name: content[name] for name in COMPARED}
    return kept, (folder / "metrics" / "train.csv").read_text()


@pytest.mark.parametrize(
    ("workers", "accumulate", "schedule", "length"),
    [
        (0, 1, {"name": "cosine", "warmup": 2}, {"max_epochs": -1, "max_steps": 9}),
        (0, 2, {"name": "plateau", "patience": 0, "factor": 0.5}, {}),
        (2, 1, {"name": "steps", "epochs": [1, 2]}, {}),
        (2, 2, {"name": "cosine", "warmup": 2}, {}),
    ],
)
def test_resuming_from_every_step_equals_the_uninterrupted_run(
    tmp_path: Path,
    workers: int,
    accumulate: int,
    schedule: dict[str, Any],
    length: dict[str, int],
) -> None:
    loader = {**SETTINGS["loader"], "workers": workers}
    method = {**SETTINGS["method"], "schedule": schedule}
    trainer = {**SETTINGS["trainer"], "accumulate_grad_batches": accumulate, **length}
    path = experiment(tmp_path, loader=loader, trainer=trainer, method=method)
    kept = tmp_path / "kept"
    kept.mkdir()
    whole = KeepEvery(kept)
    folder = run(read(path), tmp_path / "runs", callbacks=[whole])
    checkpoint, log = outcome(folder)
    saved = sorted(kept.glob("*.ckpt"))
    # The last batch of an epoch completes a step even if it stands alone.
    steps = length.get("max_steps", 3 * -(-3 // accumulate))
    assert [int(file.stem) for file in saved] == list(range(1, steps + 1))
    for file in saved:
        (folder / "checkpoints" / "train" / "done.ckpt").unlink()
        shutil.copy(file, folder / "checkpoints" / "train" / "last.ckpt")
        again = KeepEvery(kept)
        run(read(path), tmp_path / "runs", resume=folder, callbacks=[again])
        resumed, its_log = outcome(folder)
        # Without max_epochs Lightning does not count the last epoch if nothing is left of it.
        uncounted = ["/epoch: 3 2"] if length and file is saved[-1] else []
        assert differences(checkpoint, resumed, "") == uncounted, file.stem
        assert its_log == log, file.stem
        assert all(whole.seen[key] == value for key, value in again.seen.items()), file.stem
        assert len(again.seen) < BATCHES


def command(path: Path, folder: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "landmark_lab.cli",
        "train",
        str(path),
        "--runs",
        str(folder),
        *more,
    ]


def test_a_run_killed_in_mid_epoch_is_continued(tmp_path: Path) -> None:
    path = experiment(tmp_path)
    expected = outcome(run(read(path), tmp_path / "whole"))
    # Slow enough to be killed between two steps.
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time, landmark_lab.methods.factorized as f\n"
        "losses = f.Factorized.losses\n"
        "f.Factorized.losses = lambda self, batch: (time.sleep(0.5), losses(self, batch))[1]\n"
    )
    environment = {**os.environ, "LANDMARK_LAB_PLUGINS": str(slow)}
    process = subprocess.Popen(command(path, tmp_path / "killed"), env=environment)
    last = tmp_path / "killed" / "short" / "001" / "checkpoints" / "train" / "last.ckpt"
    deadline = time.monotonic() + 240
    while not (last.is_file() and load_checkpoint(last)["global_step"] >= 4):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = last.parents[2]
    assert not (last.parent / "done.ckpt").exists()
    run(read(path), tmp_path / "killed", resume=folder)
    resumed = outcome(folder)
    assert differences(expected[0], resumed[0], "") == []
    assert resumed[1] == expected[1]


def test_a_run_killed_in_the_middle_of_saving_is_continued(tmp_path: Path) -> None:
    path = experiment(tmp_path)
    expected = outcome(run(read(path), tmp_path / "whole"))
    deadly = tmp_path / "deadly.py"
    deadly.write_text(
        "import io, os, signal, torch\n"
        "save, calls = torch.save, []\n"
        "def half(content, path):\n"
        "    calls.append(path)\n"
        "    save(content, path)\n"
        "    if len(calls) == 6:\n"
        "        os.truncate(path, os.path.getsize(path) // 2)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "torch.save = half\n"
    )
    environment = {**os.environ, "LANDMARK_LAB_PLUGINS": str(deadly)}
    killed = subprocess.run(command(path, tmp_path / "killed"), env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "killed" / "short" / "001"
    assert load_checkpoint(folder / "checkpoints" / "train" / "last.ckpt")["global_step"] >= 3
    run(read(path), tmp_path / "killed", resume=folder)
    resumed = outcome(folder)
    assert differences(expected[0], resumed[0], "") == []
    assert resumed[1] == expected[1]


class Undisturbed(Callback):
    """Fails when a training step touches a global generator."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.before = self._states()

    def on_train_batch_end(self, *arguments: Any) -> None:
        assert self._states() == self.before

    def _states(self) -> tuple[object, ...]:
        state = np.random.get_state()  # noqa: NPY002 - it is the global one that is watched
        return random.getstate(), str(state), bytes(torch.get_rng_state().numpy())


def test_a_run_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    watch = Undisturbed()
    before = watch._states()
    run(read(experiment(tmp_path)), tmp_path / "runs", callbacks=[watch])
    assert watch._states() == before
