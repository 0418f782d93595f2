"""Precision, recall and F-measure of unordered keypoints.

A keypoint is a true positive if it lies within a distance d of one of the annotated points, and an
annotated point is recovered if a keypoint lies within d of it. Of one image, or of all keypoints of
many images::

    precision = true positives / keypoints
    recall    = recovered points / annotated points
    F         = 2 · precision · recall / (precision + recall)

D. Mallis, PhD thesis, Nottingham 2023: d is 8 px in images of 256 (section 4.4), or 10 px (sections
2.5 and 5.4.2). Nothing is matched one to one: ten keypoints on one point are ten true positives and
recover one point, and a keypoint between two close points recovers both. So the number of keypoints
an image belongs beside these numbers.

Convention: any isotropic coordinates, the same for keypoints, points and distance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landmark_lab.metrics.distances import distances
from landmark_lab.metrics.pck import Average
from landmark_lab.metrics.rows import RowMetric


def detection_counts(keypoints: Tensor, points: Tensor, distance: float) -> Tensor:
    """What precision and recall are made of, for every image.

    Args:
        keypoints: (B, N, 2) unordered, NaN where there is none.
        points: (B, P, 2) annotation, NaN where a point does not count.
        distance: d, at most which a keypoint is a true positive.

    Returns:
        (B, 4) true positives, keypoints, recovered points and points, in the points' data type; NaN
        for an image of which no point counts.
    """
    near = distances(keypoints, points) <= distance  # a comparison with NaN is false
    found = ~keypoints.isnan().any(-1)
    known = ~points.isnan().any(-1)
    counts = torch.stack(
        [near.any(-1).sum(-1), found.sum(-1), near.any(-2).sum(-1), known.sum(-1)], -1
    )
    return counts.to(points.dtype).masked_fill(~known.any(-1)[:, None], torch.nan)


def precision_recall_f(counts: Tensor) -> Tensor:
    """Precision, recall and F of counts, or of their sums or means over images.

    Args:
        counts: (..., 4), see :func:`detection_counts`.

    Returns:
        (..., 3) in [0, 1]; the precision of no keypoints is NaN, their F is 0.
    """
    true, keypoints, recovered, points = counts.unbind(-1)
    precision = torch.where(keypoints > 0, true / keypoints, torch.nan)
    recall = recovered / points
    both = precision.nan_to_num(0.0) + recall
    f = torch.where(both > 0, 2 * precision.nan_to_num(0.0) * recall / both, 0.0)
    return torch.stack([precision, recall, f.masked_fill(recall.isnan(), torch.nan)], -1)


def detection_scores(counts: Tensor, average: Average = "image") -> Tensor:
    """Precision, recall and F of all images.

    Args:
        counts: (B, 4), see :func:`detection_counts`; images that are NaN are left out.
        average: ``image``: the means over images (that of the precision over the images with
            keypoints); ``point``: of all keypoints and all points together.

    Returns:
        (3,) in [0, 1].
    """
    if average == "image":
        return precision_recall_f(counts).nanmean(0)
    return precision_recall_f(counts.nansum(0))


class DetectionScores(RowMetric):
    """:func:`detection_scores` over batches and processes, each image counted once.

    Args:
        distance: d, see :func:`detection_counts`.
        average: over ``image`` or ``point``.
    """

    higher_is_better = True
    is_differentiable = False

    def __init__(self, distance: float, average: Average = "image", **settings: Any) -> None:
        super().__init__(("counts",), **settings)
        self.distance, self.average = distance, average

    def update(self, keypoints: Tensor, points: Tensor, index: Tensor) -> None:
        """Add a batch.

        Args:
            keypoints, points: see :func:`detection_counts`; N may differ between batches.
            index: (B,) position of each image in its split.
        """
        self.keep(index, counts=detection_counts(keypoints, points, self.distance))

    def compute(self) -> Tensor:
        """(3,) precision, recall and F over all images seen by all processes."""
        return detection_scores(self.rows()["counts"], self.average)
