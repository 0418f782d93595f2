"""Random places: keypoints that know nothing of the image.

Convention: points are (x, y) in [-1, 1].
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.keypoints import Detections
from landmark_lab.roles import KeypointDetector
from landmark_lab_plugins.keypoints.region import Floats, uniform


@dataclass(frozen=True, kw_only=True)
class Random(KeypointDetector, name="random"):
    """Uniformly random places, others in every image: a detector that is nothing but noise.

    Args:
        count: keypoints in an image.
        within_box: keep to the object's box, where the data has one.

    Raises:
        ValueError: ``count`` is below 1.
    """

    draws: ClassVar[bool] = True

    count: int = 30
    within_box: bool = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, not {self.count}")

    def detect(
        self,
        image: NDArray[np.uint8],
        generator: np.random.Generator,
        annotated: Floats | None = None,
        box: Floats | None = None,
    ) -> Detections:
        """See :class:`~landmark_lab.roles.KeypointDetector`; all scores are 1."""
        points = uniform(generator, self.count, box if self.within_box else None)
        return Detections(points, np.ones(self.count, np.float32))
