"""Smooth L1: squared for small differences, absolute for large ones, over known points only.

R. Girshick, "Fast R-CNN", ICCV 2015, equation 3. The published regressors of annotated points from
embeddings are trained with it, on coordinates in [-1, 1], where every difference of theirs counts
as small: they are least squares in fact. ``transition`` says what is small.

Convention: any coordinates, the same for both arguments.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def smooth_l1(
    predicted: Tensor, points: Tensor, counted: Tensor, transition: float = 1.0
) -> Tensor:
    """Mean over the counted points and both axes of d²/2t for |d| < t, of |d| − t/2 beyond.

    Args:
        predicted: (B, P, 2).
        points: (B, P, 2), anything where a point does not count.
        counted: (B, P) bool.
        transition: t, above 0, in the units of the points.

    Returns:
        A scalar in the units of the points, at least float32; 0 if nothing counts.
    """
    predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    # Set before the loss and not masked after it: the gradient of 0 · NaN is NaN.
    target = torch.where(counted[..., None], points.to(predicted.dtype), predicted.detach())
    total = F.smooth_l1_loss(predicted, target, reduction="sum", beta=transition)
    return total / (2 * counted.sum()).clamp_min(1)
