"""``Preprocess`` once more, as tensor operations that an exported model carries within it.

One graph serves images of every size: whatever depends on the height and width is computed inside.
OpenCV's resizing is reproduced to the last bit (of its 4.11 and 5.0 on x86-64), because one grey
level in one pixel can move a sharp landmark by 0.0005 of the image's side:

- Shrinking (``INTER_AREA``) adds up the pixels of a cell one by one in float32, and rounds halves
  to even; but 2 × 2 pixels, which have a shortcut there, up.
- Growing (``INTER_LINEAR``) calculates with integers, weights being counted in 1/2048.

Convention: pixels count from 0 at the centre of the top-left pixel; points on the square are (x, y)
in [-1, 1], see ``geometry/points.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landmark_lab.data.preprocess import Preprocess
from landmark_lab.geometry.points import to_pixels

# OpenCV's constants: the part of a pixel that is too small to count, the step below which a scale
# is an integer, the unit of the weights between two pixels.
_SLIVER = 1e-3
_EPSILON = torch.finfo(torch.float64).eps
_ONE = 2048.0


@dataclass(frozen=True)
class _Side:
    """One side of the images and its place on the outer square; all () float64, in pixels.

    Attributes:
        start: where the region that is shown starts in the image.
        region: its length.
        shrunk: its length after shrinking.
        content: its length on the outer square.
        offset: where it starts there.
    """

    start: Tensor
    region: Tensor
    shrunk: Tensor
    content: Tensor
    offset: Tensor

    @property
    def scale(self) -> Tensor:
        """Pixels in a cell of the shrunk region, rounded as OpenCV does."""
        return 1 / (self.shrunk / self.region)

    def shrink(self, images: Tensor, along: int, cells: int, unit: Tensor) -> Tensor:
        """For each cell the sum of its pixels, weighted by how much of them lies in it.

        Args:
            images: (N, H, W, 3).
            along: the dimension that becomes shorter, 1 or 2.
            cells: its new length; cells beyond ``shrunk`` hold nothing of use.
            unit: a whole pixel has the weight 1 / unit.
        """
        scale = self.scale
        begin = torch.arange(cells, dtype=torch.float64, device=images.device) * scale
        first, terms, last = begin.floor(), scale.ceil() + 1, self.start + self.region - 1
        shape, weights = list(images.shape), [1, 1, 1, 1]
        shape[along], weights[along] = cells, cells

        def unfinished(term: Tensor, total: Tensor) -> Tensor:
            return term < terms

        def add(term: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            pixel = first + term
            inside = torch.minimum(begin + scale, pixel + 1) - torch.maximum(begin, pixel)
            inside = torch.where(inside > _SLIVER, inside.clamp(max=1), 0.0)
            weight = (inside / unit).float().reshape(weights)
            chosen = images.index_select(along, torch.minimum(pixel + self.start, last).long())
            return term + 1, total + chosen.float() * weight

        nothing = torch.zeros(shape, device=images.device)
        loop: Any = torch.while_loop  # carries no annotations
        summed: Tensor = loop(unfinished, add, (torch.zeros_like(scale), nothing))[1]
        return summed

    def neighbours(self, places: Tensor, hold: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For places of the outer square: two cells of the shrunk region, and their weights.

        Args:
            places: (S,) float64; beyond the content the nearest place of it counts.
            hold: beyond the centre of a border cell give it all weight; otherwise it is both
                neighbours, which the integers round differently. OpenCV does the one along x, the
                other along y.

        Returns:
            Two indices (S,), and their weights (S,), integers that add up to 2048.
        """
        place = torch.minimum((places - self.offset).clamp(min=0), self.content - 1)
        position = ((place + 0.5) * (1 / (self.content / self.shrunk)) - 0.5).float()
        first = position.floor()
        share = position - first
        if hold:
            share = torch.where((first < 0) | (first >= self.shrunk - 1), 0.0, share)
        before, after = (
            torch.minimum(index.double().clamp(min=0), self.shrunk - 1).long()
            for index in (first, first + 1)
        )
        return before, after, (_ONE * (1 - share)).round(), (_ONE * share).round()

    def covers(self, places: Tensor) -> Tensor:
        """Which places (S,) of the outer square show the image."""
        return (places >= self.offset) & (places < self.offset + self.content)


