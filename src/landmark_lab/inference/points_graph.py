"""Named points once more, as tensor operations that an exported model carries within it.

Convention: points are (x, y) in [-1, 1] of the square images that the method sees.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from landmark_lab.inference.named_points import NamedPoints


class NamedPointsGraph(nn.Module):
    """The same as :class:`NamedPoints`, which says what is calculated; to be exported.

    Args:
        points: the named points.
    """

    weights: Tensor
    bias: Tensor
    fill: Tensor
    usual_square: Tensor
    usual_score: Tensor
    share: Tensor
    moves: Tensor

    def __init__(self, points: NamedPoints) -> None:
        super().__init__()
        landmarks, named = points.weights.shape[1] // 2, points.weights.shape[2] // 2
        share = np.abs(points.weights[0]).reshape(landmarks, 2, named, 2).sum((1, 3))
        total = share.sum(0)
        arrays = {
            "weights": points.weights,
            "bias": points.bias[:, None],
            "fill": points.fill[:, None],
            "usual_square": points.usual_error**2,
            "usual_score": np.where(points.usual_score > 0, points.usual_score, np.inf),
            "share": np.divide(share, total, where=total > 0, out=np.zeros_like(share)),
            "moves": total > 0,
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.array(array)), persistent=False)
        self.tolerance = points.tolerance

    def forward(self, landmarks: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """The named points of images.

        Args:
            landmarks: (N, K, 2), NaN where not found.
            score: (N, K), 0 where not found.

        Returns:
            Points (N, P, 2) float64, NaN where none can be given; and scores (N, P).
        """
        rows = landmarks.double().flatten(1)
        filled = torch.where(rows.isnan(), self.fill, rows)
        guesses = filled @ self.weights + self.bias
        guesses = guesses.reshape(*guesses.shape[:2], -1, 2)
        points, without = guesses[0], guesses[1:]
        spread = (without - without.mean(0)).square().sum(3).sum(0) * (1 - 1 / without.shape[0])
        error = torch.maximum(self.usual_square, spread)
        relative = (score.double() / self.usual_score).clamp(max=1)
        found = torch.where(self.moves, relative @ self.share, 1.0)
        certain = (1 - torch.exp(-(self.tolerance**2) / error)) * found
        lost = points.isnan().any(-1) | (score == 0).all(1, keepdim=True)
        return points.masked_fill(lost[..., None], torch.nan), certain.masked_fill(lost, 0)
