"""How far landmarks move over images, and how much of that movement is explained.

A landmark that never moves can be regressed without error and is worth nothing, so neither error
may be read without these.

Convention: the units of the landmarks' coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Below this standard deviation, in [-1, 1] coordinates, only rounding is left to explain.
ROUNDING = 1e-6


def spread(landmarks: Tensor) -> Tensor:
    """Standard deviation of each landmark's position over images, √(var x + var y).

    Args:
        landmarks: (N, K, 2), NaN where not found.

    Returns:
        (K,), NaN for a landmark that was never found.
    """
    return _variance(landmarks).sqrt()


def r_squared(predicted: Tensor, landmarks: Tensor) -> Tensor:
    """Share of each landmark's variance over images that a prediction explains (R²).

    Args:
        predicted: (N, K, 2).
        landmarks: (N, K, 2) the truth, NaN where not found.

    Returns:
        (K,): 1 for a perfect prediction, 0 for one as good as the mean position, negative for a
        worse one. 0 for a landmark that does not move: there is nothing to explain. NaN for one
        that was never found.
    """
    residual = (landmarks - predicted).square().sum(-1).nanmean(0)
    total = _variance(landmarks)
    return torch.where(total.sqrt() < ROUNDING, 0, 1 - residual / total)


def _variance(landmarks: Tensor) -> Tensor:
    return (landmarks - landmarks.nanmean(0)).square().sum(-1).nanmean(0)
