"""Making images square, and finding the way back.

Convention: pixels count from 0 at the centre of the top-left pixel; points on the square are (x, y)
in [-1, 1], see ``geometry/points.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.errors import DataError
from landmark_lab.geometry.points import from_pixels, to_pixels


@dataclass(frozen=True)
class Placement:
    """Where an image lies on the square: pixel of the square = ``scale`` * pixel + ``shift``.

    Attributes:
        scale: pixels of the square per original pixel, along x and y.
        shift: position on the square, in pixels, of the centre of the original top-left pixel.
        size: side of the square in pixels.
    """

    scale: tuple[float, float]
    shift: tuple[float, float]
    size: int

    def to_square(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Original pixels ``(..., 2)`` to points of the square in [-1, 1]; NaN stays NaN."""
        pixels = torch.from_numpy(points * np.array(self.scale) + np.array(self.shift))
        square: NDArray[np.float64] = from_pixels(pixels, self.size, self.size).numpy()
        return square

    def to_original(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points of the square in [-1, 1], ``(..., 2)``, to original pixels; NaN stays NaN."""
        square = torch.from_numpy(np.asarray(points, dtype=np.float64))
        pixels = to_pixels(square, self.size, self.size).numpy()
        original: NDArray[np.float64] = (pixels - np.array(self.shift)) / np.array(self.scale)
        return original


@dataclass(frozen=True)
class Preprocess:
    """How images become squares.

    Args:
        size: side of the square in pixels.
        fit: ``letterbox`` keeps the shape and fills two borders, ``squash`` changes the shape,
            ``crop`` keeps the shape and cuts off what is beyond the middle square.
        region: left, top, right and bottom edge of the part of every image that counts, as shares
            of its width and height: one of several views that a mirror or a split screen shows.
            None is the whole image.
        box_margin: cut out the annotated box with this margin first, as a fraction of the box's
            longer side; with ``crop``, the square around the box. None keeps the whole image, and
            so does an image without a box.
        window: the square shows the middle of what ``fit`` chose: this share of each side. Warped
            views in training can show what lies around it, as crops after warping do.
        fill: grey value or (red, green, blue) of what lies outside the image, 0 to 255, or ``edge``
            to repeat the border pixels.
    """

    size: int = 128
    fit: Literal["letterbox", "squash", "crop"] = "letterbox"
    region: tuple[float, float, float, float] | None = None
    box_margin: float | None = None
    window: float = 1.0
    fill: int | tuple[int, int, int] | Literal["edge"] = 0

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ValueError(f"size must be at least 8 pixels, not {self.size}")
        if self.fit not in ("letterbox", "squash", "crop"):
            raise ValueError(f"fit must be letterbox, squash or crop, not {self.fit!r}")
        if self.region is not None:
            left, top, right, bottom = self.region
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(
                    "region must be left, top, right, bottom with 0 <= left < right <= 1 and "
                    f"0 <= top < bottom <= 1, not {list(self.region)}"
                )
            if self.box_margin is not None:
                raise ValueError("region and box_margin both choose what is shown; give one")
        if self.box_margin is not None and not 0 <= self.box_margin <= 4:
            raise ValueError(f"box_margin must be between 0 and 4, not {self.box_margin}")
        if not 0.1 <= self.window <= 1:
            raise ValueError(f"window must be between 0.1 and 1, not {self.window}")
        if self.fill != "edge" and not all(0 <= v <= 255 for v in np.atleast_1d(self.fill)):
            raise ValueError(f"fill must be 'edge' or between 0 and 255, not {self.fill!r}")

    def __call__(
        self, image: NDArray[np.uint8], box: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.uint8], Placement]:
        """Make one image square.

        Args:
            image: (H, W, 3) uint8.
            box: the object, [x0, y0, x1, y1] in pixels; None or NaN if there is none.

        Returns:
            The square, (size, size, 3) uint8, and where the image lies on it.

        Raises:
            DataError: the box lies outside the image.
        """
        whole = self.with_surroundings(image, box)
        return self.inner(whole), self.place(image.shape[1], image.shape[0], box)

    @property
    def outer_size(self) -> int:
        """Side in pixels of the square with its surroundings; they are as wide on all sides."""
        return self.size + 2 * round(self.size * (1 / self.window - 1) / 2)

    def inner(self, whole: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The square alone, a view of the square with its surroundings."""
        edge = (self.outer_size - self.size) // 2
        return whole[edge : edge + self.size, edge : edge + self.size]

    def with_surroundings(
        self, image: NDArray[np.uint8], box: NDArray[np.float64] | None = None
    ) -> NDArray[np.uint8]:
        """The square with its surroundings, (outer_size, outer_size, 3); see :meth:`__call__`."""
        height, width = image.shape[:2]
        left, top, right, bottom = self._region(width, height, box)
        content_width, content_height, x, y = self._content(right - left, bottom - top)
        cut = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        beyond = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
        content = _resize(self._pad(cut, *beyond), content_width, content_height)
        below, beside = self.outer_size - y - content_height, self.outer_size - x - content_width
        return np.ascontiguousarray(self._pad(content, y, below, x, beside))

    def place(self, width: int, height: int, box: NDArray[np.float64] | None = None) -> Placement:
        """Where an image of this size would lie on the square; see :meth:`__call__`."""
        left, top, right, bottom = self._region(width, height, box)
        content_width, content_height, x, y = self._content(right - left, bottom - top)
        scale = (content_width / (right - left), content_height / (bottom - top))
        # Resizing maps outer edges to outer edges, and pixel centres lie half a pixel inside.
        edge = (self.outer_size - self.size) // 2
        shift = (
            (0.5 - left) * scale[0] + x - 0.5 - edge,
            (0.5 - top) * scale[1] + y - 0.5 - edge,
        )
        return Placement(scale, shift, self.size)

    def _region(
        self, width: int, height: int, box: NDArray[np.float64] | None
    ) -> tuple[int, int, int, int]:
        """The part of the image that is shown: left, top, right, bottom edges in whole pixels."""
        if self.box_margin is not None and box is not None and not np.isnan(box).any():
            # 0.5: from pixel centres to edges.
            x0, x1 = np.clip(box[[0, 2]] + 0.5, 0, width)
            y0, y1 = np.clip(box[[1, 3]] + 0.5, 0, height)
            if x1 <= x0 or y1 <= y0:
                raise DataError(f"the box {box.tolist()} lies outside the image")
            margin = 2 * self.box_margin * max(x1 - x0, y1 - y0)
            wide, high = x1 - x0 + margin, y1 - y0 + margin
            if self.fit == "crop":
                wide = high = max(wide, high)
            middle, wide, high = ((x0 + x1) / 2, (y0 + y1) / 2), max(wide, 1), max(high, 1)
        else:
            left, top, right, bottom = self._counted(width, height)
            if self.fit != "crop":
                return left, top, right, bottom
            middle = ((left + right) / 2, (top + bottom) / 2)
            wide = high = min(right - left, bottom - top)
        left, top = round(middle[0] - wide / 2), round(middle[1] - high / 2)
        return left, top, left + round(wide), top + round(high)

    def _counted(self, width: int, height: int) -> tuple[int, int, int, int]:
        """``region`` in whole pixels, at least one."""
        if self.region is None:
            return 0, 0, width, height
        x0, y0, x1, y1 = self.region
        left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
        return left, top, max(round(x1 * width), left + 1), max(round(y1 * height), top + 1)

    def _content(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Size of the shown part on the outer square, its left and top edge, in whole pixels."""
        if self.fit != "letterbox":
            return self.outer_size, self.outer_size, 0, 0
        scale = self.outer_size / max(width, height)
        inner_width, inner_height = max(round(width * scale), 1), max(round(height * scale), 1)
        return (
            inner_width,
            inner_height,
            (self.outer_size - inner_width) // 2,
            (self.outer_size - inner_height) // 2,
        )

    def _pad(
        self, image: NDArray[np.uint8], top: int, bottom: int, left: int, right: int
    ) -> NDArray[np.uint8]:
        if not (top or bottom or left or right):
            return image
        if self.fill == "edge":
            padded = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REPLICATE)
        else:
            value = np.broadcast_to(self.fill, 3).tolist()
            padded = cv2.copyMakeBorder(
                image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=value
            )
        return padded.astype(np.uint8, copy=False)


def _resize(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize by area where it shrinks and linearly where it grows."""
    # INTER_AREA becomes a linear interpolation, which aliases, as soon as one side grows.
    shrunk = (min(width, image.shape[1]), min(height, image.shape[0]))
    if shrunk != image.shape[1::-1]:
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    if shrunk != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(
            np.uint8, copy=False
        )
    return image
