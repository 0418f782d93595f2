"""Probes: methods that learn annotated points on top of another method, which stays as it is.

A probe measures what the vectors or landmarks of a trained method know about points that people
annotated. It is trained in a stage of its own, and then predicts and is scored like any method; its
landmarks are the annotated points, by the data's names. In an experiment the method below it is an
earlier stage, or a checkpoint, whose spec need not be repeated::

    stages:
      features: {method: {name: factorized, landmarks: 30}}
      points:
        method: {name: virtual_points, base: {stage: features}, points: 68}
        pairing: {name: synthetic, annotation: true}
        loader: {images: 10}

With ``base: {checkpoint: runs/faces/001/checkpoints/train/best.ckpt}`` one stage is enough. An
earlier stage gives its best checkpoint by the label-free criterion, where it has one. The probe's
own checkpoint holds the method below it too.

A probe sees the *source* images of the pairs. With the pairing ``synthetic`` these are warped views
of the annotated images, by ``warps: identity`` the images themselves: the two ways in which
published probes were trained. ``loader.images`` is the number of annotated images.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import ConfigError
from landmark_lab.roles import Embedding, Landmarks, Method, Optimiser, Pair, Pairing, Schedule

Counted = Literal["visible", "annotated"]
"""Which points are learned from: those seen in the image, or all whose place is known."""

# Images on which a method is asked for the shape of what it finds; its contract does not say.
_EMPTY = (1, 3, 64, 64)


class Probe(Method):
    """A method that learns annotated points on top of another one, which stays as it is.

    The method below gets no gradient and stays in evaluation mode, its batch statistics included.

    Args:
        base: the method below.
        points: how many annotated points the data has, P.
        counted: which points are learned from.
        weights, optimiser, schedule: see ``Method``; those of ``base`` play no part.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"points"})

    def __init__(
        self,
        base: Method,
        points: int,
        counted: Counted,
        weights: Mapping[str, float],
        optimiser: Optimiser,
        schedule: Schedule,
    ) -> None:
        super().__init__(weights, optimiser, schedule)
        if points < 1:
            raise ValueError(f"points {points}; allowed: at least 1")
        self.base = base
        self.points = points
        self.counted: Counted = counted
        self.freeze_parts(["base"])

    def check_size(self, size: int) -> None:
        """As the method below checks it."""
        self.base.check_size(size)

    def check_pairs(self, pairing: Pairing, loader: LoaderSettings) -> None:
        """Refuse mirrored images: their points keep their names, so left would become right.

        Raises:
            ConfigError: the pairing mirrors.
        """
        if pairing.mirrors:
            raise ConfigError(
                f"the points of mirrored images have changed sides, and '{self.plugin_name}' would "
                "learn either side for both",
                where="pairing",
                hint="for example 'pairing: synthetic'",
            )

    def check_points(self, names: Sequence[str]) -> None:
        """Refuse data with another number of annotated points.

        Raises:
            ConfigError: says how many there are.
        """
        if len(names) != self.points:
            raise ConfigError(
                f"the method predicts {self.points} points, the data has {len(names)}",
                where="method.points",
                allowed=str(len(names)),
            )

    def annotation(self, batch: Pair) -> tuple[Tensor, Tensor]:
        """The annotated points (B, P, 2) of the source images, NaN where unknown, and which count.

        Returns:
            The points, and a mask (B, P); a point whose place is unknown does not count.

        Raises:
            ConfigError: the pairs have no points.
        """
        source = batch.source
        if source.points is None:
            raise ConfigError("the pairs have no annotated points", where="pairing")
        known = ~source.points.isnan().any(-1)
        if self.counted == "visible" and source.visible is not None:
            known = known & source.visible
        return source.points, known

    @torch.no_grad()
    def _embedding(self, images: Tensor) -> Tensor:
        """The embedding (B, C, h, w) of the method below, at least float32."""
        assert isinstance(self.base, Embedding)
        found = self.base.embedding(images)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    @torch.no_grad()
    def _landmarks(self, images: Tensor) -> Tensor:
        """The landmarks (B, K, 2) of the method below; one not found is the image's centre."""
        assert isinstance(self.base, Landmarks)
        points, score = self.base.landmarks(images)
        lost = (score == 0)[..., None] | points.isnan()
        return torch.where(lost, 0, points.to(torch.promote_types(points.dtype, torch.float32)))

    def _embedding_channels(self) -> int:
        return self._embedding(torch.zeros(_EMPTY)).shape[1]

    def _landmark_count(self) -> int:
        return self._landmarks(torch.zeros(_EMPTY)).shape[1]
