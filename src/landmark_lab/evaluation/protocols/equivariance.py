"""Equivariance: do the landmarks follow the image when it is warped? Needs no annotation.

Convention: errors and spreads in per cent of the square image's side; see
``metrics/equivariance.py`` for the criterion.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.data.results import Predictions, Score, Value
from landmark_lab.errors import DataError
from landmark_lab.evaluation.common import Floats, image_means, listing, mean_value, nan_mean
from landmark_lab.evaluation.predictions import check_same_images
from landmark_lab.metrics.bootstrap import percentile_interval, resampled_means
from landmark_lab.metrics.collapse import Collapse, collapse
from landmark_lab.metrics.equivariance import equivariance_errors, lostness, separation
from landmark_lab.metrics.spread import spread
from landmark_lab.roles import Protocol

# Points in [-1, 1] to per cent of the image's side.
PER_CENT = 50.0


class Equivariance(Protocol, name="equivariance"):
    """Distance between landmarks of warped images and warped landmarks of the images.

    The predictions must have been exported with warps. Beside the error stand the landmarks' spread
    over images and the label-free criterion, from 0 (perfect) to 1 (all landmarks lost): error
    against what a landmark resolves. The reference ``still`` is the error of landmarks that stay
    where they were in the unwarped image: with weak warps it is small, and a small error means
    little.

    Args:
        split: the images that are scored.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    version: ClassVar[int] = 1

    def __init__(
        self, split: Literal["val", "test"] = "test", resamples: int = 1000, seed: int = 0
    ) -> None:
        if resamples < 1:
            raise ValueError(f"resamples must be at least 1, not {resamples}")
        self.split, self.resamples, self.seed = split, resamples, seed

    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """See :class:`~landmark_lab.roles.Protocol`."""
        landmarks, errors, still = self._read(predictions)
        untrained_error = None
        if untrained is not None:
            check_same_images(predictions, untrained)
            if untrained.provenance.warps != predictions.provenance.warps:
                raise DataError(
                    f"was made with other warps than {predictions.source}", where=untrained.source
                )
            untrained_error = nan_mean(image_means(self._read(untrained)[1]))
        per_image = image_means(errors)
        points = torch.from_numpy(landmarks)
        spreads = PER_CENT * spread(points)
        apart, nearest = separation(points)
        apart = PER_CENT * apart
        means = torch.from_numpy(errors).nanmean(0)
        lost = lostness(means, torch.minimum(spreads, apart))
        intervals = self._intervals(landmarks, errors, nearest.numpy())
        names = ("landmark", "error", "spread", "separation", "lost")
        columns = (range(len(lost)), *(c.tolist() for c in (means, spreads, apart, lost)))
        rows = tuple(dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
        return Score(
            protocol=self.plugin_name,
            version=self.version,
            value=mean_value(per_image, self.resamples, self.seed),
            unit="% of the image's side",
            references={"still": nan_mean(image_means(still)), "untrained": untrained_error},
            settings={key: value for key, value in self.spec.items() if key != "name"}
            | {"warps": predictions.provenance.warps, "warps_seed": predictions.provenance.seed},
            values={
                "spread": Value(nan_mean(spreads.numpy()), *intervals["spread"]),
                "criterion": Value(float(lost.mean()), *intervals["criterion"]),
            },
            per_landmark=rows,
            images=int((~np.isnan(per_image)).sum()),
            notes=tuple(_notes(rows, collapse(points))),
            index=predictions.split(self.split).index,
            per_image=per_image,
        )

    def _read(self, predictions: Predictions) -> tuple[Floats, Floats, Floats]:
        """Landmarks (N, K, 2); errors and those of still landmarks (N, K) in per cent."""
        split = predictions.split(self.split)
        if split.landmarks.shape[1] == 0 or split.warped is None or split.expected is None:
            raise DataError(
                f"holds no landmarks of warped images for the split '{self.split}'",
                where=predictions.source,
                hint="export the predictions with warps",
            )
        landmarks, warped, expected = (
            torch.from_numpy(a).double() for a in (split.landmarks, split.warped, split.expected)
        )
        errors = PER_CENT * equivariance_errors(warped, expected)
        still = PER_CENT * equivariance_errors(landmarks, expected)
        return landmarks.numpy(), errors.numpy(), still.numpy()

    def _intervals(
        self, landmarks: Floats, errors: Floats, nearest: NDArray[np.int64]
    ) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals of the mean spread and the criterion, from resampled means.

        Which landmark is a landmark's nearest is kept from the whole set of images.
        """
        centred = landmarks - torch.from_numpy(landmarks).nanmean(0).numpy()
        apart = np.linalg.norm(landmarks - landmarks[:, nearest], axis=-1)
        columns = [centred[..., 0], centred[..., 1], (centred**2).sum(-1), apart, errors]
        means = resampled_means(np.concatenate(columns, 1), self.resamples, self.seed)
        x, y, squares, separations, error = np.split(means, 5, axis=1)
        separations[:, nearest == np.arange(len(nearest))] = np.inf  # there is no other
        spreads = np.sqrt((squares - x**2 - y**2).clip(min=0))
        resolved = torch.from_numpy(PER_CENT * np.minimum(spreads, separations))
        lost = lostness(torch.from_numpy(error), resolved).numpy()
        return {
            "spread": percentile_interval(PER_CENT * image_means(spreads)),
            "criterion": percentile_interval(lost.mean(1)),
        }


class Lost(NamedTuple):
    """Landmarks that are more lost than found (``lost`` above 1/2), by the reason; each one once.

    Attributes:
        unseen: without an error, because never found in both an image and its warped copy.
        unmoved: that err by more than they move over images.
        crowded: that move by more than they err, but are nearer to another landmark than that.
    """

    unseen: list[int]
    unmoved: list[int]
    crowded: list[int]


def why_lost(rows: Sequence[Mapping[str, Any]]) -> Lost:
    """Why landmarks are lost.

    Args:
        rows: ``per_landmark`` of the protocol's score, as it is or as it was read from a file,
            where what is not finite is None.
    """
    lost = Lost([], [], [])
    for number, row in enumerate(rows):
        if row["lost"] <= 0.5:
            continue
        error, spread, separation = (
            math.nan if row[name] is None else row[name]
            for name in ("error", "spread", "separation")
        )
        if math.isnan(error):
            lost.unseen.append(number)
        elif error <= spread and separation < spread:
            lost.crowded.append(number)
        else:
            lost.unmoved.append(number)
    return lost


def _notes(rows: Sequence[Mapping[str, Any]], state: Collapse) -> list[str]:
    unseen, unmoved, crowded = why_lost(rows)
    kinds = (
        (unseen, "were never found in both an image and its warped copy"),
        (unmoved, "err by more than they move over images"),
        (crowded, "are nearer to another landmark than they err"),
        (np.flatnonzero(state.constant.numpy()).tolist(), "hardly move"),
    )
    notes = [
        f"{len(which)} of {len(rows)} landmarks {what}: {listing(which)}"
        for which, what in kinds
        if which
    ]
    if state.distinct < len(rows):
        notes.append(f"only {state.distinct} of {len(rows)} landmarks are different")
    return notes
