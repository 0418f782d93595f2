"""What a training step costs, part by part, and beside the bare backbone's step.

    python benchmarks/step.py [--steps 60] [--only demo] [--threads 1] [--no-csv]

The experiments run as ``landmark-lab train`` runs them, with Lightning and all loggers and
callbacks; ``own_folder`` on drawn pictures in a folder made for it. ``exchange`` is vector exchange
in 16 dimensions with the network ``simple``, 16 pairs of 64 px with the papers' warps, on drawn
faces. Of each:

- **whole / bare**: after every step of the training, one step of a copy of its backbone follows
  (forward, backward from a fixed gradient, optimiser; no Lightning, no loss, no data), on as many
  images. The two alternate, so that other work on the machine slows both alike; the figure is the
  ratio of the medians. Target: at most 1.25 for the demo; the exit status is 1 if it is missed.
- **parts**: an epoch with its validation, in a second run. Time is charged to the innermost part
  that runs. ``Lightning and the rest`` is what no part takes; the validation and the saving behind
  the epoch are shown as a share of it.
- **loading**: what the training waits for. Where workers load, their own work for a batch, in
  parallel to the step, is measured apart.
- **peak memory**: of two further processes, one that trains and one that takes the bare steps, less
  what a process holds that has loaded the same libraries (GPU: what torch has allocated).

On the CPU all this is the processor's time of the training process, which other programs disturb
least (the clock's time is printed beside it); on a GPU, if there is one, the clock's, the GPU being
waited for at the ends of a step and, in the second run, of every part. Rows are appended to
``benchmarks/results/step.csv``.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import torch
from _common import append, provenance
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import Profiler

from landmark_lab import experiment as running
from landmark_lab.completion import complete
from landmark_lab.config import Experiment, read
from landmark_lab_plugins.data.toy_faces import ToyFaces

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "step.csv"
TARGET = 1.25
WARM_UP = 5
PICTURES = 960

REST = "Lightning and the rest"
# What occurs in the names of Lightning's actions; blocks that are measured here have a part's name.
PARTS: dict[str, tuple[str, ...]] = {
    "callbacks": ("[Callback]",),
    "backbone forward": (),
    "backbone backward": (".backward",),
    "optimiser": ("optimizer_step", "optimizer_zero_grad", "gradient_clipping", "lr_scheduler"),
    "losses": (".training_step",),
    "warps": (),
    "loading": ("_next", "batch_transfer", "transfer_batch", "batch_to_device"),
    "logging": (),
    REST: (),
}


class Clock:
    """Seconds of the processor (CPU) or of the clock (GPU), and of the clock."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self) -> tuple[float, float]:
        if self.device == "cpu":
            return time.process_time(), time.perf_counter()
        torch.cuda.synchronize()
        return time.perf_counter(), time.perf_counter()


