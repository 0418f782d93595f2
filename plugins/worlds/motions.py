"""Simulated motions, kept on the disk so that physics runs once.

A motion is one array in one file, named by a checksum of everything it depends on. The files are
written under a temporary name and moved, so two processes that make the same motion at once both
end up with a whole one (and the same).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark_lab.errors import RunError
from landmark_lab.files import atomic

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``LANDMARK_LAB_CACHE``, or ``landmark-lab`` in the user's folder for such files."""
    chosen = os.environ.get("LANDMARK_LAB_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "landmark-lab"


def remembered(
    folder: Path | None,
    name: str,
    key: Mapping[str, object],
    simulate: Callable[[], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """A motion from the disk, or simulated now and kept for the next time.

    A file that cannot be read is made anew. A folder that cannot be written is a warning, because
    the motion can be simulated again.

    Args:
        folder: where the files lie; None: :func:`cache_folder`.
        name: begins the file's name.
        key: all that the motion depends on, plain values.
        simulate: makes the motion.
    """
    text = json.dumps(key, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    path = (folder or cache_folder()) / f"{name}-{digest}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file["motion"], dtype=np.float64)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s: cannot be read (%s); the motion is simulated again", path, error)
    motion = simulate()
    try:
        with atomic(path) as temporary:
            np.savez(temporary, motion=motion, key=np.array(text))
    except RunError as error:
        _log.warning("the motion is not kept: %s", error)
    return motion
