"""Matching: does a method find a point of one image in another one?

J. Thewlis, S. Albanie, H. Bilen, A. Vedaldi; chapter 7 of J. Thewlis, "Objects from Motion", DPhil
thesis, Oxford 2018, sections 4.1 (200 pairs of faces) and 4.3 (the capsule centres of a robot arm):
annotated points of one image are matched with the most similar cell of another one, and the error
is a mean distance in pixels. For the *same* identity the two images are warps of one image, half as
strong as in training; for *different* ones, images of two individuals.

Vectors of many dimensions match the same identity better and may match different ones worse: the
two numbers belong together.

Convention: see ``evaluation/match_scores.py``.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from landmark_lab.data.exports import Exports, PairRequest
from landmark_lab.data.results import Matches, Predictions, Score
from landmark_lab.evaluation.choices import at_least_one
from landmark_lab.evaluation.common import Floats, image_means, nan_mean, reference_shapes
from landmark_lab.evaluation.match_scores import MatchProtocol


@dataclass(frozen=True, kw_only=True)
class Matching(MatchProtocol, name="matching"):
    """Distance in pixels between matched points and true ones, for fixed pairs of images.

    The method must offer correspondences; a run exports the matches. Beside the mean error stand
    the median and the shares of points within some distances. The reference ``no_motion`` leaves
    every point where it was; for different individuals ``mean_shape`` is that of all annotated
    training images, and ``centroid`` and ``centroid_scale`` put it at the true place. The other
    choices are explained in ``evaluation/match_scores.py``.

    Args:
        kind: ``same``: two warps of one image, of a grid of points where none are annotated;
            ``different``: images of two individuals, or of two images where these are not known.
        pairs: how many pairs of images; fewer if there are fewer images.
    """

    kind: Literal["same", "different"] = "different"
    pairs: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(pairs=self.pairs)

    def request(self) -> PairRequest:
        """See :class:`~landmark_lab.evaluation.match_scores.MatchProtocol`."""
        return PairRequest(self.kind, self.pairs, self.split, self.seed)

    @property
    def exports(self) -> Exports:
        """See :class:`~landmark_lab.roles.Protocol`."""
        return Exports(matches=(self.request(),))

    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """See :class:`~landmark_lab.roles.Protocol`."""
        matches = predictions.matched(self.request())
        names = predictions.provenance.point_names
        on_grid = predictions.split(self.split).points is None
        made = predictions.provenance.matches[self.request().key]
        return self.result(
            predictions,
            untrained,
            self._references(predictions, matches),
            [] if on_grid else names,
            {
                "pairs": len(matches),
                "matched": "a grid of points" if on_grid else "annotated points",
                **({"warps": made["warps"]} if "warps" in made else {}),
            },
        )

    def _references(self, predictions: Predictions, matches: Matches) -> dict[str, float | None]:
        def error(guesses: Floats) -> float:
            return nan_mean(image_means(self.errors(predictions, guesses, matches)))

        references: dict[str, float | None] = {
            "no_motion": error(matches.points.astype(np.float64))
        }
        train = predictions.splits.get("train")
        if self.kind == "different" and train is not None and train.points is not None:
            shapes = reference_shapes(train.points.astype(np.float64), self.counted(matches))
            references |= {name: error(shape) for name, shape in shapes.items()}
        return references
