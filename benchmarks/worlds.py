"""How many frames of each drawn world one core makes in a second, with points, mask and flow.

    python benchmarks/worlds.py [--frames 200] [--repeats 5] [--sheet FILE.png]

Counts the processor's time, not the clock's, in one thread; the result is the median of the
repeats. The robot arm's physics is measured apart, because it is kept on the disk. ``--sheet`` also
draws frames of every world with their flow: the picture in ``docs/worlds.md``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.sampling import Images, Row
from landmark_lab.figures import contact_sheet
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData
from landmark_lab.seeding import rng
from landmark_lab_plugins.data.roboarm import simulate

WORLDS = {
    "roboarm": {"name": "roboarm"},
    "roboarm, a pair": {"name": "roboarm", "arms": 2},
    "sphere": {"name": "sphere"},
    "rotor": {"name": "rotor"},
    "rotor, 5 legs": {"name": "rotor", "fold": 5},
    "car": {"name": "car"},
}
COLUMNS = 7  # of the sheet: frames of a world, the last ones as flow


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sheet", type=Path)
    settings = parser.parse_args()
    cv2.setNumThreads(1)
    physics = 1 / seconds(lambda: simulate(1, 101, rng(0, "benchmark")), settings.repeats) * 100
    print(f"physics of the robot arm: {physics:.0f} frames per second")
    pictures: list[NDArray[np.uint8]] = []
    with tempfile.TemporaryDirectory() as folder:
        for world, spec in WORLDS.items():
            if spec["name"] == "roboarm":
                spec = {**spec, "cache": folder}
            data = build(ImageData, spec)
            whole = data.images("train")
            few = build(ImageData, {**spec, "frames": settings.frames, "train": 5}).images("train")
            first = range(settings.frames)
            speed = len(first) / seconds(partial(draw, few, first), settings.repeats)
            print(
                f"{world}: {speed:.0f} frames per second on one core at {data.size} pixels; "
                f"{len(whole)} training frames in {len(whole) / speed:.0f} s"
            )
            pictures += row_of(few)
    if settings.sheet is not None:
        contact_sheet(settings.sheet, pictures, columns=COLUMNS, cell=70)


def draw(images: Images, indices: Iterable[int]) -> None:
    """Draw frames."""
    for index in indices:
        images[index]


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median processor time, after one run to warm up."""
    work()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return statistics.median(found)


def row_of(images: Images) -> list[NDArray[np.uint8]]:
    """Frames of a world, two of them also as their flow."""
    rows = [images[k] for k in np.linspace(3, len(images) - 2, COLUMNS - 2).astype(int)]
    return [row["image"] for row in rows] + [flow_picture(row) for row in rows[:2]]


def flow_picture(row: Row) -> NDArray[np.uint8]:
    """Direction as hue, length as saturation; dark where the next frame does not show the pixel."""
    x, y = row["flow"]
    length = np.hypot(x, y)
    hue = np.degrees(np.arctan2(y, x)) / 2 % 180
    strength = 255 * np.clip(length / max(np.quantile(length, 0.99), 1e-6), 0, 1)
    light = np.where(row["flow_visible"], 255, 110)
    picture = cv2.cvtColor(
        np.stack([hue, strength, light], axis=-1).astype(np.uint8), cv2.COLOR_HSV2RGB
    )
    return np.asarray(picture, np.uint8)


if __name__ == "__main__":
    main()
