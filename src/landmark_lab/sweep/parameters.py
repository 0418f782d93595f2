"""The parameters of a sweep file: what each may be, in W&B's words."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from landmark_lab.errors import ConfigError


@dataclass(frozen=True)
class _Law:
    """A distribution: the keys that it takes, and how a value is drawn."""

    keys: Mapping[str, float | None]  # with their defaults; None: required
    draw: Callable[[np.random.Generator, Mapping[str, float]], float]
    positive: bool = False  # whether min must be above 0


_RANGE: dict[str, float | None] = {"min": None, "max": None}
_NORMAL: dict[str, float | None] = {"mu": 0.0, "sigma": 1.0}
_BETA: dict[str, float | None] = {"a": 1.0, "b": 1.0}
_CONTINUOUS: dict[str, _Law] = {
    "uniform": _Law(_RANGE, lambda g, p: g.uniform(p["min"], p["max"])),
    "log_uniform": _Law(_RANGE, lambda g, p: math.exp(g.uniform(p["min"], p["max"]))),
    "log_uniform_values": _Law(
        _RANGE, lambda g, p: math.exp(g.uniform(math.log(p["min"]), math.log(p["max"]))), True
    ),
    "inv_log_uniform": _Law(_RANGE, lambda g, p: math.exp(-g.uniform(p["min"], p["max"]))),
    "inv_log_uniform_values": _Law(
        _RANGE, lambda g, p: math.exp(g.uniform(math.log(p["min"]), math.log(p["max"]))), True
    ),
    "normal": _Law(_NORMAL, lambda g, p: g.normal(p["mu"], p["sigma"])),
    "log_normal": _Law(_NORMAL, lambda g, p: math.exp(g.normal(p["mu"], p["sigma"]))),
    "beta": _Law(_BETA, lambda g, p: g.beta(p["a"], p["b"])),
}
_QUANTISED = {f"q_{name}": name for name in _CONTINUOUS if not name.startswith("inv_")}
_CHOICES = ("constant", "categorical", "categorical_w_probabilities")
_DISTRIBUTIONS = (*_CHOICES, "int_uniform", *_CONTINUOUS, *_QUANTISED)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a sweep.

    Attributes:
        path: of the setting in the experiment file.
        values: what a grid tries, or None if that is no finite number.
        draw: one value.
    """

    path: str
    values: tuple[Any, ...] | None
    draw: Callable[[np.random.Generator], Any] = field(compare=False)


def parameters(given: object, where: str, prefix: str = "") -> Iterator[Parameter]:
    """The parameters of a sweep file.

    Args:
        given: the file's ``parameters``.
        where: their path in it, for messages.
        prefix: the path of the setting above, with its dot.

    Raises:
        ConfigError: an unknown key or distribution, or a wrong value.
    """
    for key, content in mapping(given, where).items():
        path, place = f"{prefix}{key}", f"{where}.{key}"
        if isinstance(content, Mapping) and "parameters" in content:
            yield from parameters(content["parameters"], f"{place}.parameters", f"{path}.")
        else:
            yield _parameter(path, mapping(content, place), place)


def _parameter(path: str, given: Mapping[str, Any], where: str) -> Parameter:
    law = given.get("distribution") or _implied(given, where)
    if law not in _DISTRIBUTIONS:
        raise ConfigError(
            f"there is no distribution '{law}'",
            where=f"{where}.distribution",
            got=str(law),
            allowed=_DISTRIBUTIONS,
        )
    if law in _CHOICES:
        return _choice(path, law, given, where)
    if law == "int_uniform":
        ends = _numbers(given, _RANGE, where).values()
        low, end = (int(number) for number in ends)
        if [low, end] != [*ends]:
            raise ConfigError("whole numbers are needed", where=where)
        return Parameter(path, tuple(range(low, end + 1)), lambda g: int(g.integers(low, end + 1)))
    continuous = _CONTINUOUS[_QUANTISED.get(law, law)]
    step: dict[str, float | None] = {"q": 1.0} if law in _QUANTISED else {}
    found = _numbers(given, {**continuous.keys, **step}, where, continuous.positive)
    if not step:
        return Parameter(path, None, lambda g: float(continuous.draw(g, found)))
    q = found["q"]
    values = None
    if law == "q_uniform":
        first, last = round(found["min"] / q), round(found["max"] / q)
        values = tuple(_multiple(n, q) for n in range(first, last + 1))
    return Parameter(path, values, lambda g: _multiple(round(continuous.draw(g, found) / q), q))


