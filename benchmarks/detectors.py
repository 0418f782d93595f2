"""What a generic keypoint detector takes for one image.

    python benchmarks/detectors.py [--root FOLDER] [--size 128] [--images 60] [--weights FOLDER]

Median over images of the processor's time of this process, one thread, on drawn faces or on the
images of a folder. ``superpoint`` is timed where ``--weights`` names its weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import cv2
import numpy as np
import torch

from landmark_lab.plugin import build
from landmark_lab.roles import ImageData, KeypointDetector
from landmark_lab.seeding import rng

SCALES = [1.0, 1.3, 1.6]
DETECTORS: tuple[dict[str, Any], ...] = (
    {"name": "sift"},
    {"name": "sift", "resolution": 128},
    {"name": "sift", "scales": SCALES},
    {"name": "orb"},
    {"name": "orb", "scales": SCALES},
    {"name": "mixture"},
    {"name": "grid"},
    {"name": "random"},
)


def main() -> None:
    """Print a line for each detector."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", help="a folder of images; drawn faces by default")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--weights", help="a folder with the weights of superpoint")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    kind: dict[str, Any] = {"name": "toy_faces", "size": given.size}
    if given.root:
        kind = {"name": "folder", "root": given.root, "preprocess": {"size": given.size}}
    images = build(ImageData, kind).images("train")
    chosen = np.linspace(0, len(images) - 1, min(given.images, len(images))).astype(int).tolist()
    rows = [images[index] for index in chosen]
    specs = list(DETECTORS)
    if given.weights:
        specs += [
            {"name": "superpoint", "weights": given.weights, "scales": s} for s in ([1.0], SCALES)
        ]
    for spec in specs:
        detector = build(KeypointDetector, spec)
        if detector.needs - rows[0].keys():
            continue
        detector.prepare()
        times, counts = [], []
        for index, row in zip(chosen, rows, strict=True):
            start = time.process_time()
            found = detector.detect(
                row["image"], rng(0, "benchmark", index), row.get("points"), row.get("box")
            )
            times.append(time.process_time() - start)
            counts.append(len(found))
        settings = " ".join(f"{key}={value}" for key, value in spec.items())
        print(
            f"{settings:50s} {1e3 * statistics.median(times):8.2f} ms {np.mean(counts):6.1f} points"
        )


if __name__ == "__main__":
    main()
