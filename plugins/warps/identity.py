"""No warp at all."""

from __future__ import annotations

from landmark_lab.geometry.warp import IdentityWarp, Warp
from landmark_lab.roles import WarpGenerator
from landmark_lab.seeding import BatchDraw


class IdentityPair(WarpGenerator, name="identity"):
    """No warp: the source and the target are the image itself."""

    def draw(self, draw: BatchDraw, size: tuple[int, int]) -> tuple[Warp, Warp]:
        """Two identities."""
        warp = IdentityWarp(draw.count, draw.device)
        return warp, warp
