"""What methods that give every pixel a vector share: the network, and matching by its vectors.

A method adds its loss. Its vectors, its similarity, and with them correspondences between any two
images come from here, so that training and every evaluation use the same.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from landmark_lab.data.batch import Pair
from landmark_lab.errors import ConfigError
from landmark_lab.geometry.points import Size
from landmark_lab.geometry.warp import Warp
from landmark_lab.losses.correspondence import best_matches, vectors_at
from landmark_lab.losses.similarity import Similarity
from landmark_lab.roles import Backbone, Method, Optimiser, Schedule


def size_of(maps: Tensor) -> Size:
    """Height and width of images or maps (..., h, w)."""
    return maps.shape[-2], maps.shape[-1]


class EmbeddingMethod(Method):
    """A method whose network gives every pixel a vector; offers Embedding and Correspondence.

    Args:
        dimension: channels C of the embedding.
        backbone: the embedding is a 1×1 convolution of its finest map.
        similarity: of two vectors.
        weights: see ``Method``.
        optimiser: see ``Method``.
        schedule: see ``Method``.

    Attributes:
        layers: what ``embedding`` can give: the embedding itself, the backbone's finest map.
    """

    needs_warp: ClassVar[bool] = True
    layers: tuple[str, ...] = ("embedding", "features")

    def __init__(
        self,
        dimension: int,
        backbone: Backbone,
        similarity: Similarity,
        weights: Mapping[str, float],
        optimiser: Optimiser,
        schedule: Schedule,
    ) -> None:
        super().__init__(weights, optimiser, schedule)
        if dimension < 1:
            raise ValueError(f"dimension {dimension}; allowed: at least 1")
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.channels[0], dimension, 1)
        self.measure = similarity

    def embedding(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Vectors of images (B, 3, H, W).

        Args:
            images: in [0, 1].
            layer: one of ``layers``; the embedding by default.

        Returns:
            (B, C, h, w), in the data type that the trainer's precision makes.

        Raises:
            ValueError: there is no such layer.
        """
        if layer not in (None, *self.layers):
            raise ValueError(f"there is no layer {layer!r}; allowed: {', '.join(self.layers)}")
        features: Tensor = self.backbone(images)[0]
        if layer == "features":
            return features
        vectors: Tensor = self.head(features)
        return vectors

    def similarity(self, source: Tensor, target: Tensor) -> Tensor:
        """Similarity (B, N, M) of vectors (B, N, C) and (B, M, C), at least float32."""
        return self.measure(source, target)

    def correspond(
        self, source: Tensor, target: Tensor, points: Tensor, refine: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Where points of one image lie in another.

        Args:
            source: images (B, 3, H, W).
            target: images (B, 3, H', W').
            points: (B, N, 2) in the source; what comes of a NaN is NaN, with score 0.
            refine: False: from the nearest cell to the best cell, as published; True: the vectors
                between cells and the matches between cells.

        Returns:
            Points in the target (B, N, 2), and scores (B, N) in [0, 1], the probability of the
            best cell.
        """
        queries = vectors_at(self.embedding(source), points, interpolate=refine)
        found, score = best_matches(queries, self.embedding(target), self.measure, refine)
        known = ~points.isnan().any(-1)
        return torch.where(known.unsqueeze(-1), found, torch.nan), score * known

    def check_size(self, size: int) -> None:
        """Check that the backbone's map covers images of that size.

        Raises:
            ConfigError: its stride does not divide the size.
        """
        stride = self.backbone.strides[0]
        if size % stride:
            raise ConfigError(
                f"images of {size} pixels do not suit the backbone",
                where="data.size",
                allowed=f"multiples of {stride}",
            )

    def _vectors(self, images: Tensor) -> Tensor:
        """The embedding (B, C, h, w) as the losses take it: similarity is the inner product."""
        return self.measure.vectors(self.embedding(images), dim=1)

    def _warp(self, batch: Pair) -> Warp:
        if batch.warp is None:
            raise ConfigError("needs pairs with a known warp, e.g. 'synthetic'", where="pairing")
        return batch.warp
