"""Saying that a training has diverged."""

import math
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_warn


class Finite(Callback):
    """Says once that the loss is infinite or not a number.

    It looks at what was logged, so that the GPU is not waited for once more.
    """

    def __init__(self) -> None:
        self._said = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at the last step, if it was logged."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not self._said and trainer.global_step % every == 0:
            self._look(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the end, for trainings shorter than what is logged at a time."""
        if not self._said:
            self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        loss = trainer.callback_metrics.get("train/loss")
        if loss is None or math.isfinite(float(loss)):
            return
        self._said = True
        rank_zero_warn(
            f"collapse: the loss is {float(loss)} at step {trainer.global_step}; the usual cure: a "
            "smaller learning rate, trainer.gradient_clip_val, bf16 instead of fp16"
        )
