"""What the callbacks share that look for a collapse on the validation pairs."""

from __future__ import annotations

from collections.abc import Mapping

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from landmark_lab.metrics.rows import RowMetric
from landmark_lab.roles import Method

CRITERION = "val/criterion"


class Watch(Callback):
    """Keeps a metric over each validation, logs, and says each kind of collapse once.

    Args:
        metric: what is measured; emptied before each validation.
    """

    def __init__(self, metric: RowMetric) -> None:
        self._metric = metric
        self._said: set[str] = set()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh, on the module's device."""
        self._metric.to(pl_module.device)
        self._metric.reset()

    def publish(
        self, module: LightningModule, values: Mapping[str, Tensor], shown: Mapping[str, Tensor]
    ) -> None:
        """Log values; ``shown`` go to the progress bar only (Lightning owns ``log``)."""
        # Every process has computed the same from all rows; sync_dist changes nothing, but
        # Lightning would warn without it.
        module.log_dict(dict(values), sync_dist=True)
        module.log_dict(dict(shown), prog_bar=True, logger=False, sync_dist=True)

    def say(self, kind: str, what: str, module: LightningModule) -> None:
        """Warn of a collapse, with the method's usual cure, unless this kind was said before."""
        if kind in self._said:
            return
        self._said.add(kind)
        cure = module.cure if isinstance(module, Method) else ""
        rank_zero_warn(f"collapse: {what}" + (f"; the usual cure: {cure}" if cure else ""))
