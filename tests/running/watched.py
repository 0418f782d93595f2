"""A module that only validates, and what a callback logs and says about it."""

import warnings
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from landmark_lab.callbacks.watch import Watch
from landmark_lab.data.batch import Pair


class Idle(LightningModule):
    """Learns nothing."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def training_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> None:
        pass


def watched(
    module: LightningModule, pair: Pair, callback: Watch
) -> tuple[dict[str, float], list[str]]:
    """What is logged, and said of a collapse, in two epochs that show a module one pair."""
    trainer = Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[callback],
        accelerator="cpu",
    )
    loader: DataLoader[Any] = DataLoader([pair], batch_size=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, loader, loader)
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return values, [str(w.message) for w in caught if "collapse" in str(w.message)]
