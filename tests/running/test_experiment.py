"""Stages, what they start from, what is refused before any work starts, and what is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Callback

from landmark_lab import checkpoint
from landmark_lab.config import read
from landmark_lab.errors import CheckpointError, ConfigError, LandmarkLabError
from landmark_lab.experiment import run
from landmark_lab.files import load_checkpoint, read_json

BACKBONE = {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "groups": 4}
SETTINGS: dict[str, Any] = {
    "name": "small",
    "data": {"name": "toy_faces", "size": 32, "train": 24, "val": 16, "test": 16},
    "pairing": "synthetic",
    "loader": {"batch_size": 8},
    "method": {
        "name": "factorized",
        "landmarks": 4,
        "backbone": BACKBONE,
        "optimiser": {"name": "adam", "lr": 1e-3},
        "schedule": "constant",
    },
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1},
}


def small(folder: Path, **changes: Any) -> Any:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return read(path)


def test_a_run_leaves_everything_needed_to_judge_and_repeat_it(tmp_path: Path) -> None:
    names = ["forward_nme", "backward_nme", "equivariance", "forward_nme_factorized"]
    evaluate = [*names[:3], {"name": names[3], "copies": 2}]  # which the run has to export
    folder = run(small(tmp_path, evaluate=evaluate), tmp_path / "runs", command=["a", "b c"])
    stages = "checkpoints/train"
    for name in (
        "config.yaml",
        "command.txt",
        "environment.json",
        "metrics/train.csv",
        "results.json",
        "predictions/best.npz",
        "predictions/untrained.npz",
        "figures/landmarks.png",
        f"{stages}/best.ckpt",
        f"{stages}/last.ckpt",
        f"{stages}/done.ckpt",
    ):
        assert (folder / name).stat().st_size > 0, name
    scores = read_json(folder / "results.json")["protocols"]
    assert list(scores) == names
    forward = scores["forward_nme"]
    assert forward["low"] <= forward["value"] <= forward["high"]
    assert {"mean_shape", "centroid", "untrained"} <= forward["references"].keys()
    method = checkpoint.load(folder / stages / "best.ckpt")
    points, score = method.landmarks(torch.rand(2, 3, 32, 32))  # type: ignore[operator]
    assert points.shape == (2, 4, 2)
    assert score.shape == (2, 4)
    # It can be repeated from its own configuration.
    again = run(read(folder / "config.yaml"), tmp_path / "again")
    expected = load_checkpoint(folder / stages / "done.ckpt")["state_dict"]
    repeated = load_checkpoint(again / stages / "done.ckpt")["state_dict"]
    assert all(torch.equal(expected[name], repeated[name]) for name in expected)


class Watch(Callback):
    """Keeps the weights and modes of a part at the start of every stage's last batch."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.weights: list[dict[str, torch.Tensor]] = []
        self.training: list[bool] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._keep(module)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._keep(module)

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        self.training.append(module.get_submodule(self.part).training)

    def _keep(self, module: Any) -> None:
        state = module.get_submodule(self.part).state_dict()
        self.weights.append({name: value.clone() for name, value in state.items()})


def test_a_stage_starts_from_parts_of_another_and_keeps_the_frozen_ones(tmp_path: Path) -> None:
    start = {"stage": "few", "parts": ["backbone"]}
    stages = {
        "few": {},
        "many": {"method": {"landmarks": 6}, "start_from": start, "freeze": ["backbone"]},
    }
    watch = Watch("backbone")
    folder = run(small(tmp_path, stages=stages), tmp_path / "runs", callbacks=[watch])
    started, ended, handed_over, frozen = watch.weights
    changed = [name for name in started if not torch.equal(started[name], ended[name])]
    assert changed
    for name, value in ended.items():
        assert torch.equal(value, handed_over[name]), name
        # Batch norm's statistics are frozen with the weights.
        assert torch.equal(value, frozen[name]), name
    assert watch.training == [True] * 3 + [False] * 3
    many = checkpoint.load(folder / "checkpoints" / "many" / "done.ckpt")
    assert many.spec["landmarks"] == 6


