"""Are the landmarks alive? The label-free criterion, and a warning when training collapses.

A falling loss and a good equivariance error do not show a collapse, see ``metrics/collapse.py``.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from landmark_lab.callbacks.watch import Watch
from landmark_lab.geometry.warp import Warp
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

    shown: ClassVar[Mapping[str, str]] = {"distinct": "val/distinct", "spread": "val/spread"}

    def __init__(self) -> None:
        super().__init__(EquivarianceCriterion())

    def look(self, module: LightningModule, batch: Pair, warp: Warp) -> None:
        """Find the landmarks of both images."""
        if not isinstance(module, Landmarks):
            return
        found, _ = module.landmarks(batch.source.image)
        warped, _ = module.landmarks(batch.target.image)
        self._metric.update(found, warped, warp.to_target(found.float()), batch.source.index)

    def conclude(
        self, rows: Mapping[str, Tensor], trainer: Trainer, module: LightningModule
    ) -> dict[str, Tensor]:
        """See :class:`Watch`."""
        state = collapse(rows["landmarks"])
        settled = module.settled if isinstance(module, Method) else True
        if len(rows["landmarks"]) >= _ENOUGH and trainer.current_epoch > 0 and settled:
            self._warn(state, module)
        return {
            "val/equivariance": rows["errors"].nanmean(),
            "val/spread": state.spread.nanmean(),
            "val/distinct": torch.tensor(float(state.distinct), device=state.spread.device),
        }

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
