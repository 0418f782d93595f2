"""The annotated points as the method gives them in the test images: what several sections show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.results import Predictions
from landmark_lab.errors import LandmarkLabError
from landmark_lab.evaluation.choices import ForwardProtocol, PointScore
from landmark_lab.evaluation.common import (
    Annotated,
    PointMap,
    image_means,
    percent_errors,
    reference_shapes,
)
from landmark_lab.evaluation.protocols.nme import Nme
from landmark_lab.metrics.references import mean_shape
from landmark_lab.roles import Protocol, Split

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Regressed:
    """The run's main protocol about annotated points, applied to every test image.

    Convention: points in [-1, 1] of the square image.

    Attributes:
        label: the name of the protocol's result.
        protocol: the protocol.
        found, untrained: what the method found, and what it finds before any training.
        train, test: landmarks and annotated points of the two splits.
        map: the regressor from landmarks to points, fitted on the first choice of annotated images
            where there are several; None for landmarks that are the points themselves.
    """

    label: str
    protocol: PointScore
    found: Predictions
    untrained: Predictions | None
    train: Annotated
    test: Annotated
    map: PointMap | None

    @property
    def split(self) -> Split:
        """The split of the test images."""
        return self.protocol.split

    @property
    def names(self) -> list[str]:
        """Of the annotated points."""
        return self.found.provenance.point_names

    @property
    def failure(self) -> float:
        """The error in per cent above which an image is a failure."""
        return float(getattr(self.protocol, "failure", 10.0))

    @cached_property
    def points(self) -> Floats:
        """(N, P, 2) the points as the method gives them."""
        return self._points(self.map, self.train, self.test)

    @cached_property
    def errors(self) -> Floats:
        """(N, P) per cent of the normaliser, NaN for a point that does not count."""
        return self._errors(self.points)

    @cached_property
    def per_image(self) -> Mapping[str, Floats]:
        """(N,) errors in per cent, of this method and of what it is compared with."""
        errors = {"trained": self.errors}
        if self.untrained is not None:
            splits = (self.protocol.images(self.untrained, s) for s in ("train", self.split))
            regress = _regressor(self.protocol, self.untrained)
            errors["untrained"] = self._errors(self._points(regress, *splits))
        for name, shape in reference_shapes(self.train.points, self.test.points).items():
            errors[name] = self._errors(shape)
        return {name: image_means(each) for name, each in errors.items()}

    def _points(self, regress: PointMap | None, train: Annotated, test: Annotated) -> Floats:
        if regress is not None:
            return regress(test.landmarks)
        return np.where(np.isnan(test.landmarks), mean_shape(train.landmarks), test.landmarks)

    def _errors(self, points: Floats) -> Floats:
        return percent_errors(points, self.test.points, self.test.normaliser)


def regressed(
    protocols: Mapping[str, Protocol], found: Predictions, untrained: Predictions | None
) -> Regressed | None:
    """The points of a run, or None without a protocol about them or without annotation.

    Args:
        protocols: by the names of their results; the first one that fits on the most annotated
            images counts, and one with a regressor before one without.
        found, untrained: what the method found, trained and untrained.
    """
    usable = {
        label: protocol
        for label, protocol in protocols.items()
        if isinstance(protocol, ForwardProtocol | Nme) and not protocol.higher_is_better
    }
    if not usable:
        return None
    label = max(usable, key=lambda name: _annotated(usable[name]))
    protocol = usable[label]
    try:
        train, test = (protocol.images(found, split) for split in ("train", protocol.split))
        regress = _regressor(protocol, found)
    except LandmarkLabError:  # this protocol has no result either
        return None
    return Regressed(label, protocol, found, untrained, train, test, regress)


def _regressor(protocol: PointScore, found: Predictions) -> PointMap | None:
    if not isinstance(protocol, ForwardProtocol):
        return None
    images = getattr(protocol, "annotated", None)
    return protocol.regressors(found, images if isinstance(images, int) else None)[0]


def _annotated(protocol: PointScore) -> float:
    """The number of annotated images, infinite for all; -1 for a protocol without a regressor."""
    if not isinstance(protocol, ForwardProtocol):
        return -1
    images = getattr(protocol, "annotated", None)
    return images if isinstance(images, int) else np.inf
