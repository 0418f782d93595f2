"""Vectors to cluster: what they must be, and squared Euclidean distances between them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Numbers computed at a time, 4 MB in float32: larger chunks leave the cache and are slower.
CHUNK = 1 << 20


def checked(vectors: Tensor, what: str) -> Tensor:
    """Vectors as clustering computes with them: detached, float32, contiguous.

    Args:
        vectors: (N, D) floating point.
        what: their name in messages, e.g. ``"descriptors"``.

    Raises:
        ValueError: another shape or type, values that are not finite.
    """
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise ValueError(
            f"{what} of shape {tuple(vectors.shape)}, {vectors.dtype}; allowed: (N, D), real"
        )
    vectors = vectors.detach().to(torch.float32).contiguous()
    # A sum is not finite if a number is not, and is much faster to look at.
    if not vectors.sum(1).isfinite().all():
        bad = int((~vectors.isfinite()).any(1).sum())
        if bad:
            raise ValueError(f"{bad} of {len(vectors)} {what} contain NaN or infinity")
    return vectors


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid of each point; of equally near ones the first.

    Args:
        points: (N, D).
        centroids: (k, D), on the same device.

    Returns:
        (N,) int64.
    """
    norms = centroids.square().sum(1)
    parts = torch.split(points, max(1, CHUNK // len(centroids)))
    return torch.cat([torch.addmm(norms, p, centroids.T, alpha=-2).argmin(1) for p in parts])


def squared_distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances of all points to all centroids.

    Args:
        points: (N, D).
        centroids: (k, D), on the same device.

    Returns:
        (N, k) float64: with |p|² - 2 p·c + |c|² the small distances that matter cancel in float32.
    """
    points, centroids = points.double(), centroids.double()
    norms = centroids.square().sum(1)
    distances = torch.addmm(norms, points, centroids.T, alpha=-2)
    return distances.add_(points.square().sum(1, keepdim=True)).clamp_(min=0)


def squares_to_own(points: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of each point to its own centroid, from differences: exact near zero.

    Args:
        points: (N, D).
        centroids: (k, D), on the same device.
        labels: (N,) int64 in [0, k).

    Returns:
        (N,) in the type of the points.
    """
    parts = by_rows(points, labels)
    return torch.cat([(part - centroids[where]).square().sum(1) for part, where in parts])


def by_rows(points: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of points (N, D) with those of their labels (N,)."""
    rows = max(1, CHUNK // points.shape[1])
    return zip(torch.split(points, rows), torch.split(labels, rows), strict=True)
