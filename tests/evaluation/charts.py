"""Pictures whose colours are coordinates on the object, and a method that reads them.

So every correspondence is known. Red and green are the place (x, y) on an object that is moved
from image to image; its points are always at the same places on it.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.sampling import Images, Row
from landmark_lab.losses.correspondence import best_matches, vectors_at
from landmark_lab.optimisation import Adam, Constant
from landmark_lab.roles import ImageData, Method, Pair, Split
from landmark_lab.seeding import rng

SIZE = 32
REACH = 1.5  # places on the object that a colour can stand for
PLACES = np.array([[-0.4, -0.3], [0.4, -0.3], [0.0, 0.0], [-0.3, 0.4], [0.3, 0.4]])
NAMES = ("left eye", "right eye", "nose", "left mouth", "right mouth")


class ChartImages(Images):
    """Two images of each individual; the last point of every third image is hidden."""

    def __init__(self, split: str, count: int) -> None:
        self.split = split
        self.count = count
        self.identity = np.arange(count) // 2

    def __len__(self) -> int:
        return self.count

    def shift(self, index: int) -> NDArray[np.float64]:
        return rng(0, self.split, index).uniform(-0.3, 0.3, 2)

    def __getitem__(self, index: int) -> Row:
        grid = (np.arange(SIZE) * 2 + 1) / SIZE - 1
        x, y = np.meshgrid(grid, grid)
        shift = self.shift(index)
        place = np.stack([x - shift[0], y - shift[1], np.zeros_like(x)], -1)
        visible = np.ones(len(PLACES), bool)
        visible[-1] = index % 3 > 0
        return {
            "image": np.round(255 * (place + REACH) / (2 * REACH)).astype(np.uint8),
            "points": (PLACES + shift).astype(np.float32),
            "visible": visible,
            "identity": np.int64(index // 2),
        }


class Charts(ImageData):
    """The data set of these images."""

    plugin_name = "charts"
    point_names = NAMES
    flip = (1, 0, 2, 4, 3)

    def __init__(self, test: int = 13, train: int = 9) -> None:
        super().__init__()
        self.counts = {"train": train, "test": test}

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "charts", **self.counts}

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"points", "visible", "identity"})

    @property
    def size(self) -> int:
        return SIZE

    def images(self, split: Split) -> Images:
        return ChartImages(split, self.counts.get(split, 0))


class Bare(Charts):
    """The same without annotation."""

    plugin_name = "bare"
    point_names = ()
    flip = None
    provides = frozenset()  # type: ignore[assignment]

    def images(self, split: Split) -> Images:
        return BareImages(split, self.counts.get(split, 0))


class BareImages(ChartImages):
    """Only pictures."""

    def __getitem__(self, index: int) -> Row:
        return {"image": super().__getitem__(index)["image"]}


class Reader(Method):
    """Every pixel's vector is its place on the object, turned and moved.

    Its reflection is right where it is neither turned nor moved.
    """

    plugin_name = "reader"
    layers = ("place",)
    mirror = True

    def __init__(self, turn: float = 0.0, move: float = 0.0, lost: float = 9.0) -> None:
        super().__init__({}, Adam(), Constant())
        angle = torch.tensor(turn)
        rows = [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
        self.frame = torch.nn.Parameter(torch.stack(rows))
        self.move, self.lost = move, lost

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "reader"}

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        return {}

    def embedding(self, images: Tensor, layer: str | None = None) -> Tensor:
        assert not self.training
        place = images[:, :2] * 2 * REACH - REACH
        return torch.einsum("ij,bjhw->bihw", self.frame, place) + self.move

    def similarity(self, source: Tensor, target: Tensor) -> Tensor:
        return -1000 * torch.cdist(source, target).square()

    def correspond(self, source: Tensor, target: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        vectors = vectors_at(self.embedding(source), points)
        found, score = best_matches(vectors, self.embedding(target), self.similarity)
        return found, score * (points[..., 0] < self.lost)

    def reflect(self, vectors: Tensor) -> Tensor:
        return vectors * torch.tensor([-1.0, 1.0])
