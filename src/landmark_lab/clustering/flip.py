"""Which cluster is which in the mirrored image, from how often two clusters meet.

Descriptors of one keypoint are sampled in an image and in its mirror image, and both are assigned
to clusters (D. Mallis, thesis, §6.1.8). The left eye's cluster then meets the right eye's, the
chin's meets itself. Mirroring twice changes nothing, so the partners form an involution: a matching
of clusters in which a cluster may stay alone. Of all such matchings the one is taken that explains
the most keypoints.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array
from torch import Tensor


def partners(labels: Tensor, mirrored: Tensor, k: int) -> Tensor:
    """The cluster that each cluster becomes in the mirrored image.

    Args:
        labels: (T,) int64, cluster of each keypoint, -1 for none.
        mirrored: (T,) int64, cluster of the same keypoint in the mirrored image, -1 if unknown.
        k: number of clusters.

    Returns:
        (k,) int64, on the device of the labels: ``partner[partner] == arange(k)``. A cluster that
        never meets another is its own partner.

    Raises:
        ValueError: labels outside [-1, k), shapes that differ.
    """
    counts = _meetings(labels, mirrored, k)
    alone = counts.diagonal()
    # What a pair explains beyond its two clusters as their own partners; no other pair can help.
    gain = np.triu(counts + counts.T - alone - alone[:, None], 1)
    one, other = (gain > 0).nonzero()
    partner = np.arange(k)
    if len(one):
        # 32 bits: the solver of SciPy 1.14 takes no other indices.
        rows = np.stack([one, other]).astype(np.intc)
        columns = np.arange(len(one), dtype=np.intc)
        member = coo_array(
            (np.ones(2 * len(one)), (rows.ravel(), np.tile(columns, 2))), shape=(k, len(one))
        )
        solved = milp(
            -gain[one, other].astype(float),
            integrality=np.ones(len(one)),
            bounds=(0, 1),
            constraints=LinearConstraint(member.tocsr(), ub=1),
            options={"mip_rel_gap": 0},
        )
        chosen = solved.x > 0.5
        partner[one[chosen]], partner[other[chosen]] = other[chosen], one[chosen]
    return torch.from_numpy(partner).to(labels.device)


def certainty(labels: Tensor, mirrored: Tensor, partner: Tensor) -> Tensor:
    """How certain each partner is: the share of a cluster's keypoints that meet it.

    Args:
        labels, mirrored: as in :func:`partners`.
        partner: (k,) int64.

    Returns:
        (k,) float32 in [0, 1], counting both directions; 0 for a cluster without keypoints.
    """
    k = len(partner)
    counts = _meetings(labels, mirrored, k)
    both = counts + counts.T
    met = both[np.arange(k), partner.cpu().numpy()]
    share = met / np.maximum(both.sum(1), 1)
    return torch.from_numpy(share).to(labels.device, torch.float32)


def _meetings(labels: Tensor, mirrored: Tensor, k: int) -> NDArray[np.int64]:
    """(k, k): how many keypoints of a cluster are in another one in the mirrored image."""
    if labels.shape != mirrored.shape or labels.ndim != 1:
        raise ValueError(
            f"labels {tuple(labels.shape)}, mirrored {tuple(mirrored.shape)}; allowed: (T,) both"
        )
    both = torch.stack([labels, mirrored])
    if both.numel() and not -1 <= int(both.min()) <= int(both.max()) < k:
        raise ValueError(
            f"labels from {int(both.min())} to {int(both.max())}; allowed: from -1 to {k - 1}"
        )
    known = both[:, (both >= 0).all(0)]
    counts = (known[0] * k + known[1]).bincount(minlength=k * k)
    return counts.reshape(k, k).cpu().numpy()