class BareSteps(Callback):
    """After every training step, a step of a copy of the backbone; see the module's text."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.whole: list[tuple[float, float]] = []
        self.bare: list[tuple[float, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = bare_step(pl_module, trainer.datamodule)  # type: ignore[attr-defined]
        self.last = self.clock()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        begin = self.clock()
        self.step()
        end = self.clock()
        if trainer.global_step > WARM_UP:
            self.whole.append((begin[0] - self.last[0], begin[1] - self.last[1]))
            self.bare.append((end[0] - begin[0], end[1] - begin[1]))
        self.last = end


def bare_step(method: Any, data: Any) -> Callable[[], None]:
    """One step of a copy of the backbone, on as many images of the same size."""
    backbone = copy.deepcopy(method.backbone).train()
    optimiser = method.optimiser.configure(backbone.parameters())
    count = 2 * data._loader.batch_size  # a pair is two images
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, data.size, data.size, generator=generator).to(method.device)
    with torch.no_grad():
        gradient = torch.randn(backbone(images)[0].shape, generator=generator) * 1e-4
    gradient = gradient.to(method.device)

    def step() -> None:
        optimiser.zero_grad()
        backbone(images)[0].backward(gradient)
        optimiser.step()

    return step


class Parts(Profiler):
    """Charges time to the innermost of Lightning's named actions and of the blocks named here."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.stack = ["rest"]
        self.seconds: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        self.last = clock()

    def start(self, action_name: str) -> None:
        self.charge(self.stack[-1])
        self.stack.append(action_name)

    def stop(self, action_name: str) -> None:
        self.charge(self.stack.pop())

    def charge(self, name: str) -> None:
        """Charge the time since the last event to an action."""
        now = self.clock()
        before = self.seconds[name]
        self.seconds[name] = (
            before[0] + now[0] - self.last[0],
            before[1] + now[1] - self.last[1],
        )
        self.last = now

    def restart(self) -> None:
        """Forget what was measured so far."""
        self.charge("rest")
        self.seconds.clear()

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Measure a method of an object under a name."""
        inner = getattr(owner, method)

        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.profile(name):
                return inner(*args, **kwargs)

        setattr(owner, method, measured)


class Watch(Callback):
    """Measures the parts of an epoch, and what follows it."""

    def __init__(self, clock: Clock) -> None:
        self.parts = Parts(clock)
        self.steps = 0
        self.after: tuple[float, float] = (0.0, 0.0)
        self.in_steps: dict[str, tuple[float, float]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.profiler = self.parts  # type: ignore[attr-defined]
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        method: Any = pl_module
        self.parts.wrap(data._pairing, "pair", "warps")
        self.parts.wrap(method, "losses", "losses")
        for owner, name in ((method, "log_dict"), (method, "log")):
            self.parts.wrap(owner, name, "logging")
        for name in ("update_train_step_metrics", "log_metrics"):
            self.parts.wrap(trainer._logger_connector, name, "logging")
        forward = method.backbone.forward

        def watched(images: torch.Tensor) -> Any:
            with self.parts.profile("backbone forward"):
                maps = forward(images)
            if maps[0].requires_grad:
                # What the backward pass did before it came here belongs to the losses.
                maps[0].register_hook(lambda gradient: self.parts.charge("losses"))
            return maps

        method.backbone.forward = watched

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.parts.charge(self.parts.stack[-1])
        if trainer.global_step == WARM_UP:
            self.parts.restart()
        else:
            self.steps += trainer.global_step > WARM_UP
            self.in_steps = dict(self.parts.seconds)
        self.ended = self.parts.clock()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = self.parts.clock()
        self.after = (now[0] - self.ended[0], now[1] - self.ended[1])


def part_of(action: str) -> str:
    """The part that an action belongs to."""
    if action in PARTS:
        return action
    for part, marks in PARTS.items():
        if any(mark in action for mark in marks):
            return part
    return REST


# --- experiments ---------------------------------------------------------------------------------


@contextmanager
def experiments() -> Iterator[dict[str, Callable[..., Experiment]]]:
    """The measured experiments by name, each with further overrides."""
    with tempfile.TemporaryDirectory() as folder:

        def demo(*overrides: str) -> Experiment:
            return read(ROOT / "experiments" / "demo.yaml", ["evaluate=[]", *overrides])

        def own_folder(*overrides: str) -> Experiment:
            pictures = Path(folder) / "pictures"
            if not pictures.is_dir():
                pictures.mkdir()
                images = ToyFaces(size=128, train=PICTURES).images("train")
                for number in range(PICTURES):
                    path = str(pictures / f"{number:04d}.png")
                    cv2.imwrite(path, images[number]["image"][:, :, ::-1])
            where = f"data.root={pictures}"
            path = ROOT / "experiments" / "own_folder.yaml"
            return read(path, [where, "evaluate=[]", *overrides])

        def exchange(*overrides: str) -> Experiment:
            return read(
                ROOT / "experiments" / "demo.yaml",
                [
                    "evaluate=[]",
                    "data={name: toy_faces, size: 64, train: 640, val: 32}",
                    "method={name: evc, dimension: 16, backbone: simple}",
                    "pairing={name: synthetic, annotation: false, warps: tps_pair}",
                    "loader={batch_size: 16}",
                    *overrides,
                ],
            )

        yield {"demo": demo, "own_folder": own_folder, "exchange": exchange}


def train(experiment: Experiment, *callbacks: Callback) -> None:
    """Run an experiment without a word."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        out, err = sys.stdout, sys.stderr
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        try:
            sys.stdout = sys.stderr = nowhere
            running.run(complete(experiment), Path(folder), callbacks=callbacks)
        finally:
            sys.stdout, sys.stderr = out, err


