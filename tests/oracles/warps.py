"""Slow, obvious versions of what ``landmark_lab.geometry`` computes, one image and point at a time.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray


def kernel(radius: float) -> float:
    """U(r) = r² log r²."""
    return 0.0 if radius == 0 else radius**2 * math.log(radius**2)


def thin_plate(control: Array, values: Array) -> Callable[[Array], Array]:
    """The thin-plate spline through values (P, k) at control points (P, 2), by one explicit solve.

    Returns:
        A function of one point (2,).
    """
    count = len(control)
    system = np.zeros((count + 3, count + 3))
    for i in range(count):
        for j in range(count):
            system[i, j] = kernel(float(np.hypot(*(control[i] - control[j]))))
        system[i, count:] = system[count:, i] = [1, *control[i]]
    solution = np.linalg.solve(system, np.concatenate([values, np.zeros((3, values.shape[1]))]))

    def spline(point: Array) -> Array:
        terms = [kernel(float(np.hypot(*(point - c)))) for c in control]
        return np.asarray([*terms, 1, *point]) @ solution

    return spline


def pixel_centre(row: int, column: int, height: int, width: int) -> tuple[float, float]:
    """The centre of a pixel as a point: the image is cut into equal parts from -1 to 1."""
    return -1 + 2 * (column + 0.5) / width, -1 + 2 * (row + 0.5) / height


def look_up(image: Array, x: float, y: float, padding: str = "zeros") -> Array:
    """The image (C, H, W) at a point, bilinear between pixel centres."""
    _, height, width = image.shape
    column, row = (x + 1) * width / 2 - 0.5, (y + 1) * height / 2 - 0.5
    if padding == "border":
        column, row = min(max(column, 0), width - 1), min(max(row, 0), height - 1)
    left, top = math.floor(column), math.floor(row)
    total = np.zeros(len(image))
    for i in (top, top + 1):
        for j in (left, left + 1):
            weight = (1 - abs(row - i)) * (1 - abs(column - j))
            if 0 <= i < height and 0 <= j < width:
                total += weight * image[:, i, j]
    return total


def warp_image(image: Array, to_source: Callable[[Array], Array], padding: str = "zeros") -> Array:
    """The target image (C, H, W): at each pixel, the source at ``to_source`` of its centre."""
    _, height, width = image.shape
    target = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = to_source(np.asarray(pixel_centre(row, column, height, width)))
            target[:, row, column] = look_up(image, x, y, padding)
    return target


def smallest_area(f: Callable[[Array], Array], side: int = 161, step: float = 1e-5) -> Array:
    """The smallest determinant of the Jacobian matrices of maps on [-1, 1]², by differences.

    Args:
        f: points (n, 2) -> their images under B maps, (B, n, 2), in float64.
        side: points a side at which it is looked at.
        step: half distance of the differences.

    Returns:
        (B,).
    """
    line = np.linspace(-1, 1, side)
    points = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    dx, dy = np.asarray([step, 0.0]), np.asarray([0.0, step])
    by_x = (f(points + dx) - f(points - dx)) / (2 * step)
    by_y = (f(points + dy) - f(points - dy)) / (2 * step)
    return (by_x[..., 0] * by_y[..., 1] - by_x[..., 1] * by_y[..., 0]).min(-1)


def peak(image: Array) -> tuple[float, float]:
    """The highest place of an image (H, W) of one Gaussian blob, in pixel coordinates.

    The logarithm of a Gaussian is a paraboloid, and nearly one after a warp: a polynomial of
    degree 4 is fitted to the 7 × 7 pixels about the highest pixel, and its top found step by step.
    """
    row, column = np.unravel_index(image.argmax(), image.shape)
    y, x = np.mgrid[-3:4, -3:4].reshape(2, -1)
    powers = [(i, j) for i in range(5) for j in range(5 - i)]
    design = np.stack([x**i * y**j for i, j in powers], -1).astype(float)
    # Weighted, because noise in small values is large in their logarithm.
    values = image[row + y, column + x]
    weights = values / values.max()
    logs = np.log(np.maximum(values, 1e-12))
    fitted = np.linalg.lstsq(design * weights[:, None], logs * weights, rcond=None)[0]
    top = np.zeros(2)
    for _ in range(200):
        slope = np.zeros(2)
        for (i, j), factor in zip(powers, fitted, strict=True):
            slope[0] += factor * i * top[0] ** max(i - 1, 0) * top[1] ** j
            slope[1] += factor * j * top[0] ** i * top[1] ** max(j - 1, 0)
        top += slope  # the logarithm's curvature is below 1, so this converges
    return column + top[0], row + top[1]
