"""Correspondence from embeddings: the vector of a point, its probable and its best match.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object frames by dense equivariant image
labelling", NeurIPS 2017: equation 3 is the probability that pixel v of one image corresponds to
pixel u of another; the best match maximises it. The published way to match keypoints is: the
keypoint's nearest cell, then the best cell of the other image.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; the cells
of a map are pixels of a small image.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_lab.geometry.points import Size, from_pixels, pixel_grid
from landmark_lab.losses.precision import precise, without_autocast

# Similarities held at a time; all of two 64×64 maps are as many.
_AT_A_TIME = 2**24


def vectors_at(maps: Tensor, points: Tensor, interpolate: bool = False) -> Tensor:
    """The vectors at points.

    Args:
        maps: (B, C, h, w).
        points: (B, N, 2); a point outside or NaN gets the vector of some border cell.
        interpolate: bilinearly between the cells; otherwise that of the nearest cell.

    Returns:
        (B, N, C), in the maps' data type.
    """
    values = precise(maps)
    grid = points.nan_to_num(0.0)[:, None].to(values.dtype)
    mode = "bilinear" if interpolate else "nearest"
    with without_autocast(maps):
        found = F.grid_sample(values, grid, mode, padding_mode="border", align_corners=False)
    return found[:, :, 0].mT.to(maps.dtype)


@torch.no_grad()
def best_matches(
    queries: Tensor,
    keys: Tensor,
    similarity: Callable[[Tensor, Tensor], Tensor],
    refine: bool = False,
) -> tuple[Tensor, Tensor]:
    """Where vectors fit best.

    Args:
        queries: vectors (B, N, C).
        keys: the map (B, C, h, w) that they are looked for in.
        similarity: of the method: vectors (B, N, C) and (B, M, C) to (B, N, M).
        refine: move from the best cell's centre to the expected position among the 3×3 cells
            around it; cells at the border have fewer around them.

    Returns:
        Points (B, N, 2), and the probability of the best cell (B, N), equation 3.
    """
    images, count = queries.shape[:2]
    size = (keys.shape[2], keys.shape[3])
    flat = keys.flatten(2).mT
    step = max(1, _AT_A_TIME // (images * flat.shape[1]))
    parts = [
        _best(similarity(queries[:, first : first + step], flat), size, refine)
        for first in range(0, count, step)
    ]
    if not parts:
        return queries.new_empty(images, 0, 2), queries.new_empty(images, 0)
    points, scores = zip(*parts, strict=True)
    return torch.cat(points, 1), torch.cat(scores, 1)


def _best(scores: Tensor, size: Size, refine: bool) -> tuple[Tensor, Tensor]:
    height, width = size
    best, index = scores.max(-1)
    probability = (best - scores.logsumexp(-1)).exp()
    row, column = index.div(width, rounding_mode="floor"), index % width
    if not refine:
        return pixel_grid(height, width, scores.device, scores.dtype)[index], probability
    steps = torch.tensor([-1, 0, 1]).to(scores.device, non_blocking=True)
    rows, columns = row[..., None] + steps, column[..., None] + steps  # (B, N, 3)
    exists = ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[
        ..., None, :
    ]
    around = (
        rows.clamp(0, height - 1)[..., :, None] * width + columns.clamp(0, width - 1)[..., None, :]
    )
    near = scores.gather(-1, around.flatten(-2)).masked_fill(~exists.flatten(-2), -torch.inf)
    share = near.softmax(-1).view(*row.shape, 3, 3)
    x = column + (share.sum(-2) * steps).sum(-1)
    y = row + (share.sum(-1) * steps).sum(-1)
    return from_pixels(torch.stack([x, y], -1), height, width), probability
