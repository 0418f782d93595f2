"""Ending a stage when a validated value no longer improves."""

from dataclasses import dataclass
from typing import Any, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities import rank_zero_info

from landmark_lab.callbacks.watch import CRITERION
from landmark_lab.errors import ConfigError
from landmark_lab.roles import Method


@dataclass(frozen=True)
class EarlyStopSettings:
    """When a stage ends before its last step.

    Args:
        monitor: a value that the validation logs; the label-free criterion by default.
        patience: validations without an improvement after which the stage ends.
        min_delta: by how much a value must be better to count as an improvement.
        mode: whether lower or higher is better.
    """

    monitor: str = CRITERION
    patience: int = 5
    min_delta: float = 0.0
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, not {self.patience}")
        if self.min_delta < 0:
            raise ValueError(f"min_delta must be at least 0, not {self.min_delta}")
        if not self.monitor.startswith("val/"):
            raise ValueError(
                f"monitor must be a value of the validation, such as {CRITERION} or val/loss, "
                f"not '{self.monitor}'"
            )


class EarlyStop(EarlyStopping):
    """Lightning's, looked at after every validation, and exact when a run is resumed.

    The count of validations without improvement is saved in the checkpoints. A value that is
    infinite or not a number is no improvement.

    Args:
        settings: see there.
        where: path of the settings in the experiment file, for messages.
    """

    def __init__(self, settings: EarlyStopSettings, where: str) -> None:
        super().__init__(
            monitor=settings.monitor,
            patience=settings.patience,
            min_delta=settings.min_delta,
            mode=settings.mode,
            check_finite=False,
            check_on_train_epoch_end=False,
        )
        self.where = where

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The patience is what is asked for now, not what it was.
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The run may have been interrupted after the last validation decided to stop.
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics:
            raise ConfigError(
                f"'{self.monitor}' was not logged",
                where=f"{self.where}.monitor",
                got=self.monitor,
                allowed=[name for name in trainer.callback_metrics if name.startswith("val/")],
            )
        if isinstance(pl_module, Method) and not pl_module.settled:
            return  # a warm-up does not improve what is not there yet
        super().on_validation_end(trainer, pl_module)
        if trainer.should_stop and self.wait_count >= self.patience:
            rank_zero_info(
                f"stopping early: {self.monitor} was best ({float(self.best_score):.4g}) "
                f"{self.wait_count} validations ago"
            )
