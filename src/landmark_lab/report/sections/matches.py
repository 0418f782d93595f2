"""Points of one image found in others by their vectors.

J. Thewlis, S. Albanie, H. Bilen, A. Vedaldi, chapter 7 of J. Thewlis, "Objects from Motion", DPhil
thesis, Oxford 2018, section 4.1.
"""

from __future__ import annotations

import numpy as np
import torch

from landmark_lab.losses.correspondence import best_matches, vectors_at
from landmark_lab.report.blocks import Mark, Picture, Pictures, Section
from landmark_lab.report.context import Context
from landmark_lab.report.frames import Frames
from landmark_lab.report.pictures import data_uri

_MATCHED = 14  # points
_TARGETS = 6


def matches(context: Context) -> Section | None:
    """A typical image beside others, matched points joined by lines."""
    frames = context.frames
    if frames is None or len(frames) < 2:
        return None
    source = frames.typical
    targets = [row for row in range(len(frames)) if row != source][:_TARGETS]
    pictures = [
        Picture(
            data_uri(np.concatenate([frames.images[source], frames.images[target]], axis=1)),
            f"Image {frames.index[source]} and image {frames.index[target]} with matched points",
            matched(frames, source, target, context.landmarks),
            ratio=2,
        )
        for target in targets
    ]
    lead = (
        "Points of the left image, and where their vectors fit best in the right one (dots, joined "
        "by lines): the same part of another individual or pose. Lines that cross the others, and "
        "several that end at one place, are wrong."
    )
    if frames.points.shape[1]:
        lead += " Rings: where the annotation has the point of that colour."
    shown = Pictures([[picture] for picture in pictures], size="wide")
    return Section("matches", "Matches between images", lead, [shown])


def matched(frames: Frames, source: int, target: int, first: int) -> list[Mark]:
    """Points of an image (left) joined with their matches in another (right).

    Args:
        frames: holds both.
        source, target: their rows.
        first: number of the first point: each has a colour of its own.
    """
    points = frames.some_points(source, _MATCHED)
    queries = vectors_at(frames.vectors[source][None], points[None], interpolate=True)
    maps = frames.vectors[target][None]
    found = best_matches(queries, maps, frames.similarity, refine=True)[0][0]
    truth = torch.full_like(points, torch.nan)
    if frames.points.shape[1]:
        truth = frames.some_points(target, _MATCHED)
    drawn = []
    rows = zip(points.tolist(), found.tolist(), truth.tolist(), strict=True)
    for k, ((x, y), (u, v), (s, t)) in enumerate(rows, first):
        drawn.append(Mark("ring", s + 1, t, k, size=4.2))
        if np.isfinite(x):
            drawn += [
                Mark("line", x - 1, y, k, size=1.0, end=(u + 1, v)),
                Mark("dot", x - 1, y, k, size=3),
                Mark("dot", u + 1, v, k, size=3),
            ]
    return drawn
