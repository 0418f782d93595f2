"""What OpenCV's estimators of optical flow share."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.roles import OpticalFlow

# Below this the windows of the estimators cover the whole image.
_SMALLEST = 32


def check_flow_settings(flow: OpticalFlow) -> None:
    """Check what every estimator can be set to.

    Raises:
        ValueError: it is out of its range.
    """
    if flow.resolution < _SMALLEST:
        raise ValueError(f"resolution must be at least {_SMALLEST} pixels, not {flow.resolution}")
    if flow.tolerance <= 0:
        raise ValueError(f"tolerance must be positive, not {flow.tolerance}")


def grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The brightness (H, W) of an RGB image."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
