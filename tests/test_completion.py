"""Experiments are checked against what is installed, before anything is loaded."""

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from landmark_lab.checkpoint import KEY, Card
from landmark_lab.completion import complete
from landmark_lab.config import Experiment, read, save
from landmark_lab.errors import CheckpointError, ConfigError, LandmarkLabError
from landmark_lab.files import save_checkpoint
from tests.test_config import mutated

SETTINGS: dict[str, Any] = {
    "data": {"name": "toy_faces", "size": 32},
    "pairing": "synthetic",
    "loader": {"batch_size": 4},
    "method": {"name": "factorized", "landmarks": 5, "backbone": "simple"},
    "trainer": {"max_epochs": 1},
    "evaluate": ["forward_nme"],
}


def experiment(folder: Path, *overrides: str, **changes: Any) -> Experiment:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return read(path, overrides)


def test_everything_is_filled_in(tmp_path: Path) -> None:
    found = complete(experiment(tmp_path))
    stage = found.stages["train"]
    assert stage.method["backbone"]["name"] == "simple"
    assert "norm" in stage.method["backbone"]
    assert stage.pairing is not None
    assert stage.pairing["warps"]["name"]
    assert stage.loader["workers"] == 0
    assert found.evaluate[0]["name"] == "forward_nme"
    assert len(found.evaluate[0]) > 1


def test_a_complete_experiment_stays_as_it_is(tmp_path: Path) -> None:
    found = complete(experiment(tmp_path))
    assert complete(found) == found
    save(found, tmp_path / "config.yaml")
    assert complete(read(tmp_path / "config.yaml")).to_mapping() == found.to_mapping()


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["method.backbone.dpeth=1"], ["method.backbone.dpeth: unknown key"]),
        (["method=factorised"], ["method.name", "did you mean 'factorized'?"]),
        (["method.landmarks=x"], ["method.landmarks", "valid integer"]),
        (["data.sise=3"], ["data.sise", "did you mean 'size'?"]),
        (["pairing.warps=tps"], ["pairing.warps.name"]),
        (["loader.batchsize=3"], ["loader.batchsize", "did you mean 'batch_size'?"]),
        (["loader.batch_size=0"], ["loader: batch_size must be at least 1"]),
        (["loader.colours.hue=x"], ["loader.colours.hue"]),
        (["evaluate=[forward_mne]"], ["evaluate[0].name", "did you mean 'forward_nme'?"]),
        (["evaluate=[forward_nme, forward_nme]"], ["forward_nme is listed 2 times"]),
        (["reported.forward_mne=1"], ["reported: no protocol gives a result", "'forward_nme'?"]),
        (["trainer.max_epoch=3"], ["trainer.max_epoch", "did you mean 'max_epochs'?"]),
        (["trainer.logger=true"], ["trainer.logger: cannot be set here: the laboratory logs"]),
        (["trainer.callbacks=[]"], ["trainer.callbacks: cannot be set here"]),
        (["trainer.plugins=[]"], ["trainer.plugins: cannot be set here"]),
        (["pairing=null"], ["pairing: the method 'factorized' needs pairs whose warp is known"]),
        (["pairing=random"], ["pairing: the method 'factorized' needs pairs whose warp is known"]),
        (["stages.train.method.landmark=1"], ["stages.train.method.landmark", "'landmarks'?"]),
        (["stages.train.trainer.max_step=1"], ["stages.train.trainer.max_step", "'max_steps'?"]),
    ],
)
def test_a_mistake_is_named_with_its_path(
    tmp_path: Path, overrides: list[str], messages: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        complete(experiment(tmp_path, *overrides))
    for message in messages:
        assert message in str(caught.value)


def test_a_missing_checkpoint_is_found_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"stages\.train\.start_from\.checkpoint"):
        complete(experiment(tmp_path, "stages.train.start_from.checkpoint=none.ckpt"))


