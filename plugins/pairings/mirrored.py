"""Pairs of which a random half is mirrored, for objects with a left and a right side.

J. Thewlis, H. Bilen, A. Vedaldi, "Modelling and unsupervised learning of symmetric deformable
object categories", NeurIPS 2018, section 3: the transformation of a pair is m t, t being that of
another pairing and m the mirror image or, with probability one half, the identity. Here m comes
first and acts on the source, t m. That changes nothing for a symmetric family of transformations,
and it keeps t closed-form at pixel centres.

Which rows are mirrored is in ``Pair.mirrored``, and in ``Pair.warp``: it reverses their orientation
(``geometry.symmetry.reverses_orientation``).

Convention: points are (x, y) in [-1, 1]; mirroring takes x to −x.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.geometry.affine import AffineWarp
from landmark_lab.plugin import part
from landmark_lab.roles import Images, Pairing, WarpGenerator
from landmark_lab.seeding import BatchDraw


class Mirrored(Pairing, name="mirrored"):
    """The pairs of another pairing, the source of a random half of them mirrored left-right.

    Points, mask and box of a mirrored source move with it; points keep their names (see
    ``flip_points``). The warp is mirrored, too, or stays None where there is none.

    Args:
        pairing: makes the pairs.
        probability: of a mirrored source; with 0 the pairs are those of the other pairing.
    """

    provides_warp = True

    def __init__(self, pairing: Pairing = part("synthetic"), probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability {probability}; allowed: 0 to 1")
        if not pairing.provides_warp:
            raise ValueError(f"the pairs of '{pairing.plugin_name}' have no known warp to mirror")
        self.pairing = pairing
        self.probability = probability
        self.mirrors = probability > 0 or pairing.mirrors
        self.needs = pairing.needs
        self.drops = pairing.drops

    @property
    def warps(self) -> WarpGenerator | None:
        """What draws the other pairing's warps, if it has some."""
        return getattr(self.pairing, "warps", None)

    def members(self, images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
        """Those of the other pairing."""
        return self.pairing.members(images, index, generator)

    def rows(self, images: Images) -> NDArray[np.int64]:
        """Those of the other pairing."""
        return self.pairing.rows(images)

    def sources(self, images: Images) -> NDArray[np.int64]:
        """Those of the other pairing."""
        return self.pairing.sources(images)

    def pair(self, members: tuple[Sample, ...], draw: BatchDraw) -> Pair:
        """The pairs, the source mirrored where a draw of its own says so."""
        pair = self.pairing.pair(members, draw)
        assert pair.warp is not None  # checked when the pairing was built
        chosen = draw.child("mirror").uniform() < self.probability
        source, mirror = _mirrored(pair.source, chosen), _mirror(chosen)
        view = mirror if pair.view is None else pair.view.then(mirror)
        already = torch.zeros_like(chosen) if pair.mirrored is None else pair.mirrored
        return Pair(source, pair.target, mirror.then(pair.warp), view, already ^ chosen)


def _mirror(chosen: Tensor) -> AffineWarp:
    """x to −x where chosen."""
    one = torch.ones(len(chosen), device=chosen.device)
    zero = torch.zeros_like(one)
    x = torch.stack([torch.where(chosen, -one, one), zero, zero], -1)
    return AffineWarp(torch.stack([x, torch.stack([zero, one, zero], -1)], 1))


def _mirrored(sample: Sample, chosen: Tensor) -> Sample:
    def flip(maps: Tensor | None) -> Tensor | None:
        return maps if maps is None else torch.where(_like(chosen, maps), maps.flip(-1), maps)

    points, box = sample.points, sample.box
    if points is not None:
        mirror = torch.tensor([-1.0, 1.0]).to(points.device, non_blocking=True)
        points = torch.where(_like(chosen, points), points * mirror, points)
    if box is not None:
        x0, y0, x1, y1 = box.unbind(1)
        box = torch.where(chosen[:, None], torch.stack([-x1, y0, -x0, y1], 1), box)
    image = flip(sample.image)
    assert image is not None
    moved = replace(sample, image=image, mask=flip(sample.mask), points=points, box=box)
    # A flow leads to the next frame of a video, not to the target.
    return replace(moved, surroundings=flip(sample.surroundings), flow=None, flow_visible=None)


def _like(chosen: Tensor, values: Tensor) -> Tensor:
    return chosen.view(-1, *[1] * (values.ndim - 1))
