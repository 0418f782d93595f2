"""How far apart points are.

Convention: the units of the points' coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Distance of every two points of each image.

    Args:
        first: (B, N, 2), NaN where there is none.
        second: (B, P, 2), NaN where there is none.

    Returns:
        (B, N, P), NaN where one of the two is missing.
    """
    offset = first[:, :, None] - second[:, None]
    found: Tensor = torch.linalg.vector_norm(offset, dim=-1)
    return found


def nearest_points(keypoints: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest annotated point of each keypoint.

    Args:
        keypoints: (B, N, 2), NaN where there is none.
        points: (B, P, 2), NaN where unknown.

    Returns:
        (B, N) int64 which point, the first of several at the same distance, -1 where there is no
        keypoint or no point; and (B, N) how far away it is, infinite there.
    """
    apart, which = distances(keypoints, points).nan_to_num(torch.inf).min(-1)
    return which.masked_fill(apart.isinf(), -1), apart


def mean_distances(landmarks: Tensor, others: Tensor | None = None) -> Tensor:
    """Mean distance over images of every two landmarks.

    Args:
        landmarks: (N, K, 2), NaN where not found.
        others: (N, P, 2), points of the same images, NaN where unknown; the landmarks themselves by
            default.

    Returns:
        (K, P) over the images in which both were found; NaN for two that never were.
    """
    second = landmarks if others is None else others
    # A landmark at a time: (N, K, P) would be large for many images and many landmarks.
    return torch.stack(
        [
            torch.linalg.vector_norm(second - landmarks[:, k : k + 1], dim=-1).nanmean(0)
            for k in range(landmarks.shape[1])
        ]
    )
