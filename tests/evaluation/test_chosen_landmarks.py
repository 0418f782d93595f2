"""Forward protocols on the most stable landmarks; values about how many were found."""

import json
from dataclasses import replace

import numpy as np
import pytest

from landmark_lab.errors import ConfigError, DataError
from landmark_lab.evaluation.choices import MostStable
from landmark_lab.evaluation.protocols.backward_nme import BackwardNme
from landmark_lab.evaluation.protocols.few_shot import FewShot
from landmark_lab.evaluation.protocols.forward_nme import ForwardNme
from landmark_lab.evaluation.protocols.pck import Pck
from landmark_lab.metrics.regression import fit_linear
from landmark_lab.plugin import build
from landmark_lab.roles import Protocol
from tests.evaluation.doubles import predictions
from tests.evaluation.test_more_protocols import lose, with_copies
from tests.evaluation.test_protocols import TEST, TRAIN, flat, scene
from tests.oracles import metrics as oracle

TWO = MostStable(2)


def jumpy(jumps=(0.3, 0.02, 0.25, 0.01)):
    """The scene with landmarks that jump about, each by so much."""
    found = scene(noise=0.0)
    for seed, split in enumerate(found.splits.values()):
        noise = np.random.default_rng(seed).normal(size=split.landmarks.shape)
        split.landmarks[:] += np.array(jumps)[:, None] * noise
    return found


def only(found, kept):
    """The predictions of these landmarks alone."""
    splits = {}
    for name, split in found.splits.items():
        changes = {"landmarks": split.landmarks[:, kept], "score": split.score[:, kept]}
        if split.copies is not None:
            changes["copies"] = split.copies[:, :, kept]
        splits[name] = replace(split, **changes)
    return replace(found, splits=splits)


class TestMostStable:
    @pytest.mark.parametrize(
        "protocol",
        [
            ForwardNme(),
            ForwardNme(annotated=12, repeats=3),
            ForwardNme(copies=2, regressor="least_squares", bias=False),
            ForwardNme(missing="completion"),
            FewShot(annotated=(5, 20)),
            Pck(normaliser="image"),
        ],
        ids=lambda protocol: protocol.plugin_name,
    )
    def test_it_is_the_score_of_these_landmarks_alone(self, protocol):
        found = with_copies(lose(jumpy()))
        score = replace(protocol, landmarks=TWO).score(found)
        alone = protocol.score(only(found, [1, 3]))
        assert score.value == alone.value
        assert score.values == alone.values
        assert score.settings["landmarks"] == {"most_stable": 2}
        assert "regressed from the 2 most stable landmarks: 1, 3" in score.notes
        json.dumps(score.to_dict(), allow_nan=False)

    def test_they_have_the_smallest_backward_error(self):
        jumps = (0.3, 0.02, 0.25, 0.01)
        for order in ((0, 1, 2, 3), (2, 3, 1, 0)):
            found = jumpy([jumps[k] for k in order])
            errors = [row["error"] for row in BackwardNme().score(found).per_landmark]
            chosen = ForwardNme(landmarks=TWO).chosen(found)
            assert chosen.tolist() == sorted(np.argsort(errors)[:2].tolist())

    def test_no_test_image_takes_part(self):
        found = jumpy()
        chosen = ForwardNme(landmarks=TWO).chosen(found)
        found.splits["test"].landmarks[:, chosen] = 9
        assert ForwardNme(landmarks=TWO).chosen(found).tolist() == chosen.tolist()

    def test_an_image_is_judged_by_the_other_half(self):
        """A landmark that fits its own half by chance is not stable."""
        found = jumpy()
        few = 8
        train = found.splits["train"]
        for array in (train.landmarks, train.points):
            array[few:] = np.nan
        protocol = ForwardNme(landmarks=TWO, regressor="least_squares")
        inside = fit_linear(flat(train.points[:few]), flat(train.landmarks[:few]), "least_squares")
        own = inside(flat(train.points[:few])).reshape(few, -1, 2)
        assert np.abs(own - train.landmarks[:few]).max() < 1e-5  # nothing to choose by
        assert protocol.chosen(found).tolist() == [1, 3]

    def test_a_landmark_that_never_moves_is_said_to_be_worthless(self):
        found = jumpy()
        for split in found.splits.values():
            split.landmarks[:, 0] = 0.1
        score = ForwardNme(landmarks=TWO).score(found)
        assert "most stable landmarks: 0, 3" in score.notes[0]
        assert score.notes[1] == "1 of these hardly move, so being stable says nothing: 0"

    def test_a_landmark_that_was_never_found_comes_last(self):
        found = jumpy()
        for split in found.splits.values():
            split.landmarks[:, 3] = np.nan
        assert ForwardNme(landmarks=TWO).chosen(found).tolist() == [1, 2]
        assert ForwardNme(landmarks=MostStable(4)).chosen(found).tolist() == [0, 1, 2, 3]

    def test_the_regressor_takes_all_landmarks(self):
        found = jumpy()
        test = found.splits["test"].landmarks.astype(np.float64)
        chosen = ForwardNme(landmarks=TWO).regressor_of(found)
        expected = ForwardNme().regressor_of(only(found, [1, 3]))(test[:, [1, 3]])
        np.testing.assert_array_equal(chosen(test), expected)

    def test_wrong_settings(self):
        with pytest.raises(DataError, match=r"4 landmarks .* the 5 most stable ones"):
            ForwardNme(landmarks=MostStable(5)).score(scene())
        built = build(Protocol, {"name": "forward_nme", "landmarks": {"most_stable": 3}})
        assert built.landmarks == MostStable(3)
        assert build(Protocol, built.spec) == built
        for landmarks, message in [
            ({"most_stable": 0}, "most_stable must be at least 1"),
            ({"stable": 3}, "landmarks"),
            (3, "landmarks"),
        ]:
            with pytest.raises(ConfigError, match=message):
                build(Protocol, {"name": "forward_nme", "landmarks": landmarks})


def test_landmarks_found_in_an_image():
    score = ForwardNme().score(lose(scene(), share=0.3))
    found = ~np.isnan(lose(scene(), share=0.3).splits["test"].landmarks).any(-1)
    value = score.values["landmarks_per_image"]
    assert value.value == pytest.approx(found.sum(1).mean())
    assert value.low < value.value < value.high
    assert ForwardNme().score(scene()).values["landmarks_per_image"].value == 4


def test_the_distribution_of_backward_errors():
    found = lose(scene())
    score = BackwardNme(failure=5.0).score(found)
    errors = score.per_image
    assert score.values["failure_rate"].value == pytest.approx(100 * np.mean(errors > 5))
    area = 100 * oracle.area_under_curve(errors.tolist(), 5.0)
    assert score.values["auc"].value == pytest.approx(area, abs=0.05)
    with pytest.raises(ConfigError, match="failure must be positive"):
        build(Protocol, {"name": "backward_nme", "failure": 0.0})


def test_missing_landmarks_of_the_published_pair():
    """Completed in training, the mean in the test, and skipped in backward."""
    found = lose(predictions((TRAIN, TEST), (TRAIN, TEST)), share=0.3)
    forward = build(Protocol, {"name": "forward_nme_self_training", "annotated": 50}).score(found)
    assert "29.5 % of the landmarks were not found" in forward.notes[0]
    backward = build(Protocol, {"name": "backward_nme_self_training", "annotated": 50})
    # Every landmark is a point, so what was found is predicted nearly without error.
    assert backward.score(found).value.value < 5 < forward.value.value