def trainer_settings(device: str, steps: int) -> list[str]:
    """Overrides: the device, and how long."""
    kind = "cpu" if device == "cpu" else "gpu"
    return [
        f"trainer.accelerator={kind}",
        "trainer.devices=1",
        f"trainer.max_steps={steps}",
        "trainer.max_epochs=-1",
    ]


# --- measuring -----------------------------------------------------------------------------------


def measure(name: str, make: Callable[..., Experiment], device: str, steps: int) -> dict[str, Any]:
    """All figures of one experiment on one device."""
    clock = Clock(device)
    bare = BareSteps(clock)
    train(make(*trainer_settings(device, steps + WARM_UP)), bare)
    watch = Watch(clock)
    settings = trainer_settings(device, -1)[:2]
    train(make(*settings, "trainer.max_steps=-1", "trainer.max_epochs=1"), watch)

    stage = next(iter(complete(make()).stages.values()))
    batch, size = stage.loader["batch_size"], image_size(stage.data)
    whole = [statistics.median(step[k] for step in bare.whole) for k in (0, 1)]
    alone = [statistics.median(step[k] for step in bare.bare) for k in (0, 1)]
    parts = dict.fromkeys(PARTS, 0.0)
    waited = 0.0
    for action, seconds in watch.in_steps.items():
        parts[part_of(action)] += seconds[0] / watch.steps
        waited += seconds[1] / watch.steps * (part_of(action) == "loading")
    in_steps = sum(seconds[0] for seconds in watch.in_steps.values())
    return {
        "experiment": name,
        "device": device,
        "batch": batch,
        "size": size,
        "whole_ms": 1e3 * whole[0],
        "whole_by_clock_ms": 1e3 * whole[1],
        "bare_ms": 1e3 * alone[0],
        "ratio": whole[0] / alone[0],
        "ratio_by_clock": whole[1] / alone[1],
        "images_per_second": 2 * batch / whole[0],
        **{f"{part}_ms": 1e3 * seconds for part, seconds in parts.items()},
        "loading_by_clock_ms": 1e3 * waited,
        "after_epoch_share": watch.after[0] / (in_steps + watch.after[0]),
        "worker_ms": 1e3 * worker_seconds(stage) if stage.loader["workers"] else 0.0,
        **memory(name, device),
    }


def image_size(data: dict[str, Any]) -> int:
    """Side of the images of a data set's spec."""
    return int(data["size"] if "size" in data else data["preprocess"]["size"])


def worker_seconds(stage: Any, batches: int = 12) -> float:
    """What a loading process works for a batch, by loading some in this process."""
    from landmark_lab.data.sampling import LoaderSettings
    from landmark_lab.plugin import build, build_settings
    from landmark_lab.roles import ImageData, Pairing

    data = build(ImageData, stage.data, "data")
    loader = build_settings(LoaderSettings, {**stage.loader, "workers": 0}, "loader")
    data.prepare_training(build(Pairing, stage.pairing, "pairing"), loader, 0)
    loaded = iter(data.train_dataloader())
    next(loaded)
    begin = time.process_time()
    for _ in range(batches):
        next(loaded)
    return (time.process_time() - begin) / batches


