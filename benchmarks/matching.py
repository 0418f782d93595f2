"""What the tiled matching loss costs, as multiples of the plain one measured in the same run.

    python benchmarks/matching.py [--repeats 5] [--threads N] [--device cpu] [--csv FILE]

Maps of 8 × 64 × 64 × 64, γ = 0.5, forward and backward. The plain version is the one in
``tests/oracles/matching.py``, which holds all B·N·M distances and probabilities; memory for it is
about 2 GB. Each repeat times all rows one after the other, so that other work on the machine slows
them alike. Two ratios are printed: the median over repeats of each repeat's ratio, and the ratio of
the fastest times, which is what the code costs when nothing interferes.

Memory (CPU only) is the peak resident set of a process of its own for each row, minus that of the
same process before, with ``MALLOC_MMAP_THRESHOLD_=1048576``: without it the C library's
fragmentation hides the truth. One row has 128×128 maps with queries at stride 2.

The targets, for the ratios of the fastest times: at least 2.5 times as fast as plain, at least 1.7
times with exchange; below 200 MB, 300 MB at 128×128. The exit status is 1 if one is missed.
``attention`` is scaled-dot-product attention alone, forward and backward, with vectors of the same
size; ``products`` the three matrix products that no form can do without. On a GPU the products say
how far from the limit a form is.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _common import wait
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from landmark_lab.geometry.points import pixel_grid, to_pixels
from landmark_lab.losses.exchange import exchange
from landmark_lab.losses.matching import expected_distance, negative_log_likelihood
from tests.oracles import matching as oracle

BATCH, CHANNELS, SIDE, POWER = 8, 64, 64, 0.5
TILED, PLAIN = "tiled", "plain"
TILED_EXCHANGE, PLAIN_EXCHANGE = "exchange, tiled", "exchange, plain"
LARGE = "tiled, 128×128, stride 2"
SPEED = {TILED: (PLAIN, 2.5), TILED_EXCHANGE: (PLAIN_EXCHANGE, 1.7)}
MEMORY = {TILED: 200, TILED_EXCHANGE: 200, LARGE: 300}

Call = Callable[[], None]


def rows(device: str, side: int = SIDE, queries: int = SIDE**2) -> dict[str, Call]:
    """What is measured, by name: each computes a loss and its gradients."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator) * 0.5
        return values.to(device).requires_grad_()

    query = normal(BATCH, queries, CHANNELS)
    key = normal(BATCH, CHANNELS, side, side)
    other = normal(BATCH, 1, CHANNELS, side, side)
    truth = (torch.rand(BATCH, queries, 2, generator=generator) * 2 - 1).to(device)
    weight = torch.full((BATCH, queries), 1 / (BATCH * queries), device=device)
    size = (2 * side, 2 * side)

    def learn(loss: Callable[[], Tensor]) -> Call:
        def step() -> None:
            query.grad = key.grad = other.grad = None
            loss().sum().backward()

        return step

    def tiled(vectors: Tensor) -> Tensor:
        return expected_distance(vectors, key, truth, weight, size, POWER)

    def plain(vectors: Tensor) -> Tensor:
        cells = to_pixels(pixel_grid(side, side, device), *size)
        targets = to_pixels(truth, *size)
        return oracle.expected_distance(vectors, key.flatten(2).mT, targets, cells, weight, POWER)

    def attention() -> Tensor:
        values = key.flatten(2).mT[:, None]
        return F.scaled_dot_product_attention(query[:, None], values, values)

    def products() -> None:
        with torch.no_grad():
            flat = key.flatten(2)
            for q, k in zip(query, flat, strict=True):
                scores = q @ k
                scores @ k.T
                q.T @ scores

    return {
        PLAIN: learn(lambda: plain(query)),
        TILED: learn(lambda: tiled(query)),
        "tiled, log-likelihood": learn(lambda: negative_log_likelihood(query, key, truth, weight)),
        PLAIN_EXCHANGE: learn(lambda: plain(oracle.exchange(query, other))),
        TILED_EXCHANGE: learn(lambda: tiled(exchange(query, other))),
        "attention": learn(attention),
        "products": products,
    }


def measure(repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of every row in every repeat."""
    timed, seconds = rows(device), {}
    for repeat in range(-1, repeats):  # one to warm up
        for name, call in timed.items():
            wait(device)
            start = time.perf_counter()
            call()
            wait(device)
            if repeat >= 0:
                seconds.setdefault(name, []).append(time.perf_counter() - start)
    return seconds


def memory(name: str) -> float:
    """Peak memory in MB that a row takes in a process of its own."""
    command = [sys.executable, __file__, "--memory", name]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def _peak(name: str) -> float:
    """Run one row; how many MB the resident set grew by at its peak."""
    timed = rows("cpu", 128, SIDE**2) if name == LARGE else rows("cpu")
    rows("cpu", 8, 8)[TILED]()  # what is loaded at the first use
    # Linux: the peak so far is forgotten. (ru_maxrss cannot be, and begins at the parent's peak.)
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water()
    timed[TILED if name == LARGE else name]()
    return _high_water() - before


def _high_water() -> float:
    """Peak of the resident set in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> int:
    """Measure, print the table, write the CSV; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of torch (its default otherwise)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path, help="write the table to this file, too")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory:
        print(_peak(options.memory))
        return 0

    seconds = measure(max(options.repeats, 1), options.device)
    taken = {name: memory(name) for name in MEMORY} if options.device == "cpu" else {}
    missed, table = [], []
    for name, elapsed in {**seconds, **{row: [] for row in taken if row not in seconds}}.items():
        ratios: tuple[object, ...] = ("", "", "")
        if name in SPEED:
            plain, target = SPEED[name]
            median = statistics.median(
                slow / fast for slow, fast in zip(seconds[plain], elapsed, strict=True)
            )
            fastest = min(seconds[plain]) / min(elapsed)
            ratios = (round(median, 2), round(fastest, 2), f"{target} times")
            missed += [name] if fastest < target else []
        mb = taken.get(name)
        limit = "" if mb is None else f"{MEMORY[name]} MB"
        missed += [f"{name} (memory)"] if mb is not None and mb > MEMORY[name] else []
        times = (
            (round(statistics.median(elapsed), 3), round(min(elapsed), 3)) if elapsed else ("", "")
        )
        table.append((name, *times, *ratios, "" if mb is None else round(mb), limit))

    print(
        f"{BATCH} × {CHANNELS} × {SIDE} × {SIDE}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {options.device}, load {os.getloadavg()[0]:.1f}, "
        f"{options.repeats} repeats"
    )
    header = ("row", "median s", "fastest s", "median ratio", "ratio of fastest", "target", "MB",
              "limit")  # fmt: skip
    print(f"{'':26}" + "".join(f"{title:>17}" for title in header[1:]))
    for name, *numbers in table:
        print(f"{name:26}" + "".join(f"{number:>17}" for number in numbers))
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *table])
    for name in missed:
        print(f"target missed: {name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
