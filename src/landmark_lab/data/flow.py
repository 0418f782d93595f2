"""The optical flow of a split's videos, computed once: the result stays on the disk.

The flow from a frame to the next is estimated both ways (a plugin of the role ``flow`` does that)
on squares of the estimator's own resolution, which show what the images of the data show, but not
in more pixels than the files have (32 at least): between pixels there is nothing to follow. It is
carried over to the images exactly: by way of the pixels of the files, so that it also holds where
the crops of two frames differ. A pixel is visible in the next frame if going there and back again
ends near where it began (N. Sundaram, T. Brox, K. Keutzer, "Dense point trajectories by
GPU-accelerated large displacement optical flow", ECCV 2010, eq. 5), and if it lies within the
file's image in both. What is hidden in the next frame does not come back, nor does most of what was
estimated wrongly.

What is kept depends on the estimator's settings and version and on the images
(``Images.fingerprint``). Whoever changes one of these gets a new file; nothing is ever out of date.

Convention: a flow that is kept is a displacement of points (x, y) in [-1, 1] of the preprocessed
square image; an estimator's is in pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from landmark_lab.data.images import ImageTable, SplitTable, look_up_size
from landmark_lab.data.kept import shown, turn
from landmark_lab.data.preprocess import Placement, Preprocess
from landmark_lab.data.sampling import Row, successors
from landmark_lab.errors import DataError, RunError
from landmark_lab.files import atomic, cache_folder, checksum
from landmark_lab.geometry.points import pixel_grid
from landmark_lab.roles import OpticalFlow

_FORMAT = 2
_SMALLEST = 32  # side of a square on which flow is estimated; estimators refuse smaller ones
_PORTION = 64  # pairs that are held at once
_THREADS = 16
# Sundaram et al.: what may be lost on the way there and back grows with the way.
_SHARE_OF_MOTION = 0.01
# What a pixel that is not visible may contribute to a point without counting: rounding.
_NEGLIGIBLE = 1e-3
# A pair of which fewer pixels come back hardly shows successive frames.
_FEW = 0.2

Floats = NDArray[np.float32]

_log = logging.getLogger(__name__)


class FrameTable(ImageTable):
    """Images of which some are successive frames of videos, with their flow once it is prepared.

    After :meth:`prepare_flow` rows have ``flow`` and ``flow_visible``; nothing is visible in those
    of frames without a next one.

    Args:
        table: the images; ``clip`` and ``frame`` say which are frames of which video.
        preprocess: how they become squares.
        flow: estimates the flow.
        apart: frames of a video from an image to the next.
        cache_bytes, on_corrupt, preload: see ``ImageTable``.

    Raises:
        DataError: no image is left.
    """

    def __init__(
        self,
        table: SplitTable,
        preprocess: Preprocess,
        flow: OpticalFlow,
        apart: int = 1,
        cache_bytes: int = 0,
        on_corrupt: Literal["raise", "skip"] = "raise",
        preload: bool = False,
    ) -> None:
        super().__init__(table, preprocess, cache_bytes, on_corrupt, preload)
        self.estimator = flow
        self.apart = apart
        self._flow: NDArray[np.void] | None = None
        self._file: Path | None = None

    @cached_property
    def following(self) -> NDArray[np.int64] | None:
        """(N,) the image that is the next frame of each one's video, −1 where there is none."""
        if self.table.clip is None or self.table.frame is None:
            return None
        return successors(self.table.clip, self.table.frame, self.apart)

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the file anew; only what is in no file travels along.
        return {**self.__dict__, "_flow": self._flow if self._file is None else None}

    def __getitem__(self, index: int) -> Row:
        """Load one image, and its flow once it is prepared.

        Raises:
            DataError: the image is unreadable or tiny.
        """
        row = super().__getitem__(index)
        if self._flow is None and self._file is not None:
            self._flow = np.load(self._file, mmap_mode="r")
        if self._flow is not None:
            row["flow"] = self._flow[index]["flow"].astype(np.float32)
            row["flow_visible"] = self._flow[index]["visible"].copy()
        return row

    def prepare_flow(self, progress: bool = True) -> None:
        """Compute the flow, unless that was done before, maybe by another process.

        Several processes may ask at once: one of them computes, the others wait for it and read.

        Args:
            progress: show a bar, on the terminal only.

        Raises:
            DataError: an image cannot be used, or the frames of a video differ in size.
        """
        if self._flow is not None or self._file is not None:
            return
        estimator = self.estimator
        settings = (estimator.spec, estimator.version, estimator.resolution, estimator.tolerance)
        key = checksum((_FORMAT, cv2.__version__, *settings, self.fingerprint(), self._next))
        path = cache_folder() / "flow" / f"{estimator.plugin_name}-{key}.npy"
        with turn(path, "optical flows"):
            if not _usable(path, len(self), self._record):
                try:
                    self._write(path, progress)
                except RunError as error:
                    _log.warning("optical flows are not kept, but held in memory: %s", error)
                    self._flow = np.stack(list(self._all(progress)))
        if self._flow is None:
            self._file = path
            self._flow = np.load(path, mmap_mode="r")
        self._report(self._flow["share"][self._next >= 0])

    @property
    def _next(self) -> NDArray[np.int64]:
        return np.full(len(self), -1) if self.following is None else self.following

    @property
    def _record(self) -> np.dtype[np.void]:
        """What is kept of an image; half precision is enough for a hundredth of a pixel."""
        size = self.preprocess.size
        return np.dtype(
            [("flow", "<f2", (2, size, size)), ("visible", "?", (size, size)), ("share", "<f4")]
        )

    def _write(self, path: Path, progress: bool) -> None:
        """Row by row, because all of them may be more than the memory holds."""
        for left in path.parent.glob(f".{path.name}.*"):  # by a process that was killed
            left.unlink(missing_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as stream:
            header = {
                "descr": np.lib.format.dtype_to_descr(self._record),
                "fortran_order": False,
                "shape": (len(self),),
            }
            np.lib.format.write_array_header_2_0(stream, header)
            for record in self._all(progress):
                stream.write(record.tobytes())

    def _all(self, progress: bool) -> Iterator[NDArray[np.void]]:
        """The record of every image, in order."""
        pairs = int((self._next >= 0).sum())
        flows: Iterable[Carried] = self._carry()
        if progress:
            flows = shown(flows, pairs, "computing the optical flow")
        found = iter(flows)
        for following in self._next:
            record = np.zeros((), self._record)
            if following >= 0:
                record["flow"], record["visible"], record["share"] = next(found)
            yield record

    def _carry(self) -> Iterator[Carried]:
        """The flow of every image that has a next one, in several threads."""
        sources = np.flatnonzero(self._next >= 0).tolist()
        waiting: Iterable[Carried] = ()
        with ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS)) as pool:
            for first in range(0, len(sources), _PORTION):
                # Read while the portion before is being worked at: a reader bears no threads.
                pairs = list(self._read_pairs(sources[first : first + _PORTION]))
                yield from waiting
                waiting = pool.map(self._one, pairs)
            yield from waiting
        self._videos.close()

    def _read_pairs(self, sources: list[int]) -> Iterator[_Frames]:
        """The squares of frames and of the next ones, both cut out where the first one's box is."""
        last: tuple[int, NDArray[np.uint8]] | None = None
        for source in sources:
            target = int(self._next[source])
            one = last[1] if last is not None and last[0] == source else self.original(source)
            other = self.original(target)
            last = (target, other)
            if one.shape != other.shape:
                raise DataError(
                    f"is {other.shape[1]} x {other.shape[0]} pixels, the frame before "
                    f"{one.shape[1]} x {one.shape[0]}",
                    where=self.where(target),
                    hint="the frames of a video must have one size to have a flow",
                )
            preprocess, box = self._estimated(source), self._box(source)
            squares = (preprocess.with_surroundings(image, box) for image in (one, other))
            yield _Frames(source, target, *squares)

    def _estimated(self, source: int) -> Preprocess:
        """How a frame becomes the square on which its flow is estimated."""
        size = look_up_size(self.table, source)
        # No bars: they rest, and what moves beside them seems to rest, too.
        fit = "squash" if self.preprocess.fit == "letterbox" else self.preprocess.fit
        whole = replace(self.preprocess, size=self.estimator.resolution, fit=fit, fill="edge")
        # Enlarged along either side, estimates follow what is hidden. So a strip is reduced.
        enlarged = max(*whole.place(*size, self._box(source)).scale, 1.0)
        least = min(whole.size, _SMALLEST)
        return replace(whole, size=max(round(whole.size / enlarged), least))

    def _one(self, frames: _Frames) -> Carried:
        source, target = frames.source, frames.target
        forward = self._estimate(frames.before, frames.after)
        backward = self._estimate(frames.after, frames.before)
        size = look_up_size(self.table, source)
        return carried(
            forward,
            consistent(forward, backward, self.estimator.tolerance),
            _outer_placement(self._estimated(source), size, self._box(source)),
            self.placement(source),
            self.placement(target),
            size,
        )

    def _estimate(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Floats:
        flow = self.estimator.estimate(before, after)
        if flow.shape != (*before.shape[:2], 2) or not np.isfinite(flow).all():
            raise DataError(
                f"gives a flow of the shape {flow.shape}, or one that is not finite",
                where=f"flow.{self.estimator.plugin_name}",
                allowed=f"finite numbers of the shape {(*before.shape[:2], 2)}",
            )
        # Whatever leaves the image is hidden; what is kept has 16 bits and must stay finite.
        limit = 2 * max(before.shape)
        return flow.astype(np.float32, copy=False).clip(-limit, limit)

    def _report(self, shares: NDArray[np.float32]) -> None:
        """Say how much can be followed, and warn of pairs that hardly show successive frames."""
        if not len(shares):
            return
        where, few = f"flow.{self.estimator.plugin_name}", int((shares < _FEW).sum())
        rank_zero_info(
            f"{where}: {len(shares)} pairs of frames, {shares.mean():.0%} of the pixels can be "
            "followed"
        )
        if few:
            rank_zero_warn(
                f"{where}: of {few} of {len(shares)} pairs of frames less than {_FEW:.0%} of the "
                "pixels can be followed; are these successive frames, or is the motion between "
                "them too large?"
            )


class _Frames(NamedTuple):
    """A frame and the next one, as squares with their surroundings (outer, outer, 3)."""

    source: int
    target: int
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


class Carried(NamedTuple):
    """A flow on the square image of the data.

    Attributes:
        flow: (2, size, size), in the units of points.
        visible: (size, size) the pixels whose flow is known and that are seen in the next frame.
        share: of these among the pixels that show the file's image, not a border.
    """

    flow: Floats
    visible: NDArray[np.bool_]
    share: float


def consistent(forward: Floats, backward: Floats, tolerance: float) -> NDArray[np.bool_]:
    """Which pixels come back, (H, W): Sundaram et al., eq. 5.

    Args:
        forward: (H, W, 2), in pixels.
        backward: (H, W, 2), from the next frame, in pixels.
        tolerance: pixels that may be lost at rest; their square is the paper's 0.5.
    """
    height, width = forward.shape[:2]
    rows, columns = np.indices((height, width), dtype=np.float32)
    x, y = columns + forward[..., 0], rows + forward[..., 1]
    back = cv2.remap(backward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lost, way, way_back = ((f**2).sum(-1) for f in (forward + back, forward, back))
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    return np.asarray(inside & (lost < _SHARE_OF_MOTION * (way + way_back) + tolerance**2))


def carried(
    flow: Floats,
    known: NDArray[np.bool_],
    at: Placement,
    here: Placement,
    there: Placement,
    size: tuple[int, int],
) -> Carried:
    """A flow between two images, brought to the centres of the pixels of the source's square.

    It is bilinear between pixels; a point counts as visible if all pixels that it is made of do.

    Args:
        flow: (H, W, 2), in pixels of the image where it was estimated.
        known: (H, W) where it holds.
        at: where the original lies on that image.
        here: where it lies on the source's square.
        there: where the next frame lies on its square.
        size: width and height of the originals.
    """
    side = here.size
    points = pixel_grid(side, side).numpy().astype(np.float64)
    origin = here.to_original(points)
    place = (origin * np.array(at.scale) + np.array(at.shift)).astype(np.float32)
    maps = np.dstack([flow, known.astype(np.float32)])
    x, y = (np.ascontiguousarray(place[:, i].reshape(side, side)) for i in range(2))
    sampled = cv2.remap(maps, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    moved = origin + sampled[..., :2].reshape(-1, 2) / np.array(at.scale)
    end = np.array(size) - 0.5
    here_inside, there_inside = (
        ((pixels >= -0.5) & (pixels <= end)).all(-1) for pixels in (origin, moved)
    )
    visible = (sampled[..., 2].reshape(-1) > 1 - _NEGLIGIBLE) & here_inside & there_inside
    motion = (there.to_square(moved) - points).T.reshape(2, side, side)
    share = float(visible.sum() / max(here_inside.sum(), 1))
    return Carried(motion.astype(np.float32), visible.reshape(side, side), share)


def _outer_placement(
    preprocess: Preprocess, size: tuple[int, int], box: NDArray[np.float64] | None
) -> Placement:
    """Where an image lies on the square with its surroundings."""
    inner = preprocess.place(*size, box)
    edge = (preprocess.outer_size - preprocess.size) // 2
    shift = (inner.shift[0] + edge, inner.shift[1] + edge)
    return Placement(inner.scale, shift, preprocess.outer_size)


def _usable(path: Path, rows: int, record: np.dtype[np.void]) -> bool:
    """Whether a file holds what it should."""
    if not path.is_file():
        return False
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        _log.warning("%s is damaged (%s); it is made again", path, error)
        return False
    return bool(found.shape == (rows,) and found.dtype == record)
