"""Negative log-likelihood of annotated points under score maps, one map a point.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object frames by dense equivariant image
labelling", NeurIPS 2017, section 4.1: equation 4 with the annotated points in place of all pixels.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; the cells
of a map are pixels of a small image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_lab.geometry.points import inside


def point_likelihood(scores: Tensor, points: Tensor, counted: Tensor) -> Tensor:
    """Mean over the counted points of −log p(point), p being the softmax of a map over its cells.

    A point lies between cells: log p is interpolated between the four around it, and constant
    beyond the outermost centres.

    Args:
        scores: (B, P, h, w).
        points: (B, P, 2), anything where a point does not count.
        counted: (B, P) bool; a point outside the image never counts.

    Returns:
        A scalar in nats, at least float32; 0 if nothing counts.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    log_p = scores.flatten(2).log_softmax(-1).reshape(-1, 1, *scores.shape[2:])
    counted = counted & inside(points)
    where = torch.where(counted[..., None], points.to(log_p.dtype), 0).reshape(-1, 1, 1, 2)
    found = F.grid_sample(log_p, where, padding_mode="border", align_corners=False)
    return -(found.reshape(counted.shape) * counted).sum() / counted.sum().clamp_min(1)
