"""Data on which self-training learns within seconds: blobs in an arrangement, among stray ones."""

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32
# Centres in half sides, widths in half sides, and colours of the blobs that belong together.
_CENTRES = np.array(
    [[-0.5, -0.45], [0.5, -0.45], [0.0, -0.05], [-0.4, 0.45], [0.4, 0.45], [0.0, -0.6]]
)
_WIDTHS = np.array([0.09, 0.09, 0.13, 0.08, 0.08, 0.1])
_COLOURS = np.array([[1, 1, 1], [1, 1, 1], [1, 0.9, 0], [0, 0, 0], [0, 0, 0], [0, 0.2, 1]])
BLOBS = len(_CENTRES)


def write_constellations(folder: Path, seed: int = 0, **counts: int) -> dict[str, Any]:
    """Write images and annotations, and give the settings of the data.

    Args:
        folder: where to write.
        seed: of all that is drawn.
        counts: images of the splits, ``train``, ``val`` and ``test``.
    """
    generator = np.random.default_rng(seed)
    for split, count in counts.items():
        rows = []
        for number in range(count):
            image, points = _drawn(generator)
            name = f"{split}_{number}.png"
            cv2.imwrite(str(folder / name), image[..., ::-1])
            rows.append([name, *points.ravel().tolist()])
        with (folder / f"{split}.csv").open("w", newline="") as file:
            names = [f"{axis}{k}" for k in range(BLOBS) for axis in "xy"]
            csv.writer(file).writerows([["image", *names], *rows])
    annotations = {split: f"{split}.csv" for split in counts}
    return {
        "name": "folder",
        "root": str(folder),
        "annotations": annotations,
        "preprocess": {"size": SIDE, "fit": "squash"},
    }


def _drawn(generator: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """An image (SIDE, SIDE, 3) and the pixels (BLOBS, 2) of its blobs."""
    angle, scale = np.radians(generator.normal(0, 8)), np.exp(generator.normal(0, 0.08))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centres = (
        _CENTRES @ turn.T + generator.normal(0, 0.1, 2) + generator.normal(0, 0.03, (BLOBS, 2))
    )
    strays = generator.integers(1, 4)
    where = np.concatenate([generator.uniform(-0.95, 0.95, (strays, 2)), centres])
    width = np.concatenate([generator.uniform(0.06, 0.12, strays), _WIDTHS * scale])
    colour = np.concatenate([generator.uniform(0, 1, (strays, 3)), _COLOURS])
    image = 0.5 + generator.normal(0, 0.02, (SIDE, SIDE, 3))
    axis = (2 * np.arange(SIDE) + 1) / SIDE - 1
    for (x, y), sigma, tint in zip(where, width, colour, strict=True):
        near = np.exp(-((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * sigma**2))
        image += near[..., None] * (tint - image)
    pixels = (centres + 1) * SIDE / 2 - 0.5
    return np.uint8(np.clip(image, 0, 1) * 255 + 0.5), pixels  # type: ignore[return-value]
