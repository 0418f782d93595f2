"""Pairs made from one image by two random warps, one on top of the other.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised Learning of Object Landmarks by Factorized Spatial
Embeddings", ICCV 2017, section 3.3: the source is x = I ∘ g1, the target x' = x ∘ g2. Here the
target is sampled from the image itself, at the composed coordinates: x' = I ∘ (g1 ∘ g2). That is
the same map, but it is smoothed once instead of twice, and it shows what lay beyond the source's
edges where the image has it (``Pair.warp.valid`` tells such pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.geometry.warp import Padding
from landmark_lab.plugin import part
from landmark_lab.roles import Images, Pairing, WarpGenerator
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.pairings.moving import marks_of, moved

_ANNOTATION = frozenset({"points", "visible", "mask", "box"})


class Synthetic(Pairing, name="synthetic"):
    """Two warped views of one image; the warp between them is known.

    Points, their visibility, the mask and the box move with the image. A point that leaves it
    becomes invisible, and NaN if it goes so far that the warp has no place for it. The box becomes
    the one around its moved corners.

    Args:
        warps: draws the view (image -> source) and the warp (source -> target).
        independent_colours: augment the colours of the two images independently, not alike; makes
            no difference where ``loader.colours`` is not set.
        padding: what the images show beyond the edges of the original. Zeros draw its frame, to
            which landmarks can lock instead of to the object.
        annotation: whether points, mask and box are moved or left out. Points go through the
            numerical direction of a spline; a method that looks at images alone need not wait.
    """

    provides_warp = True

    def __init__(
        self,
        warps: WarpGenerator = part("tps_pair"),
        independent_colours: bool = True,
        padding: Padding = "reflection",
        annotation: bool = True,
    ) -> None:
        self.warps = warps
        self.independent_colours = independent_colours
        self.padding: Padding = padding
        self.annotation = annotation
        if not annotation:
            self.drops = _ANNOTATION

    def members(self, images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
        """The image itself; twice (it is loaded once) if each view has its own colours."""
        return (index, index) if self.independent_colours else (index,)

    def pair(self, members: tuple[Sample, ...], draw: BatchDraw) -> Pair:
        """Two views of each image."""
        height, width = members[0].image.shape[-2:]
        view, warp = self.warps.draw(draw, (height, width))
        if not self.annotation:
            nothing: dict[str, Any] = dict.fromkeys(_ANNOTATION)
            members = tuple(replace(member, **nothing) for member in members)
        marks = marks_of(members[0])
        in_source = marks if marks is None else view.to_target(marks)
        in_target = in_source if in_source is None else warp.to_target(in_source)
        source = moved(members[0], view, in_source, self.padding)
        target = moved(members[-1], view.then(warp), in_target, self.padding)
        return Pair(source, target, warp, view)
