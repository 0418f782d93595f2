"""Normalised mean error (NME) of predicted points.

Per image the mean over its points of the distance to the annotation divided by the image's
normaliser (a distance between two points, or the root of the box's area); over images the mean of
these (not a ratio of means). Published as a percentage; here it is a fraction.

Convention: any isotropic coordinates, the same for points, predictions and normaliser: the error
does not change when all of them are moved, turned or scaled together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landmark_lab.metrics.rows import RowMetric


def pair_distance(points: Tensor, pair: tuple[int, int]) -> Tensor:
    """Distance between two points of each image, e.g. of the outer eye corners.

    Args:
        points: (B, P, 2), NaN where unknown.
        pair: positions of the two points.

    Returns:
        (B,), NaN where one of the two is unknown.
    """
    first, second = pair
    distance: Tensor = torch.linalg.vector_norm(points[:, first] - points[:, second], dim=-1)
    return distance


def box_side(box: Tensor) -> Tensor:
    """Side of the square that has the area of each box, √(w·h).

    Args:
        box: (B, 4), x0, y0, x1, y1.

    Returns:
        (B,), NaN where the box is unknown or empty.
    """
    extent = box[:, 2:] - box[:, :2]
    side = extent.clamp(min=0).prod(-1).sqrt()
    return torch.where(extent.isnan().any(-1) | (side == 0), torch.nan, side)


def points_box(points: Tensor) -> Tensor:
    """The box around the known points of each image.

    Args:
        points: (B, P, 2), NaN where unknown.

    Returns:
        (B, 4), x0, y0, x1, y1; NaN where no point is known.
    """
    unknown = points.isnan()
    low = points.masked_fill(unknown, torch.inf).amin(1)
    high = points.masked_fill(unknown, -torch.inf).amax(1)
    box = torch.cat([low, high], -1)
    return torch.where(box.isinf(), torch.nan, box)


def point_errors(
    predicted: Tensor, points: Tensor, normaliser: Tensor, visible: Tensor | None = None
) -> Tensor:
    """Normalised error of every point of every image.

    Args:
        predicted: (B, P, 2). A prediction that is NaN leaves its point out: whoever lets a method
            say "not found" has to put a guess there, or hard points are free.
        points: (B, P, 2) annotation, NaN where unknown.
        normaliser: (B,); an image whose normaliser is unknown or not positive is left out.
        visible: (B, P) which points count; all known ones by default.

    Returns:
        (B, P) fractions, NaN for what is left out.
    """
    distance: Tensor = torch.linalg.vector_norm(predicted - points, dim=-1)
    errors: Tensor = distance / torch.where(normaliser > 0, normaliser, torch.nan)[:, None]
    return errors if visible is None else errors.masked_fill(~visible, torch.nan)


def image_errors(
    predicted: Tensor, points: Tensor, normaliser: Tensor, visible: Tensor | None = None
) -> Tensor:
    """Normalised error of every image: the mean over its points; see :func:`point_errors`.

    Returns:
        (B,) fractions, NaN for an image without a point that counts.
    """
    return point_errors(predicted, points, normaliser, visible).nanmean(-1)


def normalised_mean_error(
    predicted: Tensor, points: Tensor, normaliser: Tensor, visible: Tensor | None = None
) -> Tensor:
    """Mean over images of :func:`image_errors`; images that are NaN are left out.

    Returns:
        A scalar fraction, NaN if no image counts.
    """
    return image_errors(predicted, points, normaliser, visible).nanmean()


def landmark_errors(
    predicted: Tensor, points: Tensor, normaliser: Tensor, visible: Tensor | None = None
) -> Tensor:
    """Mean over images of the normalised error of each point; see :func:`point_errors`.

    Returns:
        (P,) fractions, NaN for a point that counts in no image.
    """
    return point_errors(predicted, points, normaliser, visible).nanmean(0)


class LandmarkErrors(RowMetric):
    """:func:`landmark_errors` over batches and processes, each image counted once."""

    higher_is_better = False
    is_differentiable = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(("errors",), **settings)

    def update(
        self,
        predicted: Tensor,
        points: Tensor,
        normaliser: Tensor,
        index: Tensor,
        visible: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            predicted, points, normaliser, visible: see :func:`point_errors`.
            index: (B,) position of each image in its split.
        """
        self.keep(index, errors=point_errors(predicted, points, normaliser, visible))

    def compute(self) -> Tensor:
        """(P,) the means over all images seen by all processes."""
        return self.rows()["errors"].nanmean(0)


class NormalisedMeanError(LandmarkErrors):
    """:func:`normalised_mean_error` over batches and processes, each image counted once."""

    def compute(self) -> Tensor:
        """The mean over all images seen by all processes."""
        return self.rows()["errors"].nanmean(-1).nanmean()
