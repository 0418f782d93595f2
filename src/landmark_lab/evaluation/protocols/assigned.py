"""Are the discovered landmarks annotated points already? Accuracy without a regressor.

Each annotated point is given one landmark by the Hungarian algorithm, on the mean distance over the
training images; then the points whose landmark is near enough are counted on the test images. T.
Jakab et al., NeurIPS 2018; D. Mallis, PhD thesis, Nottingham 2023: within 12 px (table 5.2), 10 px
in images of 256 (figure 6.8), 6 px in images of 128 (tables 6.10 and 6.11), or 0.3 of the torso's
length (table 6.11).

Convention: distances in the square images that the method sees (see ``data/preprocess.py``).
"""

from dataclasses import dataclass, field
from typing import Any

from landmark_lab.evaluation.assigned import AssignedPoints
from landmark_lab.evaluation.choices import at_least_one, positive
from landmark_lab.evaluation.normalisers import Normaliser


@dataclass(frozen=True, kw_only=True)
class Assigned(AssignedPoints, name="assigned"):
    """Percentage of annotated points whose landmark is within some pixels, one landmark for each.

    A point without a landmark counts as missed; ``assigned`` is the percentage among the others,
    the published one where there are fewer landmarks than points. References are those of
    ``forward_nme``.

    Args:
        distance: the largest error of a correct point, in pixels.
        pixels: side of the images whose pixels these are.
    """

    normaliser: Normaliser = field(default="image", init=False)
    threshold: float = field(default=10 / 256, init=False)
    distance: float = 10.0
    pixels: int = 256

    def __post_init__(self) -> None:
        at_least_one(pixels=self.pixels)
        positive(distance=self.distance)
        object.__setattr__(self, "threshold", self.distance / self.pixels)
        super().__post_init__()

    def unit(self, divisor: str) -> str:
        """The distance, which belongs to the number."""
        return f"% of {self.counted} within {self.distance:g} px at {self.pixels}×{self.pixels}"

    def settings(self, **measured: Any) -> dict[str, Any]:
        """Every choice, the distance in pixels only."""
        kept = super().settings(**measured)
        return {key: value for key, value in kept.items() if key not in ("threshold", "normaliser")}


@dataclass(frozen=True, kw_only=True)
class AssignedPck(AssignedPoints, name="assigned_pck"):
    """Percentage of annotated points whose landmark is within a share of the object's size.

    As ``assigned``, with another threshold: 0.3 of the distance between two points, such as the
    torso's (``normaliser: [left shoulder, left hip]``). The other choices are explained in
    ``evaluation/correct_points.py``.
    """

    normaliser: Normaliser = "data"
    threshold: float = 0.3
