"""How much of a video optical flow can follow, how well, and what that costs.

    python benchmarks/flow.py [VIDEOS] [--size 96] [--region 0 0.456 1 1] [--every 1 2 5]
        [--pairs 100]

For each distance between frames and each estimator:

- ``followed``: pixels that come back from the next frame, of all pixels;
- ``off``: how much such a pixel differs from where it is said to go (of 255, the mean of the
  colours), over pixels that move by more than a pixel of ``--size`` by all estimates; in brackets
  how much the frames differ there if nothing moves;
- ``time``: the processor's, of this process, reading the video included.

Nothing is kept: flow is computed anew in a folder that is deleted. Without a folder of videos there
is nothing to measure.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample

from landmark_lab.data.flow import FrameTable
from landmark_lab.geometry import FlowWarp
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData

ESTIMATORS = ("dis", "farneback")
AT_REST = "at rest"

Rows = dict[str, dict[str, Any]]


def main() -> None:
    """Print a line for each distance and estimator."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("videos", nargs="?", help="a folder of videos, or of numbered frames")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--region", type=float, nargs=4, default=(0.0, 0.0, 1.0, 1.0))
    parser.add_argument("--every", type=int, nargs="+", default=(1, 2, 5))
    parser.add_argument("--pairs", type=int, default=100)
    given = parser.parse_args()
    if given.videos is None:
        print("not measured: needs a folder of videos, python benchmarks/flow.py VIDEOS")
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    preprocess = {"size": given.size, "fit": "squash", "region": list(given.region)}
    data = {"name": "folder", "root": given.videos, "preprocess": preprocess}
    data |= {"val_fraction": 0.0, "test_fraction": 0.0}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LANDMARK_LAB_CACHE"] = cache
        for every in given.every:
            spent: dict[str, float] = {}
            tables: dict[str, FrameTable] = {}
            for name in ESTIMATORS:
                images = build(ImageData, {**data, "every": every, "flow": name}).images("train")
                assert isinstance(images, FrameTable)
                start = time.process_time()
                images.prepare_flow(progress=False)
                spent[name] = time.process_time() - start
                tables[name] = images
            report(every, tables, spent, given.pairs)


def report(every: int, tables: dict[str, FrameTable], spent: dict[str, float], pairs: int) -> None:
    """Compare the estimators on the same pairs of frames."""
    first = tables[ESTIMATORS[0]]
    assert first.following is not None
    sources = np.flatnonzero(first.following >= 0)
    followed, off = defaultdict(list), defaultdict(list)
    for index in sources[:: max(1, len(sources) // pairs)].tolist():
        rows = {name: table[index] for name, table in tables.items()}
        after = first[int(first.following[index])]["image"]
        for name, row in rows.items():
            followed[name].append(row["flow_visible"].mean())
        for name, difference in differences(rows, after).items():
            off[name].append(difference)
    for name in tables:
        print(
            f"every {every}  {len(sources):5d} pairs  {name:10s} followed "
            f"{np.mean(followed[name]):4.0%}  off {np.mean(off[name]):5.2f} "
            f"({np.mean(off[AT_REST]):5.2f})  time {spent[name]:5.1f} s"
        )


def differences(rows: Rows, after: NDArray[np.uint8]) -> dict[str, float]:
    """How far each estimate is off in one pair, over pixels that move; none if nothing moves."""
    size = len(after)
    moving = np.ones((size, size), dtype=bool)
    for row in rows.values():
        moving &= row["flow_visible"] & (np.linalg.norm(row["flow"], axis=0) * size / 2 > 1)
    if not moving.any():
        return {}
    before = next(iter(rows.values()))["image"].astype(np.float64)
    target = torch.from_numpy(after).permute(2, 0, 1)[None].float()
    found = {AT_REST: after.astype(np.float64)}
    for name, row in rows.items():
        grid = FlowWarp(torch.from_numpy(row["flow"])[None]).target_grid((size, size))
        moved = grid_sample(target, grid, align_corners=False)
        found[name] = moved[0].permute(1, 2, 0).double().numpy()
    return {k: float(np.abs(image - before)[moving].mean()) for k, image in found.items()}


if __name__ == "__main__":
    main()
