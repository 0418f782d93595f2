"""What the callbacks share that look for a collapse on the validation pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from landmark_lab.geometry.warp import Warp
from landmark_lab.metrics.rows import RowMetric
from landmark_lab.roles import Method, Pair

CRITERION = "val/criterion"


class Watch(Callback):
    """Keeps a metric over each validation, logs, and says each kind of collapse once.

    Args:
        metric: what is measured, its result being the criterion; emptied before each validation.

    Attributes:
        shown: what the progress bar shows: logged values by the names that they have there.
    """

    shown: ClassVar[Mapping[str, str]]

    def __init__(self, metric: RowMetric) -> None:
        self._metric = metric
        self._said: set[str] = set()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh, on the module's device."""
        self._metric.to(pl_module.device)
        self._metric.reset()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Pair,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at pairs whose images are related."""
        if batch.warp is not None:
            self.look(pl_module, batch, batch.warp)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was seen, if anything was."""
        if self._metric.update_count == 0:
            return
        with self._metric.sync_context():
            rows = self._metric.rows()
        criterion = self._metric.compute()
        values = {CRITERION: criterion, **self.conclude(rows, trainer, pl_module)}
        shown = {name: values[logged] for name, logged in self.shown.items()}
        # Every process has computed the same from all rows; sync_dist changes nothing, but
        # Lightning would warn without it.
        pl_module.log_dict(values, sync_dist=True)
        pl_module.log_dict(shown, prog_bar=True, logger=False, sync_dist=True)

    @abstractmethod
    def look(self, module: LightningModule, batch: Pair, warp: Warp) -> None:
        """Update the metric with a batch; not if the module is of another kind."""

    @abstractmethod
    def conclude(
        self, rows: Mapping[str, Tensor], trainer: Trainer, module: LightningModule
    ) -> dict[str, Tensor]:
        """What is logged beside the criterion; collapses are said.

        Args:
            rows: of the metric, of all validation images of all processes.
            trainer: knows how long the training has gone on.
            module: what was looked at.
        """

    def say(self, kind: str, what: str, module: LightningModule) -> None:
        """Warn of a collapse, with the method's usual cure, unless this kind was said before."""
        if kind in self._said:
            return
        self._said.add(kind)
        cure = module.cure if isinstance(module, Method) else ""
        rank_zero_warn(f"collapse: {what}" + (f"; the usual cure: {cure}" if cure else ""))
