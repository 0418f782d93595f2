"""Landmarks as the annotated points themselves, each point having one."""

import json
from dataclasses import replace

import numpy as np
import pytest

from landmark_lab.errors import ConfigError, DataError
from landmark_lab.evaluation.comparison import compare
from landmark_lab.evaluation.protocols.assigned import Assigned, AssignedPck
from landmark_lab.plugin import build
from landmark_lab.roles import Protocol
from tests.evaluation.doubles import predictions
from tests.evaluation.test_protocols import TEST, TRAIN, P
from tests.oracles import metrics as oracle

# 8 px of 100: 0.16.
ASSIGNED = Assigned(distance=8, pixels=100)


def noisy(points, order, noise, seed):
    """Landmarks near the points in another order; one more than there are points."""
    generator = np.random.default_rng(seed)
    found = np.concatenate([points, generator.uniform(-1, 1, (len(points), 1, 2))], 1)
    found = found + noise * generator.normal(size=found.shape)
    return found[:, order].astype(np.float32)


def found(order=(3, 0, 5, 1, 4, 2), noise=0.12, lost=0.0, **changes):
    both = [noisy(points, order, noise, seed) for seed, points in enumerate((TRAIN, TEST))]
    for landmarks in both:
        landmarks[np.random.default_rng(3).random(landmarks.shape[:2]) < lost] = np.nan
    return predictions(both, (TRAIN, TEST), **changes)


def slow(scene, threshold=0.16):
    """The share of correct points of each image, points and landmarks matched by brute force."""
    train, test = scene.splits["train"], scene.splits["test"]
    landmark = oracle.assignment(train.landmarks.tolist(), train.points.tolist())
    right = np.zeros(TEST.shape[:2])
    for n in range(len(TEST)):
        for p, k in enumerate(landmark):
            if k >= 0:
                far = np.linalg.norm(test.landmarks[n, k] - test.points[n, p])
                right[n, p] = far <= threshold  # not for NaN
    return right, landmark


@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_it_is_what_the_slow_loop_says(lost):
    scene = found(lost=lost)
    right, landmark = slow(scene)
    score = ASSIGNED.score(scene)
    assert score.value.value == pytest.approx(100 * right.mean())
    assert [row["landmark"] for row in score.per_landmark] == landmark
    correct = [row["correct"] for row in score.per_landmark]
    assert correct == pytest.approx((100 * right.mean(0)).tolist())
    assert score.values["assigned"].value == pytest.approx(score.value.value)
    assert score.unit == "% of points of an image within 8 px at 100×100"
    assert score.higher_is_better
    assert bool(score.notes) == bool(lost)
    assert score.settings["distance"] == 8
    assert "threshold" not in score.settings
    json.dumps(score.to_dict(), allow_nan=False)


def test_fewer_landmarks_than_points():
    scene = found()
    splits = {
        name: replace(split, landmarks=split.landmarks[:, :3], score=split.score[:, :3])
        for name, split in scene.splits.items()
    }
    scene = replace(scene, splits=splits)
    right, landmark = slow(scene)
    having = np.array(landmark) >= 0
    score = ASSIGNED.score(scene)
    assert having.sum() == 3
    assert score.value.value == pytest.approx(100 * right.mean())
    assert score.values["assigned"].value == pytest.approx(100 * right[:, having].mean())
    assert "2 of 5 points have no landmark and count as missed" in score.notes[0]
    assert [row["landmark"] is None for row in score.per_landmark] == (~having).tolist()


def test_landmarks_that_were_never_found_are_not_counted():
    scene = found()
    for split in scene.splits.values():
        split.landmarks[:, 2:] = np.nan
    expected = "3 of 5 points have no landmark and count as missed: 2 of 6 landmarks were found"
    assert expected in ASSIGNED.score(scene).notes[0]
    scene = found()
    scene.splits["test"].landmarks[:, 2:] = np.nan  # these have points, from the training images
    assert not any("have no landmark" in note for note in ASSIGNED.score(scene).notes)


def test_the_assignment_is_that_of_the_training_images():
    """Landmarks that change places in the test images are wrong there."""
    scene = found(noise=0.01)
    swapped = found(order=(0, 3, 5, 1, 4, 2), noise=0.01)
    assert ASSIGNED.score(scene).value.value == 100
    mixed = replace(scene, splits={**scene.splits, "test": swapped.splits["test"]})
    assert ASSIGNED.score(mixed).value.value == pytest.approx(60)


def test_hidden_points_do_not_count():
    scene = found()
    scene.splits["test"].visible[:, 1:3] = False
    right, _ = slow(scene)
    expected = 100 * np.delete(right, [1, 2], 1).mean()
    assert ASSIGNED.score(scene).value.value == pytest.approx(expected)
    every = replace(ASSIGNED, points="annotated").score(scene)
    assert every.value.value == pytest.approx(100 * right.mean())


def test_the_references():
    references = ASSIGNED.score(found(), found(noise=1.0)).references
    shape = np.broadcast_to(TRAIN.mean(0), TEST.shape)
    near = np.linalg.norm(shape - TEST, axis=-1) <= 0.16
    assert references["mean_shape"] == pytest.approx(100 * near.mean())
    assert references["untrained"] == ASSIGNED.score(found(noise=1.0)).value.value
    assert references["untrained"] < ASSIGNED.score(found()).value.value


def test_two_methods_are_compared_on_all_points():
    """Also where other points have a landmark."""
    result = compare(found(), found(order=(2, 1, 0, 3, 4, 5), noise=0.3), ASSIGNED, resamples=200)
    assert result.first_better == 1
    assert result.images == 40


