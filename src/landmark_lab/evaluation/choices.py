"""The choices that protocols about annotated points share; see ``docs/protocols.md``.

A protocol is a frozen dataclass: its fields are the keys of its configuration. A published protocol
is a subclass whose fixed choices are fields with ``init=False``, so that no configuration can
change them and a score still lists them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.data.exports import Exports
from landmark_lab.data.results import RUN_EXPORTS, Predictions, Score, Value
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.evaluation.common import (
    Annotated,
    Coordinates,
    Counted,
    Floats,
    PointMap,
    PointRegression,
    annotated,
    image_means,
    listing,
    mean_value,
    nan_mean,
    percent_errors,
)
from landmark_lab.evaluation.normalisers import Normaliser
from landmark_lab.evaluation.point_scores import Guesses, Measure, notes, references, usable
from landmark_lab.evaluation.predictions import check_same_images
from landmark_lab.metrics.collapse import constant
from landmark_lab.metrics.completion import complete
from landmark_lab.metrics.regression import Regressor
from landmark_lab.roles import Protocol
from landmark_lab.schema import plain
from landmark_lab.seeding import rng


@dataclass(frozen=True, kw_only=True)
class PointProtocol(Protocol):
    """A protocol about annotated points.

    Args:
        normaliser: what an error is divided by; see ``evaluation/normalisers.py``.
        points: count the ``visible`` points, or all ``annotated`` ones.
        split: the images that are scored.
        resamples: of the bootstrap over these images.
        seed: of the bootstrap and of all other draws.
    """

    normaliser: Normaliser = "data"
    points: Counted = "visible"
    split: Literal["val", "test"] = "test"
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_one(resamples=self.resamples)

    def images(self, predictions: Predictions, split: str) -> Annotated:
        """The landmarks and the points that count of a split.

        Raises:
            DataError: the split was not exported, has no annotation, or no such normaliser.
        """
        return annotated(predictions, split, self.normaliser, self.points)

    def mean_value(self, per_image: Floats, deviation: float | None = None) -> Value:
        """The mean of (N,) over images, NaN left out, with its interval."""
        mean = mean_value(per_image, self.resamples, self.seed)
        return Value(mean.value, mean.low, mean.high, deviation)

    def settings(self, **measured: Any) -> dict[str, Any]:
        """Every choice, the fixed ones included.

        Args:
            measured: what stands in place of a choice, e.g. a number of images for "all".
        """
        names = [field.name for field in fields(self)]
        return {name: plain(getattr(self, name), name) for name in names} | measured


@dataclass(frozen=True, kw_only=True)
class PointScore(PointProtocol):
    """A protocol that scores guesses of the annotated points.

    A subclass makes the guesses, and may change what is said about them.
    """

    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    per_point: ClassVar[str] = "error"
    """What the number of a single point is called."""

    @abstractmethod
    def run(self, predictions: Predictions) -> Guesses:
        """The guesses for a method's predictions.

        Raises:
            DataError: the predictions lack something that the protocol needs.
        """

    def measure(self, errors: Floats) -> Floats:
        """The value of each image (..., N) for errors (..., N, P) in per cent."""
        return image_means(errors)

    def headline(self, guesses: Guesses) -> Value:
        """The score's value."""
        return self.mean_value(guesses.per_image(self.measure), guesses.deviation(self.measure))

    def unit(self, divisor: str) -> str:
        """What the value is in, for a normaliser in words."""
        return f"% of {divisor}"

    def values(self, predictions: Predictions, guesses: Guesses) -> dict[str, Value]:
        """Further numbers."""
        return {}

    def means(self, guesses: Guesses, measures: Mapping[str, Measure]) -> dict[str, Value]:
        """The means over images of further measures, by name."""
        return {
            name: self.mean_value(guesses.per_image(measure), guesses.deviation(measure))
            for name, measure in measures.items()
        }

    def notes(self, guesses: Guesses, names: Sequence[str]) -> tuple[str, ...]:
        """What a reader must know before quoting the value."""
        return notes(guesses, names)

    def per_landmark(self, guesses: Guesses, names: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
        """The value of each annotated point by itself."""
        each = zip(names, guesses.per_point(self.measure), strict=True)
        return tuple({"name": name, self.per_point: value} for name, value in each)

    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """See :class:`~landmark_lab.roles.Protocol`."""
        guesses = self.run(predictions)
        compared = references(guesses.train, guesses.test, self.measure) | {"untrained": None}
        if untrained is not None:
            check_same_images(predictions, untrained)
            compared["untrained"] = nan_mean(self.run(untrained).per_image(self.measure))
        per_image = guesses.per_image(self.measure)
        names = predictions.provenance.point_names
        return Score(
            protocol=self.plugin_name,
            version=self.version,
            value=self.headline(guesses),
            unit=self.unit(guesses.test.divisor),
            references=compared,
            settings=self.settings(normaliser=guesses.test.divisor, **guesses.settings),
            values=self.values(predictions, guesses),
            per_landmark=self.per_landmark(guesses, names),
            images=int((~np.isnan(per_image)).sum()),
            notes=self.notes(guesses, names),
            index=guesses.test.index,
            per_image=per_image,
            higher_is_better=self.higher_is_better,
        )


@dataclass(frozen=True, kw_only=True)
class RegressionProtocol(PointProtocol):
    """A protocol that regresses points from points linearly.

    Args:
        regressor: ``ridge`` or ``least_squares``.
        bias: whether the regressor has an intercept (the same as centring the data). Without one
            the error depends on ``coordinates``.
        alpha: parameter of ``ridge``, in the squared units of ``coordinates``.
        alpha_is: ``fixed``, or ``relative``: multiplied by the largest entry of XᵀX.
        coordinates: units of the regressor: ``centred`` ([-1, 1] about the image's centre),
            ``unit`` ([0, 1]) or ``pixels``. With a bias, a fixed alpha of 0.1 in ``centred`` is one
            of 0.025 in ``unit`` and of 0.025·side² in ``pixels``.
        repeats: where the regressor is fitted on some of the annotated images, how many random
            choices of them there are: the score is the mean over these, their standard deviation
            stands beside it.
    """

    regressor: Regressor = "ridge"
    bias: bool = True
    alpha: float = 0.1
    alpha_is: Literal["fixed", "relative"] = "fixed"
    coordinates: Coordinates = "centred"
    repeats: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(repeats=self.repeats)
        if self.alpha <= 0:
            raise ValueError(f"alpha must be positive, not {self.alpha}; least_squares has none")

    def regression(self, predictions: Predictions) -> PointRegression:
        """The regression with these choices."""
        return PointRegression(
            self.regressor,
            self.bias,
            self.alpha,
            self.alpha_is == "relative",
            self.coordinates,
            predictions.provenance.size,
        )

    def choices(self, train: Annotated, images: int | None, source: str) -> list[NDArray[np.int64]]:
        """The training images of every repeat.

        Args:
            train: the training images.
            images: how many; those of fewer images are among those of more. None: every image in
                which a point counts, once.
            source: of the predictions, for messages.

        Raises:
            DataError: there are fewer images.
        """
        known = usable(train)
        if images is None:
            return [known]
        if images > len(known):
            raise DataError(
                f"has {len(known)} annotated training images, fewer than {images}", where=source
            )
        orders = [
            rng(self.seed, "annotated images", repeat).permutation(known)
            for repeat in range(self.repeats)
        ]
        return [order[:images] for order in orders]


@dataclass(frozen=True)
class MostStable:
    """The landmarks with the smallest backward error.

    D. Mallis, PhD thesis, Nottingham 2023, section 4.5, compares the 10 most stable of 13 with
    methods of 10 landmarks. Here they are chosen on the training images alone: each half of the
    annotated ones is predicted by the regressor of the other half, the regressor being the
    protocol's own the other way round. A landmark that never moves is perfectly stable.

    Args:
        most_stable: how many.
    """

    most_stable: int

    def __post_init__(self) -> None:
        at_least_one(most_stable=self.most_stable)


@dataclass(frozen=True, kw_only=True)
class ForwardProtocol(RegressionProtocol, PointScore):
    """A protocol that regresses the annotated points from the landmarks.

    Args:
        landmarks: regress from some landmarks only, such as ``{most_stable: 10}``; from all by
            default.
        copies: the regressor is fitted on so many warped copies of each of its images as well. They
            must have been exported; a run does it for the protocols in its ``evaluate``.
        missing: what a landmark takes that was not found in a training image: its ``mean`` over the
            training images, or what matrix ``completion`` says (``metrics/completion.py``). In a
            test image it is always the mean.
    """

    landmarks: MostStable | None = None
    copies: int = 0
    missing: Literal["mean", "completion"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.copies < 0:
            raise ValueError(f"copies must be at least 0, not {self.copies}")

    @property
    def exports(self) -> Exports:
        """The landmarks, also those in the copies."""
        return Exports(landmarks=True, copies=self.copies)

    def regressors(self, predictions: Predictions, images: int | None) -> list[PointMap]:
        """The regressors from landmarks to points of all choices of annotated training images.

        Args:
            predictions: with an annotated training split.
            images: number of annotated images; all of them if None.

        Raises:
            DataError: the predictions lack something that the protocol needs.
        """
        train = self.images(predictions, "train")
        sources, targets = self._with_copies(predictions, train)
        chosen = self.chosen(predictions)
        if chosen is not None:
            sources = sources[:, :, chosen]
        count, each = sources.shape[:2]
        if self.missing == "completion":
            sources = complete(sources.reshape(count * each, -1)).reshape(sources.shape)
        regression = self.regression(predictions)
        return [
            replace(regression.fit(_rows(sources[rows]), _rows(targets[rows])), chosen=chosen)
            for rows in self.choices(train, images, predictions.source)
        ]

    def chosen(self, predictions: Predictions) -> NDArray[np.int64] | None:
        """The landmarks that the points are regressed from, in order; None for all.

        Raises:
            DataError: there are fewer, or too few annotated images to choose by.
        """
        if self.landmarks is None:
            return None
        train = self.images(predictions, "train")
        count, rows = self.landmarks.most_stable, usable(train)
        if count > train.landmarks.shape[1] or len(rows) < 2:
            raise DataError(
                f"has {train.landmarks.shape[1]} landmarks in {len(rows)} annotated training "
                f"images; the {count} most stable ones cannot be chosen",
                where=predictions.source,
            )
        order = rng(self.seed, "halves of the annotated images").permutation(rows)
        regression = self.regression(predictions)
        errors = np.full(train.landmarks.shape[:2], np.nan)
        for first in (0, 1):
            fitted, held = order[first::2], order[1 - first :: 2]
            backward = regression.fit(train.points[fitted], train.landmarks[fitted])
            errors[held] = percent_errors(
                backward(train.points[held]), train.landmarks[held], train.normaliser[held]
            )
        # One that was never found, or not in both halves, comes last.
        return np.sort(image_means(errors.T).argsort(kind="stable")[:count])

    def regressed(self, predictions: Predictions, images: int | None) -> Guesses:
        """The points regressed in the scored images; see :meth:`regressors`."""
        train = self.images(predictions, "train")
        test = self.images(predictions, self.split)
        errors = [
            percent_errors(regress(test.landmarks), test.points, test.normaliser)
            for regress in self.regressors(predictions, images)
        ]
        annotated = len(usable(train)) if images is None else images
        settings: dict[str, Any] = {"annotated": annotated, "repeats": len(errors)}
        if self.copies:
            provenance = predictions.provenance
            settings["augmentation"] = provenance.augmentation
            settings["augmentation_seed"] = provenance.seed
        chosen = self.chosen(predictions)
        if chosen is not None:
            train, test = (
                replace(one, landmarks=one.landmarks[:, chosen]) for one in (train, test)
            )
        return Guesses(train, test, np.stack(errors), settings, chosen)

    def notes(self, guesses: Guesses, names: Sequence[str]) -> tuple[str, ...]:
        """Also that a regressor with a bias learns nothing about the landmarks from one image."""
        found = super().notes(guesses, names)
        if guesses.chosen is not None:
            found = (*found, *_of_chosen(guesses.chosen, guesses.test.landmarks))
        if not (self.bias and self.one_image(guesses)) or self.copies:
            return found
        return (*found, "with a bias one annotated image gives its own points for every image")

    def one_image(self, guesses: Guesses) -> bool:
        """Whether some regressor is fitted on one image."""
        return bool(guesses.settings["annotated"] == 1)

    def _with_copies(self, predictions: Predictions, train: Annotated) -> tuple[Floats, Floats]:
        """Landmarks (N, 1 + C, K, 2) and points (N, 1 + C, P, 2) of the images and their copies."""
        landmarks, points = train.landmarks[:, None], train.points[:, None]
        if self.copies == 0:
            return landmarks, points
        split = predictions.split("train")
        held = 0 if split.copies is None else split.copies.shape[1]
        if split.copies is None or split.copied_points is None or held < self.copies:
            raise DataError(
                f"holds {held} warped copies of each training image; the protocol "
                f"'{self.plugin_name}' fits its regressor on {self.copies}",
                where=predictions.source,
                hint=RUN_EXPORTS,
            )
        copied = split.copied_points.astype(np.float64)
        if self.points == "visible" and split.copied_visible is not None:
            copied = np.where(split.copied_visible[..., None], copied, np.nan)
        copies = split.copies[:, : self.copies].astype(np.float64)
        return (
            np.concatenate([landmarks, copies], 1),
            np.concatenate([points, copied[:, : self.copies]], 1),
        )


def at_least_one(**counts: float | None) -> None:
    """Refuse counts below one.

    Raises:
        ValueError: one is; None is no count.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")


def position(point: int | str, names: Sequence[str], where: str) -> int:
    """The number of an annotated point, given by number or name.

    Args:
        point: which one.
        names: of all points.
        where: the setting, for the message.

    Raises:
        ConfigError: there is no such point.
    """
    if isinstance(point, str) and point in names:
        return list(names).index(point)
    if isinstance(point, int) and 0 <= point < len(names):
        return point
    raise ConfigError(
        f"there is no point {point!r}",
        where=where,
        got=point,
        allowed=names if isinstance(point, str) else f"0 to {len(names) - 1}",
    )


def positive(**numbers: float) -> None:
    """Refuse numbers that are not positive.

    Raises:
        ValueError: one is not.
    """
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be positive, not {number}")


def _of_chosen(chosen: NDArray[np.int64], landmarks: Floats) -> Iterator[str]:
    """Which landmarks (N, A, 2) were chosen, and whether they are any good."""
    yield f"regressed from the {len(chosen)} most stable landmarks: {listing(chosen.tolist(), 20)}"
    still = chosen[constant(torch.from_numpy(landmarks)).numpy()].tolist()
    if still:
        yield f"{len(still)} of these hardly move, so being stable says nothing: {listing(still)}"


def _rows(points: Floats) -> Floats:
    """(n, 1 + C, A, 2) to (n · (1 + C), A, 2)."""
    return points.reshape(-1, *points.shape[2:])
