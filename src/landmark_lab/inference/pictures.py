"""Images and videos with the predicted points drawn on them.

Videos are MPEG-4 files (``mp4v``), the one kind that OpenCV writes everywhere and that desktop
players and presentations show; browsers do not, until ``ffmpeg -i IN.mp4 OUT.mp4`` has converted
them to H.264.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.errors import RunError
from landmark_lab.figures import contact_sheet, draw_points
from landmark_lab.files import atomic, read_image
from landmark_lab.inference.annotated import AnnotatedImages
from landmark_lab.inference.inputs import Frame, Source
from landmark_lab.inference.point_errors import PointErrors

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

_SMALL = 320
"""Images whose shorter side has fewer pixels are enlarged, or the points would hide them."""

_USUAL_RATE = 25.0
_CELL = 320


class Pictures:
    """Draws points into a folder: an image for each image, a video for each video.

    To be used in a ``with`` statement; each file appears when it is complete.

    Args:
        folder: where to; below it the files lie as the originals do below their common folder.
        sources: all files that will be drawn.
        skeleton: pairs of points to join.
        every: which frames of a video come; the drawn one plays as fast as the original.
        sure: points whose score is below are drawn as rings.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        skeleton: Sequence[tuple[int, int]] = (),
        every: int = 1,
        sure: float = 0.0,
    ) -> None:
        self._folder = folder
        parents = [str(source.path.resolve().parent) for source in sources]
        self._root = Path(os.path.commonpath(parents))
        self._skeleton, self._every, self._sure = skeleton, every, sure
        self._open = ExitStack()
        self._film: Source | None = None
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def add(self, frame: Frame, points: Floats, score: Floats) -> None:
        """Draw a frame's points (K, 2) in pixels with scores (K,).

        Raises:
            RunError: the picture cannot be written.
        """
        picture = annotate(frame.image, points, score >= self._sure, self._skeleton)
        target = self._folder / frame.source.path.resolve().relative_to(self._root)
        if not frame.source.is_video:
            _save(picture, target)
            return
        if self._film != frame.source:
            self._open.close()
            self._film = frame.source
            self._start(target.with_suffix(".mp4"), frame.source, picture)
        self._writer.write(np.ascontiguousarray(picture[:, :, ::-1]))

    def _start(self, target: Path, source: Source, picture: Image) -> None:
        temporary = self._open.enter_context(atomic(target))
        rate = _frame_rate(source.path) / self._every
        size = (picture.shape[1], picture.shape[0])
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        self._open.callback(writer.release)
        if not writer.isOpened():
            raise RunError(
                "this installation of OpenCV cannot write MPEG-4 videos",
                where=str(target),
                hint="--no-draw writes the points alone",
            )
        self._writer = writer


def annotate(
    image: Image, points: Floats, sure: NDArray[np.bool_], skeleton: Sequence[tuple[int, int]]
) -> Image:
    """The image with its points, enlarged if it is small; its sides are even, as videos need.

    Args:
        image: (H, W, 3) uint8.
        points: (K, 2) pixels, NaN is not drawn.
        sure: (K,) points that are not are drawn as rings.
        skeleton: pairs of points to join.
    """
    height, width = image.shape[:2]
    factor = -(-_SMALL // min(height, width)) if min(height, width) < _SMALL else 1
    size = (width * factor + width * factor % 2, height * factor + height * factor % 2)
    scaled = (points + 0.5) * (np.array(size) / (width, height)) - 0.5
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
    return draw_points(image, scaled, sure, skeleton, radius=max(2.5, min(size) / 90))


def compare(path: Path, images: AnnotatedImages, errors: PointErrors, most: int = 12) -> None:
    """Save a PNG of some images with predicted points, joined to rings at their annotation.

    Args:
        path: the file.
        images: N annotated images.
        errors: of predictions in these images.
        most: how many are shown, spread over all.
    """
    shown = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int))
    pairs = [(k, k + len(errors.names)) for k in range(len(errors.names))]
    sheet: list[Image] = []
    for row in shown:
        image = read_image(images.files[row])
        height, width = image.shape[:2]
        scale = _CELL / max(height, width)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        predicted, truth = (
            (points[row] + 0.5) * (np.array(size) / (width, height)) - 0.5
            for points in (errors.predicted, errors.truth)
        )
        both = np.concatenate([predicted, truth])
        joined = draw_points(image, both, skeleton=pairs, radius=0.5)
        rings = draw_points(joined, truth, np.zeros(len(truth), dtype=bool), radius=4)
        sheet.append(draw_points(rings, predicted, radius=3))
    contact_sheet(path, sheet, columns=4, cell=_CELL)


def _save(picture: Image, target: Path) -> None:
    encoded, content = cv2.imencode(target.suffix, np.ascontiguousarray(picture[:, :, ::-1]))
    if not encoded:
        raise RunError("cannot be encoded", where=str(target))
    with atomic(target) as temporary:
        temporary.write_bytes(content.tobytes())


def _frame_rate(path: Path) -> float:
    capture = cv2.VideoCapture(str(path))
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    # Some containers do not say, or say nonsense.
    return rate if 0 < rate <= 1000 else _USUAL_RATE
