"""Images projected on the label space: the unfolded sphere, or the plane of two dimensions.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object frames by dense equivariant image
labelling", NeurIPS 2017, figures 4, 5 and 7.

Convention: on the unfolded sphere longitude runs from left to right and latitude upwards; in its
middle lies the place towards the viewer, see ``report/frames.py``.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.report.blocks import Block, Picture, Pictures, Section
from landmark_lab.report.context import Context
from landmark_lab.report.frames import Frames, colours
from landmark_lab.report.pictures import data_uri

_SHOWN = 6
_EMPTY = 136  # grey
# Widths in pixels over which neighbours close a hole, and how near they must be, as a share of the
# mean weight of a cell.
_BLURS = (0.8, 2.0, 4.0)
_ENOUGH = 0.08


def unfolded(context: Context) -> Section | None:
    """Several images on the label space, the mean of all, and the space in its colours."""
    frames = context.frames
    if frames is None or frames.dimension not in (2, 3):
        return None
    sphere = frames.dimension == 3
    where = "unfolded sphere" if sphere else "plane of labels"
    ratio = 2 if sphere else 1
    maps = [project(frames, row) for row in range(len(frames))]
    strips = [
        Picture(
            data_uri(np.concatenate([frames.images[row], _filled(*maps[row])], axis=1)),
            f"Image {frames.index[row]} and its pixels on the {where}",
            ratio=1 + ratio,
        )
        for row in range(min(_SHOWN, len(frames)))
    ]
    total = _filled(*(np.sum(part, axis=0) for part in zip(*maps, strict=True)))
    key = f"The {where} in its colours"
    mean = f"Mean of {len(maps)} images"
    whole = [
        Picture(data_uri(total), f"{mean} on the {where}", label=mean, ratio=ratio),
        Picture(data_uri(_key(frames)), key, label="Colours", ratio=ratio),
    ]
    lead = (
        f"Every pixel put where its vector points on the {where}"
        + (" (longitude to the right, latitude upwards)" if sphere else "")
        + ". All images should give the same picture, so their mean should be sharp; a blurred "
        "mean says that the same part has different places in different images."
    )
    blocks: list[Block] = [
        Pictures([[one] for one in whole], size="wide" if sphere else "large"),
        Pictures([[strip] for strip in strips], size="wide"),
    ]
    return Section("unfolded", "Images on the " + where, lead, blocks)


def project(frames: Frames, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An image's pixels collected in the cells of the label space.

    Returns:
        Sums of colours (H, W, 3) and of weights (H, W): a pixel counts by its certainty, and is
        shared among the four cells around its place.
    """
    places, certainty = frames.large(row)
    side = places.shape[0]
    if frames.dimension == 3:
        height, width = side, 2 * side
        longitude = torch.atan2(places[..., 0], places[..., 2]) / math.pi
        latitude = places[..., 1].clamp(-1, 1).asin() * (2 / math.pi)
    else:
        height, width = side, side
        # The length of two-dimensional labels is their certainty: it is shown as the radius.
        longitude, latitude = (certainty * places[..., i] / 1.05 for i in (0, 1))
    column = (longitude + 1) * width / 2 - 0.5
    line = (1 - latitude) * height / 2 - 0.5
    weight = certainty.square() + 1e-6
    colour = torch.from_numpy(frames.images[row]).double()
    values = torch.cat([colour, torch.ones(side, side, 1)], -1) * weight[..., None].double()
    sums = torch.zeros(height * width, 4, dtype=torch.float64)
    for below in (0, 1):
        for right in (0, 1):
            y, x = line.floor() + below, column.floor() + right
            share = (1 - (line - y).abs()) * (1 - (column - x).abs())
            cell = y.long().clamp(0, height - 1) * width + x.long().remainder(width)
            sums.index_add_(0, cell.flatten(), (values * share[..., None]).flatten(0, 1))
    found = sums.view(height, width, 4).numpy()
    return found[..., :3], found[..., 3]


def _filled(colour: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A picture of sums (H, W, 3) and (H, W): small holes closed, grey where nothing is near."""
    enough = _ENOUGH * weight.sum() / weight.size
    picture = np.full((*weight.shape, 3), _EMPTY, np.float64)
    known = np.zeros(weight.shape, bool)
    for width in _BLURS:
        near = cv2.GaussianBlur(weight, (0, 0), width)
        new = ~known & (near > enough)
        mean = cv2.GaussianBlur(colour, (0, 0), width)[new] / near[new, None]
        picture[new] = mean
        known |= new
    return picture.round().clip(0, 255).astype(np.uint8)


def _key(frames: Frames) -> NDArray[np.uint8]:
    """The label space in its colours."""
    side = frames.images.shape[1]
    if frames.dimension == 2:
        y, x = torch.meshgrid(-centres(side), centres(side), indexing="ij")
        radius = torch.hypot(x, y)
        places = torch.stack([x, y, torch.zeros_like(x)], -1) / radius.clamp_min(1e-9)[..., None]
        picture = colours(places, radius.clamp(max=1), flat=True)
        picture[(radius > 1).numpy()] = _EMPTY
        return picture
    latitude, longitude = torch.meshgrid(
        -centres(side) * math.pi / 2, centres(2 * side) * math.pi, indexing="ij"
    )
    along = latitude.cos()
    directions = (along * longitude.sin(), latitude.sin(), along * longitude.cos())
    return colours(torch.stack(directions, -1))


def centres(count: int) -> Tensor:
    """The middles of so many equal parts of [-1, 1]."""
    return (torch.arange(count) * 2 + 1) / count - 1
