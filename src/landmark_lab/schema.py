"""Configuration values: what an annotation allows, checked strictly, and the plain form of a value.

A configuration holds plain containers only: None, truth values, numbers, strings, lists and
mappings. These are what YAML and a checkpoint read with weights only can hold.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Strict, TypeAdapter, ValidationError

from landmark_lab.errors import ConfigError, PluginError, nearest

_SCALARS = (bool, int, float, str)
_CONTAINERS = (list, tuple, dict, Mapping, Sequence)


class Described:
    """Something that can say in plain containers how it was configured."""

    @property
    def spec(self) -> dict[str, Any]:
        """The configuration."""
        raise NotImplementedError


def plain(value: Any, where: str) -> Any:
    """A value as plain containers.

    Raises:
        PluginError: it has no plain form.
    """
    if value is None or type(value) in _SCALARS:
        return value
    if isinstance(value, Described):
        return value.spec
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (f.name for f in dataclasses.fields(value) if f.init)
        return {name: plain(getattr(value, name), where) for name in fields}
    if isinstance(value, Mapping):
        return {plain(key, where): plain(item, where) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, where) for item in value]
    if isinstance(value, (str, Path)):
        return str(value)
    # NumPy's numbers are no plain ones, although some are subclasses of Python's.
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise PluginError(
        f"a {type(value).__name__} cannot be written down in a configuration",
        where=where,
        allowed="numbers, strings, paths, lists, mappings, settings dataclasses, plugins",
    )


def validated(annotation: Any, value: Any, where: str) -> Any:
    """The value as an annotation wants it, e.g. a tuple for a list.

    Truth values, numbers and strings are not converted into each other, except that an integer
    will do for a float.

    Raises:
        ConfigError: the value does not fit.
    """
    try:
        return _adapter(annotation).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"]
        got = f", not {first['input']!r}" if first["type"] != "missing" else ""
        raise ConfigError(
            f"{message[0].lower()}{message[1:]}{got}",
            where=where + _inside(value, first["loc"]),
            allowed=type_text(annotation),
            hint=_literal_hint(annotation, value),
        ) from error


def _inside(value: Any, location: Sequence[int | str]) -> str:
    """The path of an error below a value; pydantic's mentions of union members are left out."""
    path = ""
    for step in location:
        if isinstance(value, Mapping) and step in value:
            path += f".{step}"
        elif isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value):
            path += f"[{step}]"
        else:
            continue
        value = value[step]
    return path


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(annotation))


def _strict(annotation: Any) -> Any:
    """The annotation with strict scalars and lenient containers.

    In lenient mode pydantic takes True for an int and "off" for a bool.
    """
    if annotation in _SCALARS:
        return typing.Annotated[annotation, Strict()]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_strict(a) for a in args)]  # noqa: UP007 - built at run time
    if origin is typing.Annotated:
        return typing.Annotated[(_strict(args[0]), *args[1:])]
    if origin is None or origin is typing.Literal or not args:
        return annotation
    return origin[tuple(a if a is ... else _strict(a) for a in args)]


def unsupported(annotation: Any) -> Any:
    """The first part of an annotation that no configuration can hold, or None."""
    if annotation in (*_SCALARS, *_CONTAINERS, Path, Any, None, type(None)):
        return None
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return next((a for a in args if not isinstance(a, (bool, int, str, type(None)))), None)
    if origin is typing.Annotated:
        return unsupported(args[0])
    if origin in (typing.Union, types.UnionType, *_CONTAINERS):
        return next((bad for a in args if a is not ... and (bad := unsupported(a))), None)
    return annotation


def without_none(annotation: Any) -> tuple[Any, bool]:
    """``X | None`` as (X, True); anything else as (itself, False)."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        args = typing.get_args(annotation)
        rest = [a for a in args if a is not type(None)]
        if len(rest) == 1 < len(args):
            return rest[0], True
    return annotation, False


def item_type(annotation: Any) -> Any:
    """X of ``list[X]``, ``tuple[X, ...]`` and ``Sequence[X]``; None for anything else."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (list, Sequence) or (origin is tuple and args[1:] == (...,)):
        return args[0]
    return None


def type_text(annotation: Any) -> str:
    """An annotation as one would write it."""
    inner, optional = without_none(annotation)
    if optional:
        return f"{type_text(inner)} or nothing"
    origin, args = typing.get_origin(inner), typing.get_args(inner)
    if origin is typing.Literal:
        return " | ".join(repr(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(a) for a in args)
    if origin is typing.Annotated:
        return type_text(args[0])
    if origin is not None and args:
        name = getattr(origin, "__name__", str(origin))
        return f"{name}[{', '.join('...' if a is ... else type_text(a) for a in args)}]"
    return "nothing" if inner is type(None) else getattr(inner, "__name__", str(inner))


def _literal_hint(annotation: Any, value: object) -> str | None:
    inner, _ = without_none(annotation)
    if typing.get_origin(inner) is typing.Literal and isinstance(value, str):
        close = nearest(value, [str(choice) for choice in typing.get_args(inner)])
        return f"did you mean '{close}'?" if close else None
    return None
