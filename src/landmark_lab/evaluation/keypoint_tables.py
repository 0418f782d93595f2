"""Scoring tables of keypoints: of a generic detector, or of the rounds of a self-training.

A table holds keypoints of images, a file of predictions what is known about them; together they are
what a protocol about keypoints scores::

    table = detect_keypoints(data, "test", detector, seed=0)
    found = table_predictions({"test": table}, data, detector.spec)
    KeypointDetection().score(found)

D. Mallis, PhD thesis, Nottingham 2023, figure 4.3, has precision and recall of every round, round 0
being those of the generic detector.

Convention: points are (x, y) in [-1, 1] on the square images that the method sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.results import Predictions, Score, SplitPredictions
from landmark_lab.data.rounds import RoundRecord, looked_at, read_round
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import DataError
from landmark_lab.evaluation.keypoint_scores import KeypointProtocol
from landmark_lab.evaluation.predictions import annotation_of, provenance_of
from landmark_lab.roles import ImageData, Split

if TYPE_CHECKING:
    from rich.table import Table


def with_keypoints(split: SplitPredictions, table: KeypointTable) -> SplitPredictions:
    """A split's annotation with the keypoints of a table, as a protocol scores them.

    Args:
        split: of anybody's predictions; what was found is left out.
        table: keypoints of the split's images; those of images that are not in ``split`` are left
            out.

    Raises:
        DataError: the table is of fewer images.
    """
    if len(split) and split.index.max() >= table.images:
        raise DataError(
            f"holds keypoints of {table.images} images, and none of image {split.index.max()}",
            where="keypoint table",
        )
    points, label, _, found = table.to("cpu").padded(torch.from_numpy(split.index))
    none = np.empty((len(split), 0, 2), np.float32)
    return replace(
        split,
        landmarks=none,
        score=none[..., 0],
        keypoints=points.numpy(),
        keypoint_score=found.float().numpy(),
        keypoint_label=label.numpy(),
        warped=None,
        expected=None,
        copies=None,
        copied_points=None,
        copied_visible=None,
    )


def table_predictions(
    tables: Mapping[Split, KeypointTable],
    data: ImageData,
    found_by: Mapping[str, Any],
    seed: int = 0,
    loader: LoaderSettings | None = None,
) -> Predictions:
    """Tables of keypoints beside what is known about their images.

    Args:
        tables: keypoints of all images of a split.
        data: where the images come from; all of them are loaded.
        found_by: spec of the detector.
        seed: that it drew by.
        loader: how images are loaded.

    Returns:
        What ``save_predictions`` can write and a protocol about keypoints scores.

    Raises:
        DataError: a split has no images, or more than its table.
    """
    splits: dict[str, SplitPredictions] = {
        split: with_keypoints(annotation_of(data, split, loader=loader), table)
        for split, table in tables.items()
    }
    return Predictions(splits, provenance_of(found_by, data, seed), "keypoint table")


@dataclass(frozen=True)
class RoundScores:
    """The scores of one round's pseudo-labels.

    Attributes:
        number: of the round.
        step: of the training, at which it began.
        scores: by the names of the protocols' results.
    """

    number: int
    step: int
    scores: Mapping[str, Score]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        scores = {name: score.to_dict() for name, score in self.scores.items()}
        return {"number": self.number, "step": self.step, "scores": scores}


def score_rounds(
    files: Sequence[Path], predictions: Predictions, protocols: Mapping[str, KeypointProtocol]
) -> list[RoundScores]:
    """Score what each round of a stage found in the training images.

    Args:
        files: of the rounds, ``RUN/rounds/STAGE/NNN.npz``.
        predictions: of the same data, with the split ``train``: only for what is known about these
            images. Those that the rounds did not look at are left out.
        protocols: by the names of their results; the split that they are told plays no part.

    Returns:
        The rounds in order.

    Raises:
        DataError: a file is damaged, the predictions have no annotated training images, or a
            protocol finds nothing to score.
    """
    rounds = sorted((read_round(file) for file in files), key=lambda one: one.number)
    if not rounds:
        return []
    train = predictions.split("train")
    about = np.isin(train.index, looked_at(rounds))
    known = {
        name: getattr(train, name)[about]
        for name in ("index", "landmarks", "score", "points", "visible")
        if getattr(train, name) is not None
    }
    split = SplitPredictions(**known)
    return [
        RoundScores(one.number, one.step, _scores(one, split, predictions, protocols))
        for one in rounds
    ]


def rounds_table(
    rounds: Sequence[RoundScores], name: str, protocol: KeypointProtocol, stage: str
) -> Table:
    """The scores of one protocol for the terminal, a row for each round that has one.

    Args:
        rounds: what :func:`score_rounds` gives.
        name: of the protocol's results.
        protocol: which one.
        stage: whose rounds they are.
    """
    from rich.markup import escape
    from rich.table import Table

    scored = [(one, one.scores[name]) for one in rounds if name in one.scores]
    unit = f", {scored[0][1].unit}" if scored else ""
    printed = Table(
        title=f"Rounds of '{stage}' on its training images",
        caption=escape(f"{name}{unit}"),
        caption_justify="left",
    )
    for header in ("round", "step", "value", *protocol.of_rounds):
        printed.add_column(header, justify="right", no_wrap=True)
    for one, score in scored:
        shown = [score.value, *(score.values[value] for value in protocol.of_rounds)]
        printed.add_row(
            str(one.number), str(one.step), *(f"{number.value:.3g}" for number in shown)
        )
    return printed


def _scores(
    record: RoundRecord,
    split: SplitPredictions,
    predictions: Predictions,
    protocols: Mapping[str, KeypointProtocol],
) -> dict[str, Score]:
    """The scores of a round; a protocol about clusters has none where there are no clusters yet."""
    found = Predictions(
        {"train": with_keypoints(split, record.table)},
        predictions.provenance,
        f"round {record.number}",
    )
    return {
        name: replace(protocol, split="train").score(found)
        for name, protocol in protocols.items()
        if not protocol.needs_clusters or bool((record.table.labels >= 0).any())
    }


__all__ = ["RoundScores", "rounds_table", "score_rounds", "table_predictions", "with_keypoints"]
