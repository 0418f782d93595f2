"""Results that are computed once and kept on the disk: whose turn it is, and a bar meanwhile."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

T = TypeVar("T")

_log = logging.getLogger(__name__)


@contextmanager
def turn(path: Path, what: str) -> Iterator[None]:
    """Wait until no other process works at a file; without a place for files, go on at once.

    Args:
        path: of the result.
        what: that it is, for messages, in the plural.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("waiting for another process, which computes the same %s", what)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        _log.warning("%s are not kept in %s (%s)", what, path.parent, error)
        yield
        return
    try:
        yield
    finally:
        lock.release()


def shown(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """The same items, with a bar on terminals while they are taken."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, what, total, console=Console(stderr=True), transient=True)
