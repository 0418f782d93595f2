"""Are the landmarks alive? The label-free criterion, and a warning when training collapses.

A falling loss and a good equivariance error do not show a collapse, see ``metrics/collapse.py``.
"""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer

from landmark_lab.callbacks.watch import CRITERION, Watch
from landmark_lab.metrics.collapse import Collapse, collapse
from landmark_lab.metrics.equivariance import EquivarianceCriterion
from landmark_lab.roles import Landmarks, Method, Pair

# A spread over fewer images says nothing.
_ENOUGH = 16


class Health(Watch):
    """Looks at the landmarks of the validation pairs after every epoch.

    Logged: ``val/criterion`` (see ``metrics/equivariance.py``; lower is better, and a collapsed run
    cannot win), ``val/equivariance`` (mean error in half-widths), ``val/spread`` (standard
    deviation over images, mean over landmarks), ``val/distinct`` (number of different landmarks).
    Each kind of collapse is said once, with the method's usual cure.
    """

    def __init__(self) -> None:
        super().__init__(EquivarianceCriterion())

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Pair,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch.warp is None or not isinstance(pl_module, Landmarks):
            return
        found, _ = pl_module.landmarks(batch.source.image)
        warped, _ = pl_module.landmarks(batch.target.image)
        expected = batch.warp.to_target(found.float())
        self._metric.update(found, warped, expected, batch.source.index)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._metric.update_count == 0:
            return
        with self._metric.sync_context():
            rows = self._metric.rows()
        criterion = self._metric.compute()
        state = collapse(rows["landmarks"])
        values = {
            CRITERION: criterion,
            "val/equivariance": rows["errors"].nanmean(),
            "val/spread": state.spread.nanmean(),
            "val/distinct": torch.tensor(float(state.distinct), device=criterion.device),
        }
        shown = {"distinct": values["val/distinct"], "spread": values["val/spread"]}
        self.publish(pl_module, values, shown)
        settled = pl_module.settled if isinstance(pl_module, Method) else True
        if len(rows["landmarks"]) >= _ENOUGH and trainer.current_epoch > 0 and settled:
            self._warn(state, pl_module)

    def _warn(self, state: Collapse, module: LightningModule) -> None:
        count = len(state.spread)
        found = {
            "constant": (int(state.constant.sum()), "do not move over images"),
            "duplicate": (count - state.distinct - int(state.lost.sum()), "repeat another one"),
            "centre": (int(state.at_centre.sum()), "sit in the middle of the image"),
            "lost": (int(state.lost.sum()), "are never found"),
        }
        for kind, (number, what) in found.items():
            if 2 * number >= count:
                where = f"epoch {module.current_epoch}, mean spread {state.spread.nanmean():.3f}"
                self.say(kind, f"{number} of {count} landmarks {what} ({where})", module)
