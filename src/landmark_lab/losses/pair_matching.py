"""Matching the two images of a pair: which pixels are looked for, where they are, by which loss.

A warp is closed-form in one direction only (``Warp.exact``), and the loss takes that one: of two
views related by a spline, pixels of the *target* are looked for in the source; of two frames
related by a flow, pixels of the *source* in the target. In the words of the papers (see
``losses/matching.py``) the image with the queries is x, the other one x', and g leads from x to x'.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from landmark_lab.geometry.points import Size
from landmark_lab.geometry.warp import TO_SOURCE, Warp
from landmark_lab.losses.matching import expected_distance, negative_log_likelihood


@dataclass(frozen=True)
class Queries:
    """The pixels of one image of each pair that are looked for in the other one.

    Attributes:
        in_target: whether they are pixels of the target; otherwise of the source.
        stride: every so many-th cell of the map along both axes is one.
        targets: where they lie in the other image, (B, N, 2), finite.
        weight: (B, N); 0 where that is unknown or outside (``Warp.valid``), all others alike, with
            sum 1 over this process's batch.
        image_size: height and width of the input images.
    """

    in_target: bool
    stride: int
    targets: Tensor
    weight: Tensor
    image_size: Size

    def vectors(self, queried: Tensor) -> Tensor:
        """The vectors (B, N, C) of the queries, from the map (B, C, h, w) of their image."""
        return _thinned(queried, self.stride).flatten(2).mT


@dataclass(frozen=True)
class MatchingLoss:
    """How a pair of images is matched.

    Args:
        kind: ``distance``: expected distance between match and truth (dense labelling's equation
            5); ``likelihood``: negative log-likelihood of the truth (equation 4).
        power: γ of the distance, in input pixels; above 0.
        stride: 1 looks for every cell of the map; more is faster by its square, and noisier.
    """

    kind: Literal["distance", "likelihood"] = "distance"
    power: float = 0.5
    stride: int = 1

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"power {self.power}; allowed: above 0")
        if self.stride < 1:
            raise ValueError(f"stride {self.stride}; allowed: at least 1")

    def queries(self, warp: Warp, size: Size, image_size: Size) -> Queries:
        """The queries of B pairs.

        Args:
            warp: B maps from the source to the target images.
            size: height and width of the maps.
            image_size: height and width of the input images.
        """
        in_target = queries_in_target(warp)
        grid = warp.source_grid(size) if in_target else warp.target_grid(size)
        counted = warp.valid(size, at="target" if in_target else "source")
        counted = _thinned(counted, self.stride).flatten(1)
        targets = _thinned(grid.movedim(-1, 1), self.stride).flatten(2).mT
        targets = torch.where(counted.unsqueeze(-1), targets, 0)
        weight = counted / counted.sum().clamp_min(1)
        return Queries(in_target, self.stride, targets, weight, image_size)

    def __call__(self, queries: Queries, vectors: Tensor, keys: Tensor) -> Tensor:
        """The loss of each pair, (B,); their sum is the mean over all queries that count.

        Args:
            queries: what is looked for.
            vectors: their vectors (B, N, C), as they are or exchanged or transformed.
            keys: the map (B, C, h, w) of the other image, in the same data type.
        """
        if self.kind == "likelihood":
            return negative_log_likelihood(vectors, keys, queries.targets, queries.weight)
        return expected_distance(
            vectors, keys, queries.targets, queries.weight, queries.image_size, self.power
        )


def queries_in_target(warp: Warp) -> bool:
    """Whether the target's pixels are the queries: whether ``to_source`` is closed-form."""
    return TO_SOURCE in warp.exact or not warp.exact


def _thinned(values: Tensor, stride: int) -> Tensor:
    """Every so many-th row and column of (..., h, w), from the middle of the first step on."""
    first = (stride - 1) // 2
    return values[..., first::stride, first::stride]
