"""Optical flow by inverse search.

T. Kroeger, R. Timofte, D. Dai, L. Van Gool, "Fast optical flow using dense inverse search", ECCV
2016, with the variational refinement, as OpenCV implements it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.roles import OpticalFlow
from landmark_lab_plugins.flow.opencv import check_flow_settings, grey

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@dataclass(frozen=True)
class DenseInverseSearch(OpticalFlow, name="dis"):
    """Dense inverse search (OpenCV): sharper and faster than ``farneback``, noisier in flat areas.

    Args:
        preset: OpenCV's settings; ``medium`` goes down to half the resolution, the others to a
            quarter.
        resolution: side in pixels of the squares to which frames are brought first; frames that
            have fewer pixels keep theirs.
        tolerance: how far a pixel that goes there and back may end from where it began, in pixels;
            a tenth of its way is added.

    Raises:
        ValueError: a setting is out of its range.
    """

    preset: Literal["ultrafast", "fast", "medium"] = "medium"
    resolution: int = 256
    tolerance: float = 0.7

    def __post_init__(self) -> None:
        check_flow_settings(self)

    def estimate(self, source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :class:`~landmark_lab.roles.OpticalFlow`."""
        # An instance has buffers of its own, which threads must not share.
        search = cv2.DISOpticalFlow.create(_PRESETS[self.preset])
        start = np.zeros((*source.shape[:2], 2), np.float32)
        return np.asarray(search.calc(grey(source), grey(target), start), np.float32)
