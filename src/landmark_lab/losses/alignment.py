"""Alignment: landmarks of two images that a warp relates must correspond (equivariance).

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object landmarks by factorized spatial
embeddings", ICCV 2017, equations 5 and 6. There x' = x∘g: the target shows at v what the source
shows at g(v), so g is ``Warp.to_source``. Equation 5 is printed with g the wrong way round; it is
Φ(x) − g(Φ(x')), as in equation 6.

Both losses compare positions in one image; ``points_in_one_image`` and ``cells_in_one_image`` bring
them there by the warp's exact direction: into the source for splines (the paper's case) and affine
warps, into the target for flows.

Units: that of the positions, squared. The paper's weights belong to pixels of the score map.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

import torch
from torch import Tensor

from landmark_lab.geometry.points import Size, pixel_grid
from landmark_lab.geometry.warp import TO_SOURCE, Warp
from landmark_lab.losses.precision import precise


def point_alignment(first: Tensor, second: Tensor) -> Tensor:
    """Equation 5: the mean squared distance between two sets of landmarks.

    Args:
        first: landmarks (B, K, 2) of one image.
        second: landmarks (B, K, 2) of the other, brought into the same image.

    Returns:
        A scalar, the mean over images and landmarks.
    """
    return (precise(first) - precise(second)).square().sum(-1).mean()


def map_alignment(
    first: Tensor, second: Tensor, first_positions: Tensor, second_positions: Tensor
) -> Tensor:
    """Equation 6: the expected squared distance between two landmarks, in linear time.

    E|u − w|² = E|u|² + E|w|² − 2 E[u]·E[w], where u and w = g(v) are drawn independently from the
    probability maps of the two images. It is zero only for maps that are concentrated in one cell
    each, at corresponding positions: unlike ``point_alignment`` it also asks for sharp maps.

    Cells whose counterpart lies outside the other image count like all others, as in the paper.

    Args:
        first: probability maps (B, K, H, W) of one image.
        second: probability maps (B, K, H', W') of the other, of any size.
        first_positions: where the cells of the first maps are, (B or 1, H·W, 2), row-major.
        second_positions: where the cells of the second maps are, (B or 1, H'·W', 2), in the same
            image and unit. Float32 or float64: the three terms cancel in less.

    Returns:
        A scalar, the mean over images and landmarks.
    """
    first_mean, first_square = _moments(first, first_positions)
    second_mean, second_square = _moments(second, second_positions)
    return (first_square + second_square - 2 * (first_mean * second_mean).sum(-1)).mean()


def points_in_one_image(warp: Warp, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Bring landmarks of both images into one of them; differentiable.

    Args:
        warp: B maps from the source to the target images.
        source: landmarks (B, K, 2) of the source images.
        target: landmarks (B, K, 2) of the target images.

    Returns:
        The landmarks of the source and of the target, (B, K, 2) each, in one image.

    Raises:
        ValueError: the warp has no exact direction; a numerical one would not serve a gradient.
    """
    if not warp.exact:
        raise ValueError(f"{type(warp).__name__} is exact in no direction; align maps instead")
    if TO_SOURCE in warp.exact:
        return source, warp.to_source(target)
    return warp.to_target(source), target


def cells_in_one_image(warp: Warp, source_size: Size, target_size: Size) -> tuple[Tensor, Tensor]:
    """Bring the cells of the score maps of both images into one of the images.

    Args:
        warp: B maps from the source to the target images.
        source_size: (H, W) of the source's maps.
        target_size: (H', W') of the target's maps.

    Returns:
        The positions of the source's cells, (B or 1, H·W, 2), and of the target's,
        (B or 1, H'·W', 2), in one image; row-major.
    """
    if TO_SOURCE in warp.exact or not warp.exact:
        moved = warp.source_grid(target_size).flatten(1, 2)
        return _cells(source_size, warp)[None], moved
    moved = warp.target_grid(source_size).flatten(1, 2)
    return moved, _cells(target_size, warp)[None]


def _cells(size: Size, warp: Warp) -> Tensor:
    return pixel_grid(*size, device=warp.device, dtype=warp.dtype)


def _moments(maps: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """E[u] (B, K, 2) and E|u|² (B, K) of the positions u under probability maps.

    Sums of products and no matrix product: that may run in TF32 or, under autocast, in half
    precision, where the terms of equation 6 no longer cancel. Nothing of the maps' size is kept
    for the backward pass either, as the positions need no gradient.
    """
    probability = precise(maps).flatten(2)
    x, y = precise(positions).unsqueeze(1).unbind(-1)
    mean = torch.stack([(probability * x).sum(-1), (probability * y).sum(-1)], -1)
    return mean, (probability * (x * x + y * y)).sum(-1)