def _implied(given: Mapping[str, Any], where: str) -> str:
    """The distribution that is meant where none is named, as W&B takes it."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if {"min", "max"} <= given.keys():
        whole = all(type(given[key]) is int for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise ConfigError(
        "says nothing to choose from",
        where=where,
        allowed="value, values, min and max, or a distribution",
    )


def _choice(path: str, law: str, given: Mapping[str, Any], where: str) -> Parameter:
    key = "value" if law == "constant" else "values"
    weighted = law == "categorical_w_probabilities"
    allowed = ("distribution", key, "probabilities") if weighted else ("distribution", key)
    check_keys(given, allowed, where)
    if key not in given:
        raise ConfigError(f"'{law}' needs '{key}'", where=where)
    if key == "value":
        value = given["value"]
        return Parameter(path, (value,), lambda g: value)
    values = given["values"]
    if not isinstance(values, list) or not values:
        raise ConfigError(f"a list is needed, not {values!r}", where=f"{where}.values")
    shares = given.get("probabilities", [1 / len(values)] * len(values))
    good = (
        isinstance(shares, list)
        and len(shares) == len(values)
        and all(_is_number(share) and share >= 0 for share in shares)
    )
    if not good or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ConfigError(
            "one probability a value is needed, and their sum must be 1",
            where=f"{where}.probabilities",
        )
    chances = np.array(shares) / sum(shares)
    return Parameter(path, tuple(values), lambda g: values[int(g.choice(len(values), p=chances))])


def _numbers(
    given: Mapping[str, Any],
    keys: Mapping[str, float | None],
    where: str,
    positive: bool = False,
) -> dict[str, float]:
    check_keys(given, ("distribution", *keys), where)
    found: dict[str, float] = {}
    for key, default in keys.items():
        value = given.get(key, default)
        if not _is_number(value):
            text = isinstance(value, str) and _is_number(_as_number(value))
            raise ConfigError(
                f"a number is needed, not {value!r}",
                where=f"{where}.{key}",
                hint=f"W&B takes it for a text; write {_as_number(value)!r}" if text else None,
            )
        found[key] = value
    for key in ("q", "sigma", "a", "b"):
        if key in found and not found[key] > 0:
            raise ConfigError(f"must be above 0, not {found[key]}", where=f"{where}.{key}")
    if "min" in found and not found["min"] <= found["max"]:
        raise ConfigError(f"min {found['min']} is above max {found['max']}", where=where)
    if positive and not found["min"] > 0:
        raise ConfigError(f"must be above 0, not {found['min']}", where=f"{where}.min")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _as_number(text: str) -> float | None:
    """The number that a text such as 1e-3, which YAML 1.1 takes for no number, means."""
    try:
        return float(text)
    except ValueError:
        return None


def _multiple(count: int, unit: float) -> float:
    """``count`` × ``unit`` without the last digits' noise; whole for a whole unit."""
    value = round(count * unit, 12)
    return int(value) if float(unit).is_integer() else value


def mapping(value: object, where: str) -> Mapping[str, Any]:
    """The value, which must be a mapping, with text keys.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"a mapping is needed, not {value!r}", where=where)
    return {str(key): item for key, item in value.items()}


def check_keys(given: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    """Refuse keys that are not allowed.

    Raises:
        ConfigError: the first one, with its path and the nearest that is allowed.
    """
    for key in given:
        if key not in allowed:
            path = f"{where}.{key}" if where else key
            raise ConfigError(f"unknown key '{key}'", where=path, got=key, allowed=allowed)
