"""How many toy faces one core draws in a second, with their points and masks.

    python benchmarks/toy_faces.py [--size 64] [--images 500] [--repeats 7]

Counts the processor's time, not the clock's, in one thread, so that a busy machine does not spoil
the figure; the result is the median of the repeats. Target: 500 images per second at 64 pixels;
the exit status is 1 if it is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import cv2

from landmark_lab_plugins.data.toy_faces import ToyFaces

TARGET, TARGET_SIZE = 500, 64


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=TARGET_SIZE)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    settings = parser.parse_args()
    cv2.setNumThreads(1)
    count = settings.images * (settings.repeats + 1)
    images = ToyFaces(size=settings.size, train=count).images("train")
    speeds = []
    for repeat in range(settings.repeats + 1):
        start = time.process_time()
        for index in range(repeat * settings.images, (repeat + 1) * settings.images):
            images[index]
        speeds.append(settings.images / (time.process_time() - start))
    speed = statistics.median(speeds[1:])  # the first repeat warms up
    print(f"{speed:.0f} images per second on one core at {settings.size} pixels (median of")
    print(f"{settings.repeats}: {min(speeds[1:]):.0f} to {max(speeds[1:]):.0f}); target {TARGET}")
    return int(settings.size == TARGET_SIZE and speed < TARGET)


if __name__ == "__main__":
    sys.exit(main())
