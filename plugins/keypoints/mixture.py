"""Annotated points among random ones: how much noise does self-training bear?

D. Mallis, E. Sanchez, M. Bell, G. Tzimiropoulos, "Unsupervised learning of object landmarks via
self-training correspondence", NeurIPS 2020 (section 5.4.2 of D. Mallis' thesis): 12 to 24 points an
image, a share of them drawn from 15 annotated points and displaced within a radius of 3 pixels of
256, the others anywhere in the object's box.

Convention: points are (x, y) in [-1, 1].
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.keypoints import Detections
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.roles import KeypointDetector
from landmark_lab_plugins.keypoints.region import Floats, uniform

_PAPER_SIDE = 256


@dataclass(frozen=True, kw_only=True)
class Mixture(KeypointDetector, name="mixture"):
    """Annotated points, displaced, among random ones: the papers' noise study.

    It uses the annotation and is no detector for discovering anything. Real points lie in the image
    and are drawn without repetition. Where too few are known, fewer random ones are drawn too, so
    that the share holds; an image without any gets random ones only. Random points lie in the
    object's box, or, where the data has none, in that around all annotated points of the image.

    Args:
        share: of the annotated points, 0 to 1.
        points: which annotated points, by number; all by default.
        fewest: least number of keypoints in an image.
        most: largest number; all between are equally likely.
        displacement: radius within which an annotated point is displaced, in pixels of an image of
            256 pixels; it scales with the image.

    Raises:
        ValueError: a setting is out of its range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"points"})
    draws: ClassVar[bool] = True

    share: float = 0.4
    points: tuple[int, ...] | None = None
    fewest: int = 12
    most: int = 24
    displacement: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be between 0 and 1, not {self.share}")
        if self.points is not None and len({*self.points}) < max(len(self.points), 1):
            raise ValueError(f"points must be different numbers, not {list(self.points)}")
        if not 1 <= self.fewest <= self.most:
            raise ValueError(
                f"fewest and most must be numbers from 1 on, not {self.fewest} and {self.most}"
            )
        if self.displacement < 0:
            raise ValueError(f"displacement must not be negative, not {self.displacement}")

    def detect(
        self,
        image: NDArray[np.uint8],
        generator: np.random.Generator,
        annotated: Floats | None = None,
        box: Floats | None = None,
    ) -> Detections:
        """See :class:`~landmark_lab.roles.KeypointDetector`; all scores are 1.

        Raises:
            DataError: there are no annotated points.
            ConfigError: there is no point of a number in ``points``.
        """
        if annotated is None:
            raise DataError("'mixture' needs annotated points", where="keypoints")
        known = self._known(annotated)
        count = int(generator.integers(self.fewest, self.most + 1))
        if len(known) and self.share:
            count = min(count, round(len(known) / self.share))
        real = min(round(self.share * count), len(known))
        points = generator.choice(known, real, replace=False) + self._displaced(generator, real)
        if box is None or np.isnan(box).any():
            box = _around(annotated)
        noise = uniform(generator, count - real, box)
        mixed = generator.permutation(np.concatenate([points, noise]))  # the order tells nothing
        return Detections(np.clip(mixed, -1, 1).astype(np.float32), np.ones(count, np.float32))

    def _known(self, annotated: Floats) -> Floats:
        """The chosen points that lie in the image."""
        chosen = range(len(annotated)) if self.points is None else self.points
        missing = [point for point in chosen if not 0 <= point < len(annotated)]
        if missing:
            raise ConfigError(
                f"there is no point {missing[0]}",
                where="mixture.points",
                allowed=f"0 to {len(annotated) - 1}",
            )
        points = annotated[list(chosen)]
        return points[(np.abs(points) <= 1).all(1)]  # NaN does not

    def _displaced(self, generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Displacements (count, 2), uniform in a disc."""
        radius = self.displacement * 2 / _PAPER_SIDE * np.sqrt(generator.random(count))
        angle = 2 * np.pi * generator.random(count)
        away: NDArray[np.float64] = radius * np.stack([np.cos(angle), np.sin(angle)])
        return away.T


def _around(points: Floats) -> Floats | None:
    """The box (4,) around the known points, or None without any."""
    known = points[~np.isnan(points).any(1)]
    return np.concatenate([known.min(0), known.max(0)]) if len(known) else None
