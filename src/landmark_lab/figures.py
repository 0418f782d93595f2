"""Pictures: images with points drawn on them.

Convention: points are in pixels of the image given, (0, 0) being the centre of its top-left pixel.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.files import atomic

Image = NDArray[np.uint8]

_FRACTION_BITS = 4  # OpenCV draws at positions in 1/16 pixel


def point_colour(index: int) -> tuple[int, int, int]:
    """The colour (red, green, blue) of a point: the same in all pictures, neighbours unlike."""
    # Steps of the golden section around the circle of hues never come close to an earlier one soon.
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 1 - 0.35 * (index % 2), 1)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_points(
    image: Image,
    points: NDArray[np.floating],
    visible: NDArray[np.bool_] | None = None,
    skeleton: Sequence[tuple[int, int]] = (),
    radius: float = 3,
) -> Image:
    """The image with its points in their colours; missing (NaN) points are not drawn.

    Args:
        image: (H, W, 3) uint8; it is not modified.
        points: (P, 2) pixels.
        visible: (P,) hidden points are drawn as rings.
        skeleton: pairs of points to join.
        radius: of a point, in pixels.
    """
    canvas = image.copy()
    known = np.isfinite(points).all(axis=1)
    unit = 1 << _FRACTION_BITS
    # A point may lie far outside; OpenCV counts in 32 bits.
    clipped = np.clip(np.where(known[:, None], points, 0), -1e5, 1e5)
    at = [(int(x), int(y)) for x, y in np.rint(clipped * unit)]
    fine = {"lineType": cv2.LINE_AA, "shift": _FRACTION_BITS}
    for i, j in skeleton:
        if known[i] and known[j]:
            cv2.line(canvas, at[i], at[j], (255, 255, 255), 1, **fine)
    for i, place in enumerate(at):
        if not known[i]:
            continue
        filled = visible is None or visible[i]
        size = round(radius * unit)
        cv2.circle(canvas, place, size + unit // 2, (0, 0, 0), -1 if filled else 2, **fine)
        cv2.circle(canvas, place, size, point_colour(i), -1 if filled else 1, **fine)
    return canvas


def contact_sheet(
    path: str | Path,
    images: Sequence[Image],
    points: Sequence[NDArray[np.floating]] | None = None,
    visible: Sequence[NDArray[np.bool_]] | None = None,
    titles: Sequence[str] | None = None,
    skeleton: Sequence[tuple[int, int]] = (),
    columns: int = 6,
    cell: int = 200,
    radius: float = 2.5,
) -> None:
    """Save a PNG with many images and their points side by side.

    Args:
        path: the file.
        images: (H, W, 3) uint8, of any sizes.
        points: (P, 2) pixels of each image.
        visible: (P,) of each image; hidden points are drawn as rings.
        titles: a line below each image.
        skeleton: pairs of points to join.
        columns: images in a row.
        cell: pixels of an image's longer side on the sheet.
        radius: of a point, in pixels of the sheet.
    """
    footer, gap = (16, 4) if titles is not None else (0, 4)
    rows = -(-len(images) // columns)
    across = min(columns, len(images)) * (cell + gap) + gap
    sheet = np.full((rows * (cell + gap + footer) + gap, across, 3), 255, np.uint8)
    for i, image in enumerate(images):
        height, width = image.shape[:2]
        scale = cell / max(height, width)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        shrinks = scale < 1
        picture = cv2.resize(
            image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        ).astype(np.uint8, copy=False)
        if points is not None:
            factor = np.array(size) / (width, height)
            moved = (points[i] + 0.5) * factor - 0.5
            seen = None if visible is None else visible[i]
            picture = draw_points(picture, moved, seen, skeleton, radius)
        x = gap + i % columns * (cell + gap)
        y = gap + i // columns * (cell + gap + footer)
        sheet[y : y + size[1], x : x + size[0]] = picture
        if titles is not None:
            # The end of a path says more than its beginning.
            text, font = titles[i][-cell // 6 :], cv2.FONT_HERSHEY_SIMPLEX
            place = (x, y + cell + 12)
            cv2.putText(sheet, text, place, font, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    with atomic(path) as temporary:
        _, encoded = cv2.imencode(".png", np.ascontiguousarray(sheet[:, :, ::-1]))
        temporary.write_bytes(encoded.tobytes())
