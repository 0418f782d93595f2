"""Which runs a sweep makes, every one checked before the first."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from landmark_lab.completion import complete
from landmark_lab.config import Experiment, read
from landmark_lab.errors import ConfigError
from landmark_lab.evaluation import labels
from landmark_lab.plugin import build
from landmark_lab.roles import Protocol
from landmark_lab.seeding import rng
from landmark_lab.sweep.file import Sweep


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        number: from 1.
        id: a checksum of everything that decides what is trained.
        values: of the parameters, by path.
        overrides: of the experiment, as an agent of W&B would write them.
    """

    number: int
    id: str
    values: Mapping[str, Any]
    overrides: tuple[str, ...]


def combinations(sweep: Sweep, count: int | None, seed: int) -> list[dict[str, Any]]:
    """The combinations that a sweep tries.

    Args:
        sweep: the sweep.
        count: how many; None: all of a grid, ``run_cap`` of a random search.
        seed: of the random search.

    Raises:
        ConfigError: a random search without a number of runs.
    """
    count = sweep.cap if count is None else count
    paths = [parameter.path for parameter in sweep.parameters]
    if sweep.method == "grid":
        lists = [cast("tuple[Any, ...]", parameter.values) for parameter in sweep.parameters]
        found = itertools.islice(itertools.product(*lists), count)
        return [dict(zip(paths, values, strict=True)) for values in found]
    if count is None:
        raise ConfigError(
            "a random search needs a number of runs",
            where="run_cap",
            hint="give --count, or run_cap in the file",
        )
    drawn = []
    for i in range(count):
        # Each parameter by itself, so that one more or less does not change the others.
        drawn.append({p.path: p.draw(rng(seed, f"sweep {p.path}", i)) for p in sweep.parameters})
    return drawn


def plan(
    sweep: Sweep, count: int | None = None, seed: int = 0, overrides: Sequence[str] = ()
) -> list[Planned]:
    """The runs of a sweep, every one checked; a combination that comes twice is planned once.

    Args:
        sweep: the sweep.
        count: how many combinations, see :func:`combinations`.
        seed: of the random search.
        overrides: settings of all runs, stronger than the file's.

    Raises:
        ConfigError: one of the runs could not start, or none would have the metric.
    """
    planned: dict[str, Planned] = {}
    for values in combinations(sweep, count, seed):
        # As str() writes them, because W&B's agent does.
        varied = [f"{path}={value}" for path, value in values.items()]
        given = (*sweep.overrides, *varied, *overrides)
        experiment = complete(read(sweep.experiment, given, sweep.row))
        _check_metric(sweep, experiment)
        key = _checksum(experiment)
        if key not in planned:
            planned[key] = Planned(len(planned) + 1, key, values, given)
    return list(planned.values())


def _check_metric(sweep: Sweep, experiment: Experiment) -> None:
    if sweep.metric.startswith(("val/", "train/")):
        return
    known = labels([build(Protocol, spec, "evaluate") for spec in experiment.evaluate])
    if sweep.metric not in known:
        raise ConfigError(
            f"no run will have a '{sweep.metric}'",
            where="metric.name",
            got=sweep.metric,
            allowed=[*known, "val/criterion", "val/loss", "train/loss"],
        )


def _checksum(experiment: Experiment) -> str:
    """Of what decides what is trained and scored; how it is logged does not."""
    text = json.dumps(replace(experiment, log={}).to_mapping(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
