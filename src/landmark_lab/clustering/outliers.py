"""Keypoints that belong to no landmark: isolated ones, and those far from their centroid.

A landmark returns in many images, and its descriptors lie together; what was detected on the
background lies alone. D. Mallis, thesis, §5.3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from landmark_lab.clustering.distances import checked
from landmark_lab.clustering.faiss_engine import Engine
from landmark_lab.clustering.neighbours import neighbour_distances


def isolated(
    descriptors: Tensor, share: float = 0.4, neighbours: int = 100, engine: Engine | None = None
) -> Tensor:
    """The share of the keypoints whose descriptors are the most isolated.

    Isolation is the median of the Euclidean distances to the nearest neighbours, itself not
    among them. It is exact, and costs T² D operations: meant for the start of a training only.

    Args:
        descriptors: (T, D) floating point.
        share: of the keypoints that are isolated, in [0, 1).
        neighbours: how many neighbours; all others if there are fewer.
        engine: None takes faiss if it is installed, else torch.

    Returns:
        (T,) bool, True for the round(share · T) most isolated ones, and never for all.

    Raises:
        ValueError: wrong shapes or settings, values that are not finite.
    """
    descriptors = checked(descriptors, "descriptors")
    if not 0 <= share < 1 or neighbours < 1:
        raise ValueError(
            f"share {share}, neighbours {neighbours}; "
            "allowed: share in [0, 1), neighbours at least 1"
        )
    found = torch.zeros(len(descriptors), dtype=torch.bool, device=descriptors.device)
    dropped = min(round(share * len(descriptors)), len(descriptors) - 1)
    if dropped < 1:
        return found
    of = min(neighbours, len(descriptors) - 1)
    # The median of `of` sorted distances needs the first half of them only.
    nearest = neighbour_distances(descriptors, of // 2 + 1, engine)
    median = (nearest[:, (of - 1) // 2] + nearest[:, of // 2]) / 2
    found[median.argsort(descending=True, stable=True)[:dropped]] = True
    return found


def far_from_centroid(labels: Tensor, distances: Tensor, factor: float = 2.0) -> Tensor:
    """The keypoints much farther from their centroid than others of their cluster (§5.3.2).

    Args:
        labels: (T,) int64, -1 for none.
        distances: (T,) Euclidean, to the own centroid.
        factor: far is what exceeds this multiple of the cluster's mean distance; at least 1, so
            that every cluster keeps a keypoint.

    Returns:
        (T,) bool, True for the far ones; False where there is no label.

    Raises:
        ValueError: ``factor`` below 1, or shapes that differ.
    """
    if labels.shape != distances.shape or labels.ndim != 1 or not factor >= 1:
        raise ValueError(
            f"labels {tuple(labels.shape)}, distances {tuple(distances.shape)}, factor {factor}; "
            "allowed: (T,) both, a factor of at least 1"
        )
    found = torch.zeros_like(labels, dtype=torch.bool)
    known = labels >= 0
    own, far = labels[known], distances[known].double()
    counts = own.bincount()
    means = own.bincount(weights=far) / counts
    # A hair's breadth for rounding: equal distances are not far from their mean.
    found[known] = far > means[own] * factor * (1 + 1e-9)
    return found
