"""How long a stage trains: early stop, time limit, estimate, and what a resume may change."""

import shutil
import time
import warnings
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Callback

from landmark_lab.callbacks import estimate
from landmark_lab.callbacks.early_stop import EarlyStopSettings
from landmark_lab.callbacks.estimate import Estimate, checkpoint_bytes, duration, rounds_bytes, size
from landmark_lab.completion import complete
from landmark_lab.config import Experiment, read
from landmark_lab.errors import ConfigError, RunError
from landmark_lab.experiment import _Stage, run
from landmark_lab.files import load_checkpoint, read_json
from tests.running.test_resume import KeepEvery, differences, outcome

SETTINGS: dict[str, Any] = {
    "name": "small",
    "data": {"name": "toy_faces", "size": 32, "train": 8, "val": 8, "test": 8},
    "pairing": "synthetic",
    "loader": {"batch_size": 4},
    "method": {
        "name": "factorized",
        "landmarks": 3,
        "schedule": {"name": "cosine"},
        "backbone": {"name": "local", "width": 8},
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1},
    "save_every": 1,
    "log": {"pictures": None},
}
CONSTANT = {**SETTINGS["method"], "schedule": "constant"}


def small(folder: Path, *overrides: str, **changes: Any) -> Experiment:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return read(path, overrides)


def steps(folder: Path, stage: str = "train") -> int:
    return int(load_checkpoint(folder / "checkpoints" / stage / "done.ckpt")["global_step"])


# --- early stop ----------------------------------------------------------------------------------


