"""Pairs of any two images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.roles import Images, Pairing
from landmark_lab.seeding import BatchDraw


class Random(Pairing, name="random"):
    """An image and any other one, or itself if there is no other."""

    def members(self, images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
        """The image and its partner, each of the others equally likely."""
        if len(images) == 1:
            return (index, index)
        other = int(generator.integers(len(images) - 1))
        return (index, other + (other >= index))

    def pair(self, members: tuple[Sample, ...], draw: BatchDraw) -> Pair:
        """The two images as they are; no warp is known."""
        source, target = members
        return Pair(source, target)
