"""The references on real faces, which every error there is compared with."""

import numpy as np
import pytest

from landmark_lab.data.annotations import read
from landmark_lab.data.results import Predictions, SplitPredictions
from landmark_lab.evaluation.protocols.backward_nme import BackwardNme
from landmark_lab.evaluation.protocols.forward_nme import ForwardNme
from tests.evaluation.doubles import provenance

SIDE = 128


@pytest.fixture
def tracker(shared_data):
    """A method that finds the middle of the face, and two corners of the image."""
    splits = {}
    for split in ("train", "test"):
        annotations = read(shared_data / "faces" / f"{split}.json")
        points = (annotations.points * 2 + 1) / SIDE - 1
        centre = points.mean(1, keepdims=True)
        corners = np.broadcast_to([[[-0.9, -0.9], [0.9, 0.9]]], (len(points), 2, 2))
        landmarks = np.concatenate([centre, corners], 1).astype(np.float32)
        splits[split] = SplitPredictions(
            np.arange(len(points)),
            landmarks,
            np.ones(landmarks.shape[:2], np.float32),
            points.astype(np.float32),
            annotations.visible,
        )
    assert annotations.normalise_by == (36, 45)
    return Predictions(splits, provenance(68, SIDE, normaliser=[36, 45]))


def test_the_references_are_the_known_ones(tracker):
    score = ForwardNme().score(tracker)
    assert score.images == 481
    assert score.references["mean_shape"] == pytest.approx(29.4, abs=0.05)
    assert score.references["centroid"] == pytest.approx(14.1, abs=0.05)
    assert score.references["centroid_scale"] == pytest.approx(11.3, abs=0.05)


def test_a_tracker_of_the_middle_gets_about_the_second(tracker):
    score = ForwardNme().score(tracker)
    # The regressor also moves the shape's parts differently, for yaw and size go with the place.
    assert 12.5 < score.value.value < 14.1


def test_frozen_points_are_exposed(tracker):
    score = BackwardNme().score(tracker)
    assert score.value.value < 1
    assert [row["frozen"] for row in score.per_landmark] == [False, True, True]
    assert [row["r2"] for row in score.per_landmark] == pytest.approx([1, 0, 0], abs=0.01)
