"""Random similarities: rotation, isotropic scaling, translation.

Convention: a drawn similarity is a *sampling* map, as in the published code: it says where each
point of the new image comes from, so a scale above 1 shows the object smaller. It acts in
isotropic coordinates, in which one unit is half the longer side of the image.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from landmark_lab.errors import ConfigError
from landmark_lab.geometry.affine import AffineWarp, similarity
from landmark_lab.geometry.warp import Warp
from landmark_lab.roles import WarpGenerator
from landmark_lab.seeding import BatchDraw

# A normal scale may come out as zero or negative, which would collapse or turn the image.
_SMALLEST_SCALE = 0.1


class AffinePair(WarpGenerator, name="affine"):
    """Two random similarities on top of each other: rotation, isotropic scale, translation.

    Each strength is a pair: of the view (image -> source), of the warp (source -> target).

    Args:
        rotation: standard deviation (or largest value, if uniform) in degrees.
        rotation_law: normal, or uniform in ±rotation.
        scale: strength of the scaling, a number without unit; see ``scale_law``.
        scale_law: normal: 1 + N(0, scale), at least 0.1; lognormal: exp N(0, scale); loguniform:
            exp U(−scale, scale). (A standard deviation of "log 1.25" is 0.223.)
        translation: standard deviation (or largest value) for each axis, in half sides.
        translation_law: normal, or uniform in ±translation.
        relative_to: what the second similarity is applied to: the ``view``, on top of the first;
            or the ``image``, beside the first, so that both images of a pair are turned equally far
            from the original and the network has less to cover.
    """

    def __init__(
        self,
        rotation: tuple[float, float] = (5.0, 5.0),
        rotation_law: Literal["normal", "uniform"] = "normal",
        scale: tuple[float, float] = (0.1, 0.1),
        scale_law: Literal["normal", "lognormal", "loguniform"] = "normal",
        translation: tuple[float, float] = (0.1, 0.1),
        translation_law: Literal["normal", "uniform"] = "normal",
        relative_to: Literal["view", "image"] = "view",
    ) -> None:
        self.rotation = strengths(rotation, "rotation")
        self.rotation_law = rotation_law
        self.scale = strengths(scale, "scale")
        self.scale_law = scale_law
        self.translation = strengths(translation, "translation")
        self.translation_law = translation_law
        self.relative_to = relative_to

    def draw(self, draw: BatchDraw, size: tuple[int, int]) -> tuple[Warp, Warp]:
        """Two affine warps, exact in both directions."""
        warps = AffineWarp(self.sampling_maps(draw, size)).inverse()
        view, warp = warps[: draw.count], warps[draw.count :]
        return view, warp if self.relative_to == "view" else view.inverse().then(warp)

    def sampling_maps(self, draw: BatchDraw, size: tuple[int, int]) -> Tensor:
        """Matrices ``(2 · count, 2, 3)`` from target to source: all views, then all warps."""
        angle = scaled(_draw(draw, self.rotation_law, 2), self.rotation) * (math.pi / 180)
        if self.scale_law == "normal":
            scale = (1 + scaled(draw.normal(2), self.scale)).clamp_min(_SMALLEST_SCALE)
        else:
            law = self.scale_law.removeprefix("log")
            scale = torch.exp(scaled(_draw(draw, law, 2), self.scale))
        translation = scaled(_draw(draw, self.translation_law, 2, 2), self.translation)
        return similarity(angle, scale, translation, size)


def strengths(pair: tuple[float, float], where: str) -> tuple[float, float]:
    """The strengths of (view, warp), or an error if one is negative or not finite."""
    if not all(0 <= value < math.inf for value in pair):
        raise ConfigError(
            f"{pair!r} are not the strengths of the view and of the warp",
            where=where,
            allowed="two finite numbers, 0 or more",
        )
    return (float(pair[0]), float(pair[1]))


def scaled(numbers: Tensor, pair: tuple[float, float]) -> Tensor:
    """Numbers ``(count, 2, ...)`` for view and warp, times their strengths: ``(2 · count, ...)``.

    All views come first, then all warps: both are worked on as one batch.
    """
    return torch.cat([numbers[:, 0] * pair[0], numbers[:, 1] * pair[1]])


def _draw(draw: BatchDraw, law: str, *shape: int) -> Tensor:
    return draw.normal(*shape) if law == "normal" else 2 * draw.uniform(*shape) - 1
