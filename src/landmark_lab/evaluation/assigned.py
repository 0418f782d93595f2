"""Scoring discovered landmarks as they are: each annotated point is given one landmark.

Without a regressor a landmark must sit on the point itself. Which landmark stands for which point
is found on the training images (``metrics/assignment.py``) and scored on the others. A landmark
that was not found is wrong, and so is a point that has no landmark, because there are fewer
landmarks than points.

Convention: the square images that the method sees (see ``data/preprocess.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.data.results import Predictions, Value
from landmark_lab.evaluation.common import Annotated, Floats, percent_errors
from landmark_lab.evaluation.correct_points import CorrectPoints
from landmark_lab.evaluation.point_scores import Guesses
from landmark_lab.metrics.assignment import assign_landmarks, assigned_landmarks

Assignment = NDArray[np.int64]


def assignment(train: Annotated) -> Assignment:
    """(P,) the landmark of each annotated point, -1 for none, by the training images."""
    return assign_landmarks(
        torch.from_numpy(train.landmarks), torch.from_numpy(train.points)
    ).numpy()


def at_points(images: Annotated, landmark: Assignment) -> Floats:
    """(N, P, 2) the landmarks in the order of the annotated points, NaN where there is none."""
    return assigned_landmarks(
        torch.from_numpy(images.landmarks), torch.from_numpy(landmark)
    ).numpy()


def assignment_notes(train: Annotated, test: Annotated, landmark: Assignment) -> tuple[str, ...]:
    """What a reader must know about an assignment before quoting a number."""
    notes = []
    without = int((landmark < 0).sum())
    if without:
        found = int((~np.isnan(train.landmarks).any(-1)).any(0).sum())
        notes.append(
            f"{without} of {len(landmark)} points have no landmark and count as missed: {found} of "
            f"{train.landmarks.shape[1]} landmarks were found in the training images"
        )
    lost = np.isnan(test.landmarks[:, landmark[landmark >= 0]]).any(-1)
    if lost.any():
        notes.append(f"{100 * lost.mean():.1f} % of the landmarks were not found and are wrong")
    left_out = np.isnan(test.normaliser).sum()
    if left_out:
        notes.append(f"{left_out} images without a normaliser were left out")
    return tuple(notes)


@dataclass(frozen=True, eq=False)
class AssignedGuesses(Guesses):
    """Landmarks as guesses of the points they stand for.

    Attributes:
        landmark: (P,) the landmark of each point, -1 for none.
    """

    landmark: Assignment = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class AssignedPoints(CorrectPoints):
    """A protocol that counts the points whose landmark is within a threshold."""

    def run(self, predictions: Predictions) -> AssignedGuesses:
        """See :class:`~landmark_lab.evaluation.choices.PointScore`."""
        train = self.images(predictions, "train")
        test = self.images(predictions, self.split)
        landmark = assignment(train)
        errors = percent_errors(at_points(test, landmark), test.points, test.normaliser)
        counts = ~np.isnan(percent_errors(test.points, test.points, test.normaliser))
        errors = np.where(counts & np.isnan(errors), np.inf, errors)
        return AssignedGuesses(train, test, errors[None], {}, landmark=landmark)

    def values(self, predictions: Predictions, guesses: Guesses) -> dict[str, Value]:
        """``assigned``, the share among the points that have a landmark."""
        assert isinstance(guesses, AssignedGuesses)
        having = guesses.landmark >= 0
        return self.means(guesses, {"assigned": lambda errors: self.measure(errors[..., having])})

    def notes(self, guesses: Guesses, names: Sequence[str]) -> tuple[str, ...]:
        """What a reader must know before quoting the value."""
        assert isinstance(guesses, AssignedGuesses)
        return assignment_notes(guesses.train, guesses.test, guesses.landmark)

    def per_landmark(self, guesses: Guesses, names: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
        """The share of each point, and its landmark."""
        assert isinstance(guesses, AssignedGuesses)
        own = (None if k < 0 else k for k in guesses.landmark.tolist())
        rows = super().per_landmark(guesses, names)
        return tuple({**row, "landmark": k} for row, k in zip(rows, own, strict=True))
