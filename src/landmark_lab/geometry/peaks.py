"""Peaks of score maps: non-maximum suppression, thresholds, quarter-cell refinement.

Self-training on keypoints reads its detections off a map (D. Mallis, "Unsupervised discovery of
object landmarks", equation 4.1): a cell is one where it is the largest of its neighbourhood and
larger than a threshold. Everything is batched, stays on the maps' device, has shapes that depend on
the arguments alone, and never waits for the GPU. Nothing is differentiable.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; the cells
of a map are pixels of a small image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_lab.geometry.points import Size, from_pixels


@torch.no_grad()
def peaks(maps: Tensor, radius: int, threshold: float, most: int) -> tuple[Tensor, Tensor]:
    """The highest peaks of each map.

    A cell is a peak where no cell of the (2 radius + 1)² around it is larger, and none that is
    equal comes before it in row-major order: on a plateau the first cell remains. So two peaks are
    more than ``radius`` cells apart along an axis. Greedy suppression, which goes from the largest
    cell to the smallest, keeps these and more: the cells just outside another peak's neighbourhood,
    on its slope, that are the maximum of nothing. The two agree where every cell above the
    threshold lies within ``radius`` of a peak.

    Args:
        maps: (..., h, w). A NaN is no peak.
        radius: of the suppression, in cells; 0 suppresses nothing.
        threshold: peaks are strictly larger; at least 0.
        most: how many to return of each map.

    Returns:
        Points (..., most, 2) and scores (..., most), the values of the peaks' cells, largest first;
        equal ones in row-major order. Where there are fewer peaks, NaN and 0.

    Raises:
        ValueError: a negative radius or threshold, or ``most`` below 1.
    """
    _check_threshold(threshold)
    if radius < 0 or most < 1:
        raise ValueError(f"radius {radius}, most {most}; allowed: at least 0, at least 1")
    height, width = maps.shape[-2:]
    values = _precise(maps).reshape(-1, 1, height, width)
    # The pooling names the first cell that attains the maximum: the plateau's tie is broken.
    side = 2 * radius + 1
    _, first = F.max_pool2d(values, side, stride=1, padding=radius, return_indices=True)
    cells = torch.arange(height * width, device=maps.device).view(height, width)
    found = (first == cells).view(maps.shape) & (maps > threshold)
    flat = values.flatten(1)
    ranked = flat.masked_fill(~found.reshape(flat.shape), -torch.inf)
    scores, index = ranked.sort(stable=True, descending=True)
    if most > height * width:
        missing = (0, most - height * width)
        scores, index = F.pad(scores, missing, value=-torch.inf), F.pad(index, missing)
    scores, index = scores[:, :most], index[:, :most]
    points, scores = _located(flat, index, scores > -torch.inf, (height, width))
    return points.view(*maps.shape[:-2], most, 2), scores.view(*maps.shape[:-2], most)


@torch.no_grad()
def channel_peaks(maps: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    """The largest cell of each map, refined, where it exceeds a threshold.

    Args:
        maps: (..., h, w); usually (B, K, h, w), one map a landmark.
        threshold: a peak is strictly larger; at least 0.

    Returns:
        Points (..., 2) and scores (...,), the largest cell's value; the first of equal cells.
        Where it does not exceed the threshold or is NaN: NaN and 0.

    Raises:
        ValueError: a negative threshold.
    """
    _check_threshold(threshold)
    height, width = maps.shape[-2:]
    flat = _precise(maps).reshape(-1, height * width)
    index = flat.argmax(-1, keepdim=True)
    found = flat.gather(-1, index) > threshold
    points, scores = _located(flat, index, found, (height, width))
    return points.view(*maps.shape[:-2], 2), scores.view(maps.shape[:-2])


def _located(flat: Tensor, index: Tensor, found: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Points (L, N, 2) and scores (L, N) of the cells (L, N) of maps (L, h·w).

    A point lies a quarter of a cell from its cell's centre, along each axis towards the larger of
    the two neighbours; at a border cell, which has one neighbour along that axis, at the centre.
    """
    height, width = size
    row, column = index.div(width, rounding_mode="floor"), index % width
    x = column + 0.25 * _slope(flat, index, 1, (column > 0) & (column < width - 1))
    y = row + 0.25 * _slope(flat, index, width, (row > 0) & (row < height - 1))
    points = from_pixels(torch.stack([x, y], -1), height, width)
    scores = flat.gather(-1, index)
    return torch.where(found[..., None], points, torch.nan), torch.where(found, scores, 0)


def _slope(flat: Tensor, index: Tensor, step: int, between: Tensor) -> Tensor:
    """The sign of the difference of the neighbours ``step`` cells on and back, 0 at a border."""
    last = flat.shape[-1] - 1
    after = flat.gather(-1, (index + step).clamp(max=last))
    before = flat.gather(-1, (index - step).clamp(min=0))
    return torch.where(between, (after - before).sign(), 0)


def _precise(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _check_threshold(threshold: float) -> None:
    if not threshold >= 0:
        raise ValueError(f"threshold {threshold}; allowed: at least 0, the score of no peak")
