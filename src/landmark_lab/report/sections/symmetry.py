"""The plane of symmetry and the axis of rotation of an object, drawn on images of it.

J. Thewlis, H. Bilen, A. Vedaldi, "Modelling and unsupervised learning of symmetric deformable
object categories", NeurIPS 2018: plane and axis are where the symmetry leaves the vectors in place
(equation 5; figures 1, 5, 7, 8 and 9).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_lab.geometry.points import from_pixels
from landmark_lab.losses.correspondence import best_matches, vectors_at
from landmark_lab.report.blocks import Block, Mark, Picture, Pictures, Section, Stroke
from landmark_lab.report.charts import level_lines
from landmark_lab.report.context import Context
from landmark_lab.report.frames import Frames
from landmark_lab.report.pictures import data_uri
from landmark_lab.roles import Symmetry

_SHOWN = 5  # images with partners
_JOINED = 14  # points that are joined with their partners
_SURE = 0.3  # certainty from which a line is drawn
_SHORTEST = 0.25  # of a line, in half images
_STEEP = 0.1  # by which the two sides of a plane differ, 2 or 3 cells away
_ON_AXIS = 0.3  # sine of the angle to the axis, below which it is seen


def symmetry(context: Context) -> Section | None:
    """The learned plane or axis over the images, and points joined with their mirror partners."""
    frames = context.frames
    method: object = context.method
    if frames is None or not isinstance(method, Symmetry):
        return None
    if frames.mirrored is None and method.turns == 1:
        return None
    axes: list[Mark | None] = [None] * len(frames)
    if method.turns > 1:
        distance = method.symmetry(context.pixels(frames.images))
        axes = [axis(distance[row], frames.certainty[row]) for row in range(len(frames))]
    pictures = []
    for row, index in enumerate(frames.index.tolist()):
        drawn: list[Mark | Stroke] = [] if frames.mirrored is None else [*plane(frames, row)]
        cross = axes[row]
        if cross is not None:
            drawn.append(cross)
        said = "with its symmetry" if drawn else "without a symmetry found"
        pictures.append([Picture(data_uri(frames.images[row]), f"Image {index} {said}", drawn)])
    if frames.mirrored is None:
        lead = (
            f"The cross is where all {method.turns} turns of the object leave the vectors in "
            "place: its axis. It should sit on one part of the object in all images; without a "
            "cross no axis was found."
        )
        return Section("symmetry", "Symmetry", lead, [Pictures(pictures)])
    lead = (
        "Green: where the mirror image leaves the vectors in place, the learned plane of symmetry. "
        "It should cut the object in its two halves, also when it is turned or bent."
    )
    blocks: list[Block] = [Pictures(pictures)]
    joined = [
        [Picture(data_uri(frames.images[row]), f"Partners on image {frames.index[row]}", marks)]
        for row in range(len(frames))
        if (marks := partners(frames, row, context.landmarks))
    ]
    caption = (
        "Points (dots) and where the method finds their left-right partners (rings), by the "
        "reflected vectors. Lines that do not cross the middle join a point with itself or with "
        "a wrong part."
    )
    blocks.append(Pictures(joined[:_SHOWN], caption, size="medium"))
    return Section("symmetry", "Symmetry", lead, blocks)


def plane(frames: Frames, row: int) -> list[Stroke]:
    """The lines on an image at which the vectors change from one side to the other."""
    assert frames.mirrored is not None
    across = torch.linalg.eigh(frames.mirrored)[1][:, 0]  # what the reflection turns round
    side = torch.einsum("chw,c->hw", F.normalize(frames.vectors[row], dim=0), across)
    # Elsewhere noise around zero gives lines, too.
    high = F.max_pool2d(side[None], 5, 1, 2)[0]
    low = -F.max_pool2d(-side[None], 5, 1, 2)[0]
    known = (frames.certainty[row] > _SURE) & (torch.minimum(high, -low) > _STEEP)
    lines = level_lines(side.double().numpy(), known.numpy())
    placed = [from_pixels(torch.from_numpy(line), *side.shape).numpy() for line in lines]
    return [
        Stroke([(float(x), float(y)) for x, y in line])
        for line in placed
        if np.linalg.norm(np.diff(line, axis=0), axis=1).sum() > _SHORTEST
    ]


def axis(distance: Tensor, certainty: Tensor) -> Mark | None:
    """A cross at the cell (h, w) closest to the axis, if one is close enough."""
    height, width = distance.shape
    # A single cell may be there by chance.
    smooth = F.avg_pool2d((distance + 1 - certainty)[None], 3, 1, 1, count_include_pad=False)[0]
    row, column = divmod(int(smooth.argmin()), width)
    if distance[row, column] > _ON_AXIS or certainty[row, column] < _SURE:
        return None
    x, y = from_pixels(torch.tensor([float(column), float(row)]), height, width).tolist()
    return Mark("cross", x, y, role="axis", size=7)


def partners(frames: Frames, row: int, first: int) -> list[Mark]:
    """Points on an image, each with a line to its partner; numbered from ``first`` on."""
    assert frames.mirrored is not None
    points = frames.some_points(row, _JOINED)
    maps = frames.vectors[row][None]
    reflected = vectors_at(maps, points[None], interpolate=True) @ frames.mirrored.T
    found = best_matches(reflected, maps, frames.similarity, refine=True)[0][0]
    drawn = []
    for k, ((x, y), (u, v)) in enumerate(zip(points.tolist(), found.tolist(), strict=True), first):
        if np.isfinite(x):
            drawn += [
                Mark("line", x, y, k, size=1.4, end=(u, v)),
                Mark("dot", x, y, k, size=3),
                Mark("ring", u, v, k, size=3.6),
            ]
    return drawn
