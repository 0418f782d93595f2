"""The images of a split: files or video frames with what is annotated on them, as square rows.

Convention: a table holds pixels, (0, 0) being the centre of the top-left pixel; a row holds points
(x, y) in [-1, 1] of the square image.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.cache import ImageCache
from landmark_lab.data.preprocess import Placement, Preprocess
from landmark_lab.data.sampling import Images, Row
from landmark_lab.data.video import VideoReader, frame_size
from landmark_lab.errors import DataError
from landmark_lab.files import checksum, read_image

SMALLEST = 8
"""Images with a side below this many pixels count as corrupt."""

_ADVICE = "'on_corrupt: skip' leaves such images out and says which"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SplitTable:
    """N images and what is known about them; an image with two objects has two rows.

    Attributes:
        files: image or video file of each row.
        video_frame: (N,) frame of the video file to read, -1 for an image file.
        size: (N, 2) width and height in pixels, 0 where it was not looked up yet.
        points: (N, P, 2) pixels, NaN where not annotated; or None.
        visible: (N, P) bool, or None.
        box: (N, 4) pixels [x0, y0, x1, y1], NaN where there is none; or None.
        annotated_size: (N, 2) width and height that the annotation claims, 0 unknown; or None.
        identity: (N,) the individual (or the clip, where that is all one knows); or None.
        frame: (N,) number of the image in its clip, -1 if unknown; or None.
        clip: (N,) the video whose frame the image is, -1 if it is of none; or None.
        label: (N,) category, -1 if unknown; or None.
    """

    files: tuple[Path, ...]
    video_frame: NDArray[np.int64]
    size: NDArray[np.int64]
    points: NDArray[np.float64] | None = None
    visible: NDArray[np.bool_] | None = None
    box: NDArray[np.float64] | None = None
    annotated_size: NDArray[np.int64] | None = None
    identity: NDArray[np.int64] | None = None
    frame: NDArray[np.int64] | None = None
    clip: NDArray[np.int64] | None = None
    label: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> SplitTable:
        """The given rows, in the given order."""
        chosen = np.asarray(rows, dtype=np.int64)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "files"}
        return replace(
            self,
            files=tuple(self.files[row] for row in chosen),
            **{name: value[chosen] for name, value in values.items() if value is not None},
        )

    def where(self, row: int) -> str:
        """The image of a row, for messages."""
        frame = self.video_frame[row]
        return f"{self.files[row]}" + (f", frame {frame}" if frame >= 0 else "")


class Skipped(NamedTuple):
    """An image that cannot be used."""

    image: str
    reason: str


class ImageTable(Images):
    """The images of a table as square rows: ``image``, and whatever the table knows.

    Args:
        table: the images.
        preprocess: how they become squares.
        cache_bytes: memory for decoded images.
        on_corrupt: ``raise`` an error when an unreadable or tiny image is met; or ``skip``: decode
            every image now, and leave the bad ones out, so that positions never change later.
        preload: decode the frames of videos now, in order, as far as the memory reaches; in random
            order they take fifty times as long.

    Attributes:
        table: the images that are left.
        skipped: the images that were left out, and why.

    Raises:
        DataError: no image is left.
    """

    def __init__(
        self,
        table: SplitTable,
        preprocess: Preprocess,
        cache_bytes: int = 0,
        on_corrupt: Literal["raise", "skip"] = "raise",
        preload: bool = False,
    ) -> None:
        # OpenCV's own threads can hang a process that was forked while they were alive.
        cv2.setNumThreads(1)
        self.table = table
        self.preprocess = preprocess
        self.skipped: tuple[Skipped, ...] = ()
        self._cache = ImageCache(len(table), preprocess.outer_size, cache_bytes)
        self._videos = VideoReader()
        self._cache.prepare()
        self._slots = np.arange(len(table))
        self._all_decoded = on_corrupt == "skip"
        if on_corrupt == "skip":
            self._leave_out_corrupt()
        elif preload:
            films = np.flatnonzero(table.video_frame >= 0)
            for index in films[films < self._cache.capacity].tolist():
                self._load(index)
            self._videos.close()
        self.identity, self.frame = self.table.identity, self.table.frame
        if self.table.points is not None:
            self.annotated = np.logical_not(np.isnan(self.table.points).all((1, 2)))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Row:
        """Load one image; see ``sampling.Row``.

        Raises:
            DataError: the image is unreadable or tiny.
        """
        table = self.table
        whole = self._load(index)
        row: Row = {"image": self.preprocess.inner(whole)}
        if self.preprocess.window < 1:
            row["surroundings"] = whole
        if table.points is not None and table.visible is not None:
            points = self.placement(index).to_square(table.points[index])
            row["points"] = points.astype(np.float32)
            # What a crop cut off is not there any more; the surroundings are. Points that lay
            # outside the image before stay as they were annotated.
            pixels, end = table.points[index], np.array(look_up_size(table, index)) - 0.5
            inside = ((pixels >= -0.5) & (pixels <= end)).all(axis=1)
            edge = self.preprocess.outer_size / self.preprocess.size
            row["visible"] = table.visible[index] & ~(inside & (np.abs(points) > edge).any(axis=1))
        if table.box is not None:
            corners = self.placement(index).to_square(table.box[index].reshape(2, 2))
            row["box"] = corners.ravel().astype(np.float32)
        for name in ("identity", "frame", "label"):
            values = getattr(table, name)
            if values is not None:
                row[name] = values[index]
        return row

    def check_readable(self, first: int | None = None) -> None:
        """Decode images now; those for which there is memory need not be decoded again.

        Args:
            first: look at so many images only.

        Raises:
            DataError: some are unreadable or tiny; the message counts them and names the first.
        """
        if self._all_decoded:
            return
        rows = np.arange(len(self) if first is None else min(first, len(self)))
        bad: list[DataError] = []
        for index, outcome in self._try(rows):
            if isinstance(outcome, DataError):
                bad.append(outcome)
            else:
                self._cache.put(index, outcome)
        self._videos.close()
        if bad:
            raise DataError(
                f"{len(bad)} of {len(rows)} images are unusable, the first: {bad[0]}", hint=_ADVICE
            )

    def where(self, index: int) -> str:
        """The file of an image, and the frame of a video."""
        return self.table.where(index)

    def fingerprint(self) -> str:
        """A checksum of the files' names, sizes and times, of ``preprocess`` and the annotation.

        Not of the pixels: these would have to be decoded at every start, and a file that is changed
        gets another time.

        Raises:
            DataError: a file is missing.
        """
        table = self.table
        stamps = {path: _stamp(path) for path in dict.fromkeys(table.files)}
        known = (getattr(table, f.name) for f in fields(table) if f.name not in ("files", "size"))
        return checksum([self.preprocess, *(stamps[path] for path in table.files), *known])

    def placement(self, index: int) -> Placement:
        """Where an image lies on its square; maps predictions back to the original pixels."""
        return self.preprocess.place(*look_up_size(self.table, index), self._box(index))

    def original(self, index: int) -> NDArray[np.uint8]:
        """The image as it is in its file, (H, W, 3) uint8.

        Raises:
            DataError: it is unreadable or tiny.
        """
        return self._read(index)

    def _box(self, index: int) -> NDArray[np.float64] | None:
        return None if self.table.box is None else self.table.box[index]

    def _load(self, index: int) -> NDArray[np.uint8]:
        slot = int(self._slots[index])
        square = self._cache.get(slot)
        if square is None:
            try:
                square = self._decode(index)
            except DataError as error:
                raise DataError(str(error), hint=_ADVICE) from error
            self._cache.put(slot, square)
        return square

    def _decode(self, index: int) -> NDArray[np.uint8]:
        image = self._read(index)
        try:
            return self.preprocess.with_surroundings(image, self._box(index))
        except DataError as error:
            raise DataError(str(error), where=self.table.where(index)) from error

    def _read(self, index: int) -> NDArray[np.uint8]:
        table = self.table
        path, frame = table.files[index], int(table.video_frame[index])
        image = read_image(path) if frame < 0 else self._videos.read(path, frame)
        height, width = image.shape[:2]
        if min(width, height) < SMALLEST:
            raise DataError(
                f"is too small ({width} x {height} pixels)",
                where=table.where(index),
                allowed=f"at least {SMALLEST} x {SMALLEST} pixels",
            )
        if not table.size[index].all():
            table.size[index] = (width, height)
        return image

    def _leave_out_corrupt(self) -> None:
        """Decode every image once; keep the table of those that can be used."""
        _log.info("looking for corrupt images among %d", len(self))
        bad: list[Skipped] = []
        good: list[int] = []
        for index, outcome in self._try(np.arange(len(self))):
            if isinstance(outcome, DataError):
                bad.append(Skipped(self.table.where(index), str(outcome)))
                _log.warning("skipped: %s", outcome)
            else:
                good.append(index)
                self._cache.put(index, outcome)
        if bad and not good:
            raise DataError(f"all {len(bad)} images are unusable, the first: {bad[0].reason}")
        self._slots = np.array(sorted(good), dtype=np.int64)
        self.table = self.table.take(self._slots)
        self.skipped = tuple(bad)
        self._videos.close()

    def _try(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8] | DataError]]:
        def attempt(index: int) -> NDArray[np.uint8] | DataError:
            try:
                return self._decode(index)
            except DataError as error:
                return error

        still = self.table.video_frame[rows] < 0
        stills, films = rows[still].tolist(), rows[~still].tolist()
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            # In portions, so that the decoded images do not pile up.
            for portion in (stills[first : first + 256] for first in range(0, len(stills), 256)):
                yield from zip(portion, pool.map(attempt, portion), strict=True)
        yield from ((index, attempt(index)) for index in films)  # one reader, in rising order


def check_annotation(table: SplitTable) -> None:
    """Check that the points fit the images they were made for; reads the images' headers.

    A little outside is usual where an object reaches beyond the border: such points are kept and
    counted in a warning. Farther than half the image is a mistake.

    Raises:
        DataError: an image has another size than the annotated one, or a point lies far outside;
            the message names the image.
    """
    outside, images, farthest = 0, 0, 0.0
    for row in range(len(table)):
        size = look_up_size(table, row)
        if table.annotated_size is not None and table.annotated_size[row].all():
            expected = tuple(table.annotated_size[row].tolist())
            if size != expected:
                raise DataError(
                    f"is {size[0]} x {size[1]} pixels, but was annotated at "
                    f"{expected[0]} x {expected[1]}",
                    where=table.where(row),
                    hint="use the images that were annotated, or scale the annotation",
                )
        if table.points is None:
            continue
        # NaN compares as False: a missing point is nowhere.
        points = table.points[row]
        excess = np.maximum(-0.5 - points, points - (np.array(size) - 0.5))
        if (excess > np.array(size) / 2).any():
            x, y = points[np.argmax((excess > np.array(size) / 2).any(axis=1))]
            raise DataError(
                f"an annotated point ({x:g}, {y:g}) lies far outside the image, which is "
                f"{size[0]} x {size[1]} pixels",
                where=table.where(row),
                hint="the annotation may belong to another image or size, or have x and y swapped",
            )
        count = int((excess > 0).any(axis=1).sum())
        if count:
            outside, images = outside + count, images + 1
            farthest = max(farthest, float(np.nanmax(excess)))
    if outside:
        _log.warning(
            "%d annotated points in %d images lie outside their image, by up to %.1f pixels; kept",
            outside,
            images,
            farthest,
        )


def _stamp(path: Path) -> tuple[str, int, int]:
    """What a file's content is known by: its place, size, and time of the last change."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    return str(path.absolute()), status.st_size, status.st_mtime_ns