def test_fine_tuning_from_a_checkpoint_on_other_data(tmp_path: Path) -> None:
    first = run(small(tmp_path), tmp_path / "runs") / "checkpoints" / "train" / "done.ckpt"
    watch = Watch("head")
    tuned = small(
        tmp_path,
        stages={"tune": {"start_from": {"checkpoint": str(first)}}},
        data={**SETTINGS["data"], "seed": 5},
    )
    run(tuned, tmp_path / "runs", callbacks=[watch])
    expected = load_checkpoint(first)["state_dict"]
    assert torch.equal(watch.weights[0]["weight"], expected["head.weight"])
    assert not torch.equal(watch.weights[1]["weight"], expected["head.weight"])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"pairing": "random"}, "warp"),
    ({"data": {"name": "folder", "root": "nowhere"}}, "nowhere"),
    ({"method": {**SETTINGS["method"], "landmarks": 500}}, "500 landmarks"),
    (
        {"stages": {"a": {}, "b": {"start_from": {"stage": "a", "parts": ["bakbone"]}}}},
        "did you mean 'backbone'",
    ),
    ({"stages": {"a": {}, "b": {"freeze": ["heed"]}}}, "did you mean 'head'"),
    (
        {"stages": {"a": {}, "b": {"method": {"landmarks": 5}, "start_from": {"stage": "a"}}}},
        "head.weight has shape",
    ),
    ({"data": {**SETTINGS["data"], "train": 0}}, "train"),
    (
        {
            "data": {**SETTINGS["data"], "val": 0},
            "method": {**SETTINGS["method"], "schedule": "plateau"},
        },
        "no validation split",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_work_is_refused_before_any_work(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LandmarkLabError, match=message):
        run(small(tmp_path, **changes), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_what_a_stage_refuses_names_the_stage(tmp_path: Path) -> None:
    def message(**changes: Any) -> str:
        with pytest.raises(LandmarkLabError) as caught:
            run(small(tmp_path, **changes), tmp_path / "runs")
        return str(caught.value)

    first = {"name": "self_training", "landmarks": 5, "clusters": 8, "keypoints": "sift"}
    second = {"name": "landmark_detector", "labels": {"stage": "a"}, "landmarks": 4}
    stages = {"a": {"method": first}, "b": {"method": second}}
    found = message(stages=stages)
    assert found.startswith("stages.b.method.landmarks: learns 4 landmarks from the 5 of")
    second |= {"landmarks": 5, "mirror": True}
    first |= {"mirror": False}
    assert message(stages=stages).startswith("stages.b.method.mirror: the method 'self_training'")
    # A section that all stages share is named as it stands in the file.
    shared = {"pairing": "mirrored", "stages": {"a": {"method": first}}}
    assert message(**shared).startswith("stages.a.method.mirror: mirrored pairs need")
    assert message(pairing="mirrored", method=first).startswith("method.mirror: mirrored pairs")
    many = {"stages": {"a": {}, "b": {"loader": {"images": 99}}}}
    assert message(**many).startswith("stages.b.loader.images: there are ")
    frames = {"stages": {"a": {}, "b": {"pairing": "frames"}}}
    assert message(**frames).startswith("stages.b.pairing: the pairing 'frames' needs")
    assert not (tmp_path / "runs").exists()


def test_a_run_is_not_continued_with_another_configuration(tmp_path: Path) -> None:
    folder = run(small(tmp_path), tmp_path / "runs")
    other = small(tmp_path, method={**SETTINGS["method"], "landmarks": 5})
    with pytest.raises(LandmarkLabError, match="another configuration"):
        run(other, tmp_path / "runs", resume=folder)


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    folder = run(small(tmp_path), tmp_path / "runs") / "checkpoints" / "train"
    content = load_checkpoint(folder / "done.ckpt")
    content["state_dict"].pop("head.bias")
    torch.save(content, tmp_path / "changed.ckpt")
    with pytest.raises(CheckpointError, match=r"head\.bias is missing"):
        checkpoint.load(tmp_path / "changed.ckpt")
    content.pop(checkpoint.KEY)
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this laboratory"):
        checkpoint.load(tmp_path / "foreign.ckpt")


def test_mixed_precision_and_clipping_are_lightnings(tmp_path: Path) -> None:
    trainer = {**SETTINGS["trainer"], "precision": "bf16-mixed", "gradient_clip_val": 0.1}
    folder = run(small(tmp_path, trainer=trainer), tmp_path / "runs")
    state = load_checkpoint(folder / "checkpoints" / "train" / "done.ckpt")["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values())
    assert all(value.dtype != torch.bfloat16 for value in state.values())


def test_a_schedule_that_follows_nothing_is_refused(tmp_path: Path) -> None:
    method = {**SETTINGS["method"], "schedule": {"name": "plateau", "monitor": "val/los"}}
    with pytest.raises(ConfigError, match="did you mean 'val/loss'"):
        run(small(tmp_path, method=method), tmp_path / "runs")


def test_a_protocol_that_cannot_be_scored_does_not_cost_the_others(tmp_path: Path) -> None:
    evaluate = [{"name": "forward_nme", "annotated": 1000}, "equivariance"]
    with pytest.raises(LandmarkLabError, match="1000"):
        run(small(tmp_path, evaluate=evaluate), tmp_path / "runs")
    folder = tmp_path / "runs" / "small" / "001"
    assert list(read_json(folder / "results.json")["protocols"]) == ["equivariance"]
    assert (folder / "figures" / "landmarks.png").is_file()
