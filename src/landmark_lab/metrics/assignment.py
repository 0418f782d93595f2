"""Which discovered landmark is which annotated point? A one-to-one assignment.

The Hungarian algorithm finds the pairs whose mean distances over images have the smallest sum (T.
Jakab et al., NeurIPS 2018; D. Mallis, PhD thesis, Nottingham 2023, sections 4.5 and 6.4). With more
landmarks than points some landmarks have no point, and the other way round.

Convention: any isotropic coordinates, the same for both arguments.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from landmark_lab.metrics.distances import mean_distances


def assign_landmarks(landmarks: Tensor, points: Tensor) -> Tensor:
    """The landmark of each annotated point.

    Args:
        landmarks: (N, K, 2), NaN where not found: it is then taken to be at its mean position, so
            that a landmark that is seldom found is no better than a constant.
        points: (N, P, 2), NaN where unknown.

    Returns:
        (P,) int64, -1 for a point without a landmark. No landmark has two points; one that was
        never found has none, nor has a point that is never known a landmark.
    """
    placed = torch.where(landmarks.isnan(), landmarks.nanmean(0), landmarks)
    cost = mean_distances(placed, points)
    rows = (~cost.isnan()).any(1).nonzero()[:, 0]
    columns = (~cost.isnan()).any(0).nonzero()[:, 0]
    first, second = linear_sum_assignment(cost[rows][:, columns].cpu().numpy())
    found = torch.full((points.shape[1],), -1, device=points.device)
    found[columns[torch.from_numpy(second)]] = rows[torch.from_numpy(first)]
    return found


def assigned_landmarks(landmarks: Tensor, assignment: Tensor) -> Tensor:
    """The landmarks in the order of the annotated points.

    Args:
        landmarks: (N, K, 2), NaN where not found.
        assignment: (P,), see :func:`assign_landmarks`.

    Returns:
        (N, P, 2), NaN also for a point without a landmark.
    """
    if landmarks.shape[1] == 0:
        return landmarks.new_full((len(landmarks), len(assignment), 2), torch.nan)
    chosen = landmarks[:, assignment.clamp(min=0)]
    return chosen.masked_fill((assignment < 0)[:, None], torch.nan)
