"""Reading and writing files so that nothing is half written and nothing unsafe is executed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_lab.errors import CheckpointError, DataError, RunError

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, moved to ``path`` on success.

    On any failure the temporary file is removed and what stood at ``path`` before is untouched.

    Raises:
        RunError: the file system refused to write (full disk, permissions).
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; give the result the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        raise RunError(
            f"could not be written ({error.strerror or error})",
            where=str(target),
            hint="free some space or choose another folder; the previous file is unchanged",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write plain containers as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or not JSON; the message names the line.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    # A ValueError is no text, no JSON, or a number of too many digits; endless brackets recurse.
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"is not a readable JSON file ({error})", where=str(path)) from error


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksum(values: Iterable[object]) -> str:
    """Hexadecimal checksum of arrays, with their types and shapes, and of plain values."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.str} {value.shape}".encode())
            digest.update(value.tobytes())
        else:
            digest.update(repr(value).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where results that can be computed again are kept: ``$LANDMARK_LAB_CACHE`` if it is set.

    Otherwise ``landmark-lab`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``. Nothing is made here.
    """
    named = os.environ.get("LANDMARK_LAB_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "landmark-lab"


def save_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Save plain containers and tensors atomically, so that :func:`load_checkpoint` reads them.

    Raises:
        RunError: the file could not be written.
    """
    import torch

    with atomic(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch reports a full disk as a RuntimeError
            raise OSError(str(error).splitlines()[0]) from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint without executing anything in it (``weights_only=True``), onto the CPU.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, or holds objects other
            than tensors and plain containers (they are named).
    """
    import torch

    where = str(path)
    if not Path(path).is_file():
        raise CheckpointError("there is no such checkpoint", where=where)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        cause = str(error).replace("\n", " ")
        if "GLOBAL" in cause or "Unsupported" in cause:
            raise CheckpointError(
                f"holds objects that could run code and is refused ({_refused(cause)})",
                where=where,
                allowed="tensors, numbers, strings, lists and mappings",
            ) from error
        raise CheckpointError("is damaged or not a checkpoint", where=where) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError("is damaged, truncated or not a checkpoint", where=where) from error
    if not isinstance(content, dict):
        raise CheckpointError("is not a checkpoint of this laboratory", where=where)
    return content


def _refused(message: str) -> str:
    """The part of torch's message that names the refused object."""
    named = re.search(r"GLOBAL ([\w.]+)", message)
    return named[1] if named else "an unknown kind"


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image as RGB, ``(H, W, 3)`` uint8; grey images get three equal channels.

    The orientation that a camera wrote into the file is ignored: annotations refer to the stored
    pixels. Transparency is left out; 16 bits become 8; of an animation, the first picture is read.

    A file that ends too early is refused in every format. Pixels that changed inside a file are
    found only where the format has checksums, which is PNG; what JPEG, TIFF, BMP and WebP decode to
    is taken as it is.

    Raises:
        DataError: the file is missing or cannot be decoded, or has more than 2^30 pixels.
    """
    import cv2

    try:
        encoded = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(encoded, flags) if encoded.size else None
    except cv2.error as error:  # more pixels than OpenCV allows, or than there is memory for
        raise DataError(f"cannot be decoded ({error.err or error})", where=str(path)) from error
    if image is None:
        raise DataError("is not a readable image", where=str(path))
    return np.ascontiguousarray(image[:, :, ::-1])
