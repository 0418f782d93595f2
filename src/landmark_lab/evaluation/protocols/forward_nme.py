"""Forward error: how well do the landmarks predict the annotated points?

A linear map from the landmarks' coordinates to those of the annotated points is fitted on annotated
training images; its normalised mean error on test images is the headline of most papers.

Convention: NME in the square images that the method sees (see ``data/preprocess.py``): the same as
in the original images unless these were squashed.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.results import Predictions, Score, Value
from landmark_lab.errors import DataError
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
    reference_shapes,
)
from landmark_lab.evaluation.predictions import check_same_images
from landmark_lab.metrics.regression import Regressor
from landmark_lab.roles import Protocol
from landmark_lab.seeding import rng


class ForwardNme(Protocol, name="forward_nme"):
    """Error of the annotated points when regressed linearly from the landmarks.

    A landmark that was not found takes its mean position over the training images. The references
    are the mean shape of all annotated training images, the same at the true centroid, and at the
    true centroid and scale, and the untrained network with the same regressor.

    Args:
        regressor: ``ridge`` or ``least_squares``.
        bias: whether the regressor has an intercept (the same as centring the data). Without one
            the error depends on ``coordinates``.
        alpha: parameter of ``ridge``, in the squared units of ``coordinates``.
        alpha_is: ``fixed``, or ``relative``: multiplied by the largest entry of XᵀX.
        coordinates: units of the regressor: ``centred`` ([-1, 1] about the image's centre),
            ``unit`` ([0, 1]) or ``pixels``. With a bias, a fixed alpha of 0.1 in ``centred`` is one
            of 0.025 in ``unit`` and of 0.025·side² in ``pixels``.
        annotated: number of annotated training images; all of them by default.
        repeats: with ``annotated``, the mean over so many random choices of these images; their
            standard deviation stands beside it.
        normaliser: a pair of points, ``box``, ``points_box``, ``image``, or the ``data``'s own.
        points: count the ``visible`` points, or all ``annotated`` ones.
        split: the images that are scored.
        resamples: of the bootstrap.
        seed: of the bootstrap and of the choices of annotated images.
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        regressor: Regressor = "ridge",
        bias: bool = True,
        alpha: float = 0.1,
        alpha_is: Literal["fixed", "relative"] = "fixed",
        coordinates: Coordinates = "centred",
        annotated: int | None = None,
        repeats: int = 10,
        normaliser: Normaliser = "data",
        points: Counted = "visible",
        split: Literal["val", "test"] = "test",
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        counts = {"annotated": annotated, "repeats": repeats, "resamples": resamples}
        for name, number in counts.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        if alpha <= 0:
            raise ValueError(f"alpha must be positive, not {alpha}; least_squares has none")
        self.regressor, self.bias, self.alpha, self.alpha_is = regressor, bias, alpha, alpha_is
        self.coordinates, self.annotated, self.repeats = coordinates, annotated, repeats
        self.normaliser, self.points, self.split = normaliser, points, split
        self.resamples, self.seed = resamples, seed

    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """See :class:`~landmark_lab.roles.Protocol`."""
        run = self._run(predictions)
        references: dict[str, float | None] = {
            name: nan_mean(image_means(percent_errors(shape, run.test.points, run.test.normaliser)))
            for name, shape in reference_shapes(run.train.points, run.test.points).items()
        }
        references["untrained"] = None
        if untrained is not None:
            check_same_images(predictions, untrained)
            references["untrained"] = nan_mean(_over_repeats(self._run(untrained).errors))
        per_image = _over_repeats(run.errors)
        names = predictions.provenance.point_names
        per_point = [nan_mean(run.errors[:, :, p]) for p in range(len(names))]
        return Score(
            protocol=self.plugin_name,
            version=self.version,
            value=mean_value(per_image, self.resamples, self.seed),
            unit=f"% of {run.test.divisor}",
            references=references,
            settings={key: value for key, value in self.spec.items() if key != "name"}
            | {
                "normaliser": run.test.divisor,
                "annotated": run.images,
                "repeats": len(run.errors),
            },
            values=_deviation(run.errors),
            per_landmark=tuple(
                {"name": name, "error": error} for name, error in zip(names, per_point, strict=True)
            ),
            images=int((~np.isnan(per_image)).sum()),
            notes=tuple(_notes(run, names)),
            index=run.test.index,
            per_image=per_image,
        )

    def _run(self, predictions: Predictions) -> "_Run":
        train = read_annotated(predictions, "train", self.normaliser, self.points)
        test = read_annotated(predictions, self.split, self.normaliser, self.points)
        usable = np.flatnonzero(~np.isnan(train.points).all((1, 2)))
        chosen = self._choices(usable, predictions.source)
        regression = PointRegression(
            self.regressor,
            self.bias,
            self.alpha,
            self.alpha_is == "relative",
            self.coordinates,
            predictions.provenance.size,
        )
        errors = []
        for rows in chosen:
            regress = regression.fit(train.landmarks[rows], train.points[rows])
            errors.append(percent_errors(regress(test.landmarks), test.points, test.normaliser))
        return _Run(train, test, np.stack(errors), len(chosen[0]))

    def _choices(self, usable: NDArray[np.int64], source: str) -> list[NDArray[np.int64]]:
        """The training images of every repeat; those of fewer images are among those of more."""
        if self.annotated is None:
            return [usable]
        if self.annotated > len(usable):
            raise DataError(
                f"has {len(usable)} annotated training images, fewer than {self.annotated}",
                where=source,
            )
        orders = [
            rng(self.seed, "annotated images", repeat).permutation(usable)
            for repeat in range(self.repeats)
        ]
        return [order[: self.annotated] for order in orders]


@dataclass(frozen=True, eq=False)
class _Run:
    """One method through the protocol.

    Attributes:
        train: the training images.
        test: the scored images.
        errors: (repeats, N, P) per cent, NaN where a point does not count.
        images: number of training images of a repeat.
    """

    train: Annotated
    test: Annotated
    errors: Floats
    images: int


def _over_repeats(errors: Floats) -> Floats:
    """(repeats, N, P) to (N,)."""
    return image_means(image_means(errors).T)


def _deviation(errors: Floats) -> dict[str, Value]:
    """Standard deviation of the error over the choices of annotated images."""
    if len(errors) == 1:
        return {}
    means = [nan_mean(image_means(one)) for one in errors]
    return {"sd_over_repeats": Value(float(np.std(means, ddof=1)), np.nan, np.nan)}


def _notes(run: _Run, names: list[str]) -> list[str]:
    notes = []
    lost = np.isnan(run.test.landmarks).any(-1).mean()
    if lost:
        notes.append(f"{100 * lost:.1f} % of the landmarks were not found and set to their mean")
    left_out = np.isnan(run.test.normaliser).sum()
    if left_out:
        notes.append(f"{left_out} images without a normaliser were left out")
    known = ~np.isnan(run.test.points).all((0, 2))
    unfitted = np.isnan(run.errors).all(1) & known & ~np.isnan(run.test.normaliser).all()
    if unfitted.any():
        points = [names[p] for p in np.flatnonzero(unfitted.any(0))]
        notes.append(
            f"not annotated in any image of some fits, and left out there: {listing(points)}"
        )
    return notes
