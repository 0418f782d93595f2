"""Backward error: do the annotated points predict the landmarks?

A linear map from the annotated points to the landmarks is fitted on the training images. Its error
on test images is large for a landmark that jumps about. It is also small for one that hardly moves,
and zero for one that never does: so each error stands beside the landmark's spread over images, the
share of it that is explained (R²), and the error of the landmark's mean position, which a good
landmark beats by far.

Convention: NME in the square images that the method sees (see ``data/preprocess.py``).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.data.results import Predictions, Score, Value
from landmark_lab.evaluation.common import (
    Annotated,
    Coordinates,
    Counted,
    Floats,
    Normaliser,
    PointRegression,
    annotated as read_annotated,
    image_means,
    listing,
    mean_value,
    nan_mean,
    percent_errors,
)
from landmark_lab.evaluation.predictions import check_same_images
from landmark_lab.metrics.bootstrap import percentile_interval, resampled_means
from landmark_lab.metrics.collapse import constant
from landmark_lab.metrics.references import mean_shape
from landmark_lab.metrics.regression import Regressor
from landmark_lab.metrics.spread import ROUNDING, r_squared, spread
from landmark_lab.roles import Protocol


class BackwardNme(Protocol, name="backward_nme"):
    """Error of the landmarks when regressed linearly from the annotated points.

    A landmark counts where it was found; an unknown point takes its mean over the training images.
    The reference ``mean_position`` is the error of always answering a landmark's mean position.

    Args:
        regressor: ``ridge`` or ``least_squares``.
        bias: whether the regressor has an intercept.
        alpha: parameter of ``ridge``, in the squared units of ``coordinates``.
        alpha_is: ``fixed``, or ``relative``: multiplied by the largest entry of XᵀX.
        coordinates: units of the regressor: ``centred``, ``unit`` or ``pixels``.
        normaliser: a pair of points, ``box``, ``points_box``, ``image``, or the ``data``'s own.
        points: use the ``visible`` points, or all ``annotated`` ones.
        split: the images that are scored.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        regressor: Regressor = "ridge",
        bias: bool = True,
        alpha: float = 0.1,
        alpha_is: Literal["fixed", "relative"] = "fixed",
        coordinates: Coordinates = "centred",
        normaliser: Normaliser = "data",
        points: Counted = "visible",
        split: Literal["val", "test"] = "test",
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        if resamples < 1:
            raise ValueError(f"resamples must be at least 1, not {resamples}")
        if alpha <= 0:
            raise ValueError(f"alpha must be positive, not {alpha}; least_squares has none")
        self.regressor, self.bias, self.alpha, self.alpha_is = regressor, bias, alpha, alpha_is
        self.coordinates, self.normaliser, self.points = coordinates, normaliser, points
        self.split, self.resamples, self.seed = split, resamples, seed

    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """See :class:`~landmark_lab.roles.Protocol`."""
        run = self._run(predictions)
        untrained_error = None
        if untrained is not None:
            check_same_images(predictions, untrained)
            untrained_error = nan_mean(image_means(self._run(untrained).errors))
        landmarks = torch.from_numpy(run.test.landmarks)
        # In the error's unit, so that the two can be compared.
        spreads = spread(landmarks).numpy()
        scale = 100 / nan_mean(run.test.normaliser)
        explained = r_squared(torch.from_numpy(run.predicted), landmarks).numpy()
        frozen = constant(landmarks).numpy()
        intervals = self._intervals(run, scale)
        per_image = image_means(run.errors)
        return Score(
            protocol=self.plugin_name,
            version=self.version,
            value=mean_value(per_image, self.resamples, self.seed),
            unit=f"% of {run.test.divisor}",
            references={
                "mean_position": nan_mean(image_means(run.constant)),
                "untrained": untrained_error,
            },
            settings={key: value for key, value in self.spec.items() if key != "name"}
            | {"normaliser": run.test.divisor},
            values={
                "spread": Value(scale * nan_mean(spreads), *intervals["spread"]),
                "r2": Value(nan_mean(explained.clip(min=0)), *intervals["r2"]),
            },
            per_landmark=tuple(
                {
                    "landmark": k,
                    "error": nan_mean(run.errors[:, k]),
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
        train = read_annotated(predictions, "train", self.normaliser, self.points)
        test = read_annotated(predictions, self.split, self.normaliser, self.points)
        usable = ~np.isnan(train.points).all((1, 2))
        regression = PointRegression(
            self.regressor,
            self.bias,
            self.alpha,
            self.alpha_is == "relative",
            self.coordinates,
            predictions.provenance.size,
        )
        regress = regression.fit(train.points[usable], train.landmarks[usable])
        predicted = regress(test.points)
        mean = np.broadcast_to(mean_shape(train.landmarks[usable]), predicted.shape)
        return _Run(
            test,
            predicted,
            percent_errors(predicted, test.landmarks, test.normaliser),
            percent_errors(mean, test.landmarks, test.normaliser),
        )

    def _intervals(self, run: "_Run", scale: float) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals of the mean spread and the mean R², from resampled moments."""
        landmarks = run.test.landmarks
        centred = landmarks - mean_shape(landmarks)
        residual = ((landmarks - run.predicted) ** 2).sum(-1)
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
        predicted: (N, K, 2) the landmarks as regressed.
        errors: (N, K) per cent, NaN where a landmark was not found.
        constant: (N, K) the errors of each landmark's mean position.
    """

    test: Annotated
    predicted: Floats
    errors: Floats
    constant: Floats


def _notes(frozen: NDArray[np.bool_]) -> list[str]:
    if not frozen.any():
        return []
    return [
        f"{frozen.sum()} of {len(frozen)} landmarks hardly move over the images, so their backward "
        f"error says nothing: {listing(np.flatnonzero(frozen).tolist())}"
    ]
