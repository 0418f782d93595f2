"""How long a training will take and how much disk it needs, said soon after its start."""

import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, Timer
from pytorch_lightning.utilities import rank_zero_warn

from landmark_lab.rounds import RoundsMethod

# The first steps start workers, tune kernels and fill caches.
_WARM_UP = 5
_TIMED = 10
_PATIENCE = 20.0
# Of a stage: best, last and done.
_CHECKPOINTS = 3


class Estimate(Callback):
    """Times the first real steps of a stage, and prints what follows from them.

    Nothing is run for it, so a run is the same with it and without. A batch of the validation
    counts as a step: its passes forward (the loss, and both images of a pair for the landmarks)
    take about as long. The evaluation after the last stage is not in the time, nor are the passes
    over the images that begin rounds. The files of rounds are those of this stage alone.

    Args:
        folder: the run folder.
        stage: the stage's name.
        later: the stages still to come: name -> steps to train, given the number of processes, or
            None without a limit. They are taken to run at this stage's speed.
        picture: bytes that one validation writes.
        results: bytes that the evaluation writes.
        say: prints a line.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        later: Mapping[str, Callable[[int], int | None]],
        picture: int,
        results: int,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder = folder
        self.stage = stage
        self.later = later
        self.picture = picture
        self.results = results
        self.say = say
        self._seen = 0
        self._last: float | None = None
        self._times: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen, self._last, self._times = 0, None, []

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._seen += 1
        if self._seen < _WARM_UP or self._enough():
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # for these few steps only
        now = time.monotonic()
        if self._last is not None:
            self._times.append(now - self._last)
        self._last = now
        if self._enough() and trainer.is_global_zero:
            self._say(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = None  # the next interval holds more than a step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = None

    def _enough(self) -> bool:
        return len(self._times) >= _TIMED or sum(self._times) >= _PATIENCE

    def _say(self, trainer: Trainer, module: LightningModule) -> None:
        accumulate = trainer.accumulate_grad_batches
        step = sum(self._times) / len(self._times) * accumulate
        speed = f"{1 / step:.1f} steps/s" if step < 1 else f"{step:.1f} s a step"
        total = trainer.estimated_stepping_batches
        if math.isfinite(total):
            left = int(total) - trainer.global_step
            validations = left * accumulate / max(1.0, _between_validations(trainer))
            seconds = left * step + validations * _batches(trainer) * step / accumulate
            text = f"about {duration(seconds)} for {left:,} steps at {speed}"
        else:
            validations = 0.0
            text = f"{speed}, without an end"
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        limits = [c.time_remaining() for c in callbacks if isinstance(c, Timer)]
        if limits and limits[0] is not None:
            text += f", of which {duration(limits[0])} at most (trainer.max_time)"
        self.say(f"estimate for stage '{self.stage}': {text}{self._rest(trainer, step)}")
        self._say_disk(trainer, module, validations)

    def _rest(self, trainer: Trainer, step: float) -> str:
        if not self.later:
            return ""
        parts = []
        for name, planned in self.later.items():
            steps = planned(trainer.world_size)
            parts.append(f"'{name}' " + (duration(steps * step) if steps else "without an end"))
        return f"; then, at the same speed, {', '.join(parts)}"

    def _say_disk(self, trainer: Trainer, module: LightningModule, validations: float) -> None:
        checkpoint = checkpoint_bytes(trainer, module)
        # One more for the moment when a checkpoint replaces the one before.
        needed = checkpoint * (_CHECKPOINTS * (1 + len(self.later)) + 1)
        needed += self.results + round(self.picture * validations) + rounds_bytes(trainer, module)
        # What lies there already, but for the checkpoints of this stage, which are counted anew.
        anew = self.folder / "checkpoints" / self.stage
        files = (file for file in self.folder.rglob("*") if file.parent != anew)
        present = sum(file.stat().st_size for file in files if file.is_file())
        free = shutil.disk_usage(self.folder).free
        self.say(
            f"checkpoints about {size(checkpoint)} each, "
            f"run folder about {size(present + needed - checkpoint)}; free disk {size(free)}"
        )
        if needed > free:
            rank_zero_warn(
                f"{self.folder}: the disk will not suffice: about {size(needed)} needed, "
                f"{size(free)} free"
            )


def checkpoint_bytes(trainer: Trainer, module: LightningModule) -> int:
    """The size of a checkpoint: the weights, the optimisers' state, the table of rounds."""
    states = [state for optimiser in trainer.optimizers for state in optimiser.state.values()]
    if isinstance(module, RoundsMethod):
        states.append(module.table.state())
    tensors = list(module.state_dict().values())
    for state in states:
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def rounds_bytes(trainer: Trainer, module: LightningModule) -> int:
    """The size of the files of rounds still to come, each as large as the latest; else 0."""
    total = trainer.estimated_stepping_batches
    if not isinstance(module, RoundsMethod) or module.folder is None or not math.isfinite(total):
        return 0
    # A round begins before a step; after the last one only where a last clustering closes it.
    last = module.round_at(int(total) if module.closes else int(total) - 1)
    files = sorted(module.folder.glob("*.npz"))
    return (last - module.number) * files[-1].stat().st_size if files else 0


def duration(seconds: float) -> str:
    """A time in the unit in which one says it: ``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """A number of bytes with two digits that matter: ``840 kB``, ``12 MB``, ``1.5 GB``."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} TB"


def _between_validations(trainer: Trainer) -> float:
    """Training batches from one validation to the next."""
    return float(trainer.val_check_batch or math.inf) * (trainer.check_val_every_n_epoch or 1)


def _batches(trainer: Trainer) -> int:
    """Batches of a validation."""
    return int(sum(trainer.num_val_batches)) if trainer.enable_validation else 0
