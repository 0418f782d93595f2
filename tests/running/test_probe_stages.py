"""Probes as stages: where the method below comes from, that it stays, how many images are seen."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Callback
from torch import Tensor

from landmark_lab import checkpoint
from landmark_lab.config import Experiment, read
from landmark_lab.errors import LandmarkLabError
from landmark_lab.experiment import run
from landmark_lab.files import load_checkpoint, read_json
from landmark_lab.inference.predictor import Predictor
from tests.running.test_resume import KeepEvery, differences, outcome

ROOT = Path(__file__).resolve().parents[2]
POINTS = 18
BASE: dict[str, Any] = {
    "name": "factorized",
    "landmarks": 4,
    "backbone": {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "groups": 4},
    "schedule": "constant",
}
PROBE: dict[str, Any] = {"name": "virtual_points", "base": {"stage": "features"}, "points": POINTS}
SETTINGS: dict[str, Any] = {
    "name": "probed",
    "data": {"name": "toy_faces", "size": 32, "train": 24, "val": 16, "test": 16},
    "pairing": "synthetic",
    "loader": {"batch_size": 8},
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1},
    "stages": {
        "features": {"method": BASE, "pairing": {"annotation": False}},
        "probe": {"method": PROBE, "loader": {"images": 5}},
    },
}


def experiment(folder: Path, **changes: Any) -> Experiment:
    path = folder / "probed.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return read(path)


def state(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The weights below a prefix, by what follows it."""
    weights = load_checkpoint(path)["state_dict"]
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


