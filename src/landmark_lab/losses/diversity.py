"""Diversity: different landmarks must fire in different places.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object landmarks by factorized spatial
embeddings", ICCV 2017, equations 7, 8 and the pooled form that follows them:
``max_diversity(sum_pool(maps, m))``.

All take probability maps (B, K, H, W), non-negative and with sum one over the cells, and return
the mean over the images, a number without unit.
"""

import torch.nn.functional as F
from torch import Tensor

from landmark_lab.losses.precision import precise


def overlap_diversity(maps: Tensor) -> Tensor:
    """Equation 7: the mutual overlap of the maps, (1/K²) Σ_r Σ_{r' ≠ r} Σ_u p(u|r) p(u|r').

    The printed sum contains r' = r, which punishes concentrated maps and is never zero; the text
    says that the loss is zero for disjoint supports, so those terms are left out. Written as
    Σ_u ((Σ_r p)² − Σ_r p²) it is linear in K.

    Args:
        maps: probability maps (B, K, H, W).

    Returns:
        A scalar in [0, 1 − 1/K]; zero if and only if no two maps share a cell.
    """
    maps = precise(maps)
    shared = maps.sum(1).square() - maps.square().sum(1)
    return shared.flatten(1).sum(1).mean() / maps.shape[1] ** 2


def max_diversity(maps: Tensor) -> Tensor:
    """Equation 8: the probability that does not count, K − Σ_u max_r p(u|r).

    A landmark whose map is nowhere the largest one receives no gradient from this loss; ties share
    it evenly.

    Args:
        maps: probability maps (B, K, H, W), pooled or not.

    Returns:
        A scalar in [0, K − 1]; zero if and only if no two maps share a cell. With more landmarks
        than cells it cannot become zero.
    """
    maps = precise(maps)  # a small difference of larger numbers
    return maps.shape[1] - maps.amax(1).flatten(1).sum(1).mean()


def sum_pool(maps: Tensor, side: int) -> Tensor:
    """Sum over blocks of side × side cells, which keeps landmarks that far apart.

    Args:
        maps: probability maps (B, K, H, W).
        side: the paper's m. Where it does not divide H or W, the last row and column of blocks
            are smaller (the maps are padded with zeros), so all probability is kept.

    Returns:
        Probability maps (B, K, ⌈H/m⌉, ⌈W/m⌉).
    """
    return F.avg_pool2d(precise(maps), side, ceil_mode=True, divisor_override=1)
