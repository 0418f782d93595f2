"""Heat maps averaged over transformations of an image at test time.

Data distillation (D. Mallis, PhD thesis, section 4.2.3, after
I. Radosavovic et al., "Data distillation: towards omni-supervised learning", 2018): the maps of
several views of an image, brought back and averaged, keep what is found in all of them. Flip
averaging (section 6.1.8) is the same for landmarks that change their names when an image is
mirrored.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; the cells
of a map are pixels of a small image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from landmark_lab.geometry.affine import AffineWarp, similarity
from landmark_lab.geometry.points import Size
from landmark_lab.geometry.warp import Padding, Warp

Network = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) to maps (B, C, h, w) whose cells tile the image."""


@torch.no_grad()
def distil(
    network: Network, images: Tensor, warps: Sequence[Warp], padding: Padding = "reflection"
) -> Tensor:
    """The maps of several views of each image, seen from the image, and averaged.

    A cell's value is the mean over the views that show it; one that no view shows is 0.

    Args:
        network: is called once for each view, with all images.
        images: (B, 3, H, W).
        warps: from the image to each view, B maps each; at least one. Only maps whose channels mean
            the same in every view may be averaged: with mirrors one map of unnamed keypoints.
        padding: what a view shows beyond the image's edges; best as in training.

    Returns:
        (B, C, h, w), at least float32.

    Raises:
        ValueError: no warps.
    """
    if not warps:
        raise ValueError("no warps; allowed: at least one, for example the identity")
    parts: list[Tensor] = []
    masks: list[Tensor] = []
    for warp in warps:
        maps = network(warp.apply(images, padding))
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        shown = warp.valid((maps.shape[2], maps.shape[3]), at="source")[:, None].to(maps.dtype)
        # A border cell is read beyond its centre, where zeros would pull it down.
        parts.append(warp.inverse().apply(maps, "border") * shown)
        masks.append(shown)
    return torch.stack(parts).sum(0) / torch.stack(masks).sum(0).clamp_min(1)


def distillation_warps(
    count: int,
    size: Size,
    angles: Sequence[float] = (-20, 0, 20),
    scales: Sequence[float] = (1.0, 1.25),
    mirror: bool = True,
    device: torch.device | str | None = None,
) -> list[Warp]:
    """Rotations, crops and mirror images about the image's centre: all combinations.

    The paper names the kinds, not the numbers. These lie within the range of its training views,
    ±30° and 0.7 to 1.3.

    Args:
        count: images B.
        size: height and width of the images.
        angles: in degrees.
        scales: above 0; above 1 a view shows less, larger: a crop.
        mirror: each of them also left-right mirrored.
        device: where the images are.

    Returns:
        len(angles) · len(scales) warps, twice as many with mirrors.

    Raises:
        ValueError: a scale that is not above 0.
    """
    if not all(scale > 0 for scale in scales):
        raise ValueError(f"scales {list(scales)}; allowed: above 0")
    one = torch.ones(count, device=device)
    centre = torch.zeros(count, 2, device=device)
    warps: list[Warp] = []
    for angle in angles:
        for scale in scales:
            matrix = similarity(one * math.radians(angle), one * scale, centre, size)
            warps.append(AffineWarp(matrix))
            if mirror:
                warps.append(AffineWarp(matrix * matrix.new_tensor([[-1.0], [1.0]])))
    return warps


@torch.no_grad()
def flip_average(network: Network, images: Tensor, partners: Tensor) -> Tensor:
    """The maps of an image and of its mirror image, averaged, with left and right exchanged.

    Args:
        network: is called twice.
        images: (B, 3, H, W).
        partners: (K,) int64, which landmark each one is in a mirrored image; an involution.

    Returns:
        (B, K, h, w).
    """
    mirrored = network(images.flip(-1)).flip(-1)
    return (network(images) + mirrored.index_select(1, partners)) / 2
