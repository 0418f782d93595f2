"""What random warps cost, as multiples of bare ``grid_sample`` measured in the same run.

    python benchmarks/warps.py [--repeats 40] [--threads N] [--csv FILE]

For a batch of 32 images of 3 × 128 × 128 and 10 × 10 control points (the defaults of ``tps_pair``)
it times the public path that training takes: ``generator.draw(...)``, fold test included, and
``warp.source_grid(size)`` or ``warp.apply(images)``. One warp of the pair is counted: ``draw``
makes two, so half of its time is taken. The features of the pixel grid are cached, as they are
after the first step of a training, and one feature map of 16 MiB has been freed, as a network's
are: until then the C library hands freed memory back to the system and pays for its pages again in
every call, which can triple the time of the grid. ``grid_sample`` gets a contiguous grid of such a
warp, made beforehand.

Each repeat times all rows one after the other, so that other work on the machine slows them alike.
Two ratios are printed: the median over repeats of each repeat's ratio, and the ratio of the fastest
times, which is what the code costs when nothing interferes. The targets (drawing and grid at most
0.6, the whole warp at most 2.2 times ``grid_sample``) are for the latter; the exit status is 1 if
one is missed. Where other programs use the cores, threads that spin while they wait for each other
spoil every figure: set ``OMP_WAIT_POLICY=passive`` or use ``--threads 1``.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _common import wait

from landmark_lab.geometry.points import inside
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.warps.tps_pair import TpsPair

BATCH, CHANNELS, SIDE, CONTROL, POINTS = 32, 3, 128, 10, 68
BARE, GRID, WHOLE = "grid_sample", "draw + grid", "draw + apply"
TARGETS = {GRID: 0.6, WHOLE: 2.2}
INVERSE = "valid at source (dense inverse)"  # slow, so timed in every eighth repeat

Call = Callable[[], object]


def rows(device: str) -> dict[str, tuple[Call, Call | None]]:
    """What is timed, by name: (counted in full, counted by half)."""
    size = (SIDE, SIDE)
    generator = TpsPair(control=CONTROL)
    images = torch.rand(BATCH, CHANNELS, SIDE, SIDE, device=device)
    step = iter(range(10**9))

    def draw() -> object:
        return generator.draw(BatchDraw.single(next(step), BATCH, device), size)

    view, warp = generator.draw(BatchDraw.single(0, BATCH, device), size)
    composed = view.then(warp)
    grid = warp.source_grid(size).contiguous()
    points = torch.rand(BATCH, POINTS, 2, device=device) * 1.6 - 0.8
    return {
        BARE: (lambda: F.grid_sample(images, grid, align_corners=False), None),
        "draw": (lambda: None, draw),
        GRID: (lambda: warp.source_grid(size), draw),
        WHOLE: (lambda: warp.apply(images), draw),
        "apply view, then apply warp": (lambda: warp.apply(view.apply(images)), None),
        "apply both at once": (lambda: composed.apply(images), None),
        f"to_source of {POINTS} points": (lambda: warp.to_source(points), None),
        f"to_target of {POINTS} points": (lambda: warp.to_target(points), None),
        "valid at target": (lambda: inside(warp.source_grid(size)), None),
        INVERSE: (lambda: warp.valid(size, at="source"), None),
    }


def measure(repeats: int, device: str) -> dict[str, list[tuple[float, float]]]:
    """Seconds of every row, and of ``grid_sample`` in the same repeat."""
    torch.empty(BATCH, 32, 64, 64, device=device)  # freed at once; see above
    seconds: dict[str, list[tuple[float, float]]] = {}
    timed = rows(device)
    for repeat in range(-3, repeats):  # three to warm up
        bare = 0.0
        for name, (full, half) in timed.items():
            if name == INVERSE and repeat % 8:
                continue
            elapsed = _time(full, device) + (_time(half, device) / 2 if half else 0.0)
            bare = elapsed if name == BARE else bare
            if repeat >= 0:
                seconds.setdefault(name, []).append((elapsed, bare))
    return seconds


def _time(call: Call, device: str) -> float:
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def main() -> int:
    """Measure, print the table, write the CSV; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, help="threads of torch (its default otherwise)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path, help="write the table to this file, too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    with torch.no_grad():
        seconds = measure(max(options.repeats, 1), options.device)
    fastest = min(elapsed for elapsed, _ in seconds[BARE])
    table = []
    for name, pairs in seconds.items():
        elapsed = [row for row, _ in pairs]
        ratios = statistics.median(row / bare for row, bare in pairs)
        table.append(
            (
                name,
                round(1e3 * statistics.median(elapsed), 3),
                round(1e3 * min(elapsed), 3),
                round(ratios, 3),
                round(min(elapsed) / fastest, 3),
                TARGETS.get(name, ""),
            )
        )

    print(
        f"{BATCH} × {CHANNELS} × {SIDE} × {SIDE}, {CONTROL} × {CONTROL} control points; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}, "
        f"load {os.getloadavg()[0]:.1f}, {options.repeats} repeats"
    )
    header = ("row", "median ms", "fastest ms", "median ratio", "ratio of fastest", "target")
    print(f"{'':32}" + "".join(f"{title:>18}" for title in header[1:]))
    for name, *numbers in table:
        print(f"{name:32}" + "".join(f"{number:>18}" for number in numbers))
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *table])
    missed = [name for name, *_, ratio, target in table if target and ratio > target]
    for name in missed:
        print(f"target missed: {name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