def look_up_size(table: SplitTable, row: int) -> tuple[int, int]:
    """Width and height of the image of a row, looked up once.

    Raises:
        DataError: the image cannot be read.
    """
    if not table.size[row].all():
        path = table.files[row]
        table.size[row] = image_size(path) if table.video_frame[row] < 0 else frame_size(path)
    width, height = table.size[row].tolist()
    return width, height


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file; of PNG and JPEG only the header is read.

    Raises:
        DataError: the file is missing or not an image.
    """
    try:
        with path.open("rb") as stream:
            size = _png_size(stream) or _jpeg_size(stream)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    if size is None:
        height, width = read_image(path).shape[:2]
        return width, height
    return size


def _png_size(stream: BinaryIO) -> tuple[int, int] | None:
    stream.seek(0)
    header = stream.read(24)
    if len(header) < 24 or not header.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    width, height = struct.unpack(">II", header[16:])
    return width, height


def _jpeg_size(stream: BinaryIO) -> tuple[int, int] | None:
    stream.seek(0)
    if stream.read(2) != b"\xff\xd8":
        return None
    while len(marker := stream.read(4)) == 4 and marker[0] == 0xFF:
        code, length = marker[1], int.from_bytes(marker[2:], "big")
        # Start of frame: C0 to CF, without the tables C4, C8 and CC.
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            header = stream.read(5)
            if len(header) < 5:
                return None
            height, width = struct.unpack(">HH", header[1:])
            return width, height
        stream.seek(length - 2, os.SEEK_CUR)
    return None
