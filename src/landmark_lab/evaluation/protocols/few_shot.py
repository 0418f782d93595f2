"""Few-shot curve: the forward error against the number of annotated images.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised Learning of Object Landmarks by Factorized Spatial
Embeddings", ICCV 2017, table 4, has 1, 5, 10, 20 and all images. Which images are annotated matters
as much as how many, so each number stands for the mean over several random choices, beside their
standard deviation; the images of a small choice are among those of a larger one.

Convention: NME in the square images that the method sees (see ``data/preprocess.py``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from landmark_lab.data.results import Predictions, Value
from landmark_lab.errors import DataError
from landmark_lab.evaluation.choices import ForwardProtocol, at_least_one
from landmark_lab.evaluation.common import listing
from landmark_lab.evaluation.point_scores import Guesses, usable


@dataclass(frozen=True, kw_only=True)
class FewShot(ForwardProtocol, name="few_shot"):
    """Forward error after 1, 5, 10, 20, 100 and all annotated images.

    ``values`` holds ``annotated=N`` for each number, with its interval over test images and its
    standard deviation over choices of images. The headline, and with it what is said about single
    images and points, is that of the last number. The other choices are explained in
    ``evaluation/choices.py``.

    Args:
        annotated: numbers of annotated images, rising; those that there are not are left out, with
            a note.
    """

    annotated: tuple[int | Literal["all"], ...] = (1, 5, 10, 20, 100, "all")

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = [math.inf if n == "all" else n for n in self.annotated]
        if not numbers or sorted(set(numbers)) != numbers:
            raise ValueError(f"annotated must be rising numbers, not {list(self.annotated)}")
        at_least_one(annotated=numbers[0])

    def run(self, predictions: Predictions) -> Guesses:
        """The guesses with the largest number of annotated images."""
        return self.regressed(predictions, _count(self._possible(predictions)[-1]))

    def values(self, predictions: Predictions, guesses: Guesses) -> dict[str, Value]:
        """The error for every number of annotated images."""
        *fewer, last = self._possible(predictions)
        errors = {n: self.headline(self.regressed(predictions, _count(n))) for n in fewer}
        errors[last] = self.headline(guesses)
        return {f"annotated={n}": value for n, value in errors.items()}

    def notes(self, guesses: Guesses, names: Sequence[str]) -> tuple[str, ...]:
        """Also the numbers of images that there are not."""
        most = len(usable(guesses.train))
        missing = [n for n in self.annotated if n != "all" and n > most]
        found = super().notes(guesses, names)
        if not missing:
            return found
        return (*found, f"{most} training images are annotated, so not scored: {listing(missing)}")

    def one_image(self, guesses: Guesses) -> bool:
        """Whether some regressor is fitted on one image."""
        return 1 in self.annotated

    def _possible(self, predictions: Predictions) -> list[int | Literal["all"]]:
        """The numbers of images that there are."""
        most = len(usable(self.images(predictions, "train")))
        numbers = [n for n in self.annotated if n == "all" or n <= most]
        if not numbers:
            raise DataError(
                f"has {most} annotated training images, fewer than {self.annotated[0]}",
                where=predictions.source,
            )
        return numbers


def _count(number: int | Literal["all"]) -> int | None:
    return None if number == "all" else number
