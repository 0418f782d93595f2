"""Thinning detected points: none too close to a better one, and spread evenly.

Convention: points are (x, y) in any isotropic unit; distances are in that unit. Nothing here is
differentiable.
"""

from __future__ import annotations

import torch
from scipy.spatial import KDTree
from torch import Tensor

# Rows of a distance matrix that are kept at once.
_ROWS = 1024


def separated(points: Tensor, scores: Tensor, distance: float) -> Tensor:
    """Greedy non-maximum suppression of points: which to keep, (N,) bool.

    From the best point down, a point is kept if no kept one is closer than ``distance``; of equally
    good ones the first comes first.

    Args:
        points: (N, 2).
        scores: (N,), larger is better.
        distance: least distance of two kept points; at 0 all are kept.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = points[order]
    near = KDTree(ranked.cpu().numpy()).query_pairs(distance, output_type="ndarray")
    better, worse = torch.from_numpy(near).to(points.device).sort(1).values.unbind(1)
    closer = (ranked[better] - ranked[worse]).norm(dim=1) < distance  # the tree's is "or equal"
    better, worse = better[closer], worse[closer]
    undecided = torch.ones_like(scores, dtype=torch.bool)
    kept = torch.zeros_like(undecided)
    # Every point whose better neighbours are all decided is decided at once: few passes, and the
    # same result as one by one.
    while undecided.any():
        winners = undecided.clone()
        winners[worse[undecided[better]]] = False
        kept |= winners
        undecided &= ~winners
        undecided[worse[winners[better]]] = False
    keep = torch.empty_like(kept)
    keep[order] = kept
    return keep


def suppression_radii(points: Tensor, scores: Tensor, robustness: float = 0.9) -> Tensor:
    """The distance of each point to the nearest clearly better one, (N,); infinite without one.

    M. Brown, R. Szeliski, S. Winder, "Multi-image matching using multi-scale oriented patches",
    CVPR 2005, adaptive non-maximal suppression: r_i = min |x_i - x_j| over the j with
    f(x_i) < c f(x_j). Exact, O(N²) in time and O(N) in memory.

    Args:
        points: (N, 2).
        scores: (N,), positive, larger is better.
        robustness: c, in (0, 1]: how much better another point must be to count.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked, score = points[order], scores[order]
    radii = points.new_full(score.shape, torch.inf)
    for first in range(0, len(order), _ROWS):
        end = min(first + _ROWS, len(order))
        # No point is clearly better than one that stands before it.
        distance = torch.cdist(ranked[first:end], ranked[:end], compute_mode=_EXACTLY)
        better = score[first:end, None] < robustness * score[:end]
        radii[first:end] = torch.where(better, distance, torch.inf).amin(1)
    result = torch.empty_like(radii)
    result[order] = radii
    return result


def spread(points: Tensor, scores: Tensor, most: int, robustness: float = 0.9) -> Tensor:
    """The points with the largest suppression radii: good ones, evenly spread over the image.

    Args:
        points: (N, 2).
        scores: (N,), positive, larger is better.
        most: how many to take.
        robustness: see :func:`suppression_radii`.

    Returns:
        The rows of at most ``most`` points, the best first.
    """
    radii = suppression_radii(points, scores, robustness)
    ranked = scores.argsort(descending=True, stable=True)
    # Of points with equal radii, such as all whom nothing suppresses, the better ones.
    taken = ranked[radii[ranked].argsort(descending=True, stable=True)[:most]]
    return taken[scores[taken].argsort(descending=True, stable=True)]


# The faster form by a matrix product is off by the coordinates' rounding, squared.
_EXACTLY = "donot_use_mm_for_euclid_dist"
