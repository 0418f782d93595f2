"""Protocols on made-up predictions."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import LinearRegression, Ridge

from landmark_lab.errors import ConfigError, DataError
from landmark_lab.evaluation import evaluate, labels, table
from landmark_lab.evaluation.predictions import save_predictions
from landmark_lab.evaluation.protocols.backward_nme import BackwardNme
from landmark_lab.evaluation.protocols.equivariance import Equivariance, why_lost
from landmark_lab.evaluation.protocols.forward_nme import ForwardNme
from landmark_lab.plugin import available, build
from landmark_lab.roles import Protocol
from tests.evaluation.doubles import predictions
from tests.oracles import metrics as oracle

P, K = 5, 4
SHAPE = np.array([[-0.3, -0.2], [0.3, -0.2], [0.0, 0.0], [-0.2, 0.3], [0.2, 0.3]])


def objects(count, seed):
    """Points (N, P, 2) of objects that move, grow, turn and deform."""
    generator = np.random.default_rng(seed)
    angle = generator.normal(0, 0.3, count)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.einsum("pi,jin->npj", SHAPE, turn) * generator.uniform(0.7, 1.3, (count, 1, 1))
    points += generator.normal(0, 0.15, (count, 1, 2))
    return points + generator.normal(0, 0.02, points.shape)


def detected(points, noise=0.02, seed=9):
    """Landmarks (N, K, 2) somewhere between the points."""
    weights = np.random.default_rng(1).dirichlet(np.ones(P), K)
    generator = np.random.default_rng(seed)
    return weights @ points + noise * generator.normal(size=(len(points), K, 2))


TRAIN, TEST = objects(60, 0), objects(40, 1)


def scene(train=TRAIN, test=TEST, noise=0.02, **changes):
    found = [detected(p, noise, seed) for p, seed in ((train, 2), (test, 3))]
    return predictions(found, (train, test), **changes)


def flat(points):
    return points.reshape(len(points), -1)


def slow_nme(predicted, test=TEST):
    normaliser = np.linalg.norm(test[:, 0] - test[:, 1], axis=-1)
    return 100 * oracle.nme(predicted.tolist(), test.tolist(), normaliser.tolist())


class TestForward:
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("regressor", ["ridge", "least_squares"])
    @pytest.mark.parametrize("coordinates", ["centred", "unit", "pixels"])
    def test_it_is_the_error_of_scikit_learns_regressor(self, bias, regressor, coordinates):
        found = scene()
        scale, shift = {"centred": (1, 0), "unit": (0.5, 0.5), "pixels": (32, 31.5)}[coordinates]
        x, y, asked = (
            flat(a.astype(np.float64)) * scale + shift
            for a in (
                found.splits["train"].landmarks,
                found.splits["train"].points,
                found.splits["test"].landmarks,
            )
        )
        ridge = Ridge(alpha=0.3, fit_intercept=bias)
        model = ridge if regressor == "ridge" else LinearRegression(fit_intercept=bias)
        predicted = (model.fit(x, y).predict(asked).reshape(TEST.shape) - shift) / scale
        protocol = ForwardNme(regressor=regressor, bias=bias, alpha=0.3, coordinates=coordinates)
        score = protocol.score(found)
        assert score.value.value == pytest.approx(slow_nme(predicted), rel=1e-5)
        assert score.value.low < score.value.value < score.value.high
        assert score.images == 40
        assert np.mean(score.per_image) == pytest.approx(score.value.value)
        assert score.unit == "% of the distance from p0 to p1"

    def test_the_references(self):
        references = ForwardNme().score(scene()).references
        shape = TRAIN.mean(0)
        assert references["mean_shape"] == pytest.approx(
            slow_nme(np.broadcast_to(shape, TEST.shape)), rel=1e-5
        )
        assert references["centroid"] == pytest.approx(
            slow_nme(oracle.at_centroid(shape, TEST)), rel=1e-5
        )

        def size(points):
            return np.sqrt(((points - points.mean(1, keepdims=True)) ** 2).sum((1, 2)))

        scale = size(TEST) / size(TRAIN).mean()
        assert references["centroid_scale"] == pytest.approx(
            slow_nme(oracle.at_centroid(shape, TEST, scale)), rel=1e-5
        )
        assert references["untrained"] is None

    def test_an_untrained_network(self):
        other = scene(noise=1.0)
        score = ForwardNme().score(scene(), other)
        assert score.references["untrained"] == ForwardNme().score(other).value.value
        assert score.references["untrained"] > 2 * score.value.value

    def test_a_perfect_method_and_one_that_looks_at_nothing(self):
        perfect = predictions((TRAIN[:, :K], TEST[:, :K]), (TRAIN[:, :K], TEST[:, :K]))
        assert ForwardNme(regressor="least_squares").score(perfect).value.value < 1e-4
        blind = predictions([np.full((len(p), K, 2), 0.2) for p in (TRAIN, TEST)], (TRAIN, TEST))
        score = ForwardNme().score(blind)
        assert score.value.value == pytest.approx(score.references["mean_shape"], rel=1e-6)

    def test_moving_and_scaling_everything_changes_nothing_with_a_bias(self):
        found = scene()
        changed = scene()
        for split in changed.splits.values():
            split.landmarks[:] = 0.5 * split.landmarks + 0.1
            split.points[:] = 0.5 * split.points + 0.1
        for settings in ({"regressor": "least_squares"}, {"alpha_is": "relative"}):
            protocol = ForwardNme(**settings)
            first, second = protocol.score(found), protocol.score(changed)
            assert second.value.value == pytest.approx(first.value.value, rel=1e-4)
            for name in ("mean_shape", "centroid", "centroid_scale"):
                assert second.references[name] == pytest.approx(first.references[name], rel=1e-4)

    def test_without_a_bias_the_coordinates_matter(self):
        values = [
            ForwardNme(regressor="least_squares", bias=False, coordinates=c)
            .score(scene())
            .value.value
            for c in ("centred", "unit")
        ]
        assert values[0] != pytest.approx(values[1], rel=1e-3)

    def test_few_annotated_images(self):
        scores = [ForwardNme(annotated=n, repeats=5).score(scene()) for n in (1, 5, 20)]
        errors = [score.value.value for score in scores]
        assert errors == sorted(errors, reverse=True)  # 5 and 1 images: fewer than 8 features
        assert errors[2] > ForwardNme().score(scene()).value.value
        settings = scores[1].settings
        assert (settings["annotated"], settings["repeats"]) == (5, 5)
        assert scores[1].value.deviation > 0
        assert ForwardNme(annotated=5, repeats=1).score(scene()).value.deviation is None
        assert ForwardNme(annotated=5, repeats=5).score(scene()).value == scores[1].value
        assert ForwardNme(annotated=5, repeats=5, seed=1).score(scene()).value != scores[1].value
        with pytest.raises(DataError, match="60 annotated training images, fewer than 61"):
            ForwardNme(annotated=61).score(scene())

    def test_the_mean_over_repeats_is_that_of_single_fits(self):
        found = scene()
        protocol = ForwardNme(annotated=7, repeats=3)
        singles = []
        for rows in protocol.choices(protocol.images(found, "train"), 7, ""):
            own = found.splits["train"]
            part = replace(
                own,
                **{
                    name: getattr(own, name)[rows]
                    for name in ("index", "landmarks", "score", "points", "visible")
                },
            )
            only = replace(found, splits={**found.splits, "train": part})
            singles.append(ForwardNme().score(only).value.value)
        score = protocol.score(found)
        assert score.value.value == pytest.approx(np.mean(singles))
        assert score.value.deviation == pytest.approx(np.std(singles, ddof=1))

    def test_hidden_points(self):
        found = scene()
        found.splits["test"].visible[:, 2:] = False
        found.splits["test"].points[:, 4] += 5  # would show
        score = ForwardNme().score(found)
        assert score.value.value < 20
        assert [math.isnan(row["error"]) for row in score.per_landmark] == [False] * 2 + [True] * 3
        assert ForwardNme(points="annotated").score(found).value.value > 100

    def test_missing_points_and_landmarks(self):
        train, test = TRAIN.copy(), TEST.copy()
        train[:30, 2] = test[:20, 3] = np.nan
        test[5, 0] = np.nan  # no normaliser
        test[6] = np.nan
        found = scene(train, test)
        for split, points in (("train", TRAIN), ("test", TEST)):
            found.splits[split].landmarks[:] = detected(points)
            found.splits[split].landmarks[::10, 0] = np.nan
        score = ForwardNme().score(found)
        assert score.images == 38
        assert not math.isnan(score.value.value)
        assert any("2.5 % of the landmarks were not found" in note for note in score.notes)
        assert any("2 images without a normaliser" in note for note in score.notes)
        json.dumps(score.to_dict(), allow_nan=False)

    def test_a_point_that_no_fit_saw(self):
        train = TRAIN.copy()
        train[:, 3] = np.nan
        found = scene()
        found.splits["train"].points[:] = train
        score = ForwardNme().score(found)
        assert math.isnan(score.per_landmark[3]["error"])
        assert any("left out there: p3" in note for note in score.notes)
        assert not math.isnan(score.references["centroid"])

    @pytest.mark.parametrize(
        ("normaliser", "unit"),
        [
            ("data", "the distance from p0 to p1"),
            ((2, 3), "the distance from p2 to p3"),
            ("points_box", "√(w·h) of the box around the points"),
            ("image", "the image's side"),
        ],
    )
    def test_normalisers(self, normaliser, unit):
        found = scene()
        sides = {
            "data": np.linalg.norm(TEST[:, 0] - TEST[:, 1], axis=-1),
            (2, 3): np.linalg.norm(TEST[:, 2] - TEST[:, 3], axis=-1),
            "points_box": np.sqrt(np.prod(np.ptp(TEST, axis=1), axis=-1)),
            "image": np.full(len(TEST), 2.0),
        }[normaliser]
        score = ForwardNme(normaliser=normaliser).score(found)
        shape = np.broadcast_to(TRAIN.mean(0), TEST.shape)
        slow = 100 * oracle.nme(shape.tolist(), TEST.tolist(), sides.tolist())
        assert score.references["mean_shape"] == pytest.approx(slow, rel=1e-5)
        assert score.unit == f"% of {unit}"
        assert score.settings["normaliser"] == unit

    def test_data_without_a_pair_are_normalised_by_the_box(self):
        found = scene(normaliser=None)
        assert "box around the points" in ForwardNme().score(found).unit
        boxed = {
            name: replace(own, box=np.tile(np.float32([0, 0, 1, 4]), (len(own), 1)))
            for name, own in found.splits.items()
        }
        score = ForwardNme().score(replace(found, splits=boxed))
        assert score.unit == "% of √(w·h) of the box"
        with pytest.raises(DataError, match="no boxes"):
            ForwardNme(normaliser="box").score(found)
        with pytest.raises(DataError, match="point 7; there are 5 points"):
            ForwardNme(normaliser=(0, 7)).score(found)

    def test_predictions_without_annotation(self):
        found = scene()
        bare = {name: replace(own, points=None) for name, own in found.splits.items()}
        with pytest.raises(DataError, match="'train' has no annotated points"):
            ForwardNme().score(replace(found, splits=bare))
        only = {"test": found.splits["test"]}
        with pytest.raises(DataError, match="no predictions of the split 'train'"):
            ForwardNme().score(replace(found, splits=only))


class TestBackward:
    def test_it_is_the_error_of_scikit_learns_regressor(self):
        found = scene(noise=0.05)
        x, y, asked, truth = (
            flat(a.astype(np.float64))
            for a in (
                found.splits["train"].points,
                found.splits["train"].landmarks,
                found.splits["test"].points,
                found.splits["test"].landmarks,
            )
        )
        predicted = Ridge(alpha=0.1).fit(x, y).predict(asked).reshape(-1, K, 2)
        truth = truth.reshape(-1, K, 2)
        normaliser = np.linalg.norm(TEST[:, 0] - TEST[:, 1], axis=-1)
        lists = predicted.tolist(), truth.tolist(), normaliser.tolist()
        score = BackwardNme().score(found)
        assert score.value.value == pytest.approx(100 * oracle.nme(*lists), rel=1e-5)
        explained = oracle.r_squared(predicted.tolist(), truth.tolist())
        assert [row["r2"] for row in score.per_landmark] == pytest.approx(explained, rel=1e-4)
        spreads = 100 * np.array(oracle.spread(truth.tolist())) / normaliser.mean()
        assert [row["spread"] for row in score.per_landmark] == pytest.approx(spreads, rel=1e-4)
        for name in ("spread", "r2"):
            value = score.values[name]
            assert value.low < value.value < value.high
        assert score.values["r2"].value == pytest.approx(np.mean(explained), rel=1e-4)
        constant = np.broadcast_to(y.mean(0).reshape(K, 2), truth.shape)
        assert score.references["mean_position"] == pytest.approx(
            100 * oracle.nme(constant.tolist(), *lists[1:]), rel=1e-5
        )
        assert score.references["mean_position"] > 2 * score.value.value
        assert score.notes == ()

    def test_frozen_points_have_a_perfect_error_and_are_exposed(self):
        found = scene()
        for split in found.splits.values():
            split.landmarks[:] = SHAPE[:K] + 1e-4 * np.random.default_rng(0).normal(
                size=split.landmarks.shape
            )
        score = BackwardNme().score(found)
        assert score.value.value < 0.1  # better than any honest method
        assert score.values["spread"].value < 0.1
        assert score.values["r2"].value < 0.1
        assert score.references["mean_position"] == pytest.approx(score.value.value, rel=0.2)
        assert all(row["frozen"] for row in score.per_landmark)
        assert "4 of 4 landmarks hardly move" in score.notes[0]
        exactly = predictions([np.full((len(p), K, 2), 0.2) for p in (TRAIN, TEST)], (TRAIN, TEST))
        score = BackwardNme().score(exactly)
        assert score.value.value == pytest.approx(0, abs=1e-4)
        assert [row["r2"] for row in score.per_landmark] == [0] * K
        assert score.values["spread"].value == pytest.approx(0, abs=1e-4)

    def test_one_loose_landmark_is_found(self):
        found = scene()
        for seed, split in enumerate(found.splits.values()):
            noise = np.random.default_rng(seed).normal(0, 0.3, (len(split), 2))
            split.landmarks[:, 2] = noise
        rows = BackwardNme().score(found).per_landmark
        assert rows[2]["error"] > 5 * rows[0]["error"]
        assert rows[2]["r2"] < 0.2 < 0.9 < rows[0]["r2"]

    def test_missing_landmarks_are_skipped_and_missing_points_filled(self):
        train, test = TRAIN.copy(), TEST.copy()
        train[:5, 4] = test[:5, 4] = np.nan
        found = scene()
        found.splits["train"].points[:] = train
        found.splits["test"].points[:] = test
        found.splits["test"].landmarks[::2, 1] = np.nan
        found.splits["test"].landmarks[3] = np.nan
        score = BackwardNme().score(found)
        assert score.images == 39
        assert score.value.value < 40
        json.dumps(score.to_dict(), allow_nan=False)


class TestEquivariance:
    def scene(self, noise=0.02, seed=0, **changes):
        found = scene(warps={"name": "made up"}, **changes)
        test = found.splits["test"]
        generator = np.random.default_rng(seed)
        turn = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
        expected = np.float32(test.landmarks @ turn)
        warped = np.float32(expected + noise * generator.normal(size=expected.shape))
        splits = {**found.splits, "test": replace(test, warped=warped, expected=expected)}
        return replace(found, splits=splits)

    def test_it_is_what_the_slow_loop_says(self):
        found = self.scene()
        test = found.splits["test"]
        score = Equivariance().score(found)
        distances = np.linalg.norm(test.warped - test.expected, axis=-1)
        assert score.value.value == pytest.approx(50 * distances.mean(), rel=1e-4)
        spreads = oracle.spread(test.landmarks.tolist())
        assert [row["spread"] for row in score.per_landmark] == pytest.approx(
            [50 * s for s in spreads], rel=1e-4
        )
        slow = oracle.criterion(*(a.tolist() for a in (test.landmarks, test.warped, test.expected)))
        assert score.values["criterion"].value == pytest.approx(slow, rel=1e-4)
        for value in (score.value, *score.values.values()):
            assert value.low < value.value < value.high
        still = np.linalg.norm(test.landmarks - test.expected, axis=-1)
        assert score.references["still"] == pytest.approx(50 * still.mean(), rel=1e-4)
        assert score.unit == "% of the image's side"
        assert score.settings["warps"] == {"name": "made up"}

    def test_collapse_is_said(self):
        found = self.scene()
        test = found.splits["test"]
        for array in (test.landmarks, test.warped, test.expected):
            array[:, 1] = array[:, 0]
            array[:, 3] = 0.3
        score = Equivariance().score(found)
        assert [round(row["lost"]) for row in score.per_landmark] == [1, 1, 0, 1]
        assert score.values["criterion"].value > 0.75
        notes = " ".join(score.notes)
        assert "1 of 4 landmarks err by more than they move over images: 3" in notes
        assert "2 of 4 landmarks are nearer to another landmark than they err: 0, 1" in notes
        assert "1 of 4 landmarks hardly move: 3" in notes
        assert "only 2 of 4 landmarks are different" in notes

    def test_every_lost_landmark_is_told_once_and_why(self):
        """Never found; found, but never in a warped copy; erring; too near another one."""
        generator = np.random.default_rng(5)
        middle = generator.uniform(-0.6, 0.6, (40, 1, 2))
        places = np.array([[0, 0], [0.1, 0.3], [-0.3, 0], [0.2, -0.3], [0.22, -0.3], [0.3, 0.2]])
        landmarks = np.float32(middle + places)
        landmarks[:, 0] = np.nan
        warped = np.float32(landmarks + generator.normal(size=landmarks.shape) * 0.01)
        warped[:, 1] = np.nan
        warped[:, 2] += 5
        warped[:, 3:5] += 0.1  # their spread is 0.35, they are 0.02 apart
        found = predictions([landmarks] * 2, [np.zeros((40, P, 2))] * 2, warps={"name": "x"})
        test = replace(found.splits["test"], warped=warped, expected=landmarks)
        score = Equivariance(resamples=10).score(replace(found, splits={"test": test}))
        assert score.notes[:3] == (
            "2 of 6 landmarks were never found in both an image and its warped copy: 0, 1",
            "1 of 6 landmarks err by more than they move over images: 2",
            "2 of 6 landmarks are nearer to another landmark than they err: 3, 4",
        )
        lost = why_lost(score.per_landmark)
        assert lost == ([0, 1], [2], [3, 4])
        assert why_lost(json.loads(json.dumps(score.to_dict()))["per_landmark"]) == lost

    def test_one_landmark(self):
        found = self.scene()
        for split in found.splits.values():
            object.__setattr__(split, "landmarks", split.landmarks[:, :1])
        test = found.splits["test"]
        object.__setattr__(test, "warped", test.warped[:, :1])
        object.__setattr__(test, "expected", test.expected[:, :1])
        score = Equivariance().score(found)
        assert 0 < score.values["criterion"].low < score.values["criterion"].high < 0.5
        assert json.loads(json.dumps(score.to_dict()))["per_landmark"][0]["separation"] is None

    def test_an_untrained_network_needs_the_same_warps(self):
        found, other = self.scene(), self.scene(noise=0.2, seed=5)
        score = Equivariance().score(found, other)
        assert score.references["untrained"] > 5 * score.value.value
        turned = replace(other, provenance=replace(other.provenance, warps={"name": "others"}))
        with pytest.raises(DataError, match="other warps"):
            Equivariance().score(found, turned)

    def test_without_warped_images(self):
        with pytest.raises(DataError, match=r"no landmarks of warped images .* with warps"):
            Equivariance().score(scene())


class TestEvaluate:
    def test_results_are_plain_and_the_same_every_time(self, tmp_path):
        save_predictions(TestEquivariance().scene(), tmp_path / "p.npz")
        save_predictions(TestEquivariance().scene(noise=0.1), tmp_path / "u.npz")
        protocols = [ForwardNme(), BackwardNme(), Equivariance()]
        results = evaluate(tmp_path / "p.npz", protocols, tmp_path / "u.npz")
        text = json.dumps(results, allow_nan=False)
        assert text == json.dumps(
            evaluate(tmp_path / "p.npz", protocols, tmp_path / "u.npz"), allow_nan=False
        )
        scores = results["protocols"]
        assert list(scores) == ["forward_nme", "backward_nme", "equivariance"]
        forward = scores["forward_nme"]
        assert forward["version"] == 1
        assert forward["low"] < forward["value"] < forward["high"]
        assert forward["references"].keys() == {
            "mean_shape",
            "centroid",
            "centroid_scale",
            "untrained",
        }
        assert len(forward["per_landmark"]) == P
        assert forward["settings"]["regressor"] == "ridge"

    def test_names_tell_variants_apart(self):
        few = [
            ForwardNme(),
            ForwardNme(annotated=10),
            ForwardNme(regressor="least_squares", bias=False),
        ]
        assert labels([*few, Equivariance()]) == [
            "forward_nme",
            "forward_nme(annotated=10)",
            "forward_nme(regressor=least_squares, bias=False)",
            "equivariance",
        ]
        assert labels([ForwardNme(annotated=10)]) == ["forward_nme"]
        assert labels([ForwardNme(), ForwardNme(normaliser=(1, 2))])[1] == (
            "forward_nme(normaliser=[1, 2])"
        )
        with pytest.raises(ConfigError, match="forward_nme is listed 2 times"):
            labels([ForwardNme(), ForwardNme()])

    def test_other_data_are_refused(self, tmp_path):
        save_predictions(scene(), tmp_path / "p.npz")
        save_predictions(scene(data={"name": "else"}), tmp_path / "u.npz")
        with pytest.raises(DataError, match="other data than"):
            evaluate(tmp_path / "p.npz", [ForwardNme()], tmp_path / "u.npz")
        with pytest.raises(DataError, match="stale"):
            evaluate(tmp_path / "p.npz", [ForwardNme()], data={"name": "else"})

    def test_the_table_shows_what_keeps_one_honest(self, tmp_path):
        save_predictions(TestEquivariance().scene(), tmp_path / "p.npz")
        protocols = [ForwardNme(annotated=10), BackwardNme(), Equivariance()]
        results = evaluate(tmp_path / "p.npz", protocols)
        console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(table(results))
        text = console.export_text()
        for word in (
            "forward_nme",
            "centroid scale",
            "mean position",
            " ± ",
            "auc",
            "r2",
            "spread",
            "criterion",
        ):
            assert word in text
        assert "untrained" not in text


def test_they_are_plugins():
    assert {"forward_nme", "backward_nme", "equivariance"} <= available(Protocol).keys()
    built = build(Protocol, {"name": "forward_nme", "normaliser": [36, 45], "alpha": 1})
    assert built.normaliser == (36, 45)
    for bad, message in [
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"annotated": 0}, "annotated must be at least 1"),
        ({"regressor": "lasso"}, "regressor"),
        ({"normaliser": "boxx"}, "normaliser"),
        ({"aplha": 1.0}, "did you mean 'alpha'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(Protocol, {"name": "forward_nme", **bad})
