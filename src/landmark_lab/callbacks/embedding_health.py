"""Are the vectors alive? The label-free criterion of embeddings, and a warning of their collapse.

A falling loss does not show that the vectors mean the same on other objects, see
``metrics/embedding.py``.
"""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer

from landmark_lab.callbacks.watch import CRITERION, Watch
from landmark_lab.embedding import size_of
from landmark_lab.geometry.symmetry import reverses_orientation
from landmark_lab.losses.pair_matching import MatchingLoss
from landmark_lab.metrics.embedding import (
    CONSTANT,
    GUESSING,
    EmbeddingCriterion,
    deviation,
    error_across,
    guessing_error,
    matching_error,
)
from landmark_lab.roles import Embedding, Pair, Reflection

# Queries a side of each validation image: enough for a mean over some dozens of images.
_SIDE = 12


class EmbeddingHealth(Watch):
    """Matches the validation pairs by their vectors after every epoch.

    Logged: ``val/criterion`` (see ``metrics/embedding.py``; lower is better, and a collapsed run
    cannot win), ``val/matching`` and ``val/matching_across`` (mean errors in pixels between the two
    views, directly and by way of the next image of the batch), ``val/guessing`` (that of a random
    cell) and ``val/deviation`` (how much the vectors of an image differ, 0 to 1). Each kind of
    collapse is said once, with the method's usual cure.
    """

    def __init__(self) -> None:
        super().__init__(EmbeddingCriterion())

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Pair,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch.warp is None or not isinstance(pl_module, Embedding):
            return
        source = pl_module.embedding(batch.source.image).float()
        target = pl_module.embedding(batch.target.image).float()
        size, image_size = size_of(source), size_of(batch.source.image)
        stride = max(1, min(size) // _SIDE)
        queries = MatchingLoss(stride=stride).queries(batch.warp, size, image_size)
        queried, keys = (target, source) if queries.in_target else (source, target)
        vectors, counted = queries.vectors(queried), queries.weight > 0
        if isinstance(pl_module, Reflection) and pl_module.mirror:
            # The counterparts in a mirrored image have the vectors of the other side.
            mirrored = reverses_orientation(batch.warp)[:, None, None]
            vectors = torch.where(mirrored, pl_module.reflect(vectors), vectors)
        truth = (queries.targets, counted)
        measure = pl_module.similarity
        direct = matching_error(vectors, keys, *truth, measure, image_size)
        across = torch.full_like(direct, torch.nan)
        if len(direct) > 1:
            others = queried.roll(-1, 0)
            across = error_across(vectors, others, keys, *truth, measure, image_size)
        guessing = guessing_error(*truth, size, image_size)
        self._metric.update(direct, across, guessing, deviation(keys), batch.source.index)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._metric.update_count == 0:
            return
        with self._metric.sync_context():
            rows = self._metric.rows()
        criterion = self._metric.compute()
        mean = {name: values.nanmean() for name, values in rows.items()}
        values = {
            CRITERION: criterion,
            "val/matching": mean["direct"],
            "val/matching_across": mean["across"],
            "val/guessing": mean["guessing"],
            "val/deviation": mean["deviation"],
        }
        shown = {"matching": mean["direct"], "across": mean["across"]}
        self.publish(pl_module, values, shown)
        if trainer.current_epoch > 0:
            self._warn({name: float(value) for name, value in mean.items()}, pl_module)

    def _warn(self, mean: dict[str, float], module: LightningModule) -> None:
        found = {
            "constant": (
                mean["deviation"] < CONSTANT,
                f"the vectors of an image are all alike (deviation {mean['deviation']:.4f})",
            ),
            "guessing": (
                mean["direct"] > GUESSING * mean["guessing"],
                f"matching the two views of an image is no better than guessing "
                f"({mean['direct']:.1f} of {mean['guessing']:.1f} pixels)",
            ),
        }
        for kind, (bad, what) in found.items():
            if bad:
                self.say(kind, f"{what} (epoch {module.current_epoch})", module)
