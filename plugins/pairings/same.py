"""Pairs of different images of the same individual."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.errors import DataError
from landmark_lab.roles import Images, Pairing
from landmark_lab.seeding import BatchDraw


class Same(Pairing, name="same"):
    """An image and another one of the same individual, or itself if there is no other."""

    needs = frozenset({"identity"})

    def members(self, images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
        """The image and its partner, each of the others equally likely.

        Raises:
            DataError: the images do not say which individual they show.
        """
        if images.identity is None:
            raise DataError("these images have no identity", where="pairing.same")
        others = np.flatnonzero(images.identity == images.identity[index])
        others = others[others != index]
        return (index, int(generator.choice(others)) if len(others) else index)

    def pair(self, members: tuple[Sample, ...], draw: BatchDraw) -> Pair:
        """The two images as they are; no warp is known."""
        source, target = members
        return Pair(source, target)