PROBED: dict[str, Any] = {
    "stages": {
        "features": {},
        "probe": {"method": {"name": "virtual_points", "base": {"stage": "features"}, "points": 5}},
    }
}


def test_a_method_on_another_stage_gets_its_spec_and_its_weights(tmp_path: Path) -> None:
    found = complete(experiment(tmp_path, **PROBED))
    probe = found.stages["probe"]
    assert probe.method["base"] == found.stages["features"].method
    assert probe.start_from == {"stage": "features", "into": "base"}
    assert complete(found) == found
    save(found, tmp_path / "config.yaml")
    assert complete(read(tmp_path / "config.yaml")).to_mapping() == found.to_mapping()


def test_a_method_on_a_checkpoint_gets_the_spec_on_its_card(tmp_path: Path) -> None:
    below = complete(experiment(tmp_path)).stages["train"].method
    card = Card(below, {}, 32, None, [], 0, "train")
    path = tmp_path / "a.ckpt"
    save_checkpoint({KEY: asdict(card), "state_dict": {}}, path)
    method = {"name": "nearest", "base": {"checkpoint": str(path)}, "points": 5}
    found = complete(experiment(tmp_path, method=method))
    assert found.stages["train"].method["base"] == below
    assert found.stages["train"].start_from == {"checkpoint": str(path), "into": "base"}
    save(found, tmp_path / "config.yaml")
    assert complete(read(tmp_path / "config.yaml")).to_mapping() == found.to_mapping()


@pytest.mark.parametrize(
    ("override", "messages"),
    [
        ("base={stage: featres}", ["base.stage: there is no earlier stage", "mean 'features'?"]),
        ("base={stage: probe}", ["base.stage: there is no earlier stage 'probe'"]),
        ("base={stage: features, checkpoint: a}", ["base: give either 'stage' or 'checkpoint'"]),
        ("base={stage: features, landmarks: 3}", ["base.landmarks: unknown key 'landmarks'"]),
        ("base={stage: 3}", ["base.stage: a text is needed"]),
        ("base={checkpoint: none.ckpt}", ["base.checkpoint: there is no checkpoint none.ckpt"]),
        ("base={landmarks: 3}", ["base: the key 'name' is missing: which method?"]),
    ],
)
def test_a_mistake_about_the_method_below_is_named_with_its_path(
    tmp_path: Path, override: str, messages: list[str]
) -> None:
    plain: dict[str, Any] = {"name": "virtual_points", "points": 5}
    stages = {"features": {}, "probe": {"method": plain}}
    with pytest.raises(LandmarkLabError) as caught:
        complete(experiment(tmp_path, f"stages.probe.method.{override}", stages=stages))
    where, *rest = messages
    assert str(caught.value).startswith(f"stages.probe.method.{where}")
    assert all(message in str(caught.value) for message in rest)


def test_weights_from_two_places_are_refused(tmp_path: Path) -> None:
    override = "stages.probe.start_from.stage=features"
    with pytest.raises(ConfigError, match=r"start_from: the weights already come from stages\.pro"):
        complete(experiment(tmp_path, override, **PROBED))


def test_nothing_is_loaded(tmp_path: Path) -> None:
    """A data set whose folder is missing is not looked at."""
    complete(experiment(tmp_path, data={"name": "folder", "root": str(tmp_path / "missing")}))


def test_mutated_experiments_are_completed_or_refused_but_nothing_else(tmp_path: Path) -> None:
    draw = random.Random(2)
    whole = complete(experiment(tmp_path)).to_mapping()
    outcomes = {True: 0, False: 0}
    for round_ in range(120):
        changed: Any = whole if round_ % 2 else SETTINGS
        for _ in range(draw.randint(1, 2)):
            changed = mutated(changed, draw)
        path = tmp_path / "mutated.yaml"
        path.write_text(yaml.safe_dump(changed))
        try:
            found = complete(read(path))
            assert complete(found) == found
            outcomes[True] += 1
        except LandmarkLabError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 3, outcomes
