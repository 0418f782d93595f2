"""What protocols about matches share: errors in pixels, which points count, references, intervals.

Convention: errors in pixels of square images of a stated size, which need not be that of the images
that were matched: 1 pixel is 2 / size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np

from landmark_lab.data.exports import MatchRequest
from landmark_lab.data.results import Matches, Predictions, Score, Value
from landmark_lab.errors import DataError
from landmark_lab.evaluation.choices import at_least_one, positive
from landmark_lab.evaluation.common import Counted, Floats, image_means, mean_value, nan_mean
from landmark_lab.evaluation.predictions import check_same_images
from landmark_lab.metrics.bootstrap import percentile_interval
from landmark_lab.roles import Protocol
from landmark_lab.schema import plain
from landmark_lab.seeding import rng


@dataclass(frozen=True, kw_only=True)
class MatchProtocol(Protocol):
    """A protocol about matches.

    The headline is the mean over pairs of images of the mean error of their points. Its interval
    resamples source images, each of which has one pair; that an image may be the target of others
    is left out of account. A point that was not found is taken to be where it was in the source.

    Args:
        pixels: side of the images whose pixels the error is in; by default of those that the method
            sees.
        within: distances in these pixels; the share of points matched within each is a value.
        points: count those ``visible`` in both images, or all ``annotated`` ones.
        split: of the images.
        resamples: of the bootstrap.
        seed: of the choice of images, their warps, and the bootstrap.
    """

    version: ClassVar[int] = 1

    pixels: int | None = None
    within: tuple[float, ...] = (1.0, 2.0, 5.0)
    points: Counted = "visible"
    split: Literal["val", "test"] = "test"
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_one(resamples=self.resamples, pixels=self.pixels)
        for distance in self.within:
            positive(within=distance)

    @abstractmethod
    def request(self) -> MatchRequest:
        """The matches that are scored."""

    def columns(self, predictions: Predictions) -> list[int] | slice:
        """Which of the Q points the score is about: by default all."""
        return slice(None)

    def counted(self, matches: Matches) -> Floats:
        """Where the points that count lie (M, Q, 2); NaN for others."""
        expected = matches.expected.astype(np.float64)
        if self.points == "visible":
            expected = np.where(matches.visible[..., None], expected, np.nan)
        return expected

    def errors(self, predictions: Predictions, guesses: Floats, matches: Matches) -> Floats:
        """Errors in pixels of guesses (M, Q, 2).

        Returns:
            (M, Q'), NaN where a point does not count, of the points that the score is about.
        """
        distance = np.linalg.norm(guesses - self.counted(matches), axis=-1)
        return np.asarray(distance[:, self.columns(predictions)] * self._size(predictions) / 2)

    def matched(self, predictions: Predictions, request: MatchRequest) -> tuple[Matches, Floats]:
        """The matches of a request, and their errors (M, Q').

        Raises:
            DataError: they were not exported, or no point counts.
        """
        matches = predictions.matched(request)
        guesses = np.where(np.isnan(matches.found), matches.points, matches.found)
        errors = self.errors(predictions, guesses.astype(np.float64), matches)
        if np.isnan(errors).all():
            raise DataError(
                f"no point of the {len(matches)} pairs '{request.key}' is {self.points} in both "
                "images",
                where=predictions.source,
            )
        return matches, errors

    def untrained_error(
        self, predictions: Predictions, untrained: Predictions | None
    ) -> float | None:
        """The headline of the untrained network on the same pairs.

        Raises:
            DataError: it was asked about others.
        """
        if untrained is None:
            return None
        check_same_images(predictions, untrained)
        mine = predictions.matched(self.request())
        theirs, errors = self.matched(untrained, self.request())
        for name in ("source", "target", "points", "expected"):
            own, other = getattr(mine, name), getattr(theirs, name)
            same = own.shape == other.shape and np.allclose(own, other, 0, 1e-5, equal_nan=True)
            if not same:
                raise DataError(
                    f"matches other pairs of images than {predictions.source}",
                    where=untrained.source,
                )
        return nan_mean(image_means(errors))

    def result(
        self,
        predictions: Predictions,
        untrained: Predictions | None,
        references: Mapping[str, float | None],
        names: Sequence[str],
        measured: Mapping[str, Any],
    ) -> Score:
        """The score.

        Args:
            predictions: with the matches.
            untrained: see ``Protocol.score``.
            references: besides the untrained network.
            names: of the Q' points; none if they have none.
            measured: settings that were measured.
        """
        matches, errors = self.matched(predictions, self.request())
        per_image = image_means(errors)
        rows = zip(names, errors.T, strict=True) if names else ()
        size = self._size(predictions)
        choices = {
            field.name: plain(getattr(self, field.name), field.name) for field in fields(self)
        }
        missed = np.isnan(matches.found[:, self.columns(predictions)]).any(-1)
        lost = missed & ~np.isnan(errors)
        return Score(
            protocol=self.plugin_name,
            version=self.version,
            value=mean_value(per_image, self.resamples, self.seed),
            unit=f"pixels at {size}×{size}",
            references={
                **references,
                "untrained": self.untrained_error(predictions, untrained),
            },
            settings={**choices, "pixels": size, **measured},
            values=self._values(errors),
            per_landmark=tuple(
                {"name": name, "error": nan_mean(column), "median": _median(column)}
                for name, column in rows
            ),
            images=int((~np.isnan(per_image)).sum()),
            notes=_notes(100 * lost.sum() / (~np.isnan(errors)).sum()),
            index=matches.source,
            per_image=per_image,
        )

    def _values(self, errors: Floats) -> dict[str, Value]:
        """The median error of a point, and shares of points within distances, in per cent."""
        values = {"median": Value(_median(errors), *self._median_interval(errors))}
        for distance in self.within:
            share = 100 * np.where(np.isnan(errors), np.nan, errors <= distance)
            values[f"percent_within_{distance:g}_px"] = mean_value(
                image_means(share), self.resamples, self.seed
            )
        return values

    def _median_interval(self, errors: Floats) -> tuple[float, float]:
        generator = rng(self.seed, "bootstrap of medians", len(errors), self.resamples)
        drawn = (generator.integers(len(errors), size=len(errors)) for _ in range(self.resamples))
        return percentile_interval(np.array([_median(errors[rows]) for rows in drawn]))

    def _size(self, predictions: Predictions) -> int:
        return predictions.provenance.size if self.pixels is None else self.pixels


def _notes(lost: float) -> tuple[str, ...]:
    return (f"{lost:.1f} % of the points were not found and left where they were",) if lost else ()


def _median(errors: Floats) -> float:
    known = errors[~np.isnan(errors)]
    return float(np.median(known)) if known.size else float("nan")
