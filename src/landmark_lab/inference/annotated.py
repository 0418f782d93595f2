"""Annotated images as a predictor sees them.

Convention: annotations are in pixels of the original images; ``points`` are (x, y) in
[-1, 1] of the square images that the method sees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.data.annotations import Annotations
from landmark_lab.data.annotations.locate import locate
from landmark_lab.data.preprocess import Placement, Preprocess
from landmark_lab.errors import DataError
from landmark_lab.files import read_image
from landmark_lab.metrics.nme import box_side, pair_distance, points_box
from landmark_lab.seeding import rng

Floats = NDArray[np.float64]

Normaliser = Literal["box", "points", "image"] | tuple[int, int]
"""What an error is divided by: the distance of two points; √(w·h) of the object's box, of the box
around its points, or of the image."""


@dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """N images with annotated points.

    Attributes:
        annotations: of these images, in pixels.
        files: the images.
        sizes: (N, 2) their widths and heights in pixels.
        whole: the squares with their surroundings, each (S, S, 3) uint8.
        places: where each image lies on its square.
        points: (N, P, 2) on the square, NaN where unknown.
    """

    annotations: Annotations
    files: tuple[Path, ...]
    sizes: NDArray[np.int64]
    whole: tuple[NDArray[np.uint8], ...]
    places: tuple[Placement, ...]
    points: Floats

    def __len__(self) -> int:
        return len(self.files)

    def in_pixels(self, points: Floats) -> Floats:
        """Points (N, ..., 2) on the squares, in pixels of the original images."""
        return np.stack([p.to_original(own) for p, own in zip(self.places, points, strict=True)])

    def sides(self, normaliser: Normaliser) -> Floats:
        """The normaliser of each image in pixels (N,), NaN where unknown."""
        if normaliser == "image":
            whole: Floats = np.sqrt(self.sizes.prod(1).astype(np.float64))
            return whole
        points = torch.from_numpy(self.annotations.points)
        if normaliser == "points":
            return box_side(points_box(points)).numpy()
        if normaliser == "box":
            box = self.annotations.box
            return (
                np.full(len(self), np.nan)
                if box is None
                else box_side(torch.from_numpy(box)).numpy()
            )
        return pair_distance(points, normaliser).numpy()

    def normaliser(self) -> Normaliser:
        """The first normaliser that the annotation gives for at least one image.

        In this order: its own pair of points, the object's box, the box around the points, the
        image.
        """
        pair = self.annotations.normalise_by
        choices: list[Normaliser] = ["box", "points", "image"] if pair is None else [pair]
        choices += [] if pair is None else ["box", "points", "image"]
        return next(choice for choice in choices if (self.sides(choice) > 0).any())

    def in_words(self, normaliser: Normaliser) -> str:
        """What a normaliser is, for a reader."""
        if isinstance(normaliser, tuple):
            first, second = (self.annotations.names[point] for point in normaliser)
            return f"the distance from {first} to {second}"
        return {
            "box": "√(w·h) of the object's box",
            "points": "√(w·h) of the box around the annotated points",
            "image": "√(w·h) of the image",
        }[normaliser]


def find_images(annotations: Annotations, path: Path, folder: Path | None = None) -> list[Path]:
    """The image files that annotations name.

    Args:
        annotations: read from ``path``.
        path: the file or folder of the annotations.
        folder: where the images lie; by default beside the annotations, or in ``images`` there.

    Raises:
        DataError: there is no such folder, or an image is not there.
    """
    base = path if path.is_dir() else path.parent
    if folder is not None and not folder.is_dir():
        raise DataError("there is no such folder of images", where=str(folder))
    places = [base, base / "images"] if folder is None else [folder, folder / "images"]
    return locate(annotations.images, places, str(path))


def load_annotated(
    annotations: Annotations, files: Sequence[Path], preprocess: Preprocess
) -> AnnotatedImages:
    """Read annotated images; those in which no point is known are left out.

    Args:
        annotations: of N images.
        files: the N image files.
        preprocess: how they become squares.

    Raises:
        DataError: no point is annotated in any image, an image occurs twice, cannot be read, or has
            another size than was annotated, or a point lies far outside it.
    """
    rows = np.flatnonzero(annotations.known.any(1)).tolist()
    if not rows:
        raise DataError("no point is annotated in any image", where=annotations.source)
    chosen = annotations.take(rows)
    kept = tuple(files[row] for row in rows)
    repeated = [str(file) for file, times in Counter(kept).items() if times > 1]
    if repeated:
        raise DataError(
            f"annotates {repeated[0]} several times",
            where=annotations.source,
            allowed="one object in an image, because landmarks are those of one object",
        )
    sizes, whole, places, points = [], [], [], []
    for row, file in enumerate(kept):
        image = read_image(file)
        height, width = image.shape[:2]
        _check_fit(chosen, row, (width, height), file)
        box = None if chosen.box is None else chosen.box[row]
        sizes.append((width, height))
        whole.append(preprocess.with_surroundings(image, box))
        places.append(preprocess.place(width, height, box))
        points.append(places[-1].to_square(chosen.points[row]))
    return AnnotatedImages(
        chosen, kept, np.array(sizes), tuple(whole), tuple(places), np.stack(points)
    )


def _check_fit(annotations: Annotations, row: int, size: tuple[int, int], file: Path) -> None:
    claimed = (0, 0) if annotations.size is None else tuple(annotations.size[row].tolist())
    if all(claimed) and claimed != size:
        raise DataError(
            f"is {size[0]} x {size[1]} pixels, but was annotated at {claimed[0]} x {claimed[1]}",
            where=str(file),
            hint="use the images that were annotated, or scale the annotation",
        )
    half = np.array(size) / 2
    far = (np.abs(annotations.points[row] - half) > 2 * half).any(1)  # NaN compares as False
    if far.any():
        x, y = annotations.points[row][np.argmax(far)]
        raise DataError(
            f"an annotated point ({x:g}, {y:g}) lies far outside the image, which is "
            f"{size[0]} x {size[1]} pixels",
            where=str(file),
            hint="the annotation may belong to another image or size, or have x and y swapped",
        )


def draw_images(annotations: Annotations, count: int, seed: int) -> tuple[list[int], list[int]]:
    """Choose some annotated images at random.

    Args:
        annotations: images without a known point are in neither part.
        count: how many.
        seed: of the choice; fewer images of the same seed are among more of them.

    Returns:
        The rows that were chosen, and the others, both in the order of the file.

    Raises:
        DataError: there are not so many.
    """
    rows = np.flatnonzero(annotations.known.any(1))
    if not 1 <= count <= len(rows):
        raise DataError(
            f"{count} images cannot be chosen",
            where=annotations.source,
            allowed=f"1 to {len(rows)}, the images in which a point is annotated",
        )
    order = rng(seed, "annotated images").permutation(rows)
    return sorted(order[:count].tolist()), sorted(order[count:].tolist())


def reordered(annotations: Annotations, names: Sequence[str]) -> Annotations:
    """The annotations with the points of these names, in this order.

    Flip permutation, skeleton and normaliser, which are about the old order, are left out.

    Raises:
        DataError: a name is missing.
    """
    for name in names:
        if name not in annotations.names:
            raise DataError(
                f"has no point '{name}'",
                where=annotations.source,
                got=name,
                allowed=annotations.names,
                hint="both files must annotate the same points",
            )
    columns = [annotations.names.index(name) for name in names]
    return replace(
        annotations,
        points=annotations.points[:, columns],
        visible=annotations.visible[:, columns],
        names=tuple(names),
        flip=None,
        skeleton=(),
        normalise_by=None,
    )