def test_a_share_of_the_torso():
    scene = found()
    score = AssignedPck(normaliser=(0, 4), threshold=0.3).score(scene)
    sides = np.linalg.norm(TEST[:, 0] - TEST[:, 4], axis=-1)
    right = np.stack([slow(scene, 0.3 * side)[0][n] for n, side in enumerate(sides)])
    assert score.value.value == pytest.approx(100 * right.mean())
    assert score.unit == "% of points of an image within 0.3 of the distance from p0 to p4"
    over_points = AssignedPck(normaliser=(0, 4), average="point").score(scene)
    assert over_points.value.value == pytest.approx(score.value.value)
    test = scene.splits["test"]
    test.points[4, 4] = np.nan  # no torso
    assert "1 images without a normaliser" in AssignedPck(normaliser=(0, 4)).score(scene).notes[0]


class TestOks:
    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("pycocotools")

    def protocol(self, **settings):
        return build(Protocol, {"name": "assigned_oks", "resamples": 40, **settings})

    def test_the_similarity_and_the_recall(self):
        scene = found(noise=0.03, lost=0.05)
        score = self.protocol(sigmas=[0.05, 0.1, 0.08, 0.05, 0.1]).score(scene)
        _, landmark = slow(scene)
        test = scene.splits["test"]
        width, height = np.ptp(TEST, axis=1).T
        similarity = [
            oracle.keypoint_similarity(
                test.landmarks[n, landmark].tolist(),
                TEST[n].tolist(),
                float(width[n] * height[n]),
                [0.05, 0.1, 0.08, 0.05, 0.1],
            )
            for n in range(len(TEST))
        ]
        values = score.values
        assert values["oks"].value == pytest.approx(100 * np.mean(similarity), rel=1e-4)
        thresholds = np.arange(0.5, 1.0, 0.05)
        recall = [(np.array(similarity) >= t).mean() for t in thresholds]
        assert values["ar"].value == pytest.approx(100 * np.mean(recall))
        assert values["ar_50"].value == pytest.approx(100 * recall[0])
        assert values["ar_40"].value == pytest.approx(100 * np.mean(np.array(similarity) >= 0.4))
        assert values["ar_40"].value >= values["ar_50"].value > values["ar"].value
        assert values["ap_40"].value >= values["ap_50"].value > score.value.value > 0
        for value in (score.value, *values.values()):
            assert value.low <= value.value <= value.high
        assert score.images == 40
        assert score.settings["normaliser"] == "√(w·h) of the box around the points"
        json.dumps(score.to_dict(), allow_nan=False)

    def test_perfect_landmarks_and_the_references(self):
        perfect = predictions((TRAIN, TEST), (TRAIN, TEST))
        score = self.protocol().score(perfect, found(noise=0.5))
        assert score.value.value == pytest.approx(100)
        assert score.values["ar"].value == pytest.approx(100)
        references = score.references
        assert 0 <= references["untrained"] < references["mean_shape"] < references["centroid"]
        assert references["centroid_scale"] < 100

    def test_sure_predictions_come_first(self):
        """Precision is better if what is wrong has a low score."""
        both = [noisy(points, range(P + 1), 0.0, seed) for seed, points in enumerate((TRAIN, TEST))]
        both[1][::2] += 0.5
        values = []
        for sign in (1, -1):
            scene = predictions(both, (TRAIN, TEST))
            scene.splits["test"].score[::2] = 0.5 - 0.4 * sign
            scene.splits["test"].score[1::2] = 0.5 + 0.4 * sign
            values.append(self.protocol().score(scene).value.value)
        assert values[0] > 1.5 * values[1]

    def test_wrong_settings(self):
        with pytest.raises(DataError, match=r"assigned_oks\.sigmas: 2 sigmas for 5 annotated"):
            self.protocol(sigmas=[0.1, 0.1]).score(found())
        with pytest.raises(ConfigError, match="sigmas must be positive"):
            self.protocol(sigmas=0.0)
        with pytest.raises(DataError, match="is no mean over images"):
            compare(found(), found(), self.protocol())

    def test_objects_without_an_area_and_landmarks_never_found(self):
        scene = found()
        for split in scene.splits.values():
            split.landmarks[:] = np.nan
        score = self.protocol().score(scene)
        assert (score.value.value, score.values["oks"].value) == (0, 0)
        assert all(row["landmark"] is None for row in score.per_landmark)
        scene.splits["test"].points[:, 1:] = np.nan
        with pytest.raises(DataError, match=r"'test' has an object with an area \(√\(w·h\)"):
            self.protocol().score(scene)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "assigned", "distance": -1.0}, "distance must be positive"),
        ({"name": "assigned", "pixels": 0}, "pixels must be at least 1"),
        ({"name": "assigned", "threshold": 0.1}, "unknown key 'threshold'"),
        ({"name": "assigned_pck", "threshold": 0.0}, "threshold must be positive"),
        ({"name": "assigned_pck", "regressor": "ridge"}, "unknown key 'regressor'"),
    ],
)
def test_wrong_settings(spec, message):
    with pytest.raises(ConfigError, match=message):
        build(Protocol, spec)


def test_predictions_without_landmarks():
    nothing = predictions([np.empty((len(p), 0, 2)) for p in (TRAIN, TEST)], (TRAIN, TEST))
    with pytest.raises(DataError, match="holds no landmarks"):
        ASSIGNED.score(nothing)
