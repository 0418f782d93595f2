"""The discovered landmarks on many test images, each in one colour throughout the page."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from landmark_lab.report.blocks import Block, Legend, Mark, Picture, Pictures, Section, plural
from landmark_lab.report.context import Context
from landmark_lab.report.pictures import SPLITS
from landmark_lab.roles import Split

_SHOWN = 30


def landmarks(context: Context) -> Section | None:
    """Numbered examples that serve as the legend, and images from all over the test split."""
    count = context.landmarks
    if not count:
        return None
    split, index, found = _found(context)
    typical = context.typical(split, index, found)
    chosen = np.unique(np.linspace(0, len(index) - 1, min(_SHOWN, len(index))).round().astype(int))
    examples = [
        Picture(
            context.picture(split, int(index[row])),
            f"{count} numbered landmarks on {split} image {index[row]}",
            marks(found[row], numbered=True),
        )
        for row in dict.fromkeys((typical, _unlike(found, typical)))
    ]
    many = [
        Picture(
            context.picture(split, int(index[row])),
            f"Landmarks on {split} image {index[row]}",
            marks(found[row], size=3.2 if count > 15 else 4),
        )
        for row in chosen
    ]
    lead = (
        f"{plural(count, 'landmark')}, each with the same number and colour on every image of this "
        "page: it should sit on the same part of the object. Point at one, or pick it below, to "
        "follow it alone."
    )
    blocks: list[Block] = [
        Pictures([[example] for example in examples], size="large"),
        Legend(range(count)),
    ]
    if context.data is not None:
        caption = (
            f"{len(many)} images at equal distances in the {split} split; the method saw them in "
            f"{context.size} px."
        )
        blocks.append(Pictures([[picture] for picture in many], caption))
    return Section("landmarks", "Discovered landmarks", lead, blocks)


def marks(
    points: NDArray[np.floating], size: float = 3.4, numbered: bool = False
) -> Sequence[Mark]:
    """A dot for each landmark (K, 2) that was found, in its colour."""
    return [
        Mark("dot", float(x), float(y), k, label=str(k) if numbered else "", size=size)
        for k, (x, y) in enumerate(points)
        if np.isfinite(x) and np.isfinite(y)
    ]


def _unlike(points: NDArray[np.floating], row: int) -> int:
    """The row of (N, K, 2) whose points moved away from those of another by more than most."""
    moved = np.nan_to_num(np.linalg.norm(points - points[row], axis=-1)).mean(1)
    return int(moved.argsort(kind="stable")[int(0.8 * (len(moved) - 1))])


def _found(context: Context) -> tuple[Split, NDArray[np.int64], NDArray[np.floating]]:
    """The split, the positions of its images (N,), and their landmarks (N, K, 2)."""
    if context.predictions is not None:
        splits = context.predictions.splits
        split = next(name for name in SPLITS if name in splits)
        return split, splits[split].index, splits[split].landmarks
    # Of an unfinished run: asked of its latest checkpoint.
    split = next(name for name in SPLITS if len(context.images(name)))
    last = len(context.images(split)) - 1
    index = np.unique(np.linspace(0, last, _SHOWN).round().astype(np.int64))
    images = np.stack([context.image(split, i) for i in index.tolist()])
    return split, index, context.find(images)