class Seen(Callback):
    """Which images each stage was trained on, and how many steps it took."""

    def __init__(self) -> None:
        self.images: list[set[int]] = []
        self.steps: list[int] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.images.append(set())

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.images[-1] |= set(batch.source.index.tolist())

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.steps.append(trainer.global_step)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A run of features and a probe on them."""
    folder, seen = tmp_path_factory.mktemp("probe"), Seen()
    chosen = experiment(folder, evaluate=["nme"])
    return run(chosen, folder / "runs", callbacks=[seen]), seen


def test_the_method_below_is_the_earlier_stage_s_best_and_stays_so(
    finished: tuple[Path, Seen],
) -> None:
    stages = finished[0] / "checkpoints"
    below = state(stages / "features" / "best.ckpt")
    for name in ("last.ckpt", "done.ckpt"):
        kept = state(stages / "probe" / name, "base.")
        assert kept.keys() == below.keys()
        assert all(torch.equal(value, below[key]) for key, value in kept.items())
    assert any("running_mean" in key for key in below)


def test_only_the_probe_is_optimised(finished: tuple[Path, Seen]) -> None:
    content = load_checkpoint(finished[0] / "checkpoints" / "probe" / "done.ckpt")
    (group,) = content["optimizer_states"][0]["param_groups"]
    own = [key for key in content["state_dict"] if not key.startswith("base.")]
    assert sorted(own) == ["regressor.bias", "regressor.weight"]
    assert len(group["params"]) == 2


def test_its_checkpoint_is_enough(finished: tuple[Path, Seen]) -> None:
    method = checkpoint.load(finished[0] / "checkpoints" / "probe" / "done.ckpt")
    points, score = method.landmarks(torch.rand(2, 3, 32, 32))  # type: ignore[operator]
    assert points.shape == (2, POINTS, 2)
    assert score.shape == (2, POINTS)
    assert not any(module.training for module in method.modules())
    assert method.spec["base"]["landmarks"] == 4


def test_what_it_predicts_has_the_data_s_names(finished: tuple[Path, Seen]) -> None:
    predictor = Predictor(finished[0] / "checkpoints" / "probe" / "done.ckpt")
    assert len(predictor.names) == POINTS
    assert predictor.names == tuple(predictor.card.point_names)


def test_it_is_judged_by_its_end_and_scored_without_a_regressor(
    finished: tuple[Path, Seen],
) -> None:
    folder = finished[0]
    assert not (folder / "checkpoints" / "probe" / "best.ckpt").exists()
    scores = read_json(folder / "results.json")["protocols"]
    assert len(scores["nme"]["per_landmark"]) == POINTS


def test_it_sees_so_many_images_in_epochs_of_full_length(finished: tuple[Path, Seen]) -> None:
    seen = finished[1]
    assert seen.images[0] == set(range(24))
    assert len(seen.images[1]) == 5
    assert seen.steps == [6, 6]


def test_it_can_be_repeated_from_its_own_configuration(
    finished: tuple[Path, Seen], tmp_path: Path
) -> None:
    chosen = read(finished[0] / "config.yaml")
    assert chosen.stages["probe"].start_from == {"stage": "features", "into": "base"}
    again = run(chosen, tmp_path) / "checkpoints" / "probe" / "done.ckpt"
    expected = state(finished[0] / "checkpoints" / "probe" / "done.ckpt")
    assert all(torch.equal(value, expected[key]) for key, value in state(again).items())


def alone(folder: Path, below: Path, **changes: Any) -> Experiment:
    """A probe as the only stage, on a checkpoint."""
    settings = {key: value for key, value in SETTINGS.items() if key != "stages"}
    method = {**PROBE, "base": {"checkpoint": str(below)}, **changes.pop("method", {})}
    path = folder / "alone.yaml"
    path.write_text(yaml.safe_dump({**settings, "method": method, **changes}))
    return read(path)


def test_a_probe_on_a_checkpoint_is_resumed_where_it_was(
    finished: tuple[Path, Seen], tmp_path: Path
) -> None:
    below = finished[0] / "checkpoints" / "features" / "done.ckpt"
    chosen = alone(tmp_path, below, save_every=1, loader={"batch_size": 8, "images": 3})
    whole = KeepEvery(tmp_path)
    folder = run(chosen, tmp_path / "runs", callbacks=[whole])
    expected, log = outcome(folder)
    kept = state(folder / "checkpoints" / "train" / "done.ckpt", "base.")
    assert all(torch.equal(value, kept[key]) for key, value in state(below).items())
    (folder / "checkpoints" / "train" / "done.ckpt").unlink()
    shutil.copy(tmp_path / "004.ckpt", folder / "checkpoints" / "train" / "last.ckpt")
    again = KeepEvery(tmp_path)
    run(chosen, tmp_path / "runs", resume=folder, callbacks=[again])
    resumed, its_log = outcome(folder)
    assert differences(expected, resumed, "") == []
    assert its_log == log
    assert again.seen == {key: whole.seen[key] for key in [(1, 1), (1, 2)]}


def probe(**changes: Any) -> dict[str, Any]:
    """The stages with a changed probe."""
    return {"stages": {**SETTINGS["stages"], "probe": {"method": PROBE, **changes}}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (probe(method={**PROBE, "points": 5}), "predicts 5 points, the data has 18; allowed: 18"),
    (probe(pairing={"annotation": False}), "pairing: the method 'virtual_points' needs points,"),
    (probe(pairing="mirrored"), "points of mirrored images have changed sides"),
    (probe(loader={"images": 25}), r"loader.images: there are 24 annotated images .*, not 25"),
    (probe(method={**PROBE, "name": "nearest"}), "'factorized' offers no embedding"),
    (
        probe(method={**PROBE, "base": BASE}, start_from={"stage": "features", "into": "bas"}),
        "into: .* stands on no method 'bas'; allowed: base; did you mean 'base'",
    ),
    (
        probe(method={**PROBE, "base": {**BASE, "landmarks": 3}},
              start_from={"stage": "features", "into": "base"}),
        "weights do not fit the method 'factorized'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_work_is_refused_before_any_work(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LandmarkLabError, match=message):
        run(experiment(tmp_path, **changes), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_data_without_points_is_refused(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(12):
        cv2.imwrite(str(pictures / f"{number}.png"), np.full((32, 32, 3), 9 * number, np.uint8))
    data = {"name": "folder", "root": str(pictures), "preprocess": {"size": 32}}
    with pytest.raises(LandmarkLabError, match="'virtual_points' needs points, which the data"):
        run(experiment(tmp_path, data=data), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_random_weights_below_are_said(tmp_path: Path) -> None:
    stages = {"probe": {"method": {**PROBE, "base": BASE}}}
    trainer = {**SETTINGS["trainer"], "max_steps": 1}
    with pytest.warns(UserWarning, match=r"stages\.probe\.method: the part 'base' has random"):
        run(experiment(tmp_path, stages=stages, trainer=trainer), tmp_path / "runs")


@pytest.mark.slow
def test_a_trained_base_beats_an_untrained_one(tmp_path: Path) -> None:
    """The demo's network on smaller faces, against the same with random weights."""
    settings = yaml.safe_load((ROOT / "experiments" / "demo.yaml").read_text())
    below = {**settings.pop("method"), "pooling": 3, "weights": {"diversity": 2.1}}
    settings["data"] = {"name": "toy_faces", "size": 32, "train": 480, "val": 32, "test": 128}
    settings["loader"] = {"batch_size": 16}
    settings["pairing"]["annotation"] = True
    settings |= {"evaluate": ["nme"], "trainer": {"max_epochs": 5, "accelerator": "cpu"}}
    probe = {**PROBE, "optimiser": {"name": "adam", "lr": 3e-2}, "schedule": "cosine"}
    features = {
        "method": below,
        "pairing": {"annotation": False},
        "trainer": {"max_epochs": 10, "check_val_every_n_epoch": 5},
    }
    errors = {}
    for name, stages in {
        "trained": {"features": features, "probe": {"method": probe}},
        "untrained": {"probe": {"method": {**probe, "base": below}}},
    }.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**settings, "stages": stages}))
        score = read_json(run(read(path), tmp_path / name) / "results.json")["protocols"]["nme"]
        errors[name] = score["value"]
    errors["mean_shape"] = score["references"]["mean_shape"]
    assert errors["trained"] < 0.75 * min(errors["untrained"], errors["mean_shape"]), errors
