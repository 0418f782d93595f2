"""Checkpoints from which a run continues exactly."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, Checkpoint

from landmark_lab.checkpoint import KEY, Card


class WriteCard(Callback):
    """Puts the card into every checkpoint that is saved, see ``checkpoint.py``."""

    def __init__(self, card: Card) -> None:
        self.card = asdict(card)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = self.card


class SaveLast(Checkpoint):
    """Keeps one checkpoint from which the run can continue.

    It is saved every so many steps and at the end of every epoch, but not at the end of a step
    after which the validation runs, or the training ends: a run resumed there would skip what is
    still to be done.

    Args:
        path: the file, overwritten atomically.
        every: steps between two savings within an epoch.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self._saved = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning counts one step too many for its loggers when it goes on after an epoch's end.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        ends = trainer.is_last_batch or (batch_idx + 1) % (trainer.val_check_batch or 1) == 0
        ends = ends or step == trainer.max_steps
        if step % self.every == 0 and step != self._saved and not ends:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # rows up to this step must not be lost with the process
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = trainer.global_step
