"""Images with a red, a green and a blue dot, and a method that finds the middle of each colour."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from landmark_lab.checkpoint import KEY, Card
from landmark_lab.data.annotations import Annotations
from landmark_lab.data.preprocess import Preprocess
from landmark_lab.files import save_checkpoint
from landmark_lab.optimisation import Adam, Constant
from landmark_lab.roles import Method, Pair
from landmark_lab.seeding import rng

SQUARE = Preprocess(size=64)
NAMES = ("middle", "tip")


class DotFinder(Method):
    """Finds the middle of each colour."""

    plugin_name = "dot_finder"

    def __init__(self) -> None:
        super().__init__({}, Adam(), Constant())
        self.register_buffer("unused", torch.zeros(1))

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        return {}

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert not self.training
        assert not torch.is_grad_enabled()
        assert images.shape[1] == 3
        height, width = images.shape[2:]
        mass = images.sum((2, 3))
        x = (images.sum(2) * ((torch.arange(width) * 2 + 1) / width - 1)).sum(-1) / mass
        y = (images.sum(3) * ((torch.arange(height) * 2 + 1) / height - 1)).sum(-1) / mass
        return torch.stack([x, y], -1), (mass > 1).float() * 0.8


class Blind(Method):
    """Finds nothing."""

    plugin_name = "blind"

    def __init__(self) -> None:
        super().__init__({}, Adam(), Constant())

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        return {}


def save_method(
    path: Path, preprocess: Preprocess | None = SQUARE, method: str = "dot_finder"
) -> Path:
    """A checkpoint of one of these methods."""
    state = {"unused": torch.zeros(1)} if method == "dot_finder" else {}
    card = Card(
        method={"name": method},
        data={"name": "dots"},
        size=64 if preprocess is None else preprocess.size,
        preprocess=None if preprocess is None else asdict(preprocess),
        point_names=[],
        seed=0,
        stage="train",
    )
    save_checkpoint({KEY: asdict(card), "state_dict": state, "epoch": 0}, path)
    return path


def dots(seed: int, size: tuple[int, int] = (120, 90), lost: Sequence[int] = ()) -> Any:
    """An image (H, W, 3) uint8 and its dots (3, 2) in pixels, of which some may not be drawn."""
    width, height = size
    places = rng(seed, "dots").uniform(0.3, 0.7, (3, 2)) * (width, height)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    image = np.zeros((height, width, 3))
    for colour, (px, py) in enumerate(places):
        if colour not in lost:
            image[..., colour] = np.exp(-((x - px) ** 2 + (y - py) ** 2) / 18)
    return np.round(255 * image).astype(np.uint8), places


def named(places: np.ndarray) -> np.ndarray:
    """The points that a person would have annotated: linear in the dots."""
    return np.stack([places[:2].mean(0), places[2] + (0.5 * (places[0] - places[1]))])


def save_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return path


def save_video(path: Path, images: Sequence[np.ndarray], rate: float = 20) -> Path:
    size = images[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    for image in images:
        writer.write(np.ascontiguousarray(image[:, :, ::-1]))
    writer.release()
    return path


def annotated_images(
    folder: Path, count: int, first: int = 0, missing: Mapping[int, Sequence[int]] | None = None
) -> Annotations:
    """Images in a folder with their named points; some of an image may be unknown."""
    names, points = [], []
    for number in range(first, first + count):
        image, places = dots(number)
        names.append(f"{number:03d}.png")
        save_image(folder / names[-1], image)
        points.append(named(places))
        for point in (missing or {}).get(number, ()):
            points[-1][point] = np.nan
    known = np.array(points)
    return Annotations(tuple(names), known, ~np.isnan(known).any(-1), NAMES, source="dots")
