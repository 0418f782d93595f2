"""A small data set, a method and warps that have no names, so that no registry knows them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landmark_lab.data.results import Predictions, Provenance, SplitPredictions
from landmark_lab.data.sampling import Images, Row
from landmark_lab.geometry.affine import AffineWarp
from landmark_lab.geometry.warp import IdentityWarp, Warp
from landmark_lab.optimisation import Adam, Constant
from landmark_lab.roles import ImageData, Method, Pair, Split, WarpGenerator
from landmark_lab.seeding import BatchDraw, rng

SIZE = 32
POINTS = 3


class DotImages(Images):
    """Images with one red, one green and one blue dot, not too close to the edges."""

    def __init__(self, split: str, count: int) -> None:
        self.split, self.count = split, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Row:
        generator = rng(0, self.split, index)
        points = generator.uniform(-0.5, 0.5, (POINTS, 2)).astype(np.float32)
        grid = (np.arange(SIZE) * 2 + 1) / SIZE - 1
        x, y = np.meshgrid(grid, grid)
        blobs = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / 0.02) for px, py in points]
        return {
            "image": np.round(255 * np.stack(blobs, -1)).astype(np.uint8),
            "points": points,
            "visible": generator.random(POINTS) < 0.9,
            "box": np.array([-0.5, -0.5, 0.5, 0.5], np.float32),
            "identity": np.int64(index // 2),
        }


class Dots(ImageData):
    """The data set of these images."""

    plugin_name = "dots"
    point_names = ("red", "green", "blue")
    normaliser = (0, 1)
    flip = (0, 2, 1)

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.counts = dict(counts or {"train": 11, "test": 7})

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "dots", "counts": self.counts}

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"points", "visible", "box", "identity"})

    @property
    def size(self) -> int:
        return SIZE

    def images(self, split: Split) -> Images:
        return DotImages(split, self.counts.get(split, 0))


class Finder(Method):
    """Finds the middle of each colour, some parameter away from it."""

    plugin_name = "finder"

    def __init__(self, offset: float = 0.0, lose: float = -1.0) -> None:
        super().__init__({}, Adam(), Constant())
        self.offset = torch.nn.Parameter(torch.tensor(offset))
        self.lose = lose

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "finder", "lose": self.lose}

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        return {}

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert not self.training
        assert not torch.is_grad_enabled()
        grid = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
        mass = images.sum((2, 3))
        x = (images.sum(2) * grid).sum(-1) / mass
        y = (images.sum(3) * grid).sum(-1) / mass
        points = torch.stack([x, y], -1) + self.offset
        return points, (points[..., 0] > self.lose).float()


class Spotter(Method):
    """Finds some of the dots, unordered: how many is a function of the image."""

    plugin_name = "spotter"
    spec = {"name": "spotter"}  # type: ignore[assignment] # noqa: RUF012

    def __init__(self) -> None:
        super().__init__({}, Adam(), Constant())
        self.finder = Finder()

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        return {}

    def keypoints(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        points, _ = self.finder.landmarks(images)
        score = torch.ones(len(images), POINTS)
        label = torch.arange(POINTS).expand(len(images), -1)
        lost = (images.sum((1, 2, 3)) * 1000).long() % (POINTS + 1)
        gone = torch.arange(POINTS) < lost[:, None]
        return points.masked_fill(gone[..., None], torch.nan), score.masked_fill(gone, 0), label


class Turns(WarpGenerator):
    """Turns about the middle."""

    plugin_name = "turns"
    spec = {"name": "turns"}  # type: ignore[assignment] # noqa: RUF012

    def draw(self, draw: BatchDraw, size: tuple[int, int]) -> tuple[Warp, Warp]:
        angle = 0.2 * draw.normal()
        rows = [torch.stack([angle.cos(), -angle.sin()], -1)]
        rows.append(torch.stack([angle.sin(), angle.cos()], -1))
        matrix = torch.cat([torch.stack(rows, 1), torch.zeros(draw.count, 2, 1)], -1)
        return IdentityWarp(draw.count), AffineWarp(matrix)


class Views(Turns):
    """The same turns as views."""

    plugin_name = "views"
    spec = {"name": "views"}  # type: ignore[assignment] # noqa: RUF012

    def draw(self, draw: BatchDraw, size: tuple[int, int]) -> tuple[Warp, Warp]:
        same, turn = super().draw(draw, size)
        return turn, same


def provenance(names: int, size: int = 64, **changes: Any) -> Provenance:
    """The provenance of made-up predictions."""
    values: dict[str, Any] = {
        "method": {"name": "made up"},
        "data": {"name": "made up"},
        "checkpoint": None,
        "seed": 0,
        "size": size,
        "point_names": [f"p{i}" for i in range(names)],
        "flip": None,
        "normaliser": [0, 1],
        "warps": None,
        "limits": {},
        "version": "0",
        "date": "2025-01-01T00:00:00+00:00",
        "format": 1,
    }
    return Provenance(**(values | changes))


def predictions(landmarks: Any, points: Any, **changes: Any) -> Predictions:
    """Predictions with the given (train, test) landmarks and points, every point visible."""
    splits = {}
    for split, found, truth in zip(("train", "test"), landmarks, points, strict=True):
        found, truth = np.asarray(found, np.float32), np.asarray(truth, np.float32)
        splits[split] = SplitPredictions(
            np.arange(len(found)),
            found,
            np.ones(found.shape[:2], np.float32),
            truth,
            ~np.isnan(truth).any(-1),
        )
    return Predictions(splits, provenance(np.shape(points[0])[1], **changes))
