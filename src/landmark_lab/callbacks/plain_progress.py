"""Progress as plain lines, where the output is not a terminal."""

import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only


class PlainProgress(Callback):
    """Prints a line at most every so many seconds.

    Args:
        seconds: least time between two lines.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self._printed = 0.0
        self._started = 0.0
        self._first = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._printed = time.monotonic()
        self._first = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if time.monotonic() - self._printed >= self.seconds:
            self._line(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._line(trainer)

    @rank_zero_only
    def _line(self, trainer: Trainer) -> None:
        self._printed = now = time.monotonic()
        rate = (trainer.global_step - self._first) / max(now - self._started, 1e-9)
        shown = {**trainer.progress_bar_metrics}
        shown.pop("v_num", None)
        values = " ".join(f"{name}={float(value):.4g}" for name, value in shown.items())
        print(
            f"epoch {trainer.current_epoch + 1} "
            f"step {trainer.global_step}/{trainer.estimated_stepping_batches} "
            f"{rate:.1f} steps/s {values}",
            flush=True,
        )
