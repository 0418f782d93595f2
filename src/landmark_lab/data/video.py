"""Single frames of video files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.errors import DataError

# Decoding on is cheaper than jumping, which starts again at a key frame: 1 ms a frame against 50 ms
# a jump in a 400 x 400 pixel film.
_WORTH_A_JUMP = 48
_OPEN_FILES = 4

_inherited: list[dict[Path, tuple[Any, int]]] = []


def frame_count(path: str | Path) -> int:
    """The number of frames that a video announces.

    Raises:
        DataError: the file is missing, not a video, or empty.
    """
    capture = _open(path)
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    if not 1 <= count < 2**31:
        raise DataError("holds no frames, or does not say how many", where=str(path))
    return int(count)


def frame_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a video's frames.

    Raises:
        DataError: the file is missing or not a video.
    """
    capture = _open(path)
    size = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    width, height = (int(capture.get(which)) for which in size)
    capture.release()
    return width, height


class VideoReader:
    """Reads frames in any order, fastest in rising order; keeps the last few files open.

    It may be used in several processes, each of which opens the files anew.
    """

    def __init__(self) -> None:
        self._open: dict[Path, tuple[Any, int]] = {}  # capture and its next frame
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": {}, "_process": 0}

    def close(self) -> None:
        """Close all files."""
        self._open.clear()

    def read(self, path: Path, frame: int) -> NDArray[np.uint8]:
        """One frame as RGB, (H, W, 3) uint8.

        Raises:
            DataError: the file or the frame cannot be read.
        """
        if self._process != os.getpid():
            # A forked process shares the file's position, but not the decoder's threads: closing
            # the files would wait for those for ever.
            _inherited.append(self._open)
            self._open, self._process = {}, os.getpid()
        known = path in self._open
        capture, position = self._open.pop(path) if known else (_open(path), 0)
        while len(self._open) >= _OPEN_FILES:
            self._open.pop(next(iter(self._open)))
        if not 0 <= frame - position < _WORTH_A_JUMP:
            capture.set(cv2.CAP_PROP_POS_FRAMES, frame)
            position = frame
        while position < frame and capture.grab():
            position += 1
        found, image = capture.read() if position == frame else (False, None)
        if not found or image is None:
            raise DataError(f"frame {frame} cannot be read", where=str(path))
        self._open[path] = (capture, frame + 1)
        return np.ascontiguousarray(image[:, :, ::-1])


def _open(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise DataError("there is no such video", where=str(path))
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise DataError("is not a readable video", where=str(path))
    return capture
