"""Loggers besides the CSV table: W&B offline and resumed, TensorBoard, pictures."""

import importlib.util
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from pytorch_lightning import Callback

from landmark_lab.callbacks import wandb_log
from landmark_lab.callbacks.wandb_log import About, WandbLog, WandbSettings, mode_of
from landmark_lab.config import Experiment, read
from landmark_lab.errors import ConfigError, MissingDependencyError
from landmark_lab.experiment import run
from landmark_lab.files import read_image, read_json
from landmark_lab.loggers import flat

SETTINGS: dict[str, Any] = {
    "name": "small",
    "data": {"name": "toy_faces", "size": 32, "train": 8, "val": 8, "test": 8},
    "pairing": "synthetic",
    "loader": {"batch_size": 4},
    "method": {
        "name": "factorized",
        "landmarks": 3,
        "schedule": "constant",
        "backbone": {"name": "local", "width": 8},
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1},
}
HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, no key and no netrc file of the machine decides; nothing reaches the network."""
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def small(folder: Path, **changes: Any) -> Experiment:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return read(path)


# --- W&B -----------------------------------------------------------------------------------------


class Interrupt(Callback):
    """Stops the first attempt in the middle of the second stage."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.batches += 1
        if self.batches == 2 + 3 + 1:
            raise ValueError("the power failed")


def pieces(data: bytes) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format behind a header of 7 bytes."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if (rest := -place % 32768) and rest < 7:  # a block ends with padding
            place += rest
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


