"""Pairs of frames of one video whose flow is known.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object frames by dense equivariant image
labelling", NeurIPS 2017, sections 3.3 and 4.1: the transformation g of a pair (x, x') is the motion
itself, x' being the next frame. Pixels at rest can be left out, which removes the background.
Y. Zhang et al., "Unsupervised discovery of object landmarks as structural representations", CVPR
2018, and D. Mallis' thesis (§3.1.3, 6.2.1) add a random warp to the estimated flow of a video.

Convention: a flow is a displacement of points (x, y) in [-1, 1], see ``geometry/flow.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.errors import DataError
from landmark_lab.geometry.flow import FlowWarp
from landmark_lab.geometry.points import to_pixels
from landmark_lab.geometry.warp import TO_TARGET, Padding, Warp
from landmark_lab.roles import Images, Pairing, WarpGenerator
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.pairings.moving import marks_of, moved


class Frames(Pairing, name="frames"):
    """A frame of a video and a later one; the warp between them is the known flow.

    Frames follow one another within one video and one split. Where fewer than ``step`` do, at the
    end of a video or before a gap, the pair starts so early that its target is the last one; a
    frame that is not among ``step`` + 1 successive ones is left out.
    ``Pair.warp.valid`` leaves out what is hidden or outside in any frame on the way.

    Args:
        step: frames from the source to the target; the flows of those between are composed.
        least_motion: leave out the pixels that move less than this on their way to the next frame,
            in pixels (the paper's background; cars: 0.001); 0 keeps all.
        warps: move the target further, by the warp that is drawn (not by the view): frames alone
            are much alike, and teach no turned or smaller objects. None: the frame as it is.
        padding: what a moved target shows beyond the edges of the frame.

    Raises:
        ValueError: a step below 1 or a negative motion.
    """

    needs = frozenset({"flow", "frame", "identity"})
    provides_warp = True

    def __init__(
        self,
        step: int = 1,
        least_motion: float = 0.0,
        warps: WarpGenerator | None = None,
        padding: Padding = "reflection",
    ) -> None:
        if step < 1:
            raise ValueError(f"step must be at least 1, not {step}")
        if least_motion < 0:
            raise ValueError(f"least_motion must not be negative, not {least_motion}")
        self.step = step
        self.least_motion = least_motion
        self.warps = warps
        self.padding: Padding = padding

    def members(self, images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
        """The ``step`` + 1 successive frames from the source to the target.

        Raises:
            DataError: the images do not say which is the next one, or the image is not among so
                many successive ones.
        """
        following = _following(images)
        chain = [index]
        while len(chain) <= self.step and following[chain[-1]] >= 0:
            chain.append(int(following[chain[-1]]))
        while len(chain) <= self.step:
            before = np.flatnonzero(following == chain[0])
            if not len(before):
                raise self._error(f"{images.where(index)} is not among")
            chain.insert(0, int(before[0]))
        return chain

    def rows(self, images: Images) -> NDArray[np.int64]:
        """The images that are among ``step`` + 1 successive frames.

        Raises:
            DataError: there are none.
        """
        after, before = self._around(images)
        return self._some(after + before >= self.step)

    def sources(self, images: Images) -> NDArray[np.int64]:
        """The images that ``step`` successive frames follow.

        Raises:
            DataError: there are none.
        """
        after, _ = self._around(images)
        return self._some(after >= self.step)

    def _around(self, images: Images) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) and (N,), frames after each one and before it, as far as they matter."""
        following = _following(images)
        after = np.zeros(len(images), np.int64)
        before = np.zeros(len(images), np.int64)
        linked = np.flatnonzero(following >= 0)
        for _ in range(self.step):
            after[linked] = 1 + after[following[linked]]
            before[following[linked]] = 1 + before[linked]
        return after, before

    def _some(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        found = np.flatnonzero(chosen)
        if not len(found):
            raise self._error("there are no")
        return found

    def _error(self, what: str) -> DataError:
        return DataError(
            f"{what} {self.step + 1} successive frames of a video in this split",
            where="pairing.frames",
            hint="a smaller 'step' needs fewer; 'val_fraction: 0' leaves all to the training",
        )

    def pair(self, members: tuple[Sample, ...], draw: BatchDraw) -> Pair:
        """The first and the last frame, the last one moved if that is set, and what is between."""
        flows: list[Warp] = [self._warp(member) for member in members[:-1]]
        flow = reduce(lambda one, other: one.then(other), flows)
        source, target = members[0], members[-1]
        if self.warps is None:
            return Pair(source, target, flow)
        height, width = target.image.shape[-2:]
        _, drawn = self.warps.draw(draw, (height, width))
        # A spline read backwards is as good a spline, and closed-form where flows are.
        warp = drawn if TO_TARGET in drawn.exact else drawn.inverse()
        marks = marks_of(target)
        there = marks if marks is None else warp.to_target(marks)
        return Pair(source, moved(target, warp, there, self.padding), flow.then(warp))

    def _warp(self, sample: Sample) -> FlowWarp:
        if sample.flow is None:
            raise DataError("these images have no flow", where="pairing.frames")
        warp = FlowWarp(sample.flow, sample.flow_visible)
        if not self.least_motion:
            return warp
        height, width = sample.flow.shape[-2:]
        seen = sample.flow_visible
        if seen is None:
            seen = warp.valid((height, width), at="source")
        return FlowWarp(sample.flow, seen & (_pixels(sample.flow) >= self.least_motion))


def _following(images: Images) -> NDArray[np.int64]:
    if images.following is None:
        raise DataError("these images are no frames of videos", where="pairing.frames")
    return images.following


def _pixels(flow: Tensor) -> Tensor:
    """How many pixels each pixel moves, (B, H, W)."""
    height, width = flow.shape[-2:]
    moved = flow.movedim(1, -1)
    origin = torch.zeros_like(moved)
    apart = to_pixels(moved, height, width) - to_pixels(origin, height, width)
    return apart.square().sum(-1).sqrt()
