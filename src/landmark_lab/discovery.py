"""Finding the modules that define plugins, and importing each by itself.

A module that fails to import is remembered with its cause; it never stops another one.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from landmark_lab import user_plugins

ENTRY_POINT_GROUP = "landmark_lab.plugins"
# Modules and packages of the laboratory itself that define roles and plugins, in this order.
_BUILT_IN = (
    "landmark_lab.roles",
    "landmark_lab.optimisation",
    "landmark_lab.methods",
    "landmark_lab.evaluation.protocols",
    "landmark_lab_plugins",
)


@dataclass(frozen=True)
class Failure:
    """A plugin module that could not be imported.

    Attributes:
        module: its name, or its path if the user named one.
        error: why.
    """

    module: str
    error: BaseException

    def __str__(self) -> str:
        text = str(self.error).strip() or "no message"
        return f"{self.module}: {type(self.error).__name__}: {text}"


Forget = Callable[[str], None]
"""Called with the name of a module that failed, to undo what it did before it failed."""

_attempted: set[str] = set()
_failures: dict[str, Failure] = {}


def failures() -> list[Failure]:
    """The modules that failed so far, in the order of their import."""
    return list(_failures.values())


def load(paths: Iterable[str | Path], forget: Forget) -> None:
    """Import all modules that may define plugins, those that were not attempted yet.

    Order: the laboratory's own, the built-in plugins, installed packages with the entry-point
    group ``landmark_lab.plugins``, the files and folders in ``LANDMARK_LAB_PLUGINS``, ``paths``.
    """
    for module in _BUILT_IN:
        _import_tree(module, forget)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        _import_tree(entry.module, forget)
    for path in paths:
        user_plugins.announce(Path(path))
    for path in user_plugins.listed():
        for source in user_plugins.sources(path):
            if source.suffix == ".py" or source.is_dir():
                _import_tree(user_plugins.module_name(source), forget, str(source))
            else:
                error = ImportError("a plugin path must be a Python file or a folder")
                _failures[str(source)] = Failure(str(source), error)


def _import_tree(name: str, forget: Forget, label: str | None = None) -> None:
    """Import a module and, if it is a package, everything below it, each by itself."""
    if name in _attempted:
        return
    _attempted.add(name)
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything
        _failures[name] = Failure(label or name, error)
        forget(name)
        return
    for child in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if child.name != "__main__":  # importing it would run the package's program
            _import_tree(f"{name}.{child.name}", forget)
