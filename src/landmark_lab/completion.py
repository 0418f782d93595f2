"""Checking an experiment against what is installed, before anything is loaded or built.

Every plugin, key and value is checked, every default filled in; see ``plugin.check``.
"""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from landmark_lab.config import Experiment, Stage
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import CheckpointError, ConfigError
from landmark_lab.evaluation import labels
from landmark_lab.plugin import build, check, check_settings, find
from landmark_lab.roles import ImageData, Method, Pairing, Protocol

# Arguments of the trainer that an experiment file may not give, and why.
_OURS = {
    "callbacks": "callbacks are objects; the laboratory adds its own, Python code adds others",
    "logger": "the laboratory logs into the run folder",
    "plugins": "plugins are objects; the laboratory needs its own to read checkpoints safely",
    "default_root_dir": "everything goes into the run folder",
    "use_distributed_sampler": "the laboratory's sampler shares the images itself",
    "num_sanity_val_steps": "validation before training would disturb resuming",
    "enable_progress_bar": "a bar is shown on terminals, plain lines elsewhere",
    "enable_model_summary": "the laboratory prints what matters of the method",
}


def complete(experiment: Experiment) -> Experiment:
    """The experiment with complete specs.

    Raises:
        ConfigError: an unknown plugin or key, a wrong type, a missing value; with its full path.
        CheckpointError: a checkpoint to start from does not exist.
    """
    evaluate = tuple(
        check(Protocol, spec, f"evaluate[{i}]") for i, spec in enumerate(experiment.evaluate)
    )
    protocols = [build(Protocol, spec, f"evaluate[{i}]") for i, spec in enumerate(evaluate)]
    _check_reported(experiment, labels(protocols))
    stages = {name: _complete(stage) for name, stage in experiment.stages.items()}
    return replace(experiment, stages=stages, evaluate=evaluate)


def _complete(stage: Stage) -> Stage:
    method = check(Method, stage.method, stage.where("method"))
    pairing = stage.pairing
    if pairing is not None:
        pairing = check(Pairing, pairing, stage.where("pairing"))
    _check_warp(method, pairing, stage)
    _check_trainer(stage.trainer, stage.where("trainer"))
    _check_start(stage)
    return replace(
        stage,
        method=method,
        data=check(ImageData, stage.data, stage.where("data")),
        pairing=pairing,
        loader=check_settings(LoaderSettings, stage.loader, stage.where("loader")),
    )


def _check_warp(method: Mapping[str, Any], pairing: Mapping[str, Any] | None, stage: Stage) -> None:
    if not find(Method, method["name"]).needs_warp:
        return
    if pairing is None or not find(Pairing, pairing["name"]).provides_warp:
        raise ConfigError(
            f"the method '{method['name']}' needs pairs whose warp is known",
            where=stage.where("pairing"),
            hint="for example 'pairing: synthetic'",
        )


def _check_trainer(trainer: Mapping[str, Any], where: str) -> None:
    known = inspect.signature(Trainer).parameters
    for key in trainer:
        if key in _OURS:
            raise ConfigError(f"cannot be set here: {_OURS[key]}", where=f"{where}.{key}")
        if key not in known:
            raise ConfigError(
                f"Lightning's Trainer has no argument '{key}'",
                where=f"{where}.{key}",
                got=str(key),
                allowed=known.keys() - _OURS.keys(),
            )


def _check_start(stage: Stage) -> None:
    path = (stage.start_from or {}).get("checkpoint")
    if path is not None and not Path(path).is_file():
        raise CheckpointError(
            f"there is no checkpoint {path}", where=f"{stage.where('start_from')}.checkpoint"
        )


def _check_reported(experiment: Experiment, results: list[str]) -> None:
    for name in experiment.reported:
        if name not in results:
            raise ConfigError(
                f"no protocol gives a result '{name}'",
                where=f"rows.{experiment.row}.reported" if experiment.row else "reported",
                got=name,
                allowed=results or "nothing, because 'evaluate' is empty",
            )
