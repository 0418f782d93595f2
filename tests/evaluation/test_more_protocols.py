"""Protocols beside the plain forward and backward error, and the choices they share."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from landmark_lab.errors import ConfigError, DataError
from landmark_lab.evaluation.protocols.backward_nme import BackwardNme
from landmark_lab.evaluation.protocols.few_shot import FewShot
from landmark_lab.evaluation.protocols.forward_nme import ForwardNme
from landmark_lab.evaluation.protocols.nme import Nme
from landmark_lab.evaluation.protocols.pck import Pck
from landmark_lab.metrics.completion import complete
from landmark_lab.plugin import available, build
from landmark_lab.roles import Protocol
from tests.evaluation.doubles import predictions
from tests.evaluation.test_protocols import (
    TEST,
    TRAIN,
    K,
    P,
    flat,
    scene,
    slow_nme,
)
from tests.oracles import metrics as oracle


def in_float64(found, split, *names):
    return [getattr(found.splits[split], name).astype(np.float64) for name in names]


def lose(found, share=0.15, seed=5):
    """Predictions of which some landmarks were not found."""
    splits = {}
    for name, split in found.splits.items():
        landmarks = split.landmarks.copy()
        landmarks[np.random.default_rng(seed).random(landmarks.shape[:2]) < share] = np.nan
        splits[name] = replace(split, landmarks=landmarks)
    return replace(found, splits=splits)


def with_copies(found, copies=3, seed=7):
    """Predictions with copies of the training images: moved and grown, the landmarks noisier."""
    train = found.splits["train"]
    generator = np.random.default_rng(seed)
    shape = (len(train), copies, 1, 1)
    grown = generator.uniform(0.7, 1.3, shape)
    moved = generator.normal(0, 0.2, (len(train), copies, 1, 2))
    noise = generator.normal(0, 0.05, (len(train), copies, K, 2))
    visible = generator.random((len(train), copies, P)) < 0.9
    train = replace(
        train,
        copies=np.float32(train.landmarks[:, None] * grown + moved + noise),
        copied_points=np.float32(train.points[:, None] * grown + moved),
        copied_visible=visible,
    )
    provenance = replace(found.provenance, augmentation={"name": "made up warps"})
    return replace(found, splits={**found.splits, "train": train}, provenance=provenance)


class TestCopies:
    @pytest.mark.parametrize("points", ["visible", "annotated"])
    def test_the_regressor_is_fitted_on_them_too(self, points):
        found = with_copies(scene())
        train = found.splits["train"]
        x = np.concatenate([flat(train.landmarks), *(flat(train.copies[:, c]) for c in (0, 1))])
        y = np.concatenate([train.points, train.copied_points[:, 0], train.copied_points[:, 1]])
        if points == "visible":
            seen = train.copied_visible
            y[~np.concatenate([train.visible, seen[:, 0], seen[:, 1]])] = np.nan
        (asked,) = in_float64(found, "test", "landmarks")
        predicted = np.empty(TEST.shape)
        for p in range(P):
            known = ~np.isnan(y[:, p]).any(-1)
            model = LinearRegression(fit_intercept=False).fit(
                x[known].astype(np.float64), y[known, p].astype(np.float64)
            )
            predicted[:, p] = model.predict(flat(asked))
        protocol = ForwardNme(regressor="least_squares", bias=False, copies=2, points=points)
        score = protocol.score(found)
        assert score.value.value == pytest.approx(slow_nme(predicted), rel=1e-5)
        plain = ForwardNme(regressor="least_squares", bias=False).score(found).value.value
        assert score.value.value != pytest.approx(plain, rel=1e-3)
        assert score.settings["copies"] == 2
        assert score.settings["augmentation"] == {"name": "made up warps"}

    def test_those_of_the_chosen_images_only(self):
        found = with_copies(scene())
        few = ForwardNme(annotated=4, repeats=1, copies=3)
        (rows,) = few.choices(few.images(found, "train"), 4, "")
        train = found.splits["train"]
        others = np.setdiff1d(np.arange(60), rows)
        before = few.score(found).value
        for array in (train.copies, train.copied_points):
            array[others] = 100
        assert few.score(found).value == before
        train.copies[rows[0]] += 0.3
        assert few.score(found).value != before

    def test_predictions_without_enough_of_them(self):
        message = "holds 0 warped copies .* 'forward_nme' fits its regressor on 2"
        with pytest.raises(DataError, match=message):
            ForwardNme(copies=2).score(scene())
        with pytest.raises(DataError, match=r"holds 3 warped copies .* on 4; a run exports them"):
            ForwardNme(copies=4).score(with_copies(scene()))


class TestMissingLandmarks:
    def test_completion_in_training_and_the_mean_in_the_test(self):
        found = lose(scene(noise=0.002))
        train, points = in_float64(found, "train", "landmarks", "points")
        (asked,) = in_float64(found, "test", "landmarks")
        x = complete(flat(train))
        filled = np.where(np.isnan(flat(asked)), x.mean(0), flat(asked))
        predicted = Ridge(alpha=0.1).fit(x, flat(points)).predict(filled).reshape(TEST.shape)
        score = ForwardNme(missing="completion").score(found)
        assert score.value.value == pytest.approx(slow_nme(predicted), rel=1e-5)
        assert "landmarks were not found" in score.notes[0]

    def test_completion_serves_a_regressor_better_than_the_mean(self):
        found = lose(scene(noise=0.002))
        whole = {"test": scene(noise=0.002).splits["test"], "train": found.splits["train"]}
        complete_test = replace(found, splits=whole)
        error = {
            missing: ForwardNme(missing=missing).score(complete_test).value.value
            for missing in ("mean", "completion")
        }
        assert error["completion"] < 0.9 * error["mean"]

    def test_nothing_missing(self):
        score = ForwardNme(missing="completion").score(scene())
        assert score.value == ForwardNme().score(scene()).value


class TestFewShot:
    def test_it_is_the_forward_error_for_every_number(self):
        score = FewShot(annotated=(1, 5, 20, "all"), repeats=4).score(scene(), scene(noise=1.0))
        assert list(score.values) == [f"annotated={n}" for n in (1, 5, 20, "all")]
        for n in (1, 5, 20):
            single = ForwardNme(annotated=n, repeats=4).score(scene())
            assert score.values[f"annotated={n}"] == single.value
            assert single.value.deviation > 0
        whole = ForwardNme().score(scene(), scene(noise=1.0))
        assert score.value == score.values["annotated=all"] == whole.value
        assert score.references == whole.references
        assert score.settings["annotated"] == whole.settings["annotated"] == 60
        written = score.to_dict()
        assert json.loads(json.dumps(written, allow_nan=False)) == written
        assert written["values"]["annotated=5"].keys() == {"value", "low", "high", "deviation"}
        assert "deviation" not in written["values"]["annotated=all"]

    def test_numbers_that_there_are_not(self):
        score = FewShot(repeats=2).score(scene())
        assert list(score.values) == [f"annotated={n}" for n in (1, 5, 10, 20, "all")]
        assert "60 training images are annotated, so not scored: 100" in score.notes
        score = FewShot(annotated=(50, 70), repeats=2).score(scene())
        assert score.value == ForwardNme(annotated=50, repeats=2).score(scene()).value
        with pytest.raises(DataError, match="60 annotated training images, fewer than 61"):
            FewShot(annotated=(61, 70)).score(scene())
        for bad in [(), (5, 1), ("all", 5), (0, 1), (3, 3)]:
            with pytest.raises(ValueError, match="annotated"):
                FewShot(annotated=bad)

    def test_one_image_needs_a_regressor_without_a_bias(self):
        with_bias = FewShot(annotated=(1, "all"), repeats=8).score(scene())
        assert any("one annotated image gives its own points" in n for n in with_bias.notes)
        other = scene(noise=0.5)  # the landmarks make no difference
        again = FewShot(annotated=(1, "all"), repeats=8).score(other)
        assert again.values["annotated=1"].value == pytest.approx(
            with_bias.values["annotated=1"].value, rel=1e-5
        )
        without = [
            FewShot(annotated=(1, "all"), repeats=8, bias=False).score(found)
            for found in (scene(), other)
        ]
        assert without[0].notes == ()
        first, second = (score.values["annotated=1"].value for score in without)
        assert second > 1.05 * first


class TestDirect:
    def test_it_is_the_error_of_the_landmarks_themselves(self):
        near = [p + 0.03 * np.random.default_rng(0).normal(size=p.shape) for p in (TRAIN, TEST)]
        found = predictions(near, (TRAIN, TEST))
        score = Nme().score(found, predictions([0.5 * p for p in near], (TRAIN, TEST)))
        assert score.value.value == pytest.approx(slow_nme(np.float32(near[1])), rel=1e-4)
        assert score.references["untrained"] > 2 * score.value.value
        assert score.references["mean_shape"] == ForwardNme().score(found).references["mean_shape"]
        errors = np.asarray(score.per_image)
        assert score.values["failure_rate"].value == pytest.approx(100 * (errors > 10).mean())
        area = oracle.area_under_curve(errors.tolist(), 10.0)
        assert score.values["auc"].value == pytest.approx(100 * area, abs=0.01)

    def test_a_lost_landmark_is_not_free(self):
        found = predictions((TRAIN, TEST), (TRAIN, TEST))
        found.splits["test"].landmarks[::2, 1] = np.nan
        guessed = TEST.copy()
        guessed[::2, 1] = TRAIN[:, 1].mean(0)
        score = Nme().score(found)
        assert score.value.value == pytest.approx(slow_nme(guessed), rel=1e-4)

    def test_landmarks_that_are_other_points(self):
        with pytest.raises(DataError, match=r"holds 4 landmarks for 5 annotated points.*'forward"):
            Nme().score(scene())


class TestPck:
    def predicted(self, found):
        x, y = in_float64(found, "train", "landmarks", "points")
        (asked,) = in_float64(found, "test", "landmarks")
        return Ridge(alpha=0.1).fit(flat(x), flat(y)).predict(flat(asked)).reshape(TEST.shape)

    @pytest.mark.parametrize("average", ["image", "point"])
    def test_it_is_what_the_slow_loop_says(self, average):
        found = scene(noise=0.05)
        boxes = np.concatenate([TEST.min(1) - 0.1, TEST.max(1) + 0.2], 1).astype(np.float32)
        test = replace(found.splits["test"], box=boxes)
        test.points[::3, 2:] = np.nan
        train = replace(found.splits["train"], box=np.zeros((60, 4), np.float32))
        found = replace(found, splits={"train": train, "test": test})
        score = Pck(threshold=0.1, average=average).score(found)
        lists = (a.tolist() for a in (self.predicted(found), test.points, boxes))
        slow = 100 * oracle.pck(*lists, 0.1, average)
        assert score.value.value == pytest.approx(slow)
        assert np.nanmean(score.per_image) == pytest.approx(slow)
        assert score.value.low < slow < score.value.high
        assert score.higher_is_better
        assert "within 0.1 of the longer side of the box" in score.unit
        assert score.references["mean_shape"] < slow
        assert all(0 <= row["correct"] <= 100 for row in score.per_landmark)

    def test_other_sizes(self):
        found = scene(noise=0.05)
        with pytest.raises(DataError, match=r"no boxes.*'points_longer_side'"):
            Pck().score(found)
        wide = Pck(normaliser="points_longer_side", threshold=10.0).score(found)
        assert (wide.value.value, wide.value.low) == (100, 100)
        by_image = Pck(normaliser="image", threshold=0.05).score(found).value.value
        distances = np.linalg.norm(self.predicted(found) - TEST, axis=-1)
        assert by_image == pytest.approx(100 * (distances <= 0.1).mean(), abs=0.5)

    def test_the_interval_of_all_points_is_that_of_a_ratio(self):
        found = scene(noise=0.1)
        found.splits["test"].points[::2, 2:] = np.nan
        settings = {"normaliser": "points_longer_side", "threshold": 0.15, "resamples": 300}
        score = Pck(average="point", **settings).score(found)
        known = ~np.isnan(found.splits["test"].points[..., 0])
        generator = np.random.default_rng(0)
        correct = np.asarray(score.per_image) * known.sum(1).mean() / 100
        draws = []
        for _ in range(4000):
            drawn = generator.integers(len(known), size=len(known))
            draws.append(100 * correct[drawn].sum() / known[drawn].sum())
        assert (score.value.low, score.value.high) == pytest.approx(
            tuple(np.quantile(draws, [0.025, 0.975])), abs=2
        )


class TestBackwardOnFewImages:
    def test_it_is_the_mean_over_choices(self):
        found = scene(noise=0.05)
        protocol = BackwardNme(annotated=12, repeats=3)
        singles, explained = [], []
        for rows in protocol.choices(protocol.images(found, "train"), 12, ""):
            own = found.splits["train"]
            names = ("index", "landmarks", "score", "points", "visible")
            part = replace(own, **{name: getattr(own, name)[rows] for name in names})
            score = BackwardNme().score(replace(found, splits={**found.splits, "train": part}))
            singles.append(score.value.value)
            explained.append([row["r2"] for row in score.per_landmark])
        score = protocol.score(found)
        assert score.value.value == pytest.approx(np.mean(singles))
        assert score.value.deviation == pytest.approx(np.std(singles, ddof=1))
        assert [row["r2"] for row in score.per_landmark] == pytest.approx(np.mean(explained, 0))
        assert (score.settings["annotated"], score.settings["repeats"]) == (12, 3)


def test_points_of_a_normaliser_by_name():
    named, numbered = (
        ForwardNme(normaliser=pair).score(scene()) for pair in (("p3", "p1"), (3, 1))
    )
    assert named.value == numbered.value
    assert named.unit == "% of the distance from p3 to p1"
    message = r"names a point 'p9', which is not annotated; allowed: p0, p1"
    with pytest.raises(DataError, match=message):
        ForwardNme(normaliser=("p3", "p9")).score(scene())


def test_the_regressor_of_a_score():
    found = scene()
    fitted = ForwardNme().regressor_of(found)
    (asked,) = in_float64(found, "test", "landmarks")
    assert slow_nme(fitted(asked)) == pytest.approx(ForwardNme().score(found).value.value, rel=1e-6)
    assert fitted.linear.weights.shape == (2 * K, 2 * P)
    assert fitted(asked).shape == TEST.shape
    few = ForwardNme(annotated=3).regressor_of(found)
    assert not np.allclose(few.linear.weights, fitted.linear.weights)


# --- published protocols -------------------------------------------------------------------------

PUBLISHED = {
    "forward_nme_factorized": ForwardNme(regressor="least_squares", bias=False, copies=3),
    "forward_nme_structural": ForwardNme(regressor="least_squares", bias=False),
    "forward_nme_two_step": ForwardNme(bias=False, alpha=0.1),
    "forward_nme_self_training": ForwardNme(
        alpha=0.01, alpha_is="relative", missing="completion", annotated=30
    ),
    "backward_nme_self_training": BackwardNme(alpha=0.01, alpha_is="relative", annotated=30),
    "few_shot_factorized": FewShot(
        regressor="least_squares", bias=False, copies=3, annotated=(1, 5, 10, 20, "all")
    ),
    "pck_bbc_pose": Pck(normaliser="image", threshold=6 / 128, average="point"),
}
OPEN = {
    "forward_nme_factorized": {"copies": 3},
    "few_shot_factorized": {"copies": 3},
    "forward_nme_self_training": {"annotated": 30},
    "backward_nme_self_training": {"annotated": 30},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_protocol_is_the_general_one_with_its_choices(name):
    found = with_copies(lose(scene()))
    protocol = build(Protocol, {"name": name, **OPEN.get(name, {})})
    general = PUBLISHED[name]
    score, expected = protocol.score(found), general.score(found)
    assert score.protocol == name
    assert score.value == expected.value
    assert score.values == expected.values
    assert score.settings == expected.settings  # the fixed choices are listed
    assert build(Protocol, protocol.spec) == protocol


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_configuration_changes_what_its_source_fixes(name):
    fixed = set(PUBLISHED[name].spec) - set(available(Protocol)[name].__init__.__kwdefaults__)
    assert fixed - {"name"}
    for key in fixed - {"name"}:
        with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
            build(Protocol, {"name": name, key: PUBLISHED[name].spec[key]})


def test_the_dense_protocol_is_for_its_probe():
    probed = predictions((TRAIN, TEST), (TRAIN, TEST), method={"name": "virtual_points"})
    protocol = build(Protocol, "nme_dense")
    assert protocol.score(probed).value == Nme().score(probed).value
    with pytest.raises(DataError, match="'made up'; the protocol 'nme_dense' is for"):
        protocol.score(predictions((TRAIN, TEST), (TRAIN, TEST)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "forward_nme", "repeats": 0}, "repeats must be at least 1"),
        ({"name": "forward_nme", "copies": -1}, "copies must be at least 0"),
        ({"name": "forward_nme", "failure": 0.0}, "failure must be positive"),
        ({"name": "forward_nme", "missing": "median"}, "missing"),
        ({"name": "forward_nme_factorized", "copies": 0}, "copies must be at least 1"),
        ({"name": "pck", "threshold": -0.1}, "threshold must be positive"),
        ({"name": "pck", "average": "points"}, "did you mean 'point'"),
        ({"name": "few_shot", "annotated": ["al"]}, "annotated"),
        ({"name": "few_shot", "annotated": [5, 1]}, "rising"),
        ({"name": "backward_nme", "annotated": 0}, "annotated must be at least 1"),
    ],
)
def test_wrong_settings(spec, message):
    with pytest.raises(ConfigError, match=message):
        build(Protocol, spec)


def test_a_distribution_over_repeats():
    score = ForwardNme(annotated=5, repeats=3, failure=12.0).score(scene())
    assert score.values["failure_rate"].deviation >= 0
    assert not math.isnan(score.values["auc"].low)
    assert torch.isfinite(torch.tensor([v.value for v in score.values.values()])).all()


def test_images_of_which_nothing_counts():
    found = scene()
    found.splits["train"].visible[:] = False
    message = r"no point of the split 'train' is visible in any of its 60 images; 'points: annot"
    with pytest.raises(DataError, match=message):
        ForwardNme().score(found)
    found.splits["train"].points[:] = np.nan
    with pytest.raises(DataError, match=r"'train' is annotated in any of its 60 images$"):
        ForwardNme(points="annotated").score(found)
