"""What every keypoint detector must pass; a new one is found here by itself."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from landmark_lab.data.keypoints import Detections
from landmark_lab.plugin import available, build
from landmark_lab.roles import KeypointDetector
from tests.plugins.superpoint import save_tiny

DETECTORS = [
    name
    for name, cls in available(KeypointDetector).items()
    if cls.__module__.startswith("landmark_lab_plugins.")
]
# Those that do not look at the image find something in any.
BLIND = {"grid", "mixture", "random"}


@pytest.fixture(scope="module", params=DETECTORS)
def detector(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> KeypointDetector:
    """The detector with its defaults; SuperPoint with weights that were not trained."""
    given: dict[str, Any] = {"name": request.param}
    if request.param == "superpoint":
        folder = save_tiny(tmp_path_factory.mktemp("weights"))
        given |= {"weights": str(folder), "border": 8, "resolution": 64}
    return build(KeypointDetector, given)


def scene(side: int) -> NDArray[np.uint8]:
    """Rectangles and discs of all sizes before a smooth background."""
    draws = np.random.default_rng(0)
    large = cv2.resize(draws.integers(60, 200, (4, 4, 3), np.uint8), (256, 256))
    for _ in range(40):
        x, y, size = (int(v) for v in draws.integers((20, 20, 3), (236, 236, 24)))
        colour = draws.integers(0, 256, 3).tolist()
        if draws.random() < 0.5:
            cv2.circle(large, (x, y), size, colour, -1)
        else:
            cv2.rectangle(large, (x - size, y - size), (x + size, y + size), colour, -1)
    return np.asarray(cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA))


def found(
    detector: KeypointDetector, image: NDArray[np.uint8], box: NDArray[np.float32] | None = None
) -> Detections:
    annotated = np.array([[-0.5, -0.4], [0.5, np.nan], [0.3, 0.6]], np.float32)
    return detector.detect(image, np.random.default_rng(1), annotated, box)


@pytest.mark.parametrize("side", [16, 64, 256])
def test_it_finds_points_in_the_image(detector: KeypointDetector, side: int) -> None:
    points = found(detector, scene(side))
    assert len(points) > 0
    assert points.points.dtype == points.scores.dtype == np.float32
    assert np.abs(points.points).max() <= 1
    assert np.isfinite(points.scores).all()
    assert (points.scores > 0).all()
    if points.descriptors is not None:
        assert points.descriptors.dtype == np.float32
        assert np.isfinite(points.descriptors).all()


def test_the_same_numbers_give_the_same_points(detector: KeypointDetector) -> None:
    one, other = (found(detector, scene(64)) for _ in range(2))
    assert np.array_equal(one.points, other.points)
    assert np.array_equal(one.scores, other.scores)
    if one.descriptors is not None and other.descriptors is not None:
        assert np.array_equal(one.descriptors, other.descriptors)


def test_it_uses_random_numbers_if_and_only_if_it_says_so(detector: KeypointDetector) -> None:
    annotated = np.array([[-0.5, -0.4], [0.3, 0.6]], np.float32)
    one, other = (
        detector.detect(scene(64), np.random.default_rng(seed), annotated).points.tolist()
        for seed in (1, 2)
    )
    assert (one != other) == detector.draws


@pytest.mark.parametrize("value", [0, 128, 255])
def test_there_is_nothing_in_a_blank_image(detector: KeypointDetector, value: int) -> None:
    blank = found(detector, np.full((32, 32, 3), value, np.uint8))
    assert (len(blank) == 0) == (detector.plugin_name not in BLIND)
    if blank.descriptors is not None:
        assert blank.descriptors.shape[1] == found(detector, scene(64)).descriptors.shape[1]


def test_it_keeps_to_the_box(detector: KeypointDetector) -> None:
    box = np.array([-0.5, -0.25, 0.75, 0.5], np.float32)
    points = found(detector, scene(256), box).points
    assert len(points)
    if detector.plugin_name != "mixture":  # whose annotated points may lie outside
        assert (points >= box[:2]).all()
        assert (points <= box[2:]).all()


def test_an_unknown_box_is_the_whole_image(detector: KeypointDetector) -> None:
    unknown = np.full(4, np.nan, np.float32)
    one, other = found(detector, scene(64), unknown), found(detector, scene(64))
    assert np.array_equal(one.points, other.points)


def test_it_leaves_torchs_random_numbers_alone(detector: KeypointDetector) -> None:
    before = torch.random.get_rng_state()
    found(detector, scene(64))
    assert torch.equal(torch.random.get_rng_state(), before)