def records(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """History, config and summary of an offline W&B run."""
    from wandb.proto import wandb_internal_pb2

    def values(items: Any) -> dict[str, Any]:
        return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}

    (file,) = folder.glob("*.wandb")
    history: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for data in pieces(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.history.item:
            history.append(values(record.history.item))
        config |= values(record.run.config.update)
        summary |= values(record.summary.update)
    return history, config, summary


def test_one_offline_run_over_stages_and_resumes(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    experiment = small(
        tmp_path,
        stages={"few": {"trainer": {"max_epochs": 1}}, "many": {"start_from": {"stage": "few"}}},
        evaluate=["equivariance"],
        save_every=1,
        log={
            "wandb": {"project": "faces", "tags": ["mine"]},
            "tensorboard": HAS_TENSORBOARD,
            "pictures": {"images": 4},
        },
        seed=3,
    )
    with pytest.raises(ValueError, match="the power failed"):
        run(experiment, tmp_path / "runs", callbacks=[Interrupt()])
    folder = tmp_path / "runs" / "small" / "001"
    run(experiment, tmp_path / "runs", resume=folder)

    wandb.teardown()  # its service has now written everything
    identity = read_json(folder / "wandb.json")["id"]
    attempts = sorted(folder.glob("wandb/offline-run-*"))
    assert len(attempts) == 2
    assert all(path.name.endswith(f"-{identity}") for path in attempts)
    rows: list[dict[str, Any]] = []
    for path in attempts:
        history, config, summary = records(path)
        rows += history
        assert config["stages"]["many"]["method"]["landmarks"] == 3
        assert config["seed"] == 3
    # 2 steps of the first stage, 4 of the second; no step twice, none backwards.
    steps = [row["_step"] for row in rows if "train/loss" in row]
    assert steps == [0, 1, 2, 3, 4, 5]
    assert [row["_step"] for row in rows] == sorted(row["_step"] for row in rows)
    validated = [row for row in rows if "val/criterion" in row]
    assert [row["_step"] for row in validated] == [1, 3, 5]
    assert all(row["landmarks/_type"] == "image-file" for row in validated)
    assert len(rows) == len(steps)
    scores = read_json(folder / "results.json")["protocols"]["equivariance"]
    assert summary["equivariance"] == pytest.approx(scores["value"])
    assert summary["val/criterion"] == pytest.approx(min(r["val/criterion"] for r in validated[1:]))
    # Nothing of W&B's own: no code, no console, no state of the repository.
    names = {path.name for path in folder.glob("wandb/*/files/**/*") if path.is_file()}
    assert not names & {"output.log", "wandb-metadata.json", "diff.patch"}
    assert not any(name.endswith(".py") for name in names)
    if HAS_TENSORBOARD:
        check_tensorboard(folder)


def check_tensorboard(folder: Path) -> None:
    """The curves of the interrupted stage have every step once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard" / "many"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1, 2, 3]
    assert events.Tags()["images"] == ["landmarks"]


@pytest.mark.parametrize(
    ("asked", "environment", "mode"),
    [
        (None, {}, "offline"),
        (None, {"WANDB_API_KEY": "x" * 40}, "online"),
        (None, {"netrc": "machine 127.0.0.1 login user password secret"}, "online"),
        (None, {"netrc": "machine elsewhere login user password secret"}, "offline"),
        (None, {"netrc": "default login user password secret"}, "offline"),
        (None, {"netrc": "no netrc file"}, "offline"),
        ("offline", {"WANDB_API_KEY": "x" * 40}, "offline"),
        ("online", {}, "online"),
        (None, {"WANDB_API_KEY": "x" * 40, "WANDB_MODE": "offline"}, "offline"),
        (None, {"WANDB_MODE": "dryrun"}, "offline"),
        ("online", {"WANDB_MODE": "offline"}, "online"),
        ("online", {"WANDB_DISABLED": "true"}, "disabled"),
        ("disabled", {}, "disabled"),
    ],
)
def test_the_network_is_used_where_there_is_a_login_or_a_wish(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: Any,
    environment: dict[str, str],
    mode: str,
) -> None:
    for key, value in environment.items():
        if key == "netrc":
            (tmp_path / "netrc").write_text(value)
        else:
            monkeypatch.setenv(key, value)
    assert mode_of(WandbSettings(mode=asked)) == mode


def test_a_mode_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(ConfigError, match=r"WANDB_MODE: 'ofline'.*did you mean 'offline'"):
        mode_of(WandbSettings())


class FakeRun:
    """A W&B run that the server has up to step 3."""

    def __init__(self) -> None:
        self.step, self.url = 4, "http://server/run"
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, row: dict[str, float], step: int) -> None:
        self.rows.append((step, row))
        self.step = step


def test_online_the_server_is_not_sent_again_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRun()
    library = SimpleNamespace(
        init=lambda **given: fake, Settings=dict, Image=None, errors=SimpleNamespace(Error=OSError)
    )
    monkeypatch.setattr(wandb_log, "require", lambda *names, **more: library)
    log = WandbLog(tmp_path, WandbSettings(mode="online"), About("n", "g", (), {}))
    for step in range(2, 7):
        log.log_metrics({"loss": 1.0 / step}, step)  # at once: no `save`
    assert [step for step, _ in fake.rows] == [4, 5, 6]
    assert log.place == "http://server/run"
    again = WandbLog(tmp_path, WandbSettings(mode="online"), About("n", "g", (), {}))
    assert again.version == log.version


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"wandbb": {}}, "log.wandbb: unknown key.*did you mean 'wandb'"),
        ({"wandb": {"porject": "x"}}, "log.wandb.porject: unknown key.*did you mean 'project'"),
        ({"wandb": {"mode": "ofline"}}, "log.wandb.mode.*did you mean 'offline'"),
        ({"wandb": True}, "log.wandb: a mapping is needed"),
        ({"tensorboard": "yes"}, "log.tensorboard"),
        ({"pictures": {"every": 0}}, "log.pictures: every and images must be at least 1"),
    ],
)
def test_mistakes_are_named_before_any_work(
    tmp_path: Path, log: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(small(tmp_path, log=log), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_setting_that_wandb_refuses(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    log = {"wandb": {"settings": {"consle": "wrap"}}}
    with pytest.raises(ConfigError, match=r"log\.wandb\.settings: wandb refuses them.*consle"):
        run(small(tmp_path, log=log), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("log", "library"), [({"wandb": {}}, "wandb"), ({"tensorboard": True}, "tensorboard")]
)
def test_a_missing_library_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: dict[str, Any], library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=rf"log\.{library}.*pip install '{library}"):
        run(small(tmp_path, log=log), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_disabled_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DISABLED", "true")
    monkeypatch.setitem(sys.modules, "wandb", None)  # not even looked for
    trainer = {**SETTINGS["trainer"], "max_steps": 1}
    folder = run(small(tmp_path, log={"wandb": {}}, trainer=trainer), tmp_path / "runs")
    assert not (folder / "wandb").exists()
    assert not (folder / "wandb.json").exists()


# --- pictures and results ------------------------------------------------------------------------


def test_pictures_of_the_landmarks(tmp_path: Path) -> None:
    trainer = {**SETTINGS["trainer"], "max_epochs": 3}
    log = {"pictures": {"every": 2, "images": 3}}
    folder = run(small(tmp_path, log=log, trainer=trainer), tmp_path / "runs")
    found = sorted((folder / "figures" / "training").iterdir())
    assert [path.name for path in found] == ["train-000002.png", "train-000006.png"]
    first, last = (read_image(path).astype(int) for path in found)
    assert first.shape == last.shape
    assert first.shape[1] > 2 * first.shape[0]  # three images side by side
    moved = np.abs(first - last).max(axis=2) > 0
    assert 0 < moved.mean() < 0.5  # the same images, other points


def test_no_pictures(tmp_path: Path) -> None:
    trainer = {**SETTINGS["trainer"], "max_steps": 1}
    folder = run(small(tmp_path, log={"pictures": None}, trainer=trainer), tmp_path / "runs")
    assert not (folder / "figures" / "training").exists()


def test_scores_become_flat_names() -> None:
    score = {"value": 3.0, "low": 2.0, "high": None}
    assert flat({"forward_nme": score}) == {"forward_nme": 3.0, "forward_nme/low": 2.0}