def test_a_stage_stops_early_and_is_evaluated_and_resumes_exactly(tmp_path: Path) -> None:
    # Nothing improves by so much: the first validation is the best, and two more end the stage.
    stop = {"monitor": "val/loss", "min_delta": 1e6, "patience": 2}
    trainer = {**SETTINGS["trainer"], "max_epochs": 9}
    experiment = small(tmp_path, early_stop=stop, trainer=trainer, evaluate=["equivariance"])
    kept = tmp_path / "kept"
    kept.mkdir()
    folder = run(experiment, tmp_path / "runs", callbacks=[KeepEvery(kept)])
    assert steps(folder) == 3 * 2
    assert "equivariance" in read_json(folder / "results.json")["protocols"]
    expected = outcome(folder)
    saved = sorted(kept.glob("*.ckpt"))
    assert len(saved) == 6
    # The last checkpoint is that of the decision to stop.
    for file in saved[2:]:
        (folder / "checkpoints" / "train" / "done.ckpt").unlink()
        shutil.copy(file, folder / "checkpoints" / "train" / "last.ckpt")
        run(experiment, tmp_path / "runs", resume=folder)
        resumed = outcome(folder)
        assert differences(expected[0], resumed[0], "") == [], file.stem
        assert resumed[1] == expected[1], file.stem


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"early_stop": {"patence": 3}}, r"early_stop\.patence: unknown key.*'patience'"),
        ({"early_stop": {"patience": 0}}, "early_stop: patience must be at least 1"),
        ({"early_stop": {"min_delta": -1.0}}, "early_stop: min_delta must be at least 0"),
        ({"early_stop": {"monitor": "train/loss"}}, "must be a value of the validation"),
        (
            {"early_stop": {}, "data": {**SETTINGS["data"], "val": 0}, "method": CONSTANT},
            "early_stop: there are no validation images",
        ),
        ({"early_stop": 3}, "early_stop: a mapping is needed"),
        (
            {"stages": {"a": {"early_stop": {"mode": "mim"}}}},
            r"stages\.a\.early_stop\.mode.*'min'",
        ),
    ],
)
def test_mistakes_in_early_stop(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(small(tmp_path, **changes), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


ROUNDS: dict[str, Any] = {
    "name": "self_training",
    "landmarks": 3,
    "clusters": 4,
    "keypoints": "grid",
    "backbone": {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "groups": 4},
    "dimension": 8,
    "warm_up": 8,
    "every": 4,
    "isolated": 0.0,
    "mirror": False,
    "schedule": "constant",
}


def test_a_warm_up_is_not_stopped(tmp_path: Path) -> None:
    # Two steps an epoch: without landmarks nothing improves until step 8, and then by too little.
    stop = {"patience": 2, "min_delta": 10.0}
    trainer = {**SETTINGS["trainer"], "max_epochs": 20}
    folder = run(
        small(tmp_path, early_stop=stop, method=ROUNDS, trainer=trainer), tmp_path / "runs"
    )
    assert 8 < steps(folder) < 20


@pytest.mark.parametrize(
    ("method", "monitor", "allowed"),
    [
        (ROUNDS, "val/loss", "allowed: val/criterion;"),
        ({"name": "keypoint_self_training", "keypoints": "grid"}, "val/criterion", "nothing"),
    ],
)
def test_pseudo_labels_cannot_be_validated(
    tmp_path: Path, method: dict[str, Any], monitor: str, allowed: str
) -> None:
    settings = {"method": {**method, "backbone": ROUNDS["backbone"], "mirror": False}}
    with pytest.raises(ConfigError, match=rf"logs no '{monitor}'.*{allowed}.*max_steps"):
        run(small(tmp_path, early_stop={"monitor": monitor}, **settings), tmp_path / "runs")


def test_a_value_that_is_not_logged_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"early_stop\.monitor: 'val/los'.*did you mean 'val/lo"):
        run(small(tmp_path, early_stop={"monitor": "val/los"}), tmp_path / "runs")


def test_a_stage_can_go_without(tmp_path: Path) -> None:
    stages = {"a": {}, "b": {"early_stop": None}, "c": {"early_stop": {"patience": 2}}}
    found = complete(small(tmp_path, early_stop={"min_delta": 0.5}, stages=stages))
    default = EarlyStopSettings()
    assert found.stages["a"].early_stop == {
        "monitor": default.monitor,
        "patience": default.patience,
        "min_delta": 0.5,
        "mode": "min",
    }
    assert found.stages["b"].early_stop is None
    assert found.stages["c"].early_stop is not None
    assert found.stages["c"].early_stop["min_delta"] == 0.5


# --- time limit ----------------------------------------------------------------------------------


class Slow(Callback):
    """Every batch takes a while."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        time.sleep(0.4)


def test_a_stage_ends_at_its_time_limit_and_can_be_given_more(tmp_path: Path) -> None:
    trainer = {**SETTINGS["trainer"], "max_epochs": 40, "max_time": {"seconds": 1}}
    given: dict[str, Any] = {"method": CONSTANT, "evaluate": ["equivariance"]}
    experiment = small(tmp_path, trainer=trainer, **given)
    folder = run(experiment, tmp_path / "runs", callbacks=[Slow()])
    first = steps(folder)
    assert 0 < first < 80
    assert "equivariance" in read_json(folder / "results.json")["protocols"]
    # With the same limit nothing is left to do, with another one it goes on.
    run(experiment, tmp_path / "runs", resume=folder, callbacks=[Slow()])
    assert steps(folder) == first
    trainer["max_time"] = {"days": 1}
    trainer["max_steps"] = first + 3
    run(small(tmp_path, trainer=trainer, **given), tmp_path / "runs", resume=folder)
    assert steps(folder) == first + 3


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_time=12:00:00:00",  # a number in base 60, says YAML
        "trainer.max_time=1h",
        "trainer.max_time.hour=1",
        "trainer.max_time.hours=x",
        "trainer.max_time=60",
    ],
)
def test_a_time_limit_that_is_none(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.max_time: is no time limit.*max_time\.hours"):
        complete(small(tmp_path, override))


@pytest.mark.parametrize("override", ["trainer.max_time.hours=2", "trainer.max_time='12:00:00:00'"])
def test_a_time_limit(tmp_path: Path, override: str) -> None:
    assert complete(small(tmp_path, override)).stages["train"].trainer["max_time"]


# --- resuming with another length ----------------------------------------------------------------


def test_a_schedule_is_not_bent_by_a_resume(tmp_path: Path) -> None:
    folder = run(small(tmp_path), tmp_path / "runs")
    longer = {**SETTINGS["trainer"], "max_epochs": 3}
    with pytest.raises(RunError, match=r"method\.schedule: .*would jump from 0 to 2\.5e-05"):
        run(small(tmp_path, trainer=longer), tmp_path / "runs", resume=folder)
    accumulated = {**longer, "max_epochs": 6, "accumulate_grad_batches": 2}
    with pytest.raises(RunError, match="would jump"):
        run(small(tmp_path, trainer=accumulated), tmp_path / "runs", resume=folder)
    assert steps(folder) == 4


def test_a_finished_run_can_be_trained_longer(tmp_path: Path) -> None:
    stages = {"a": {"trainer": {"max_epochs": 1}}, "b": {"start_from": {"stage": "a"}}}
    given: dict[str, Any] = {"method": CONSTANT, "stages": stages}
    folder = run(small(tmp_path, **given), tmp_path / "runs", command=["train", "small.yaml"])
    assert (steps(folder, "a"), steps(folder, "b")) == (2, 4)
    stages["a"] = stages["b"] = {"trainer": {"max_epochs": 3}}
    stages["b"] = {**stages["b"], "start_from": {"stage": "a"}}
    with pytest.warns(UserWarning, match="'a' has finished and stays as it is"):
        run(small(tmp_path, **given), tmp_path / "runs", resume=folder, command=["train", "--more"])
    assert (steps(folder, "a"), steps(folder, "b")) == (2, 6)
    assert (folder / "command.txt").read_text() == "train small.yaml\ntrain --more\n"


# --- the estimate --------------------------------------------------------------------------------


def test_time_and_disk_are_estimated_from_the_first_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5000))
    data = {**SETTINGS["data"], "train": 80}
    stages = {"a": {}, "b": {"trainer": {"max_epochs": -1, "max_steps": 3}}}
    # 40 steps in all; the estimate comes after 5 + 10 of them.
    with pytest.warns(UserWarning, match="the disk will not suffice: about .* needed, 5.0 kB free"):
        folder = run(small(tmp_path, data=data, stages=stages), tmp_path / "runs")
    lines = [line for line in capsys.readouterr().out.splitlines() if "estimate" in line]
    assert len(lines) == 1  # the second stage is shorter than the steps to be timed
    assert "stage 'a': about" in lines[0]
    assert "for 25 steps at" in lines[0]
    assert "; then, at the same speed, 'b' 0 s" in lines[0] or "'b' 1 s" in lines[0]
    checkpoint = folder / "checkpoints" / "a" / "done.ckpt"
    trainer = namedtuple("trainer", "optimizers")([])
    stage = _Stage(complete(small(tmp_path)).stages["train"], 0)
    # Adam keeps two numbers a weight.
    weights = estimate.checkpoint_bytes(trainer, stage.method)  # type: ignore[arg-type]
    assert 3 * weights < checkpoint.stat().st_size < 3 * weights + 60_000


class Weigh(Callback):
    """Estimates the disk within the first round after the warm-up, and at the end."""

    def __init__(self) -> None:
        self.free = self.rounds = self.files = self.checkpoint = 0
        self.warned: list[bool] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.global_step != 9:
            return
        self.rounds = rounds_bytes(trainer, module)
        self.files = len(list(module.folder.iterdir()))
        needed = 4 * checkpoint_bytes(trainer, module) + self.rounds
        said = Estimate(Path(trainer.default_root_dir), "train", {}, 0, 0, say=lambda line: None)
        for self.free in (needed - 1, needed):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                said._say_disk(trainer, module, 0)
            self.warned.append(any("will not suffice" in str(each.message) for each in caught))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.checkpoint = checkpoint_bytes(trainer, module)


@pytest.mark.parametrize(
    ("method", "written"),
    [
        # Rounds begin at steps 8, 12 and 16; one that closes has a round at the end, too.
        (ROUNDS, 2),
        (
            {
                "name": "keypoint_self_training",
                "keypoints": "grid",
                "backbone": ROUNDS["backbone"],
                "every": 8,
                "threshold": 0.0,
            },
            0,
        ),
    ],
)
def test_the_table_and_the_files_of_rounds_are_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any], written: int
) -> None:
    weigh = Weigh()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, weigh.free))
    trainer = {**SETTINGS["trainer"], "max_epochs": 8}
    experiment = small(tmp_path, method=method, trainer=trainer)
    folder = run(experiment, tmp_path / "runs", callbacks=[weigh])
    files = sorted((folder / "rounds" / "train").iterdir())
    assert len(files) == weigh.files + written
    assert weigh.rounds == written * files[1].stat().st_size
    assert weigh.warned == [True, False]
    content = load_checkpoint(folder / "checkpoints" / "train" / "done.ckpt")
    kept = [content[name] for name in ("state_dict", "optimizer_states", "rounds")]
    assert weigh.checkpoint == sum(t.numel() * t.element_size() for t in tensors(kept))


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"max_epochs": 2}, 10),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 6),
        ({"max_epochs": 2, "limit_train_batches": 3}, 6),
        ({"max_epochs": 2, "limit_train_batches": 0.4}, 4),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 1, "max_steps": 7}, 5),
        ({"max_epochs": -1}, None),
        ({}, 5000),
    ],
)
def test_the_planned_steps(tmp_path: Path, trainer: dict[str, Any], expected: int | None) -> None:
    data = {**SETTINGS["data"], "train": 20}
    trainer = {"accelerator": "cpu", **trainer}
    found = complete(small(tmp_path, data=data, trainer=trainer, method=CONSTANT))
    stage = _Stage(found.stages["train"], 0)
    assert stage.planned_steps(1) == expected
    if expected == 10:
        assert stage.planned_steps(2) == 4  # 2 batches an epoch of 8 images
        assert steps(run(found, tmp_path / "runs")) == expected


def test_durations_and_sizes_are_said_as_one_would() -> None:
    seconds = {
        5: "5 s",
        89: "89 s",
        90: "2 min",
        1500: "25 min",
        9000: "2.5 h",
        200_000: "2.3 days",
    }
    assert {value: duration(value) for value in seconds} == seconds
    counts = {840: "0.8 kB", 12e6: "12 MB", 1.5e9: "1.5 GB", 4e10: "40 GB", 3e12: "3.0 TB"}
    assert {value: size(value) for value in counts} == counts
