"""The images and videos that a user names, as a stream of frames.

Frames are read one after the other, so that a long film needs no more memory than a short one.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.images import SMALLEST
from landmark_lab.data.video import VideoReader, frame_count
from landmark_lab.errors import DataError
from landmark_lab.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image


@dataclass(frozen=True)
class Source:
    """An image or video file.

    Attributes:
        path: the file, as the user named it.
    """

    path: Path

    @property
    def is_video(self) -> bool:
        """Whether it is a video by its name."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @cached_property
    def frames(self) -> int:
        """The number of frames; 1 for an image.

        Raises:
            DataError: it is not a readable video.
        """
        return frame_count(self.path) if self.is_video else 1


@dataclass(frozen=True, eq=False)
class Frame:
    """One image, or one frame of a video.

    Attributes:
        source: its file.
        number: position in the video, from 0; -1 for an image.
        image: (H, W, 3) uint8 RGB.
    """

    source: Source
    number: int
    image: NDArray[np.uint8]

    @property
    def name(self) -> str:
        """The image's path; for a frame, the one that DeepLabCut extracts it to.

        For example ``labeled-data/mouse/img042.png`` for a frame of ``films/mouse.mp4``.
        """
        if self.number < 0:
            return self.source.path.as_posix()
        digits = len(str(self.source.frames - 1))
        return f"labeled-data/{self.source.path.stem}/img{self.number:0{digits}d}.png"


def find_sources(given: Sequence[str], without: Path | None = None) -> list[Source]:
    """The files that the user means, each one once.

    Args:
        given: image files, videos, folders (searched recursively, without hidden files), or
            patterns such as ``'frames/*.png'``.
        without: a folder whose files are left out: what an earlier prediction drew.

    Raises:
        DataError: something does not exist, is no image or video, or holds none; or two videos have
            the same name, under which their frames are written.
    """
    found: dict[Path, Source] = {}
    for text in given:
        for path in _matching(text):
            if without is None or not path.resolve().is_relative_to(without.resolve()):
                found.setdefault(path.resolve(), Source(path))
    if not found:
        raise DataError("holds nothing but earlier predictions", where=str(without))
    videos: dict[str, Path] = {}
    for source in found.values():
        if source.is_video and videos.setdefault(source.path.stem, source.path) != source.path:
            raise DataError(
                f"has the same name as {videos[source.path.stem]}",
                where=str(source.path),
                hint="predict them one after the other, into two folders",
            )
    return list(found.values())


def expected_frames(sources: Sequence[Source], every: int) -> int:
    """How many images and frames there are to predict; a video that cannot be read has none."""
    total = 0
    for source in sources:
        with suppress(DataError):
            total += -(-source.frames // every)
    return total


def _matching(text: str) -> list[Path]:
    allowed = "files ending in " + ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    path = Path(text).expanduser()
    if path.is_file():
        if not _usable(path):
            raise DataError("is neither an image nor a video", where=text, allowed=allowed)
        return [path]
    if path.is_dir():
        inside = sorted(path.rglob("*"))
        files = [file for file in inside if _usable(file) and not _hidden(file.relative_to(path))]
        if not files:
            raise DataError("holds no images or videos", where=text, allowed=allowed)
        return files
    if not glob.has_magic(text):
        raise DataError("there is no such file or folder", where=text)
    files = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [file for file in files if _usable(file)]
    if not files:
        raise DataError("matches no image or video", where=text, allowed=allowed)
    return files


def _usable(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and path.is_file()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def frames(
    sources: Sequence[Source], every: int, on_problem: Callable[[str], None]
) -> Iterator[Frame]:
    """All images and frames, in order.

    Args:
        sources: the files.
        every: take every n-th frame of a video.
        on_problem: called with the message for everything that cannot be read, which is left out.
    """
    for source in sources:
        try:
            yield from _film(source, every) if source.is_video else _still(source)
        except DataError as error:
            on_problem(str(error))


def _still(source: Source) -> Iterator[Frame]:
    image = read_image(source.path)
    _check_size(image, source)
    yield Frame(source, -1, image)


def _film(source: Source, every: int) -> Iterator[Frame]:
    reader = VideoReader()
    for number in range(0, source.frames, every):
        try:
            image = reader.read(source.path, number)
        except DataError as error:
            if number == 0:
                raise
            raise DataError(
                f"frame {number} of {source.frames} cannot be read, nor what follows; "
                "the frames before it are done",
                where=str(source.path),
            ) from error
        _check_size(image, source)
        yield Frame(source, number, image)


def _check_size(image: NDArray[np.uint8], source: Source) -> None:
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise DataError(
            f"is too small ({width} x {height} pixels)",
            where=str(source.path),
            allowed=f"at least {SMALLEST} x {SMALLEST} pixels",
        )