class PreprocessGraph(nn.Module):
    """Makes images square as :class:`Preprocess` does for images without a box; to be exported.

    Args:
        preprocess: how; ``box_margin`` has no effect.
    """

    fill: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess
        grey = 0 if preprocess.fill == "edge" else preprocess.fill
        fill = torch.from_numpy(np.broadcast_to(grey, 3).astype(np.float32))
        self.register_buffer("fill", fill[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, H, W, 3) uint8, of one size, to squares (N, 3, S, S) in [0, 1]."""
        down, across = self._sides(images)
        square = self._grown(self._shrunk(images, down, across), down, across)
        if self.preprocess.fill != "edge":
            places = self._places(images)
            shown = down.covers(places)[:, None] & across.covers(places)
            square = torch.where(shown, square, self.fill)
        return square / 255

    def to_original(self, points: Tensor, images: Tensor) -> Tensor:
        """Points (N, K, 2) of the squares in [-1, 1] to pixels of the images (N, H, W, 3)."""
        down, across = self._sides(images)
        size = self.preprocess.size
        pixels = to_pixels(points.double(), size, size).unbind(-1)
        original = [
            (pixel + 0.5 + self._edge - side.offset) * side.region / side.content + side.start - 0.5
            for pixel, side in zip(pixels, (across, down), strict=True)
        ]
        return torch.stack(original, -1).float()

    def _shrunk(self, images: Tensor, down: _Side, across: _Side) -> Tensor:
        """The regions, shrunk as far as they must be, (N, 3, outer size, outer size) integers."""
        outer, area = self.preprocess.outer_size, down.scale * across.scale
        scales = torch.stack([down.scale, across.scale])
        whole = ((scales - scales.round()).abs() < _EPSILON).all()
        # Cells of whole pixels are added up first and divided then, others divided pixel by pixel.
        units = torch.where(whole, torch.ones_like(scales), scales)
        sums = across.shrink(images, 2, outer, units[1])
        sums = down.shrink(sums, 1, outer, units[0]).permute(0, 3, 1, 2)
        mean = torch.where(whole, sums * (1 / area).float(), sums)
        halved = (scales == 2).all()
        return torch.where(halved, (mean + 0.5).floor(), mean.round())

    def _grown(self, shrunk: Tensor, down: _Side, across: _Side) -> Tensor:
        """The shrunk regions, grown as far as they must be, (N, 3, S, S) integers."""
        places = self._places(shrunk)
        left, right, of_left, of_right = across.neighbours(places, hold=True)
        top, bottom, of_top, of_bottom = down.neighbours(places, hold=False)
        # Float64 holds these integers exactly; the floors are OpenCV's shifts to the right.
        shrunk = shrunk.double()
        lines = ((shrunk[..., left] * of_left + shrunk[..., right] * of_right) / 2**4).floor()
        upper = (lines[:, :, top] * of_top[:, None] / 2**16).floor()
        lower = (lines[:, :, bottom] * of_bottom[:, None] / 2**16).floor()
        return ((upper + lower + 2) / 2**2).floor().float()

    @property
    def _edge(self) -> int:
        """Pixels of the outer square around the square."""
        return (self.preprocess.outer_size - self.preprocess.size) // 2

    def _places(self, like: Tensor) -> Tensor:
        """The pixels of the square as places of the outer square, (S,) float64."""
        places = torch.arange(self.preprocess.size, dtype=torch.float64, device=like.device)
        return places + self._edge

    def _sides(self, images: Tensor) -> tuple[_Side, _Side]:
        """Height and width; see ``Preprocess._region`` and ``Preprocess._content``."""

        def scalar(value: int) -> Tensor:
            return torch.full((), value, dtype=torch.float64, device=images.device)

        outer = scalar(self.preprocess.outer_size)
        sides = torch.stack([scalar(images.shape[1]), scalar(images.shape[2])])
        x0, y0, x1, y1 = self.preprocess.region or (0.0, 0.0, 1.0, 1.0)
        start = torch.minimum((sides * sides.new_tensor([y0, x0])).round(), sides - 1)
        end = torch.maximum((sides * sides.new_tensor([y1, x1])).round(), start + 1)
        lengths = end - start
        region, content = lengths, outer.expand(2)
        if self.preprocess.fit == "crop":
            region = lengths.amin(0).expand(2)
            start = ((start + end) / 2 - region / 2).round()
        if self.preprocess.fit == "letterbox":
            content = (lengths * (outer / lengths.amax(0))).round().clamp(min=1)
        shrunk, offset = torch.minimum(region, content), ((outer - content) / 2).floor()
        down, across = zip(start, region, shrunk, content, offset, strict=True)
        return _Side(*down), _Side(*across)
