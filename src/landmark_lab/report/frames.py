"""What the vectors of an embedding look like on a few images: what several sections show.

Only inner products of vectors are learned, so a frame may be turned and mirrored at will. For the
eye it is turned such that it resembles the images: places on the object's right are on its right.
Then two runs that learned the same look the same, too.

Convention: points are (x, y) in [-1, 1]; places of a frame are (x, y, z) in the unit ball, x to the
right, y up, z towards the viewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.sampling import Row
from landmark_lab.geometry.points import pixel_grid
from landmark_lab.metrics.references import mean_shape
from landmark_lab.report.pictures import sharpness
from landmark_lab.roles import Embedding, Reflection, Split

Picture = NDArray[np.uint8]

# Lightness, green to red, blue to yellow (OKLab): the middle of the ball, and one unit of x, y, z.
# Left and right differ in blue and yellow, up and down in lightness: everybody can tell these.
_GREY = torch.tensor([0.62, 0.0, 0.0])
_BALL = torch.tensor([[0.0, 0.0, 0.13], [0.22, 0.0, 0.0], [0.0, 0.15, 0.0]])
_DISC = torch.tensor([[0.0, 0.0, 0.14], [0.0, 0.14, 0.0], [0.0, 0.0, 0.0]])  # all hues
_DARKEST = 0.12  # share of its colour that the least certain place keeps
_SURE = 0.95  # quantile of the lengths that counts as certain
# B. Ottosson, "A perceptual color space for image processing", 2020: OKLab to linear sRGB.
_LAB_TO_LMS = torch.tensor(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728],
     [1.0, -0.0894841775, -1.2914855480]]
)  # fmt: skip
_LMS_TO_RGB = torch.tensor(
    [[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
     [-0.0041960863, -0.7034186147, 1.7076147010]]
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Frames:
    """Images of one split and their vectors.

    Attributes:
        split: of the images.
        index: (N,) positions of the images in the split.
        images: (N, S, S, 3) as sharp as the files allow.
        vectors: (N, C, h, w) float32.
        certainty: (N, h, w) in [0, 1]: how long the vectors are, where their length counts, and 0
            beside the object, where the data has masks.
        points: (N, P, 2) annotated points, NaN where unknown or hidden; P is 0 without any.
        similarity: of vectors (B, N, C) and (B, M, C), (B, N, M).
        mirrored: the matrix (C, C) by which a mirror image changes the vectors, or None.
    """

    split: Split
    index: NDArray[np.int64]
    images: Picture
    vectors: Tensor
    certainty: Tensor
    points: NDArray[np.float64]
    similarity: Callable[[Tensor, Tensor], Tensor]
    mirrored: Tensor | None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def dimension(self) -> int:
        """C, the channels of the vectors."""
        return int(self.vectors.shape[1])

    @cached_property
    def typical(self) -> int:
        """The row of the sharpest image among those whose places are closest to the mean ones."""
        away = (self.places - self.places.mean(0)).norm(dim=1).flatten(1).mean(1)
        closest = away.argsort(stable=True)[: len(self) // 3 + 1].tolist()
        return int(max(closest, key=lambda row: sharpness(self.images[row])))

    @cached_property
    def places(self) -> Tensor:
        """(N, 3, h, w) the places of all cells in the ball.

        Of three dimensions the vectors' directions, of two as well (z is 0); of more the first
        three principal components of the directions, two standard deviations being one unit.
        """
        weights = self.certainty.flatten()
        if self.dimension == 1:
            places = self.vectors / self.vectors.abs().quantile(_SURE).clamp_min(1e-9)
            places = places.movedim(1, -1).flatten(0, 2)
        else:
            places = F.normalize(self.vectors, dim=1).movedim(1, -1).flatten(0, 2)
        if self.dimension > 3:
            places = _principal(places, weights)
        places = places @ self._turn(places, weights)
        ball: Tensor = F.pad(places, (0, 3 - places.shape[-1]))
        ball = ball / ball.norm(dim=-1, keepdim=True).clamp_min(1)
        count, _, height, width = self.vectors.shape
        return ball.view(count, height, width, 3).movedim(-1, 1)

    def some_points(self, row: int, count: int) -> Tensor:
        """At most so many points (Q, 2) all over the object of an image, far from each other.

        Annotated ones where there are any, the same ones in every image, NaN where unknown;
        otherwise the centres of certain cells.
        """
        if self.points.shape[1]:
            shape = np.nan_to_num(mean_shape(self.points))
            return torch.from_numpy(self.points[row, farthest(shape, count)]).float()
        height, width = self.vectors.shape[-2:]
        inner = pixel_grid(height, width)
        sure = (self.certainty[row].flatten() > 0.5) & (inner.abs().amax(-1) < 0.9)
        cells = inner[sure] if bool(sure.any()) else inner
        return cells[farthest(cells.numpy(), count)]

    def _turn(self, places: Tensor, weights: Tensor) -> Tensor:
        """The orthogonal matrix that makes places (T, L) most like the cells' positions.

        Where mirror images reflect the vectors, their axis becomes x.
        """
        dimension = places.shape[-1]
        height, width = self.vectors.shape[-2:]
        cells = pixel_grid(height, width) * torch.tensor([1.0, -1.0])
        towards = F.normalize(F.pad(cells, (0, 1), value=1.0), dim=-1)[:, :dimension]
        towards = towards.repeat(len(self), 1)
        alike = (places * weights[:, None]).T @ towards
        if self.mirrored is None or self.mirrored.shape != alike.shape:
            return _orthogonal(alike)
        axes = torch.linalg.eigh(self.mirrored)[1]  # the reflected axis is the first
        alike = axes.T @ alike
        turn = torch.zeros_like(axes)
        turn[:1, :1], turn[1:, 1:] = _orthogonal(alike[:1, :1]), _orthogonal(alike[1:, 1:])
        turned: Tensor = axes @ turn
        return turned

    def painted(self, row: int) -> Picture:
        """The vectors of an image as colours (S, S, 3)."""
        return colours(*self.large(row), flat=self.dimension == 2)

    def large(self, row: int) -> tuple[Tensor, Tensor]:
        """The places (S, S, 3) and the certainty (S, S) of an image at the size of its picture."""
        side = self.images.shape[1]
        both = torch.cat([self.places[row], self.certainty[row][None]])[None]
        sharp = F.interpolate(both, (side, side), mode="bilinear", align_corners=False)[0]
        places = sharp[:3].movedim(0, -1)
        if self.dimension in (2, 3):  # between two directions lies a direction
            places = F.normalize(places, dim=-1)
        return places, sharp[3]


def colours(places: Tensor, certainty: Tensor | None = None, flat: bool = False) -> Picture:
    """The colours (..., 3) uint8 of places.

    Args:
        places: (..., 3).
        certainty: (...) in [0, 1]; dark where it is small.
        flat: all places have z = 0.
    """
    lab = _GREY + places @ (_DISC if flat else _BALL)
    if certainty is not None:
        lab = lab * (_DARKEST + (1 - _DARKEST) * certainty)[..., None]
    linear = ((lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T).clamp(0, 1)
    encoded = torch.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(1e-9) ** (1 / 2.4) - 0.055
    )
    picture: Picture = (encoded * 255).round().byte().numpy()
    return picture


def frames(
    method: Embedding, split: Split, index: NDArray[np.int64], rows: Sequence[Row], vectors: Tensor
) -> Frames:
    """The vectors of some images with what is known of these.

    Args:
        method: that gave the vectors.
        split: of the images.
        index: (N,) their positions in it.
        rows: the images.
        vectors: (N, C, h, w).
    """
    masks = None
    if all("mask" in row for row in rows):
        masks = torch.from_numpy(np.stack([row["mask"] for row in rows])).float()
        masks = F.interpolate(masks, vectors.shape[-2:], mode="area")[:, 0]
    points = np.empty((len(rows), 0, 2))
    if all("points" in row for row in rows):
        points = np.stack([seen(row) for row in rows])
    mirrored = None
    if isinstance(method, Reflection) and method.mirror:
        mirrored = method.reflect(torch.eye(vectors.shape[1]))
    return Frames(
        split,
        index,
        np.stack([row["image"] for row in rows]),
        vectors,
        certainty(vectors, method.similarity, masks),
        points,
        method.similarity,
        mirrored,
    )


def certainty(
    vectors: Tensor, similarity: Callable[[Tensor, Tensor], Tensor], masks: Tensor | None
) -> Tensor:
    """How certain the method is of the vectors (N, C, h, w): (N, h, w) in [0, 1].

    Args:
        vectors: of some images.
        similarity: a vector twice as long is twice as similar to another, or as similar as before:
            then its length says nothing, and all are certain.
        masks: (N, h, w) of the object, or None.
    """
    some = vectors.flatten(2).mT[:1, :16]
    known = torch.ones_like(vectors[:, 0])
    if not torch.allclose(similarity(2 * some, some), similarity(some, some)):
        length = vectors.norm(dim=1)
        known = (length / length.quantile(_SURE).clamp_min(1e-9)).clamp(max=1)
    return known if masks is None else known * masks


def seen(row: Row) -> NDArray[np.float64]:
    """The annotated points (P, 2) of an image, NaN where unknown or hidden."""
    points = np.asarray(row["points"], dtype=np.float64)
    return np.where(np.asarray(row.get("visible", True))[..., None], points, np.nan)


def farthest(points: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """The rows of at most so many points (N, 2), each as far as can be from those before."""
    chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmax())]
    away = np.full(len(points), np.inf)
    while len(chosen) < min(count, len(points)):
        away = np.minimum(away, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(away.argmax()))
    return np.sort(chosen)


def _principal(vectors: Tensor, weights: Tensor) -> Tensor:
    """The first three principal components (T, 3) of vectors (T, C), in two deviations."""
    share = (weights / weights.sum().clamp_min(1e-9))[:, None]
    centred = vectors - (vectors * share).sum(0)
    values, axes = torch.linalg.eigh((centred * share).T @ centred)
    deviation = values[-3:].clamp_min(1e-9).sqrt()
    principal: Tensor = centred @ axes[:, -3:] / (2 * deviation)
    return principal


def _orthogonal(matrix: Tensor) -> Tensor:
    """The orthogonal matrix R with the largest trace of Rᵀ M (Procrustes)."""
    left, _, right = torch.linalg.svd(matrix)
    turn: Tensor = left @ right
    return turn
