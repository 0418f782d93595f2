"""Backward error: do the annotated points predict the landmarks?

A linear map from the annotated points to the landmarks is fitted on the training images. Its error
on test images is large for a landmark that jumps about. It is also small for one that hardly moves,
and zero for one that never does: so each error stands beside the landmark's spread over images, the
share of it that is explained (R²), and the error of the landmark's mean position, which a good
landmark beats by far.

Convention: NME in the square images that the method sees (see ``data/preprocess.py``).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.data.results import Predictions, Score, Value
from landmark_lab.evaluation.choices import RegressionProtocol, at_least_one, positive
from landmark_lab.evaluation.common import (
    Annotated,
    Floats,
    image_means,
    listing,
    nan_mean,
    percent_errors,
)
from landmark_lab.evaluation.point_scores import distribution
from landmark_lab.evaluation.predictions import check_same_images
from landmark_lab.metrics.bootstrap import percentile_interval, resampled_means
from landmark_lab.metrics.collapse import constant
from landmark_lab.metrics.references import mean_shape
from landmark_lab.metrics.spread import ROUNDING, r_squared, spread


@dataclass(frozen=True, kw_only=True)
class BackwardNme(RegressionProtocol, name="backward_nme"):
    """Error of the landmarks when regressed linearly from the annotated points.

    A landmark counts where it was found; an unknown point takes its mean over the training images.
    The reference ``mean_position`` is the error of always answering a landmark's mean position.
    ``auc`` and ``failure_rate`` are those of ``forward_nme``. The other choices are explained in
    ``evaluation/choices.py``.

    Args:
        annotated: number of annotated training images; all of them by default.
        failure: an image with a larger error, in per cent, is a failure; the area under the curve
            ends there.
    """

    version: ClassVar[int] = 1

    annotated: int | None = None
    failure: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(annotated=self.annotated)
        positive(failure=self.failure)

    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """See :class:`~landmark_lab.roles.Protocol`."""
        run = self._run(predictions)
        untrained_error = None
        if untrained is not None:
            check_same_images(predictions, untrained)
            untrained_error = nan_mean(_over_repeats(self._run(untrained).errors))
        landmarks = torch.from_numpy(run.test.landmarks)
        # In the error's unit, so that the two can be compared.
        spreads = spread(landmarks).numpy()
        scale = 100 / nan_mean(run.test.normaliser)
        explained = np.mean(
            [r_squared(torch.from_numpy(one), landmarks).numpy() for one in run.predicted], 0
        )
        frozen = constant(landmarks).numpy()
        intervals = self._intervals(run, scale)
        per_image = _over_repeats(run.errors)
        means = [nan_mean(image_means(one)) for one in run.errors]
        deviation = float(np.std(means, ddof=1)) if len(means) > 1 else None
        return Score(
            protocol=self.plugin_name,
            version=self.version,
            value=self.mean_value(per_image, deviation),
            unit=f"% of {run.test.divisor}",
            references={
                "mean_position": nan_mean(_over_repeats(run.constant)),
                "untrained": untrained_error,
            },
            settings=self.settings(
                normaliser=run.test.divisor, annotated=run.images, repeats=len(run.errors)
            ),
            values={
                "spread": Value(scale * nan_mean(spreads), *intervals["spread"]),
                "r2": Value(nan_mean(explained.clip(min=0)), *intervals["r2"]),
                **{
                    name: self.mean_value(image_means(measure(run.errors).T))
                    for name, measure in distribution(self.failure).items()
                },
            },
            per_landmark=tuple(
                {
                    "landmark": k,
                    "error": nan_mean(run.errors[:, :, k]),
                    "spread": float(scale * spreads[k]),
                    "r2": float(explained[k]),
                    "frozen": bool(frozen[k]),
                }
                for k in range(len(spreads))
            ),
            images=int((~np.isnan(per_image)).sum()),
            notes=tuple(_notes(frozen)),
            index=run.test.index,
            per_image=per_image,
        )

    def _run(self, predictions: Predictions) -> "_Run":
        train = self.images(predictions, "train")
        test = self.images(predictions, self.split)
        regression = self.regression(predictions)
        predicted, constants = [], []
        for rows in self.choices(train, self.annotated, predictions.source):
            sources, targets = train.points[rows], train.landmarks[rows]
            predicted.append(regression.fit(sources, targets)(test.points))
            constants.append(np.broadcast_to(mean_shape(targets), test.landmarks.shape))
        errors, constant = (
            np.stack([percent_errors(one, test.landmarks, test.normaliser) for one in many])
            for many in (predicted, constants)
        )
        return _Run(test, np.stack(predicted), errors, constant, len(rows))

    def _intervals(self, run: "_Run", scale: float) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals of the mean spread and the mean R², from resampled moments."""
        landmarks = run.test.landmarks
        centred = landmarks - mean_shape(landmarks)
        residual = ((landmarks - run.predicted) ** 2).sum(-1).mean(0)
        columns = [centred[..., 0], centred[..., 1], (centred**2).sum(-1), residual]
        means = resampled_means(np.concatenate(columns, 1), self.resamples, self.seed)
        x, y, squares, residuals = np.split(means, 4, axis=1)
        variance = (squares - x**2 - y**2).clip(min=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            explained = np.where(np.sqrt(variance) < ROUNDING, 0, 1 - residuals / variance)
        return {
            "spread": percentile_interval(scale * image_means(np.sqrt(variance))),
            "r2": percentile_interval(image_means(explained.clip(min=0))),
        }


@dataclass(frozen=True, eq=False)
class _Run:
    """One method through the protocol.

    Attributes:
        test: the scored images.
        predicted: (R, N, K, 2) the landmarks as regressed, a repeat a choice of annotated images.
        errors: (R, N, K) per cent, NaN where a landmark was not found.
        constant: (R, N, K) the errors of each landmark's mean position.
        images: number of annotated images of a repeat.
    """

    test: Annotated
    predicted: Floats
    errors: Floats
    constant: Floats
    images: int


def _over_repeats(errors: Floats) -> Floats:
    """(R, N, K) to the mean of each image (N,)."""
    return image_means(image_means(errors).T)


def _notes(frozen: NDArray[np.bool_]) -> list[str]:
    if not frozen.any():
        return []
    return [
        f"{frozen.sum()} of {len(frozen)} landmarks hardly move over the images, so their backward "
        f"error says nothing: {listing(np.flatnonzero(frozen).tolist())}"
    ]
