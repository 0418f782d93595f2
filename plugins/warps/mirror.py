"""The left-right mirror image."""

from __future__ import annotations

import torch
from torch import Tensor

from landmark_lab.errors import ConfigError
from landmark_lab.geometry.affine import AffineWarp
from landmark_lab.geometry.warp import Warp
from landmark_lab.roles import WarpGenerator
from landmark_lab.seeding import BatchDraw


class MirrorPair(WarpGenerator, name="mirror"):
    """Left-right mirroring of a random part of the images.

    A warp moves points and does not rename them: the left eye of the image is still called the
    left eye when it has moved to the right. Exchange the names with ``flip_points`` where that is
    wanted.

    Args:
        view: probability that the source mirrors the image.
        warp: probability that the target mirrors the source.
    """

    def __init__(self, view: float = 0.0, warp: float = 1.0) -> None:
        for key, value in (("view", view), ("warp", warp)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{value} is not a probability", where=key, allowed="0 to 1")
        self.probabilities = (view, warp)

    def draw(self, draw: BatchDraw, size: tuple[int, int]) -> tuple[Warp, Warp]:
        """A mirror or the identity for each image, twice."""
        view, warp = (
            AffineWarp(_mirrors(draw.child(which).uniform() < probability))
            for which, probability in zip(("view", "warp"), self.probabilities, strict=True)
        )
        return view, warp


def _mirrors(chosen: Tensor) -> Tensor:
    """The matrices (B, 2, 3) that take x to −x where chosen."""
    zero, one = torch.zeros(len(chosen), device=chosen.device), torch.ones_like(chosen).float()
    x = torch.stack([torch.where(chosen, -1.0, 1.0), zero, zero], -1)
    return torch.stack([x, torch.stack([zero, one, zero], -1)], 1)
