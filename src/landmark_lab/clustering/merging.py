"""Progressive merging of clusters: detectors that fire in the same places are one landmark.

D. Mallis, "Unsupervised Landmark Discovery via Self-Training Correspondence", PhD thesis, 2023,
sections 5.2.2 and 5.3.2. Clusters are many more than landmarks, and each has a detector (a channel)
of its own. Two detectors that fire at one place of an image look at the same features there. If
that is so for 70 % of the points of the one that fires in fewer images, it is merged into the
other: the points of both are one cluster, and this goes on until no two overlap so much.

Channels are neither removed nor resized. Which landmark a channel stands for is a vector: the
number of the channel that it was merged into, its own number if it was not.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

CELL = 2 / 64
"""The published radius, one cell of a 64×64 map, in half sides."""

# Points lie at quarters of cells, so that they often are a radius apart but for rounding.
_ROUNDING = 1 + 1e-4


@dataclass(frozen=True)
class Merge:
    """One step of a merging.

    Attributes:
        absorbed: the channel that stands for no landmark of its own any more.
        into: the channel that it was merged into.
        share: of the absorbed channel's points that overlapped.
        found: images in which the absorbed channel had fired.
    """

    absorbed: int
    into: int
    share: float
    found: int


def overlaps(points: Tensor, found: Tensor, radius: float = CELL) -> Tensor:
    """In how many images two channels fire within a radius of each other.

    Args:
        points: (N, M, 2) where each channel fired; of no meaning where it did not.
        found: (N, M) bool, where it fired.
        radius: in half sides; Euclidean.

    Returns:
        (M, M) int64, symmetric; the diagonal is the number of images in which a channel fired.
    """
    # A channel at a time: (N, M, M) would be large for many images and many channels.
    channels = range(points.shape[1])
    if not channels:
        return found.new_zeros(0, 0, dtype=torch.int64)
    return torch.stack([_close_to(points, found, m, radius) for m in channels])


def merge(
    points: Tensor, found: Tensor, share: float = 0.7, radius: float = CELL
) -> tuple[Tensor, list[Merge]]:
    """Merge channels that overlap, the pair with the largest share first.

    Of two channels the one that fired in fewer images is absorbed. The merged channel has its own
    point in an image where it fired, else the absorbed one's. A channel that never fired overlaps
    with none.

    Args:
        points: (N, M, 2), see :func:`overlaps`.
        found: (N, M) bool.
        share: of the smaller channel's points that must overlap, in (0, 1].
        radius: see :func:`overlaps`.

    Returns:
        The channel that each channel ended in, (M,) int64, and what was merged, in order.
    """
    if not (0 < share <= 1 and radius >= 0):
        raise ValueError(f"share {share}, radius {radius}; allowed: above 0 to 1, 0 or more")
    points, found = points.clone(), found.clone()
    landmark = torch.arange(points.shape[1], device=points.device)
    history: list[Merge] = []
    close = overlaps(points, found, radius)
    while close.numel():
        counts = close.diagonal()
        # In double precision 7 of 10 are 70 %.
        shares = close.double() / torch.minimum(counts, counts[:, None]).clamp(min=1)
        shares.fill_diagonal_(0)
        best = int(shares.argmax())
        pair = divmod(best, len(counts))
        value = float(shares[pair])
        if value < share:
            break
        # argmax gives the smaller number first: of two that fired equally often it stays.
        into, absorbed = pair if counts[pair[0]] >= counts[pair[1]] else pair[::-1]
        history.append(Merge(absorbed, into, value, int(counts[absorbed])))
        own = found[:, into, None]
        points[:, into] = torch.where(own, points[:, into], points[:, absorbed])
        found[:, into] |= found[:, absorbed]
        found[:, absorbed] = False
        landmark[landmark == absorbed] = into
        for channel in (absorbed, into):
            close[channel] = close[:, channel] = _close_to(points, found, channel, radius)
    return landmark, history


def _close_to(points: Tensor, found: Tensor, channel: int, radius: float) -> Tensor:
    """In how many images each channel fires near one of them, (M,)."""
    distance = torch.linalg.vector_norm(points - points[:, channel, None], dim=-1)
    close: Tensor = (distance <= radius * _ROUNDING) & found & found[:, channel, None]
    return close.sum(0)
