"""Checking an experiment against what is installed, before anything is loaded or built.

Every plugin, key and value is checked, every default filled in; see ``plugin.check``. What only a
constructor knows, e.g. which two values do not go together, is found out by :func:`try_out`.
"""

import inspect
import logging
import typing
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Timer

from landmark_lab import checkpoint
from landmark_lab.callbacks.early_stop import EarlyStopSettings
from landmark_lab.config import SOURCES, Experiment, Stage, weights_source
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import CheckpointError, ConfigError
from landmark_lab.evaluation import labels
from landmark_lab.loggers import complete_log
from landmark_lab.plugin import build, check, check_settings, find, parameters
from landmark_lab.roles import ImageData, Method, Pairing, Protocol
from landmark_lab.rounds import Labels
from landmark_lab.schema import unsupported, validated, without_none

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

# What Lightning does not check.
_LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "log_every_n_steps": 0,
          "num_nodes": 1}  # fmt: skip
# Arguments that depend on the machine, or that change the whole process at once.
_OF_THE_MACHINE = (
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "sync_batchnorm"),
    *("deterministic", "benchmark", "profiler", "barebones", "max_time"),
)
_QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}


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
    stages: dict[str, Stage] = {}
    for name, stage in experiment.stages.items():
        stages[name] = _complete(_with_base(stage, stages))
        _check_labels(stages[name], stages)
    log = complete_log(experiment.log)
    return replace(experiment, stages=stages, evaluate=evaluate, log=log)


def try_out(experiment: Experiment) -> None:
    """Build the methods and pairings of a complete experiment once, as a training does.

    Their constructors load nothing. Those of data may: they look at folders and read annotations.

    Raises:
        ConfigError: a constructor refuses a value.
    """
    with torch.random.fork_rng(devices=[]):
        for stage in experiment.stages.values():
            build(Method, stage.method, stage.where("method"))
            build(Pairing, stage.pairing, stage.where("pairing"))


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
        early_stop=_early_stop(stage),
    )


def _early_stop(stage: Stage) -> dict[str, Any] | None:
    if stage.early_stop is None:
        return None
    return check_settings(EarlyStopSettings, stage.early_stop, stage.where("early_stop"))


def _with_base(stage: Stage, earlier: Mapping[str, Stage]) -> Stage:
    """A stage whose method stands on another one, ``{stage: NAME}`` or ``{checkpoint: PATH}``.

    The other method's spec is filled in, and its weights become what the stage starts from.
    """
    if "name" not in stage.method:
        return stage
    cls = find(Method, stage.method["name"], f"{stage.where('method')}.name")
    for key, parameter in parameters(cls).items():
        given, where = stage.method.get(key), f"{stage.where('method')}.{key}"
        if without_none(parameter.annotation)[0] is not Method or not isinstance(given, Mapping):
            continue
        if "name" in given or not given.keys() & set(SOURCES):
            continue
        for unknown in given.keys() - set(SOURCES):
            raise ConfigError(
                f"unknown key '{unknown}'", where=f"{where}.{unknown}", got=unknown, allowed=SOURCES
            )
        if stage.start_from is not None:
            raise ConfigError(
                f"the weights already come from {where}", where=stage.where("start_from")
            )
        source = weights_source(given, where, earlier)
        if "stage" in source:
            spec = earlier[source["stage"]].method
        else:
            _check_file(source["checkpoint"], where)
            spec = checkpoint.read(source["checkpoint"])[0].method
        stage = replace(
            stage,
            method={**stage.method, key: spec},
            start_from={**source, "into": key},
            own=stage.own | {"start_from"},
        )
    return stage


def _check_labels(stage: Stage, earlier: Mapping[str, Stage]) -> None:
    """Check from where a method takes its labels, ``{stage: NAME}`` or ``{checkpoint: PATH}``."""
    for key, parameter in parameters(find(Method, stage.method["name"])).items():
        if without_none(parameter.annotation)[0] is not Labels or stage.method[key] is None:
            continue
        where = f"{stage.where('method')}.{key}"
        before = {name: other for name, other in earlier.items() if name != stage.name}
        source = weights_source(stage.method[key], where, before)
        if "checkpoint" in source:
            _check_file(source["checkpoint"], where)


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
        if key == "max_time":
            _check_max_time(trainer[key], f"{where}.max_time")
        else:
            _check_trainer_value(key, trainer[key], f"{where}.{key}")
    _check_trainer_rules(trainer, where)


def _check_trainer_value(key: str, value: object, where: str) -> None:
    """Check a value against the type that Lightning states, where a file can hold such a type."""
    annotation = inspect.signature(Trainer).parameters[key].annotation
    if typing.get_origin(annotation) is typing.Union:
        members = [a for a in typing.get_args(annotation) if unsupported(a) is None]
        annotation = typing.Union[tuple(members)]  # noqa: UP007 - built at run time
    validated(annotation, value, where)
    least = _LEAST.get(key)
    if least is not None and isinstance(value, int) and value < least:
        raise ConfigError(f"a whole number of at least {least} is needed, not {value}", where=where)


def _check_trainer_rules(trainer: Mapping[str, Any], where: str) -> None:
    """Have Lightning itself judge what does not depend on the machine; see also ``experiment``."""
    given = {key: value for key, value in trainer.items() if key not in _OF_THE_MACHINE}
    told = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    was_disabled, told.disabled = told.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is a GPU as well
            Trainer(**given, accelerator="cpu", devices=1, logger=False, **_QUIET)
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(f"Lightning's Trainer refuses it: {error}", where=where) from error
    finally:
        told.disabled = was_disabled


def _check_max_time(limit: object, where: str) -> None:
    """Find out now what Lightning would refuse, and what YAML has made of 12:00:00:00."""
    try:
        if isinstance(limit, (str, Mapping)):
            Timer(limit)  # type: ignore[arg-type]
            return
    except (TypeError, ValueError, MisconfigurationException):
        pass
    if limit is not None:
        raise ConfigError(
            f"is no time limit: {limit!r}",
            where=where,
            allowed="units, as in {hours: 2, minutes: 30}, or a quoted text 'DD:HH:MM:SS'",
            hint=f"on the command line: {where}.hours=2",
        )


def _check_start(stage: Stage) -> None:
    path = (stage.start_from or {}).get("checkpoint")
    if path is not None:
        _check_file(path, stage.where("start_from"))


def _check_file(path: str, where: str) -> None:
    if not Path(path).is_file():
        raise CheckpointError(f"there is no checkpoint {path}", where=f"{where}.checkpoint")


def _check_reported(experiment: Experiment, results: list[str]) -> None:
    for name in experiment.reported:
        if name not in results:
            raise ConfigError(
                f"no protocol gives a result '{name}'",
                where=f"rows.{experiment.row}.reported" if experiment.row else "reported",
                got=name,
                allowed=results or "nothing, because 'evaluate' is empty",
            )
