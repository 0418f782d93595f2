"""Unordered keypoints: what is exported, the protocols that score them, tables and rounds."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from landmark_lab.data.exports import Exports
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.results import SplitPredictions
from landmark_lab.data.rounds import Labelled, write_round
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import ConfigError, DataError, RunError
from landmark_lab.evaluation import export, load_predictions
from landmark_lab.evaluation.comparison import compare
from landmark_lab.evaluation.keypoint_tables import (
    rounds_table,
    score_rounds,
    table_predictions,
    with_keypoints,
)
from landmark_lab.evaluation.predictions import annotation_of, save_predictions, unmet
from landmark_lab.evaluation.protocols.keypoint_clusters import KeypointClusters
from landmark_lab.evaluation.protocols.keypoint_detection import KeypointDetection
from landmark_lab.metrics.bootstrap import resampled_images
from landmark_lab.plugin import build
from landmark_lab.roles import Protocol
from tests.evaluation.doubles import POINTS, Dots, Finder, Spotter, predictions
from tests.evaluation.test_protocols import SHAPE, TEST, TRAIN, P
from tests.oracles import metrics as oracle

# 10 px of 100: 0.2.
DETECTION = KeypointDetection(pixels=100)
CLUSTERS = KeypointClusters(pixels=100)
M = 7


def keypoints_of(points, seed):
    """Keypoints (N, M, 2) near some of the points, noise, and labels (N, M) of 2P + 1 clusters."""
    generator = np.random.default_rng(seed)
    which = generator.integers(P + 2, size=(len(points), M))  # the last two: noise, nothing
    noise = generator.uniform(-1, 1, (len(points), M, 2))
    at = np.take_along_axis(points, which.clip(max=P - 1)[..., None], 1)
    found = np.where((which < P)[..., None], at + 0.05 * noise, noise)
    label = np.where(which < P, 2 * which + generator.integers(2, size=which.shape), 2 * P)
    label[generator.random(label.shape) < 0.1] = -1
    nothing = which == P + 1
    found[nothing], label[nothing] = np.nan, -1
    found[0], label[0] = np.nan, -1  # an image without any
    return found.astype(np.float32), label


def spotted(train=TRAIN, test=TEST, **changes):
    """Predictions of keypoints."""
    base = predictions([np.empty((len(p), 0, 2)) for p in (train, test)], (train, test), **changes)
    splits = {}
    for seed, (name, split) in enumerate(base.splits.items()):
        found, label = keypoints_of(TRAIN if name == "train" else TEST, seed)
        score = np.float32(~np.isnan(found).any(-1))
        splits[name] = replace(split, keypoints=found, keypoint_score=score, keypoint_label=label)
    return replace(base, splits=splits)


def slow(found, points=TEST, distance=0.2):
    """Mean precision, recall and F over images in per cent, and the pooled ones."""
    each, pooled = oracle.detection(found.tolist(), points.tolist(), distance)
    return 100 * np.nanmean([row for row in each if row], 0), 100 * np.array(pooled)


class TestDetection:
    def test_it_is_what_the_slow_loop_says(self):
        found = spotted()
        score = DETECTION.score(found)
        means, pooled = slow(found.splits["test"].keypoints)
        values = [score.values["precision"], score.values["recall"], score.value]
        assert [v.value for v in values] == pytest.approx(means)
        values = [score.values[f"pooled_{name}"] for name in ("precision", "recall", "f")]
        assert [v.value for v in values] == pytest.approx(pooled)
        for value in (score.value, *score.values.values()):
            assert value.low < value.value < value.high
        assert np.nanmean(score.per_image) == pytest.approx(score.value.value)
        assert score.unit == "% (F within 10 px at 100×100)"
        assert score.higher_is_better
        present = ~np.isnan(found.splits["test"].keypoints).any(-1)
        assert score.values["keypoints"].value == pytest.approx(present.sum(1).mean())
        assert score.notes == ("1 images without a keypoint have no precision, and an F of 0",)
        json.dumps(score.to_dict(), allow_nan=False)

    def test_the_recall_of_single_points(self):
        found = spotted()
        rows = DETECTION.score(found).per_landmark
        assert [row["name"] for row in rows] == [f"p{i}" for i in range(P)]
        for p, row in enumerate(rows):
            alone, _ = slow(found.splits["test"].keypoints, TEST[:, [p]])
            assert row["recall"] == pytest.approx(alone[1])

    def test_the_distance_is_in_pixels_of_a_stated_size(self):
        found = spotted()
        same = KeypointDetection(distance=25.6, pixels=256)
        assert same.score(found).value == DETECTION.score(found).value
        nearer = KeypointDetection(distance=1.0, pixels=100)
        expected, _ = slow(found.splits["test"].keypoints, distance=0.02)
        assert nearer.score(found).value.value == pytest.approx(expected[2])

    def test_some_of_the_points(self):
        found = spotted()
        expected, _ = slow(found.splits["test"].keypoints, TEST[:, [3, 1]])
        for subset in ((3, 1), ("p3", "p1")):
            score = replace(DETECTION, subset=subset).score(found)
            assert score.value.value == pytest.approx(expected[2])
            assert [row["name"] for row in score.per_landmark] == ["p3", "p1"]
            assert score.settings["subset"] == list(subset)

    def test_hidden_points(self):
        found = spotted()
        found.splits["test"].visible[:, 2:] = False
        seen, _ = slow(found.splits["test"].keypoints, TEST[:, :2])
        assert DETECTION.score(found).value.value == pytest.approx(seen[2])
        whole, _ = slow(found.splits["test"].keypoints)
        every = replace(DETECTION, points="annotated").score(found)
        assert every.value.value == pytest.approx(whole[2])

    def test_the_references(self):
        found = spotted()
        references = DETECTION.score(found, found).references
        shape = np.broadcast_to(TRAIN.mean(0), TEST.shape)
        assert references["mean_shape"] == pytest.approx(slow(shape)[0][2], rel=1e-4)
        placed = oracle.at_centroid(TRAIN.mean(0), TEST)
        assert references["centroid"] == pytest.approx(slow(placed)[0][2], rel=1e-4)
        assert references["untrained"] == DETECTION.score(found).value.value
        assert 0 < references["random"] < references["untrained"] / 2
        alone = replace(found, splits={"test": found.splits["test"]})
        assert DETECTION.score(alone).references.keys() == {"random", "untrained"}

    def test_landmarks_are_keypoints_too(self):
        train, test = (points.astype(np.float32) for points in (TRAIN, TEST))
        lost = test.copy()
        lost[::3, 1] = np.nan
        found = predictions((train, lost), (train, test))
        score = DETECTION.score(found)
        assert score.values["precision"].value == 100
        assert score.values["recall"].value == pytest.approx(slow(lost)[0][1])
        assert CLUSTERS.score(found).value.value == pytest.approx(1)

    def test_predictions_without_either(self):
        nothing = predictions([np.empty((len(p), 0, 2)) for p in (TRAIN, TEST)], (TRAIN, TEST))
        with pytest.raises(DataError, match=r"neither keypoints nor landmarks.*--resume RUN"):
            DETECTION.score(nothing)
        unknown = spotted()
        unknown.splits["test"].visible[:] = False
        with pytest.raises(DataError, match="none of the chosen points is visible"):
            DETECTION.score(unknown)

    def test_two_methods_are_compared_in_pairs_of_images(self):
        found = spotted()
        worse = spotted()
        worse.splits["test"].keypoints[:, :3] = 0.95
        result = compare(found, worse, DETECTION, resamples=200)
        assert result.first_better > 0.95
        with pytest.raises(DataError, match="'keypoint_clusters' is no mean over images"):
            compare(found, worse, CLUSTERS)


class TestClusters:
    def pairs(self, found):
        """Image, label and nearest point of every keypoint in a cluster, and how far it is."""
        split = found.splits["test"]
        near = oracle.nearest(split.keypoints.tolist(), TEST.tolist())
        return [
            (n, label, *near[n][m])
            for n, labels in enumerate(split.keypoint_label.tolist())
            for m, label in enumerate(labels)
            if label >= 0
        ]

    def test_it_is_that_of_scikit_learn(self):
        found = spotted()
        score = CLUSTERS.score(found)
        pairs = self.pairs(found)
        _, label, point, _ = zip(*pairs, strict=True)
        assert score.value.value == pytest.approx(normalized_mutual_info_score(point, label))
        close = [(label, point) for _, label, point, far in pairs if far <= 0.2]
        expected = normalized_mutual_info_score(*zip(*close, strict=True))
        assert score.values["near"].value == pytest.approx(expected)
        assert score.value.value < expected  # noise lowers it
        assert score.values["clusters"].value == len(set(label))
        assert score.references["shuffled"] < 0.2 < score.value.value
        assert score.per_image is None
        json.dumps(score.to_dict(), allow_nan=False)

    def test_the_interval_is_that_of_resampled_images(self):
        found = spotted()
        protocol = replace(CLUSTERS, resamples=60)
        score = protocol.score(found)
        split = found.splits["test"]
        draws = []
        for rows in resampled_images(len(split), 60, 0):
            part = replace(
                split,
                **{
                    field.name: value[rows]
                    for field in fields(SplitPredictions)
                    if (value := getattr(split, field.name)) is not None
                },
            )
            one = replace(protocol, resamples=1).score(replace(found, splits={"test": part}))
            draws.append(one.value.value)
        low, high = np.quantile(draws, [0.025, 0.975]) - np.mean(draws) + score.value.value
        assert (score.value.low, score.value.high) == pytest.approx((low, high))
        assert low < score.value.value < high

    def test_the_clusters_of_single_points(self):
        found = spotted()
        rows = CLUSTERS.score(found).per_landmark
        pairs = self.pairs(found)
        for p, row in enumerate(rows):
            own = [label for _, label, point, _ in pairs if point == p]
            assert row["keypoints"] == pytest.approx(len(own) / len(TEST))
            assert row["share"] == pytest.approx(100 * own.count(row["cluster"]) / len(own))
            assert row["cluster"] == max(sorted(set(own)), key=own.count)

    def test_keypoints_without_clusters(self):
        found = spotted()
        found.splits["test"].keypoint_label[:] = -1
        with pytest.raises(DataError, match=r"no keypoint .* is in a cluster"):
            CLUSTERS.score(found)

    def test_nothing_is_near(self):
        score = replace(CLUSTERS, distance=1e-6).score(spotted())
        assert np.isnan(score.values["near"].value)
        assert "100.0 % of the keypoints in a cluster are near no annotated point" in score.notes


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"distance": 0.0}, "distance must be positive"),
            ({"pixels": 0}, "pixels must be at least 1"),
            ({"subset": []}, "subset is empty"),
            ({"split": "all"}, "split"),
        ],
    )
    def test_wrong_ones(self, settings, message):
        for name in ("keypoint_detection", "keypoint_clusters"):
            with pytest.raises(ConfigError, match=message):
                build(Protocol, {"name": name, **settings})

    @pytest.mark.parametrize(
        ("subset", "message"),
        [
            (["rde"], r"subset: there is no point 'rde'.*did you mean 'red'"),
            ([3], r"there is no point 3.*0 to 2"),
            ([1, "green"], "names a point twice"),
        ],
    )
    def test_points_that_there_are_not(self, subset, message):
        protocol = build(Protocol, {"name": "keypoint_detection", "subset": subset})
        with pytest.raises(ConfigError, match=message):
            protocol.check_data(Dots())

    def test_data_without_points(self):
        class Plain(Dots):
            provides = frozenset()

        with pytest.raises(ConfigError, match="compares keypoints with annotated points"):
            DETECTION.check_data(Plain())


# --- exporting -----------------------------------------------------------------------------------


class TestExport:
    def test_what_is_written_is_what_the_method_found(self, tmp_path):
        found = load_predictions(export(Spotter(), Dots(), tmp_path / "k.npz", keypoints=True))
        for split in found.splits.values():
            assert split.landmarks.shape[1] == 0
            present = ~np.isnan(split.keypoints).any(-1)
            counts = present.sum(1)
            assert split.keypoints.shape[1] == counts.max()
            assert 0 < counts.min() + 1 <= counts.max()
            for n in range(len(split)):
                assert present[n, : counts[n]].all()  # the padding comes last
                labels = split.keypoint_label[n, : counts[n]]
                np.testing.assert_allclose(
                    split.keypoints[n, : counts[n]], split.points[n, labels], atol=0.01
                )
            assert (split.keypoint_label[~present] == -1).all()
            assert (split.keypoint_score == present).all()
        score = KeypointDetection(pixels=32, distance=1).score(found)
        assert score.values["precision"].value > 80  # a hidden dot is no visible point
        assert KeypointClusters(pixels=32, points="annotated").score(found).value.value > 0.99

    def test_batches_do_not_matter_and_saving_changes_nothing(self, tmp_path):
        whole = load_predictions(export(Spotter(), Dots(), tmp_path / "a.npz", keypoints=True))
        small = LoaderSettings(batch_size=2)
        other = load_predictions(
            export(Spotter(), Dots(), tmp_path / "b.npz", keypoints=True, loader=small)
        )
        save_predictions(whole, tmp_path / "c.npz")
        again = load_predictions(tmp_path / "c.npz")
        for split, own in whole.splits.items():
            for name in ("keypoints", "keypoint_score", "keypoint_label"):
                for theirs in (other, again):
                    np.testing.assert_allclose(
                        getattr(own, name), getattr(theirs.splits[split], name), atol=1e-6
                    )

    def test_who_can_be_asked(self, tmp_path):
        assert unmet(Spotter(), Dots(), Exports(keypoints=True)) is None
        assert unmet(Finder(), Dots(), Exports(keypoints=True)) is None
        assert "no landmarks" in unmet(Spotter(), Dots(), Exports(landmarks=True))
        assert DETECTION.exports == CLUSTERS.exports == Exports(keypoints=True)
        assert Exports.union([DETECTION.exports, Exports(landmarks=True)]).keypoints
        with pytest.raises(RunError, match="'spotter' offers no landmarks"):
            export(Spotter(), Dots(), tmp_path / "x.npz")
        found = load_predictions(export(Finder(), Dots(), tmp_path / "l.npz", keypoints=True))
        assert found.splits["test"].keypoints is None  # its landmarks say the same

    def test_damaged_arrays(self, tmp_path):
        path = export(Spotter(), Dots(), tmp_path / "k.npz", keypoints=True)
        with np.load(path) as archive:
            content = {name: archive[name] for name in archive.files}
        wrong = np.zeros((7, 9), np.float32)
        for changes, message in [
            ({"test/keypoint_score": None}, "lacks 'test/keypoint_score'"),
            ({"test/keypoint_score": wrong}, r"'test/keypoint_score' has the shape \(7, 9\)"),
            ({"test/keypoints": wrong}, "'test/keypoint"),
        ]:
            arrays = {k: v for k, v in {**content, **changes}.items() if v is not None}
            np.savez(tmp_path / "damaged.npz", **arrays)
            with pytest.raises(DataError, match=message):
                load_predictions(tmp_path / "damaged.npz")


# --- tables --------------------------------------------------------------------------------------


def table_of(points, label, images=None, rows=None):
    """The keypoints (N, M, 2) of images at some positions as a table."""
    rows = np.arange(len(points)) if rows is None else rows
    present = ~np.isnan(points).any(-1)
    image = np.broadcast_to(rows[:, None], present.shape)
    columns = (image[present], points[present], np.ones(present.sum(), np.float32), label[present])
    return KeypointTable.of(
        images or len(points), *(torch.from_numpy(np.array(column)) for column in columns)
    )


class TestTables:
    def test_a_table_is_scored_as_predictions_are(self):
        found = spotted()
        split = found.splits["test"]
        own = with_keypoints(split, table_of(split.keypoints, split.keypoint_label))
        scored = replace(found, splits={**found.splits, "test": own})
        for protocol in (DETECTION, CLUSTERS):
            expected = protocol.score(found)
            assert protocol.score(scored).value == expected.value
            assert protocol.score(scored).values == expected.values

    def test_only_some_images_of_a_table(self):
        found = spotted()
        split = found.splits["test"]
        table = table_of(split.keypoints, split.keypoint_label, 90, 2 * np.arange(len(split)))
        own = with_keypoints(replace(split, index=2 * split.index), table)
        scored = replace(found, splits={"test": own})
        assert DETECTION.score(scored).value == DETECTION.score(found).value
        with pytest.raises(DataError, match="keypoints of 90 images, and none of image 90"):
            with_keypoints(replace(split, index=split.index + 51), table)

    def test_a_generic_detector(self, tmp_path):
        data = Dots()
        points = np.stack([data.images("test")[n]["points"] for n in range(7)])
        table = table_of(points, np.full((7, POINTS), -1))
        found = table_predictions({"test": table}, data, {"name": "perfect"})
        assert found.provenance.method == {"name": "perfect"}
        score = KeypointDetection(points="annotated").score(found)
        assert score.value.value == 100
        path = tmp_path / "detector.npz"
        save_predictions(found, path)
        again = load_predictions(path, data=data.spec)
        assert KeypointDetection(points="annotated").score(again).value == score.value

    def test_annotation_without_a_method(self, tmp_path):
        known = annotation_of(Dots(), "test", limit=5)
        exported = load_predictions(export(Finder(), Dots(), tmp_path / "a.npz"))
        for name in ("index", "points", "visible", "box", "identity"):
            own = getattr(exported.splits["test"], name)[:5]
            np.testing.assert_array_equal(getattr(known, name), own)
        assert known.landmarks.shape == (5, 0, 2)
        with pytest.raises(DataError, match="'dots' has no images in val"):
            annotation_of(Dots(), "val")


class TestRounds:
    @pytest.fixture
    def files(self, tmp_path):
        """Three rounds on the first 50 of 60 training images, the keypoints nearer each time."""
        paths = []
        for number, off in enumerate((0.5, 0.15, 0.05)):
            moved = (TRAIN[:50] + off).astype(np.float32)
            label = np.full(moved.shape[:2], -1 if number == 0 else 0)
            if number == 2:
                label = np.broadcast_to(np.arange(P), label.shape)
            paths.append(tmp_path / f"{number:03d}.npz")
            table = table_of(moved, label, 60)
            write_round(paths[-1], Labelled(table), 100 * number, number, np.arange(50))
        return paths

    def test_rounds_get_better(self, files):
        protocols = {"keypoint_detection": DETECTION, "keypoint_clusters": CLUSTERS}
        rounds = score_rounds(files[::-1], spotted(), protocols)
        assert [(one.number, one.step) for one in rounds] == [(0, 0), (1, 100), (2, 200)]
        each = [one.scores["keypoint_detection"] for one in rounds]
        assert [score.images for score in each] == [50] * 3  # the others were not trained on
        for score, off in zip(each, (0.5, 0.15, 0.05), strict=True):
            expected, _ = slow(np.float32(TRAIN[:50] + off), TRAIN[:50])
            assert score.value.value == pytest.approx(expected[2])
        assert "keypoint_clusters" not in rounds[0].scores  # there are none yet
        assert rounds[1].scores["keypoint_clusters"].value.value == pytest.approx(0)
        assert rounds[2].scores["keypoint_clusters"].values["near"].value == pytest.approx(1)
        for (name, protocol), count in zip(protocols.items(), (3, 2), strict=True):
            printed = rounds_table(rounds, name, protocol, "first")
            assert printed.row_count == count
            headers = [column.header for column in printed.columns]
            assert headers == ["round", "step", "value", *protocol.of_rounds]
        json.dumps([one.to_dict() for one in rounds], allow_nan=False)

    def test_images_in_which_nothing_was_found_count(self, tmp_path):
        """A round that finds keypoints in half of its images recovers half as many points."""
        for number, few in enumerate((40, 20)):
            found = np.full((40, P, 2), np.nan, np.float32)
            found[:few] = TRAIN[:few]
            table = table_of(found, np.full(found.shape[:2], -1), 60)
            file = tmp_path / f"{number}.npz"
            write_round(file, Labelled(table), 0, number, np.arange(45))
        rounds = score_rounds(
            sorted(tmp_path.iterdir()), spotted(), {"keypoint_detection": DETECTION}
        )
        each = [one.scores["keypoint_detection"] for one in rounds]
        assert [score.images for score in each] == [45, 45]
        recall = [score.values["recall"].value for score in each]
        assert recall == pytest.approx([100 * 40 / 45, 100 * 20 / 45])

    def test_none(self):
        assert score_rounds([], spotted(), {"keypoint_detection": DETECTION}) == []


def test_the_shape_has_points_farther_apart_than_the_distance():
    """What the tests above rest on: keypoints near a point are near no other one."""
    apart = np.linalg.norm(SHAPE[:, None] - SHAPE[None], axis=-1)
    assert apart[apart > 0].min() * 0.7 > 0.2
