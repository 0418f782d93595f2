"""Films with a known motion, for tests: a texture that moves, maybe with something before it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WIDTH, HEIGHT = 120, 90


def texture(seed: int, side: int = 320) -> NDArray[np.float32]:
    """Coloured noise of several scales, (side, side, 3) in [0, 255]: structure everywhere."""
    generator = np.random.default_rng(seed)
    total = np.zeros((side, side, 3), np.float32)
    for sigma in (2, 4, 8, 16):
        noise = cv2.GaussianBlur(generator.normal(size=(side, side, 3)), (0, 0), sigma)
        total += (noise / noise.std()).astype(np.float32)
    return np.clip(128 + 28 * total, 0, 255).astype(np.float32)


def view(pattern: NDArray[np.float32], motion: Floats) -> NDArray[np.float32]:
    """What a camera sees: a point of the first frame, around the pattern's middle, lies at motion.

    Args:
        pattern: (side, side, 3).
        motion: (2, 3), from pixels of the first frame to those of this one.
    """
    first = np.array([[1.0, 0, (WIDTH - len(pattern)) // 2], [0, 1, (HEIGHT - len(pattern)) // 2]])
    whole = motion @ np.vstack([first, [0, 0, 1]])
    return np.asarray(cv2.warpAffine(pattern, whole, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC))


def power(motion: Floats, exponent: int) -> Floats:
    """An affine map (2, 3) several times."""
    square = np.vstack([motion, [0, 0, 1]])
    return np.asarray(np.linalg.matrix_power(square, exponent)[:2])


def save(
    folder: Path, frames: list[NDArray[np.float32]], name: str = "frame", first: int = 0
) -> Path:
    """Write frames as numbered image files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, first):
        picture = np.clip(np.rint(frame), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}_{number:03d}.png"), picture[:, :, ::-1])
    return folder


def turning(folder: Path, count: int, motion: Floats, seed: int = 0, name: str = "frame") -> Path:
    """Frames of a texture that goes on moving in the same way."""
    pattern = texture(seed)
    frames = [view(pattern, power(motion, number)) for number in range(count)]
    return save(folder, frames, name)


def about_the_middle(angle: float, scale: float, x: float, y: float) -> Floats:
    """The motion that turns by degrees and scales about the middle, and shifts by pixels."""
    middle = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    motion = np.asarray(cv2.getRotationMatrix2D(middle, angle, scale))
    motion[:, 2] += x, y
    return motion
