"""Pairs of frames of one video whose flow is known.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object frames by dense equivariant image
labelling", NeurIPS 2017, sections 3.3 and 4.1: the transformation g of a pair (x, x') is the motion
itself, x' being the next frame. Pixels at rest can be left out, which removes the background.

Convention: a flow is a displacement of points (x, y) in [-1, 1], see ``geometry/flow.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.errors import DataError
from landmark_lab.geometry.flow import FlowWarp
from landmark_lab.geometry.points import to_pixels
from landmark_lab.geometry.warp import Warp
from landmark_lab.roles import Images, Pairing
from landmark_lab.seeding import BatchDraw


class Frames(Pairing, name="frames"):
    """A frame of a video and a later one; the warp between them is the known flow.

    Towards the end of a video the pair starts so early that its target is the last frame.
    ``Pair.warp.valid`` leaves out what is hidden or outside in any frame on the way.

    Args:
        step: frames from the source to the target; the flows of those between are composed.
        least_motion: leave out the pixels that move less than this on their way to the next frame,
            in pixels (the paper's background; cars: 0.001); 0 keeps all.

    Raises:
        ValueError: a step below 1 or a negative motion.
    """

    needs = frozenset({"flow", "frame", "identity"})
    provides_warp = True

    def __init__(self, step: int = 1, least_motion: float = 0.0) -> None:
        if step < 1:
            raise ValueError(f"step must be at least 1, not {step}")
        if least_motion < 0:
            raise ValueError(f"least_motion must not be negative, not {least_motion}")
        self.step = step
        self.least_motion = least_motion

    def members(self, images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
        """The ``step`` + 1 successive frames from the source to the target.

        Raises:
            DataError: the images do not say where in which video they are, or the video is shorter
                than that or has gaps.
        """
        if images.identity is None or images.frame is None:
            raise DataError("these images are no frames of videos", where="pairing.frames")
        video = np.flatnonzero(images.identity == images.identity[index])
        numbers = images.frame[video]
        first = min(images.frame[index], numbers.max() - self.step)
        found = [video[numbers == first + k] for k in range(self.step + 1)]
        if not all(map(len, found)):
            raise DataError(
                f"the video of image {index} has no {self.step + 1} successive frames from "
                f"number {first} on",
                where="pairing.frames",
                hint="a smaller 'step' needs fewer frames",
            )
        return [int(match[0]) for match in found]

    def pair(self, members: tuple[Sample, ...], draw: BatchDraw) -> Pair:
        """The first and the last frame as they are, and the flow between them."""
        warps: list[Warp] = [self._warp(member) for member in members[:-1]]
        return Pair(members[0], members[-1], reduce(lambda one, other: one.then(other), warps))

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


def _pixels(flow: Tensor) -> Tensor:
    """How many pixels each pixel moves, (B, H, W)."""
    height, width = flow.shape[-2:]
    moved = flow.movedim(1, -1)
    origin = torch.zeros_like(moved)
    apart = to_pixels(moved, height, width) - to_pixels(origin, height, width)
    return apart.square().sum(-1).sqrt()
