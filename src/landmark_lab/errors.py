"""Every error that a user can cause, in one style of message.

A message says what was wrong, where it came from, what is allowed and, for a misspelt name, the
nearest match. Code that finds bad input raises one of these classes; the command line prints the
message without a traceback.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most similar to ``name``, or None if nothing is similar."""
    found = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


class LandmarkLabError(Exception):
    """Base of all errors caused by input, configuration or environment.

    Args:
        what: what was wrong, as a sentence without its final stop.
        where: where it came from: a configuration path, a file, a line.
        got: the offending value; a string is compared with ``allowed``.
        allowed: what would have been right: a list of names, or a description.
        hint: what to do about it.

    Attributes:
        where: as given; whoever lets an error pass and knows the place better may set it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: object = None,
        allowed: Iterable[str] | str | None = None,
        hint: str | None = None,
    ) -> None:
        parts = [what]
        if allowed is not None:
            names = None if isinstance(allowed, str) else sorted(allowed)
            parts.append(f"allowed: {allowed if names is None else ', '.join(names) or 'nothing'}")
            close = nearest(got, names) if names and isinstance(got, str) else None
            if close is not None:
                parts.append(f"did you mean '{close}'?")
        if hint:
            parts.append(hint)
        self.where, self._text = where, "; ".join(parts)
        super().__init__(str(self))

    def __str__(self) -> str:
        return f"{self.where}: {self._text}" if self.where else self._text


class ConfigError(LandmarkLabError, ValueError):
    """A configuration, override or command-line value is wrong."""


class PluginError(LandmarkLabError, TypeError):
    """A plugin class breaks a rule of the plugin system."""


class DataError(LandmarkLabError, ValueError):
    """An image, annotation or data set is missing or unusable."""


class CheckpointError(LandmarkLabError, RuntimeError):
    """A checkpoint is missing, damaged, unsafe or of something else."""


class RunError(LandmarkLabError, RuntimeError):
    """A run cannot start, continue or be evaluated."""


class MissingDependencyError(LandmarkLabError, ImportError):
    """An optional library is needed and not installed."""


def require(module: str, *, purpose: str, install: str | None = None) -> ModuleType:
    """Import an optional library, or say what it is for and how to install it.

    Args:
        module: dotted name to import.
        purpose: what needs it, e.g. ``"colour augmentation"``.
        install: what to hand to ``pip install``; the module's top name by default.

    Raises:
        MissingDependencyError: the library is not installed or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs the library '{module.partition('.')[0]}' ({error})",
            hint=f"pip install '{install or module.partition('.')[0]}'",
        ) from error
