"""Collapse: have the landmarks stopped being K different points of a moving object?

A falling loss and a good equivariance error do not show it: landmarks that are frozen to fixed
positions, or that all track the same spot, have both. These functions look at the landmarks of many
images, at least some dozens, which the objects must not all fill in the same way.

Convention: points are (x, y) in [-1, 1]; distances in the same units, so the image's side is 2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from landmark_lab.metrics.distances import mean_distances
from landmark_lab.metrics.spread import spread

# Healthy landmarks of faces spread by 0.15–0.25, frozen ones by 0.00–0.01.
STILL = 0.03
# One cell of a 32×32 score map.
SAME = 1 / 16


def constant(landmarks: Tensor, tolerance: float = STILL) -> Tensor:
    """Which landmarks hardly move over images.

    Args:
        landmarks: (N, K, 2), NaN where not found.
        tolerance: the spread below which a landmark counts as constant.

    Returns:
        (K,) bool; False for a landmark that was never found.
    """
    return spread(landmarks) < tolerance


def at_centre(landmarks: Tensor, tolerance: float = SAME) -> Tensor:
    """Which landmarks sit in the middle of the image, as those of flat maps do.

    Args:
        landmarks: (N, K, 2), NaN where not found.
        tolerance: the mean distance to (0, 0) below which a landmark counts.

    Returns:
        (K,) bool; False for a landmark that was never found.
    """
    distance: Tensor = torch.linalg.vector_norm(landmarks, dim=-1).nanmean(0)
    return distance < tolerance


def duplicates(landmarks: Tensor, tolerance: float = SAME) -> Tensor:
    """Which landmarks are the same: those that are close to each other on average.

    Being the same is passed on: with a near b and b near c, all three are one.

    Args:
        landmarks: (N, K, 2), NaN where not found.
        tolerance: the mean distance over images, of those where both are found, below which two
            landmarks are the same.

    Returns:
        (K,) int64, the lowest number among the landmarks that are the same as this one; its own if
        there is no other.
    """
    count = landmarks.shape[1]
    same = mean_distances(landmarks) < tolerance
    first = torch.arange(count, device=landmarks.device)
    same |= torch.diag(torch.ones_like(first, dtype=torch.bool))
    for _ in range(count):  # each round passes the lowest number on by one step
        first = torch.where(same, first, count).amin(1)
    return first


@dataclass(frozen=True)
class Collapse:
    """What is wrong with a set of landmarks.

    Attributes:
        spread: (K,) standard deviation over images, NaN if never found.
        constant: (K,) bool, hardly moves.
        at_centre: (K,) bool, sits in the middle of the image.
        same_as: (K,) int64, the lowest number among the landmarks that are the same.
        lost: (K,) bool, never found.
    """

    spread: Tensor
    constant: Tensor
    at_centre: Tensor
    same_as: Tensor
    lost: Tensor

    @property
    def distinct(self) -> int:
        """The number of different landmarks that are found at all."""
        return len(set(self.same_as[~self.lost].tolist()))


def collapse(landmarks: Tensor, still: float = STILL, same: float = SAME) -> Collapse:
    """All of the above for the landmarks of many images.

    Args:
        landmarks: (N, K, 2), NaN where not found.
        still: tolerance of :func:`constant`.
        same: tolerance of :func:`at_centre` and :func:`duplicates`.
    """
    return Collapse(
        spread(landmarks),
        constant(landmarks, still),
        at_centre(landmarks, same),
        duplicates(landmarks, same),
        landmarks.isnan().any(-1).all(0),
    )
