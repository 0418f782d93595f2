"""The plugins of the package; its entry point names this module."""

import torch

from landmark_lab.geometry import AffineWarp, IdentityWarp, Warp
from landmark_lab.roles import WarpGenerator
from landmark_lab.seeding import BatchDraw


class Squeeze(WarpGenerator, name="squeeze"):
    """The target is the source, made narrower.

    Args:
        least: the smallest width that is left.
    """

    def __init__(self, least: float = 0.7) -> None:
        if not 0 < least <= 1:
            raise ValueError(f"least must be above 0 and at most 1, not {least}")
        self.least = least

    def draw(self, draw: BatchDraw, size: tuple[int, int]) -> tuple[Warp, Warp]:
        """The identity, and a scaling along x."""
        matrix = torch.eye(2, 3, device=draw.device).repeat(draw.count, 1, 1)
        matrix[:, 0, 0] = self.least + (1 - self.least) * draw.uniform()
        return IdentityWarp(draw.count, draw.device), AffineWarp(matrix)
