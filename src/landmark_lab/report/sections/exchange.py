"""Images made of other images' pixels: what corresponds, shown by what it looks like.

J. Thewlis, S. Albanie, H. Bilen, A. Vedaldi, chapter 7 of J. Thewlis, "Objects from Motion", DPhil
thesis, Oxford 2018. Figure 1: every patch of an average face is replaced by one with a similar
vector from another image. And equation 3 with pixels in place of vectors: what lies at u is rebuilt
as the sum over the places v of another image of what lies there times p(v|u).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.geometry.points import pixel_grid, to_pixels
from landmark_lab.losses.correspondence import best_matches, vectors_at
from landmark_lab.report.blocks import Block, Picture, Pictures, Section
from landmark_lab.report.context import Context
from landmark_lab.report.frames import Frames
from landmark_lab.report.pictures import data_uri
from landmark_lab.seeding import rng

_AVERAGED = 48  # images, at most
_WORK = 1e9  # probabilities that are computed for the average, at most
_REBUILT = 5
_PATCHES = 8  # of a side
_SURE = 0.2  # certainty from which a patch is replaced
_AT_A_TIME = 2**22  # probabilities held at once


def exchange(context: Context) -> Section | None:
    """A typical image rebuilt from others, their aligned average, and one made of patches."""
    frames = context.frames
    if frames is None or len(frames) < 3:
        return None
    cells = frames.vectors.shape[-2] * frames.vectors.shape[-1]
    count = int(np.clip(_WORK / cells**2, len(frames), _AVERAGED))
    index = context.spread(frames.split, count)
    images = np.stack([context.image(frames.split, i) for i in index.tolist()])
    vectors = context.embed(images)
    typical = frames.typical
    aligned = rebuild(frames, typical, images, vectors).mean(0)
    name = f"image {frames.index[typical]}"
    averages = [
        _picture(images.astype(np.float64).mean(0), "The plain average", "Plain average"),
        _picture(aligned, f"The average, aligned with {name}", "Aligned average"),
        _picture(
            patched(frames, typical, aligned, images, vectors, context.experiment.seed),
            f"Patches of other images in the places of those of {name}",
            "Patches of other images",
        ),
    ]
    shown = [i for i, one in enumerate(index.tolist()) if one != frames.index[typical]]
    shown = [shown[i] for i in np.linspace(0, len(shown) - 1, _REBUILT).round().astype(int)]
    rebuilt = rebuild(frames, typical, images[shown], vectors[shown], reach=1)
    groups = [
        [
            Picture(data_uri(images[i]), f"{frames.split} image {index[i]}"),
            _picture(made, f"{name} rebuilt from the pixels of image {index[i]}"),
        ]
        for i, made in zip(shown, rebuilt, strict=True)
    ]
    goal = [
        Picture(data_uri(frames.images[typical]), f"The image to be rebuilt, {name}"),
        _picture(rebuilt.mean(0), f"Mean of the {len(shown)} rebuilt ones"),
    ]
    blocks: list[Block] = [
        Pictures(
            [[average] for average in averages],
            f"{len(images)} images. Aligned: every image is first rebuilt in the pose of {name}. "
            f"Patches: for each vector of a grid on {name}, one of the images in which it is found "
            "most surely; mean colours are those of the average.",
            size="three",
        ),
        Pictures(
            [goal, *groups],
            f"First {name} and the mean of its copies; then each image and what its pixels make of "
            f"{name}.",
            size="medium",
            title="One image from another's pixels",
        ),
    ]
    lead = (
        "Pixels of other images, put where their vectors fit. If vectors mean the same in all "
        "images, the aligned average is sharper than the plain one, and patches make a whole "
        "object; noise, or the same patch in many places, means that they do not."
    )
    return Section("exchange", "Made of other images", lead, blocks)


@torch.no_grad()
def rebuild(
    frames: Frames, row: int, images: NDArray[np.uint8], vectors: Tensor, reach: int = 0
) -> NDArray[np.float64]:
    """An image made of the pixels of each other image (equation 3).

    A cell of the map stands for the pixels that it covers, so that the pictures are sharper than
    the map where the probability has one peak.

    Args:
        frames: holds the image.
        row: of the image.
        images: (M, S, S, 3), the others.
        vectors: (M, C, h, w), theirs.
        reach: cells that come along with each cell on every side; where they overlap, they are
            mixed, which hides the cells' borders.

    Returns:
        (M, S', S', 3) in 0 to 255; S' is S, made a multiple of the map's side.
    """
    height, width = vectors.shape[-2:]
    factor = max(round(images.shape[1] / height), 1)
    size = (height * factor, width * factor)
    pixels = torch.from_numpy(images).movedim(-1, 1).float()
    pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    side = factor * (2 * reach + 1)
    shape: dict[str, Any] = {"kernel_size": side, "stride": factor, "padding": reach * factor}
    ramp = torch.hann_window(side + 2, periodic=False)[1:-1] if reach else torch.ones(side)
    window = (ramp[:, None] * ramp).flatten()[None, :, None]
    share = F.fold(window.expand(1, -1, height * width), size, **shape)
    queries = frames.vectors[row].flatten(1).T[None]
    step = max(1, _AT_A_TIME // (height * width))
    rebuilt = []
    for keys, picture in zip(vectors.flatten(2).mT, pixels, strict=True):
        content = F.unfold(picture[None], **shape)[0].T  # (hw, 3 side²)
        parts = [
            frames.similarity(queries[:, i : i + step], keys[None])[0].softmax(-1) @ content
            for i in range(0, height * width, step)
        ]
        patches = torch.cat(parts).T.reshape(3, -1, height * width) * window
        rebuilt.append(F.fold(patches.flatten(0, 1), size, **shape) / share[0])
    made: NDArray[np.float64] = torch.stack(rebuilt).movedim(1, -1).double().numpy()
    return made


@torch.no_grad()
def patched(
    frames: Frames,
    row: int,
    canvas: NDArray[np.float64],
    images: NDArray[np.uint8],
    vectors: Tensor,
    seed: int,
) -> NDArray[np.float64]:
    """A picture with every patch replaced by one of a random image (figure 1).

    The patches get the mean colours of those that they replace: people and light differ, and what
    is to be seen is whether shapes fit together.

    Args:
        frames: holds the image whose vectors are looked for.
        row: of the image.
        canvas: (S', S', 3) the picture in the pose of this image.
        images: (M, S, S, 3) from which the patches come.
        vectors: (M, C, h, w) of these.
        seed: of the choice among the images in which the vector fits best.
    """
    side, step = images.shape[1] // _PATCHES, canvas.shape[0] // _PATCHES
    points = pixel_grid(_PATCHES, _PATCHES)
    queries = vectors_at(frames.vectors[row][None], points[None], interpolate=True)
    queries = queries.expand(len(images), -1, -1)
    places, scores = best_matches(queries, vectors, frames.similarity, refine=True)
    places = to_pixels(places, *images.shape[1:3])
    best = scores.argsort(0, descending=True)[: max(len(images) // 4, 1)]
    draws = rng(seed, "patches of the report").integers(len(best), size=len(points))
    picture = canvas[: step * _PATCHES, : step * _PATCHES].copy()
    sure = vectors_at(frames.certainty[row][None, None], points[None])[0, :, 0] > _SURE
    for k, draw in enumerate(draws.tolist()):
        if not sure[k]:  # beside the object there is nothing to be found
            continue
        image = int(best[draw, k])
        x, y = places[image, k].tolist()
        top, left = k // _PATCHES * step, k % _PATCHES * step
        patch = cv2.resize(cv2.getRectSubPix(images[image], (side, side), (x, y)), (step, step))
        place = picture[top : top + step, left : left + step]
        place += (patch - patch.mean((0, 1))) - (place - place.mean((0, 1)))
    return picture


def _picture(colours: NDArray[np.float64], alt: str, label: str = "") -> Picture:
    return Picture(data_uri(colours.round().clip(0, 255).astype(np.uint8)), alt, label=label)
