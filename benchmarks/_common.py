"""What the benchmarks share: saying on what they ran, waiting for it, keeping their figures."""

from __future__ import annotations

import csv
import datetime
import os
import platform
from pathlib import Path
from typing import Any

import torch

from landmark_lab.files import atomic
from landmark_lab.runs import environment


def provenance() -> dict[str, Any]:
    """When, on what, with what."""
    found = environment()
    git = found["git"] or {"commit": "", "dirty": ""}
    gpus = found["cuda_devices"]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpus[0] if gpus else "",
        "python": found["python"],
        "torch": found["libraries"].get("torch"),
        "lightning": found["libraries"].get("pytorch-lightning"),
        "landmark_lab": found["landmark_lab"],
        "commit": git["commit"],
        "changed": git["dirty"],
        "load": round(os.getloadavg()[0], 1),
    }


def wait(device: str) -> None:
    """Wait for the GPU, if it is one."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def append(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a table that is kept; a new column is empty in the rows before."""
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    rows.append(rounded)
    columns = dict.fromkeys(name for one in rows for name in one)
    with atomic(path) as file, file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(columns))
        writer.writeheader()
        writer.writerows(rows)
