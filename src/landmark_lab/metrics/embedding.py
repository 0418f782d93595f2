"""Are the vectors of an embedding alive? Label-free matching errors, and the criterion.

A falling matching loss shows that vectors tell the pixels of one image apart; it does not show that
another object has the same vectors. So two errors are measured between the two views of a
validation pair, whose warp is known: of the *direct* match, and of the match *across* another
image: a query's best match there, and then the best match of what was found there. The second is
small only if the views and the other object agree on what is where.

The criterion for the best checkpoint is the error across another image over that of guessing a cell
at random. Vectors that are constant, that know only the position in the image, or that no other
image shares are not below the error they make, so a collapsed run cannot win.

Units: pixels of the input images.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from landmark_lab.geometry.points import Size, pixel_grid, to_pixels
from landmark_lab.losses.correspondence import best_matches, vectors_at
from landmark_lab.metrics.rows import RowMetric

Measure = Callable[[Tensor, Tensor], Tensor]
"""(B, N, C), (B, M, C) -> similarities (B, N, M)."""

# Vectors that deviate from their mean by less than this share of their length are constant.
CONSTANT = 0.01
# Errors above this share of the error of guessing are no better than guessing.
GUESSING = 0.9


def matching_error(
    queries: Tensor,
    keys: Tensor,
    targets: Tensor,
    counted: Tensor,
    measure: Measure,
    image_size: Size,
) -> Tensor:
    """Mean distance of the best matches to the truth, for each image.

    Args:
        queries: vectors (B, N, C).
        keys: the map (B, C, h, w) that they are looked for in.
        targets: where they really are, (B, N, 2).
        counted: (B, N) bool, which queries count.
        measure: the method's similarity.
        image_size: height and width of the input images.

    Returns:
        (B,) in input pixels; NaN where no query counts.
    """
    found, _ = best_matches(queries, keys, measure)
    difference = to_pixels(found, *image_size) - to_pixels(targets.to(found), *image_size)
    return _mean(torch.linalg.vector_norm(difference, dim=-1), counted)


def error_across(
    queries: Tensor,
    others: Tensor,
    keys: Tensor,
    targets: Tensor,
    counted: Tensor,
    measure: Measure,
    image_size: Size,
) -> Tensor:
    """The same if each query is first replaced by its best match in another image.

    Args:
        others: the map (B, C, h, w) of an image of another object for each image; the other
            arguments are those of :func:`matching_error`.
    """
    there, _ = best_matches(queries, others, measure)
    return matching_error(vectors_at(others, there), keys, targets, counted, measure, image_size)


def guessing_error(targets: Tensor, counted: Tensor, size: Size, image_size: Size) -> Tensor:
    """The same, (B,), of a cell drawn at random for each query.

    Args:
        targets: (B, N, 2).
        counted: (B, N) bool.
        size: height and width of the map.
        image_size: height and width of the input images.
    """
    cells = to_pixels(pixel_grid(*size, targets.device, targets.dtype), *image_size)
    distances = torch.cdist(to_pixels(targets, *image_size), cells.expand(len(targets), -1, -1))
    return _mean(distances.mean(-1), counted)


def deviation(maps: Tensor) -> Tensor:
    """How much the vectors of each map differ, (B,) in [0, 1].

    The root mean square distance of the vectors (B, C, h, w) from their mean over the root mean
    square length.
    """
    vectors = maps.flatten(2).float()
    apart = (vectors - vectors.mean(-1, keepdim=True)).square().sum(1).mean(-1)
    length = vectors.square().sum(1).mean(-1)
    return (apart / length.clamp_min(torch.finfo(length.dtype).tiny)).sqrt()


class EmbeddingCriterion(RowMetric):
    """The criterion of the module's text over batches and processes, each image counted once.

    Lower is better; about 1 for vectors that find nothing.
    """

    higher_is_better = False
    is_differentiable = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(("direct", "across", "guessing", "deviation"), **settings)

    def update(
        self, direct: Tensor, across: Tensor, guessing: Tensor, deviation: Tensor, index: Tensor
    ) -> None:
        """Add a batch: what the functions of the same names say of each image, (B,) each.

        Args:
            direct: see :func:`matching_error`.
            across: see :func:`error_across`.
            guessing: see :func:`guessing_error`.
            deviation: see :func:`deviation`.
            index: position of each image in its split.
        """
        self.keep(index, direct=direct, across=across, guessing=guessing, deviation=deviation)

    def compute(self) -> Tensor:
        """The mean error across over the mean error of guessing; 1 if nothing could be measured."""
        rows = self.rows()
        known = ~(rows["across"].isnan() | rows["guessing"].isnan())
        share = rows["across"][known].mean() / rows["guessing"][known].mean()
        return share.nan_to_num(nan=1.0)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    total = torch.where(counted, values, 0).sum(-1)
    return total / counted.sum(-1)
