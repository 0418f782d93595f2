"""The package of the plugin files and folders that a user names; they lie anywhere on the disk.

They are imported as ``landmark_lab.user_plugins.<file name>_<digest of its path>``. Because that is
an ordinary name below an ordinary module, a process that starts afresh (a loading worker, another
rank) can import them by it: the paths travel in an environment variable.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

VARIABLE = "LANDMARK_LAB_PLUGINS"

__path__: list[str] = []  # makes this module a package whose content only the finder below knows


def listed() -> list[Path]:
    """The paths in the environment variable."""
    return [Path(p) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]


def announce(path: Path) -> None:
    """Add a path to the environment variable, for this process and those that it starts."""
    known = [p.resolve() for p in listed()]
    if path.resolve() not in known:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = os.pathsep.join([*([before] if before else []), str(path.resolve())])


def sources(path: Path) -> list[Path]:
    """What a path stands for: a file, a package, or the files and packages in a folder."""
    path = path.expanduser().resolve()
    if not path.is_dir() or (path / "__init__.py").is_file():
        return [path]
    packages = [p.parent for p in path.glob("*/__init__.py")]
    return sorted([*path.glob("*.py"), *packages])


def module_name(source: Path) -> str:
    """The name under which a file or package is imported."""
    digest = hashlib.sha256(str(source).encode()).hexdigest()[:8]
    return f"{__name__}.{re.sub(r'[^0-9a-zA-Z_]', '_', source.stem)}_{digest}"


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.rpartition(".")[0] != __name__:
            return None
        for source in (s for p in listed() for s in sources(p)):
            if module_name(source) == fullname:
                package = [str(source)] if source.is_dir() else None
                return importlib.util.spec_from_file_location(
                    fullname,
                    source / "__init__.py" if package else source,
                    submodule_search_locations=package,
                )
        return None


sys.meta_path.append(_Finder())
