"""A regular grid: keypoints that know nothing of the image.

Convention: points are (x, y) in [-1, 1].
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.keypoints import Detections
from landmark_lab.roles import KeypointDetector
from landmark_lab_plugins.keypoints.region import Floats, region


@dataclass(frozen=True, kw_only=True)
class Grid(KeypointDetector, name="grid"):
    """The same regular grid in every image: what self-training reaches without a detector.

    Args:
        across: points in a row and in a column, at the centres of as many cells.
        within_box: lay it over the object's box, where the data has one, not over the image.

    Raises:
        ValueError: ``across`` is below 1.
    """

    across: int = 6
    within_box: bool = True

    def __post_init__(self) -> None:
        if self.across < 1:
            raise ValueError(f"across must be at least 1, not {self.across}")

    def detect(
        self,
        image: NDArray[np.uint8],
        generator: np.random.Generator,
        annotated: Floats | None = None,
        box: Floats | None = None,
    ) -> Detections:
        """See :class:`~landmark_lab.roles.KeypointDetector`; all scores are 1."""
        low, high = region(box if self.within_box else None)
        steps = (np.arange(self.across, dtype=np.float32) + 0.5) / self.across
        cells = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        points = (low + (high - low) * cells).astype(np.float32)
        return Detections(points, np.ones(len(cells), np.float32))
