"""Methods with known answers for probes to stand on; they have no names, so they are in no list."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landmark_lab.optimisation import Adam, Constant
from landmark_lab.roles import Method, Pair


class Found(Method):
    """A base of all doubles: nothing to learn, one batch norm that must never move."""

    plugin_name = "found"

    def __init__(self) -> None:
        super().__init__({}, Adam(), Constant())
        self.norm = nn.BatchNorm2d(3, affine=False)

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "found"}

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        return {}


class Colours(Found):
    """An embedding: the image itself at half its size; and its similarity, the inner product."""

    layers: Sequence[str] = ("colours",)

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def embedding(self, images: Tensor, layer: str | None = None) -> Tensor:
        return self.factor * nn.functional.avg_pool2d(self.norm(images), 2)

    def similarity(self, source: Tensor, target: Tensor) -> Tensor:
        return source @ target.mT


class Middles(Found):
    """Landmarks: the middle of each colour; one without any mass is not found."""

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        side = images.shape[-1]
        grid = (torch.arange(side, dtype=images.dtype) * 2 + 1) / side - 1
        mass = images.sum((2, 3))
        x, y = ((images.sum(axis) * grid).sum(-1) / mass for axis in (2, 3))
        return torch.stack([x, y], -1), (mass > 0).to(images.dtype)
