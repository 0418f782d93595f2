"""Two random thin-plate splines on top of each other: x = I ∘ g1 and x' = x ∘ g2.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised Learning of Object Landmarks by Factorized Spatial
Embeddings", ICCV 2017, section 3.3, warps the image twice so that a network cannot lean on the
fact that the faces of a data set are upright and centred. A similarity and a spline are added:
``to_source(p) = s R p + t + bend(p)``. The papers draw the bend in two ways:

- ``coefficients``: the weights of the kernel U(r) = r² log r² at each control point, without the
  side conditions, as the code of the dense family does. At full strength they displace a point
  by 0.22 half-widths (root mean square; 0.08 of it is no affine map), and one warp in seven folds.
- ``offsets``: the displacements of the control points; the spline bends least between them.

The published families as settings (pairs are view, warp):

- dense descriptors and factorized landmarks: the defaults. The view bends half as much; its
  similarity is as strong as the warp's.
- the same, for matching images in an evaluation: half of everything, ``bend: [0.0005, 0.0005]``,
  ``bend_half: [0.005, 0.005]``, ``rotation: [2.5, 2.5]``, ``scale: [0.05, 0.05]``,
  ``translation: [0.05, 0.05]``.
- few-shot regressors: ``bend: [0.0005, 0]``, ``bend_half: [0.0005, 0]``, ``rotation: [2, 0]``,
  ``scale: [0.02, 0]``, ``translation: [0.02, 0]``; use the view alone.
- structural representations: ``control: 7``, ``spline: offsets``, ``bend: [0.1, 0.1]``,
  ``bend_half: [0.1, 0.1]``, ``rotation: [10, 10]``, ``scale_law: lognormal``,
  ``scale: [0.223, 0.223]``, ``translation_law: uniform``, ``translation: [0.15, 0.15]``. As
  published nearly all of them fold; here each is shrunk as far as it must be (to 0.62 on average).
- conditional image generation: ``bend: [0.001, 0.001]``, ``bend_half: [0.01, 0.01]``,
  ``rotation: [5, 0]``, ``scale: [0.1, 0]``.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; strengths
are in half sides of the longer side.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from landmark_lab.errors import ConfigError
from landmark_lab.geometry.tps import ThinPlateBasis, TpsWarp
from landmark_lab.geometry.warp import Warp
from landmark_lab.roles import WarpGenerator
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.warps.affine import AffinePair, strengths


class TpsPair(WarpGenerator, name="tps_pair"):
    """Two random thin-plate splines with similarities on top of each other, one-to-one.

    Each strength is a pair: of the view (image -> source), of the warp (source -> target). A draw
    that folds, or nearly does, is bent less; its similarity stays.

    Args:
        control: control points a side; they reach from edge to edge.
        spline: what ``bend`` is the strength of: kernel ``coefficients`` or ``offsets`` of the
            control points.
        bend: standard deviation of the x and y entry of each control point.
        bend_half: standard deviation of a random half of these entries, in place of ``bend``.
        rotation: standard deviation (or largest value, if uniform) in degrees.
        rotation_law: normal, or uniform in ±rotation.
        scale: strength of the scaling, a number without unit; see ``scale_law``.
        scale_law: normal: 1 + N(0, scale), at least 0.1; lognormal: exp N(0, scale); loguniform:
            exp U(−scale, scale).
        translation: standard deviation (or largest value) for each axis, in half sides.
        translation_law: normal, or uniform in ±translation.
    """

    def __init__(
        self,
        control: int = 10,
        spline: Literal["coefficients", "offsets"] = "coefficients",
        bend: tuple[float, float] = (0.0005, 0.001),
        bend_half: tuple[float, float] = (0.005, 0.01),
        rotation: tuple[float, float] = (5.0, 5.0),
        rotation_law: Literal["normal", "uniform"] = "normal",
        scale: tuple[float, float] = (0.1, 0.1),
        scale_law: Literal["normal", "lognormal", "loguniform"] = "normal",
        translation: tuple[float, float] = (0.1, 0.1),
        translation_law: Literal["normal", "uniform"] = "normal",
    ) -> None:
        if control < 2:
            raise ConfigError(
                f"{control} control points a side make no spline",
                where="control",
                allowed="2 or more",
            )
        self.control = control
        self.spline = spline
        self.bend = strengths(bend, "bend")
        self.bend_half = strengths(bend_half, "bend_half")
        self.similarity = AffinePair(
            rotation, rotation_law, scale, scale_law, translation, translation_law
        )

    def draw(self, draw: BatchDraw, size: tuple[int, int]) -> tuple[Warp, Warp]:
        """Two spline warps, exact in the direction ``to_source``."""
        basis = ThinPlateBasis.regular(self.control, size)
        similarity = self.similarity.sampling_maps(draw, size)
        bend = self._bend(draw, basis)
        # Only the bend is shrunk: a similarity cannot fold.
        bend = bend * basis.one_to_one(similarity, bend)[:, None, None]
        coefficients = basis.affine(similarity) + bend
        view, warp = coefficients[: draw.count], coefficients[draw.count :]
        return TpsWarp(basis, view), TpsWarp(basis, warp)

    def _bend(self, draw: BatchDraw, basis: ThinPlateBasis) -> Tensor:
        """Coefficients ``(2 · count, P + 3, 2)`` of the bends: all views, then all warps."""
        shape = (2, self.control**2, 2)
        numbers, half = draw.normal(*shape), draw.uniform(*shape) < 0.5
        entries = torch.cat(
            [
                numbers[:, k] * torch.where(half[:, k], self.bend_half[k], self.bend[k])
                for k in (0, 1)
            ]
        )
        width, height = basis.extent
        entries = torch.stack([entries[..., 0] / width, entries[..., 1] / height], -1)
        return (
            basis.weighted(entries)
            if self.spline == "coefficients"
            else basis.interpolated(entries)
        )