def memory(name: str, device: str) -> dict[str, float]:
    """Peak memory in MiB of a process that trains, and of one that takes bare steps."""
    found = {}
    for kind in ("whole", "bare"):
        # Larger blocks go back to the system when they are freed, or fragments would be counted.
        child = subprocess.run(
            [sys.executable, __file__, "--memory", kind, "--only", name, "--device", device],
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)},
            capture_output=True,
            text=True,
        )
        if child.returncode:
            raise RuntimeError(child.stderr)
        found[f"{kind}_peak_mib"] = float(json.loads(child.stdout.splitlines()[-1]))
    return found


class Stop(BaseException):
    """Ends a training from within."""


class OnlyBare(Callback):
    """Takes bare steps instead of training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = bare_step(pl_module, trainer.datamodule)  # type: ignore[attr-defined]
        for _ in range(8):
            step()
        raise Stop


def peak(make: Callable[..., Experiment], kind: str, device: str) -> float:
    """Peak memory of this process in MiB, beyond what it holds before it trains."""

    experiment = make(*trainer_settings(device, 12))
    # What the libraries load at their first use is no matter of the training: one small
    # convolution forward and backward loads it.
    torch.nn.Conv2d(3, 3, 3)(torch.rand(1, 3, 8, 8)).sum().backward()
    before = high_water(device, forget=True)
    with suppress(Stop):
        train(experiment, *([OnlyBare()] if kind == "bare" else []))
    return high_water(device) - before


def high_water(device: str, forget: bool = False) -> float:
    """The largest memory so far in MiB: of torch on the GPU, of the process otherwise.

    Args:
        device: where.
        forget: count from now on; the result is then the memory in use. (The system hands the mark
            of the process that started this one on to it.)
    """
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        if forget:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return math.nan  # not Linux
    return float(status.partition("VmHWM:")[2].split()[0]) / 2**10


# --- output --------------------------------------------------------------------------------------


def print_table(row: dict[str, Any]) -> None:
    """One experiment's figures."""
    what = f"{row['batch']} pairs of {row['size']} px"
    print(f"\n{row['experiment']} on the {row['device']}, {what}")
    print(
        f"  whole step  {row['whole_ms']:9.1f} ms   {row['images_per_second']:.0f} images/s", end=""
    )
    print(f"   by the clock {row['whole_by_clock_ms']:.1f} ms")
    print(f"  bare step   {row['bare_ms']:9.1f} ms")
    print(f"  whole / bare {row['ratio']:8.3f}      by the clock {row['ratio_by_clock']:.3f}")
    total = sum(row[f"{part}_ms"] for part in PARTS)
    for part in PARTS:
        milliseconds = row[f"{part}_ms"]
        print(f"    {part:24}{milliseconds:9.2f} ms {milliseconds / total:7.1%}")
    print(f"  after an epoch: validation, saving   {row['after_epoch_share']:.1%} of the training")
    print(f"  loading by the clock, waiting included {row['loading_by_clock_ms']:.1f} ms a batch")
    if row["worker_ms"]:
        print(f"  loading in a process of its own        {row['worker_ms']:.1f} ms a batch")
    print(f"  peak memory  training {row['whole_peak_mib']:.0f} MiB, ", end="")
    print(f"bare steps {row['bare_peak_mib']:.0f} MiB")


def main() -> int:
    """Measure, print, append to the table; 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="measured steps of the ratio")
    parser.add_argument("--only", help="one experiment: demo, own_folder or exchange")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="both by default, where present")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--no-csv", action="store_true", help="do not keep the figures")
    parser.add_argument("--memory", choices=("whole", "bare"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    missed = False
    with experiments() as made:
        if options.memory:
            print(peak(made[options.only], options.memory, options.device))
            return 0
        for device in [options.device] if options.device else devices:
            for name, make in made.items():
                if options.only not in (None, name):
                    continue
                row = {**provenance(), **measure(name, make, device, options.steps)}
                print_table(row)
                if not options.no_csv:
                    append(RESULTS, row)
                missed |= name == "demo" and row["ratio"] > TARGET
    if missed:
        print(f"target missed: the demo's whole / bare is above {TARGET}", file=sys.stderr)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
