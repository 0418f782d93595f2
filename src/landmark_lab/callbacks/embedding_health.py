"""Are the vectors alive? The label-free criterion of embeddings, and a warning of their collapse.

A falling loss does not show that the vectors mean the same on other objects, see
``metrics/embedding.py``.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from landmark_lab.callbacks.watch import Watch
from landmark_lab.embedding import size_of
from landmark_lab.geometry.symmetry import reverses_orientation
from landmark_lab.geometry.warp import Warp
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

    shown: ClassVar[Mapping[str, str]] = {
        "matching": "val/matching",
        "across": "val/matching_across",
    }

    def __init__(self) -> None:
        super().__init__(EmbeddingCriterion())

    def look(self, module: LightningModule, batch: Pair, warp: Warp) -> None:
        """Match the two images, directly and across another object."""
        if not isinstance(module, Embedding):
            return
        source = module.embedding(batch.source.image).float()
        target = module.embedding(batch.target.image).float()
        size, image_size = size_of(source), size_of(batch.source.image)
        stride = max(1, min(size) // _SIDE)
        queries = MatchingLoss(stride=stride).queries(warp, size, image_size)
        queried, keys = (target, source) if queries.in_target else (source, target)
        vectors, counted = queries.vectors(queried), queries.weight > 0
        if isinstance(module, Reflection) and module.mirror:
            # The counterparts in a mirrored image have the vectors of the other side.
            mirrored = reverses_orientation(warp)[:, None, None]
            vectors = torch.where(mirrored, module.reflect(vectors), vectors)
        truth = (queries.targets, counted)
        measure = module.similarity
        direct = matching_error(vectors, keys, *truth, measure, image_size)
        across = torch.full_like(direct, torch.nan)
        if len(direct) > 1:
            others = queried.roll(-1, 0)
            across = error_across(vectors, others, keys, *truth, measure, image_size)
        guessing = guessing_error(*truth, size, image_size)
        self._metric.update(direct, across, guessing, deviation(keys), batch.source.index)

    def conclude(
        self, rows: Mapping[str, Tensor], trainer: Trainer, module: LightningModule
    ) -> dict[str, Tensor]:
        """See :class:`Watch`."""
        mean = {name: values.nanmean() for name, values in rows.items()}
        if trainer.current_epoch > 0:
            self._warn({name: float(value) for name, value in mean.items()}, module)
        return {
            "val/matching": mean["direct"],
            "val/matching_across": mean["across"],
            "val/guessing": mean["guessing"],
            "val/deviation": mean["deviation"],
        }

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
