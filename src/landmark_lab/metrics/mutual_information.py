"""Normalised mutual information of two ways to label the same things.

With the contingency table n (how many things have label k in the one and p in the other), and the
probabilities that it stands for::

    NMI = I(K; P) / ((H(K) + H(P)) / 2)

1 where each label tells the other one, 0 where none tells anything. More clusters than points do
not rule out a high value, but lower it. D. Mallis, PhD thesis, Nottingham 2023, section 5.4.2:
between the clusters of keypoints and the annotated points that they are nearest to. scikit-learn's
``normalized_mutual_info_score`` is the same number of two lists of labels; this one takes the
table, so that resampled images need not be counted again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landmark_lab.metrics.rows import RowMetric


def contingency(first: Tensor, second: Tensor) -> Tensor:
    """How often every two labels come together.

    Args:
        first, second: (T,) int64 labels from 0; where one is negative, both are left out.

    Returns:
        (K, P) float64, K and P being the largest labels plus one.
    """
    both = (first >= 0) & (second >= 0)
    first, second = first[both], second[both]
    if len(first) == 0:
        return torch.zeros(0, 0, dtype=torch.float64, device=first.device)
    rows, columns = int(first.max()) + 1, int(second.max()) + 1
    counts = torch.bincount(first * columns + second, minlength=rows * columns)
    return counts.double().reshape(rows, columns)


def normalised_mutual_information(table: Tensor) -> Tensor:
    """The NMI of contingency tables.

    Args:
        table: (..., K, P) counts or weights, not negative.

    Returns:
        (...) in [0, 1]; 1 where both sides have one label only, NaN for an empty table.
    """
    table = table.double()
    total = table.sum((-2, -1), keepdim=True)
    joint = table / total
    first, second = joint.sum(-1), joint.sum(-2)
    # x log x is taken to be 0 at 0.
    entropies = [-torch.special.xlogy(p, p).sum(-1) for p in (first, second)]
    together = -torch.special.xlogy(joint, joint).sum((-2, -1))
    mean = (entropies[0] + entropies[1]) / 2
    shared = (entropies[0] + entropies[1] - together).clamp(min=0)
    nmi = torch.where(mean > torch.finfo(mean.dtype).eps, shared / mean, 1.0).clamp(max=1)
    return nmi.masked_fill(total[..., 0, 0] == 0, torch.nan)


class NormalisedMutualInformation(RowMetric):
    """:func:`normalised_mutual_information` over batches and processes, each image counted once."""

    higher_is_better = True
    is_differentiable = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(("first", "second"), **settings)

    def update(self, first: Tensor, second: Tensor, index: Tensor) -> None:
        """Add a batch.

        Args:
            first, second: (B, N) int64 labels of the same things, -1 for none; N is the same in all
                batches.
            index: (B,) position of each image in its split.
        """
        self.keep(index, first=first, second=second)

    def compute(self) -> Tensor:
        """The NMI over all images seen by all processes."""
        rows = self.rows()
        return normalised_mutual_information(
            contingency(rows["first"].flatten(), rows["second"].flatten())
        )
