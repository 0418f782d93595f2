"""Heat-map regression: Gaussians at the keypoints as targets, and the squared error of a map.

D. Mallis, PhD thesis: equation 5.1, one map with all keypoints of
an image; equations 5.4 and section 6.1.7, one map a cluster, the clusters without a keypoint in the
image left out.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; the cells
of a map are pixels of a small image. Sizes of Gaussians are in cells.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from landmark_lab.geometry.points import Size, inside, to_pixels
from landmark_lab.losses.precision import precise


@dataclass(frozen=True)
class Gaussian:
    """The mark exp(−d² / (2 sigma²)) of height 1 that stands for a keypoint.

    ``Gaussian(0.75, 3)`` is the 3×3 mark of the published second stage: 0.41 beside the middle and
    0.17 at the corners. d is measured from the point itself, not from its cell's centre as in
    public code, so the quarter-cell refinement of a pseudo-label is not thrown away.

    Args:
        sigma: standard deviation in cells; above 0.
        side: the mark covers side × side cells around the point's cell; odd. None: as many as
            3 sigma reach to.
    """

    sigma: float = 1.0
    side: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise ValueError(f"sigma {self.sigma}; allowed: finite, above 0")
        if self.side is not None and (self.side < 1 or self.side % 2 == 0):
            raise ValueError(f"side {self.side}; allowed: an odd number, at least 1, or None")

    @property
    def reach(self) -> int:
        """How many cells the mark goes beyond the point's cell, along both axes."""
        if self.side is not None:
            return self.side // 2
        return int(-(-3 * self.sigma // 1))


DEFAULT_MARK = Gaussian()


@torch.no_grad()
def gaussian_target(points: Tensor, size: Size, mark: Gaussian = DEFAULT_MARK) -> Tensor:
    """One map with all keypoints of an image; where their marks overlap, the larger value.

    Args:
        points: (B, M, 2). A point that is NaN or outside the image leaves no mark.
        size: height and width of the map.
        mark: what a keypoint looks like.

    Returns:
        (B, 1, h, w) in [0, 1], at least float32.
    """
    return _drawn(points, size, mark, channels=1)


@torch.no_grad()
def channel_target(points: Tensor, size: Size, mark: Gaussian = DEFAULT_MARK) -> Tensor:
    """One map a landmark: see ``gaussian_target``.

    Args:
        points: (B, K, 2). A point that is NaN or outside the image has a map of zeros.
        size: height and width of the maps.
        mark: what a landmark looks like.

    Returns:
        (B, K, h, w) in [0, 1], at least float32.
    """
    return _drawn(points, size, mark, channels=points.shape[1])


def heatmap_regression(predicted: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """The squared error of a map, the mean over its cells and over the maps that count.

    The papers print the sum over the cells, and public code takes their mean; the papers' weights
    and learning rates belong to the mean. Across processes it is the mean of each process's own.

    Args:
        predicted: (B, K, h, w).
        target: (B, K, h, w).
        mask: (B, K) boolean: the maps that count. The others get no gradient, NaN included.

    Returns:
        A scalar; 0 if no map counts.
    """
    predicted, target = precise(predicted), precise(target)
    if mask is None:
        return (predicted - target).square().mean()
    # Chosen before the difference: a masked NaN must not come back as 0 · NaN in the gradient.
    kept = torch.where(mask[..., None, None], predicted, target)
    each = (kept - target).square().mean((2, 3))
    return each.sum() / mask.sum().clamp_min(1)


def _drawn(points: Tensor, size: Size, mark: Gaussian, channels: int) -> Tensor:
    """The marks of points (B, M, 2) in one map or in M maps.

    Only the cells around the points are computed, and the largest value of a cell is gathered, so
    nothing of the size B × M × h × w is made for one map.
    """
    images, (height, width) = len(points), size
    here = inside(points)
    centre = to_pixels(precise(torch.where(here[..., None], points, 0)), height, width)
    steps = torch.arange(-mark.reach, mark.reach + 1, device=points.device)
    # (B, M, side) columns and rows of the cells of each mark, and how high it is along each axis.
    cells = [axis.round().long()[..., None] + steps for axis in centre.unbind(-1)]
    (x, y), (column, row) = centre[..., None].unbind(-2), cells
    across = torch.exp(-((column - x) ** 2) / (2 * mark.sigma**2))
    down = torch.exp(-((row - y) ** 2) / (2 * mark.sigma**2))
    across = across * ((column >= 0) & (column < width)) * here[..., None]
    down = down * ((row >= 0) & (row < height))
    values = down[..., :, None] * across[..., None, :]
    index = (
        row.clamp(0, height - 1)[..., :, None] * width + column.clamp(0, width - 1)[..., None, :]
    )
    drawn = values.new_zeros(images, channels, height * width)
    # Marks of one image share a map, or each has its own.
    shape = (images, channels, -1)
    drawn.scatter_reduce_(2, index.reshape(shape), values.reshape(shape), "amax")
    return drawn.view(images, channels, height, width)


def keypoint_regression(maps: Tensor, points: Tensor, mark: Gaussian) -> Tensor:
    """The squared error of maps of all keypoints of an image and the marks of these (eq. 5.1).

    Args:
        maps: (B, 1, h, w).
        points: (B, M, 2). A point that is NaN or outside the image leaves no mark.
        mark: what a keypoint looks like.

    Returns:
        A scalar, see :func:`heatmap_regression`.
    """
    return heatmap_regression(maps, gaussian_target(points, (maps.shape[-2], maps.shape[-1]), mark))


LANDMARK_MARK = Gaussian(0.75, 3)
"""The mark of the detectors of landmarks, 3×3 cells as in public code."""


def landmark_regression(maps: Tensor, points: Tensor) -> Tensor:
    """The squared error of the maps of known landmarks and their marks (eq. 5.4, §6.1.7).

    Args:
        maps: (B, K, h, w).
        points: (B, K, 2), NaN where a landmark is not known. One outside the image does not count.

    Returns:
        A scalar, see :func:`heatmap_regression`.
    """
    target = channel_target(points, (maps.shape[-2], maps.shape[-1]), LANDMARK_MARK)
    return heatmap_regression(maps, target, inside(points))
