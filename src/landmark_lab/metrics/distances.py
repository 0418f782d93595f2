"""How far apart landmarks are, on average over images.

Convention: the units of the landmarks' coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_distances(landmarks: Tensor) -> Tensor:
    """Mean distance over images of every two landmarks.

    Args:
        landmarks: (N, K, 2), NaN where not found.

    Returns:
        (K, K) over the images in which both were found; NaN for two that never were.
    """
    # A landmark at a time: (N, K, K) would be large for many images and many landmarks.
    return torch.stack(
        [
            torch.linalg.vector_norm(landmarks - landmarks[:, k : k + 1], dim=-1).nanmean(0)
            for k in range(landmarks.shape[1])
        ]
    )
