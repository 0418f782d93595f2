"""Matches of fixed pairs: what is exported, and the protocols that score it."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from landmark_lab.data.exports import Exports, PairRequest, PartnerRequest
from landmark_lab.data.results import Matches
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import ConfigError, DataError, RunError
from landmark_lab.evaluation import export, load_predictions
from landmark_lab.evaluation.comparison import compare
from landmark_lab.evaluation.pairs import shuffled, some_images, strangers
from landmark_lab.evaluation.predictions import save_predictions, unmet
from landmark_lab.evaluation.protocols.forward_nme import ForwardNme
from landmark_lab.evaluation.protocols.matching import Matching
from landmark_lab.evaluation.protocols.symmetric_transfer import SymmetricTransfer
from landmark_lab.geometry.points import pixel_grid
from tests.evaluation.charts import NAMES, PLACES, SIZE, Bare, ChartImages, Charts, Reader
from tests.evaluation.doubles import Dots, Finder

SAME, DIFFERENT = Matching(kind="same"), Matching()
TRANSFER = SymmetricTransfer()
CELL = 2 / SIZE  # of a map in points


def exported(path, method=None, data=None, protocols=(SAME, DIFFERENT, TRANSFER), **settings):
    requests = Exports.union(protocol.exports for protocol in protocols).matches
    method, data = method or Reader(), data or Charts()
    return load_predictions(export(method, data, path, matches=requests, **settings))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("matching") / "best.npz")


class TestPairs:
    def test_more_images_or_pairs_keep_the_first_choices(self):
        few, many = ChartImages("test", 20), ChartImages("test", 400)
        chosen = some_images(few, 5, "test", 0, annotated=True)
        assert len(set(chosen.tolist())) == 5
        assert (np.diff(chosen) > 0).all()
        assert set(chosen) <= set(some_images(few, 9, "test", 0, annotated=True))
        order = shuffled(many, "test", 0, annotated=True)
        assert order[order < 20].tolist() == shuffled(few, "test", 0, annotated=True).tolist()
        assert set(chosen) != set(some_images(few, 5, "test", 1, annotated=True))
        assert set(chosen) != set(some_images(few, 5, "val", 0, annotated=True))

    def test_strangers(self):
        images = ChartImages("test", 21)
        pairs = strangers(images, 200, "test", 0)
        assert pairs[:, 0].tolist() == list(range(21))
        assert (images.identity[pairs[:, 0]] != images.identity[pairs[:, 1]]).all()
        assert len(set(pairs[:, 1].tolist())) > 10
        fewer = strangers(images, 6, "test", 0).tolist()
        assert len(fewer) == 6
        assert all(pair in pairs.tolist() for pair in fewer)
        images.identity = None
        unknown = strangers(images, 200, "test", 0)
        assert (unknown[:, 0] != unknown[:, 1]).all()

    def test_images_without_points_are_left_out(self):
        images = ChartImages("test", 12)
        images.annotated = np.arange(12) % 2 == 0
        assert (strangers(images, 200, "test", 0) % 2 == 0).all()
        assert (some_images(images, 12, "test", 0, annotated=True) % 2 == 0).all()
        assert len(some_images(images, 12, "test", 0, annotated=False)) == 12

    def test_no_stranger(self):
        images = ChartImages("test", 4)
        images.identity = np.zeros(4, np.int64)
        with pytest.raises(
            DataError, match=r"cannot be matched with another .* 4 annotated images"
        ):
            strangers(images, 4, "test", 0)


class TestExport:
    def test_the_file_holds_what_was_asked_for(self, found):
        requests = Exports.union(p.exports for p in (SAME, DIFFERENT, TRANSFER)).matches
        assert list(found.matches) == [request.key for request in requests]
        assert len(requests) == 5  # the transfer's own and its two references
        assert found.splits["test"].landmarks.shape == (13, 0, 2)
        np.testing.assert_allclose(
            found.splits["test"].points[3], PLACES + ChartImages("test", 13).shift(3), atol=1e-6
        )
        assert found.provenance.warps is None
        made = found.provenance.matches
        assert made[DIFFERENT.request().key] == {
            "kind": "different", "pairs": 200, "split": "test", "seed": 0
        }  # fmt: skip
        warps = made[SAME.request().key]["warps"]
        assert (warps["name"], warps["rotation"]) == ("tps_pair", [2.5, 2.5])

    def test_different_individuals(self, found):
        matches = found.matched(DIFFERENT.request())
        images = ChartImages("test", 13)
        assert len(matches) == 13
        for m in range(13):
            source, target = int(matches.source[m]), int(matches.target[m])
            assert source // 2 != target // 2
            np.testing.assert_allclose(matches.points[m], PLACES + images.shift(source), atol=1e-6)
            np.testing.assert_allclose(
                matches.expected[m], PLACES + images.shift(target), atol=1e-6
            )
            assert matches.visible[m, -1] == (source % 3 > 0 and target % 3 > 0)
            assert matches.visible[m, :-1].all()
        assert np.abs(matches.found - matches.expected).max() < 1.2 * CELL
        assert (matches.score > 0).all()

    def test_they_are_the_nearest_cell_and_its_most_similar_one(self, found):
        matches = found.matched(DIFFERENT.request())
        images, grid = ChartImages("test", 13), pixel_grid(SIZE, SIZE).double().numpy()
        for m in range(0, 13, 4):
            source, target = (
                images[int(i)]["image"].reshape(-1, 3)[:, :2].astype(float)
                for i in (matches.source[m], matches.target[m])
            )
            for q, point in enumerate(matches.points[m].astype(float)):
                nearest = min(range(len(grid)), key=lambda i: np.abs(grid[i] - point).max())
                distances = [float(((source[nearest] - colour) ** 2).sum()) for colour in target]
                best = [i for i, d in enumerate(distances) if d == min(distances)]
                assert any(np.allclose(grid[i], matches.found[m, q], atol=1e-5) for i in best)

    def test_the_same_identity_in_two_warps(self, found):
        matches = found.matched(SAME.request())
        assert matches.source.tolist() == matches.target.tolist() == list(range(13))
        known = ~np.isnan(matches.points).any(-1)
        assert known.mean() > 0.9
        error = np.linalg.norm(matches.found - matches.expected, axis=-1)[known]
        moved = np.linalg.norm(matches.points - matches.expected, axis=-1)[known]
        assert np.median(error) < CELL < np.median(moved)
        # Neither image of a pair is the original one.
        originals = np.stack([PLACES + ChartImages("test", 13).shift(i) for i in range(13)])
        assert np.nanmean(np.abs(matches.points - originals)) > 0.02

    def test_a_grid_of_points_where_none_are_annotated(self, tmp_path):
        bare = exported(tmp_path / "b.npz", data=Bare(), protocols=[SAME])
        matches = bare.matched(SAME.request())
        assert matches.points.shape == (13, 64, 2)
        score = SAME.score(bare)
        assert score.settings["matched"] == "a grid of points"
        assert score.value.value < 1 < score.references["no_motion"]
        assert score.per_landmark == ()

    def test_batches_and_workers_do_not_matter(self, found, tmp_path):
        for loader in (LoaderSettings(batch_size=3), LoaderSettings(batch_size=5, workers=1)):
            other = exported(tmp_path / "b.npz", loader=loader)
            for key, own in found.matches.items():
                for field in fields(Matches):
                    mine, theirs = (getattr(m, field.name) for m in (own, other.matches[key]))
                    np.testing.assert_allclose(mine, theirs, atol=1e-5)

    def test_the_seed_and_the_number_choose(self, found, tmp_path):
        protocols = [Matching(kind="same", seed=1, pairs=5), Matching(seed=1), Matching(pairs=5)]
        other = exported(tmp_path / "s.npz", protocols=protocols)
        warped, chosen, few = (other.matched(protocol.request()) for protocol in protocols)
        own = found.matched(SAME.request())
        assert len(warped) == len(few) == 5
        assert not np.allclose(warped.points, own.points[warped.source], equal_nan=True)
        assert chosen.target.tolist() != found.matched(DIFFERENT.request()).target.tolist()

    def test_what_is_not_found(self, tmp_path):
        lost = exported(tmp_path / "l.npz", Reader(lost=0.0), protocols=[DIFFERENT])
        matches = lost.matched(DIFFERENT.request())
        missed = matches.points[..., 0] >= 0
        assert (np.isnan(matches.found).all(-1) == missed).all()
        score = DIFFERENT.score(lost)
        assert "were not found and left where they were" in score.notes[0]
        stayed = np.linalg.norm(matches.points - matches.expected, axis=-1) * SIZE / 2
        errors = np.linalg.norm(matches.found - matches.expected, axis=-1) * SIZE / 2
        per_point = np.where(missed, stayed, errors)
        per_point[~matches.visible] = np.nan
        np.testing.assert_allclose(score.per_image, np.nanmean(per_point, 1), rtol=1e-5)

    def test_limits(self, tmp_path):
        few = exported(tmp_path / "f.npz", protocols=[DIFFERENT], limits={"test": 5})
        matches = few.matched(DIFFERENT.request())
        assert matches.source.tolist() == list(range(5))
        assert matches.target.max() < 5

    def test_landmarks_stay_beside_matches_of_another_method(self, tmp_path):
        class Both(Finder):
            plugin_name = "both"

            def correspond(self, source, target, points):
                return points, torch.ones_like(points[..., 0])

        still = load_predictions(
            export(Both(), Dots(), tmp_path / "2.npz", matches=DIFFERENT.exports.matches)
        )
        assert still.splits["test"].landmarks.shape == (7, 3, 2)
        score = DIFFERENT.score(still)
        assert score.value.value == score.references["no_motion"] > 1


class TestMatching:
    def test_the_score_is_a_mean_over_pairs_of_means_over_visible_points(self, found):
        matches = found.matched(DIFFERENT.request())
        for pixels, points in ((None, "visible"), (100, "annotated")):
            protocol = Matching(pixels=pixels, points=points, within=(0.5, 2))
            score = protocol.score(found)
            means, shares, every = [], [], []
            for m in range(len(matches)):
                errors = []
                for q in range(5):
                    if points == "visible" and not matches.visible[m, q]:
                        continue
                    dx, dy = (matches.found[m, q] - matches.expected[m, q]).tolist()
                    errors.append((dx**2 + dy**2) ** 0.5 * (pixels or SIZE) / 2)
                means.append(sum(errors) / len(errors))
                shares.append(100 * sum(e <= 0.5 for e in errors) / len(errors))
                every += errors
            assert score.value.value == pytest.approx(sum(means) / len(means), rel=1e-5)
            np.testing.assert_allclose(score.per_image, means, rtol=1e-5)
            assert score.index.tolist() == matches.source.tolist()
            assert score.values["percent_within_0.5_px"].value == pytest.approx(np.mean(shares))
            assert score.values["median"].value == pytest.approx(np.median(every), rel=1e-5)
            assert score.unit == f"pixels at {pixels or SIZE}×{pixels or SIZE}"
            for value in (score.value, *score.values.values()):
                assert value.low <= value.value <= value.high
        assert score.settings["pixels"] == 100
        assert score.settings["pairs"] == 13
        assert [row["name"] for row in score.per_landmark] == list(NAMES)
        json.dumps(score.to_dict(), allow_nan=False)

    def test_the_references(self, found):
        matches, train = found.matched(DIFFERENT.request()), found.splits["train"]
        references = DIFFERENT.score(found).references
        expected = np.where(matches.visible[..., None], matches.expected.astype(float), np.nan)

        def error(guess):
            distance = np.linalg.norm(guess - expected, axis=-1) * SIZE / 2
            return np.nanmean(np.nanmean(distance, 1))

        shape = train.points.astype(float).mean(0)
        assert references["no_motion"] == pytest.approx(error(matches.points), rel=1e-5)
        assert references["mean_shape"] == pytest.approx(error(shape), rel=1e-5)
        # The object has one shape, so its true centroid gives it away.
        assert references["centroid"] == pytest.approx(0, abs=1e-4)
        assert references["untrained"] is None
        assert SAME.score(found).references.keys() == {"no_motion", "untrained"}

    def test_an_untrained_network(self, found, tmp_path):
        method = Reader()
        with torch.no_grad():
            method.frame.zero_()
        blind = exported(tmp_path / "u.npz", method)
        for protocol in (SAME, DIFFERENT, TRANSFER):
            score = protocol.score(found, blind)
            assert score.references["untrained"] == protocol.score(blind).value.value
            assert score.references["untrained"] > 5 * score.value.value
        key = DIFFERENT.request().key
        moved = replace(blind.matches[key], target=blind.matches[key].target[::-1])
        fewer = Matches(*(getattr(blind.matches[key], field.name)[:5] for field in fields(Matches)))
        for changed in (moved, fewer):
            other = replace(blind, matches={**blind.matches, key: changed})
            with pytest.raises(DataError, match="matches other pairs of images than"):
                DIFFERENT.score(found, other)

    def test_two_methods_are_compared_pair_by_pair(self, found, tmp_path):
        worse = exported(tmp_path / "w.npz", Reader(lost=0.0), protocols=[DIFFERENT])
        comparison = compare(found, worse, DIFFERENT)
        assert comparison.images == 13
        mine, theirs = (DIFFERENT.score(one).per_image for one in (found, worse))
        assert comparison.difference == pytest.approx(np.mean(mine - theirs))
        assert comparison.high < 0
        assert comparison.first_better == 1

    def test_what_was_not_exported(self, found):
        with pytest.raises(DataError, match=r"no matches 'same-7-test-0'.*evaluate=\[...\]"):
            Matching(kind="same", pairs=7).score(found)
        with pytest.raises(DataError, match="holds no landmarks"):
            ForwardNme().score(found)
        key = DIFFERENT.request().key
        hidden = replace(found.matches[key], visible=np.zeros((13, 5), bool))
        with pytest.raises(DataError, match=r"no point of the 13 pairs .* visible in both"):
            DIFFERENT.score(replace(found, matches={key: hidden}))

    def test_wrong_settings(self):
        for wrong in ({"pairs": 0}, {"within": (0.0,)}, {"pixels": 0}, {"resamples": 0}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                Matching(**wrong)


class TestSymmetricTransfer:
    def test_a_known_reflection_finds_the_partner(self, found):
        score = TRANSFER.score(found)
        assert score.value.value < 0.8
        assert score.references["estimated_plane"] < 0.8
        matches = found.matched(TRANSFER.request())
        distance = np.linalg.norm(matches.points - matches.expected, axis=-1) * SIZE / 2
        distance[:, 2] = np.nan  # the nose is its own partner
        distance[~matches.visible] = np.nan
        assert score.references["no_reflection"] == pytest.approx(
            np.nanmean(np.nanmean(distance, 1)),
            abs=0.4,  # up to the size of a cell
        )
        assert [row["name"] for row in score.per_landmark] == [
            "left eye → right eye",
            "right eye → left eye",
            "left mouth → right mouth",
            "right mouth → left mouth",
        ]

    def test_a_frame_that_is_turned_and_moved_needs_the_estimated_plane(self, tmp_path):
        protocols = [
            SymmetricTransfer(reflection=r) for r in ("learned", "first_axis", "estimated")
        ]
        turned = exported(tmp_path / "t.npz", Reader(0.7, 0.2), protocols=protocols)
        learned, first_axis, estimated = (p.score(turned).value.value for p in protocols)
        assert learned == pytest.approx(first_axis)
        assert estimated < 0.8
        assert learned > 5 * estimated
        # A few annotated images will do, and they are asked for by number.
        few = SymmetricTransfer(reflection="estimated", annotated=2)
        again = exported(tmp_path / "f.npz", Reader(0.7, 0.2), protocols=[few])
        assert few.score(again).value.value < 1

    def test_some_partners_by_number_and_by_name(self, found):
        whole = TRANSFER.score(found)
        eyes = SymmetricTransfer(partners=((0, 1),)).score(found)
        named = SymmetricTransfer(partners=(("left eye", "right eye"),)).score(found)
        assert eyes.value == named.value
        assert eyes.value.value == pytest.approx(whole.per_landmark[0]["error"])
        assert [row["name"] for row in eyes.per_landmark] == ["left eye → right eye"]
        assert eyes.settings["partners"] == [[0, 1]]

    def test_partners_that_are_none(self):
        data = Charts()
        for partners, message in [
            (((0, 3),), "0 and 3 are no .* the partner of left eye is right eye"),
            (((2, 2),), "2 and 2 are no"),
            (((0, 9),), "no point 9; allowed: 0 to 4"),
            ((("left ey", "right eye"),), "did you mean 'left eye'"),
        ]:
            with pytest.raises(ConfigError, match=message):
                SymmetricTransfer(partners=partners).check_data(data)
        with pytest.raises(ValueError, match="partners is empty"):
            SymmetricTransfer(partners=())
        data.flip = (0, 1, 2, 3, 4)
        with pytest.raises(ConfigError, match="no left-right partners among its points"):
            TRANSFER.check_data(data)


class TestObstacles:
    def test_every_one_is_named(self, tmp_path):
        blind = Reader()
        blind.mirror = False
        alone = Charts(test=1)
        unsided = Charts()
        unsided.flip = None
        partners, pairs = TRANSFER.exports, DIFFERENT.exports
        for method, data, asked, message in [
            (Finder(), Dots(), pairs, "'finder' offers no correspondence"),
            (Finder(), Dots(), partners, "'finder' offers no embedding"),
            (Reader(), Bare(), pairs, "'bare' has no annotated points"),
            (Reader(), Bare(), partners, "'bare' says of no annotated points"),
            (Reader(), unsided, partners, "permutation 'flip'"),
            (Reader(), alone, pairs, "image 0 of the split 'test' cannot be matched"),
            (Reader(), Charts(test=0), SAME.exports, "'charts' has no images in the split 'test'"),
            (Reader(), Charts(test=0), partners, "'test' has no annotated images"),
            (Reader(), Charts(train=0), partners, "no training image is annotated"),
            (blind, Charts(), partners, "offers no reflection .*estimated"),
            (Reader(), Charts(), Exports(landmarks=True), "'reader' offers no landmarks"),
        ]:
            problem = unmet(method, data, asked)
            assert problem is not None, message
            assert re.search(message, problem), problem
        assert unmet(Reader(), Bare(), SAME.exports) is None
        with pytest.raises(RunError, match="offers no correspondence"):
            export(Finder(), Dots(), tmp_path / "x.npz", matches=pairs.matches)
        with pytest.raises(RunError, match="offers no landmarks"):
            export(Reader(), Charts(), tmp_path / "x.npz")

    def test_nothing_to_fit_a_plane_to(self, tmp_path):
        class Unknown(ChartImages):
            def __getitem__(self, index):
                row = super().__getitem__(index)
                return row if self.split == "test" else {**row, "points": row["points"] * np.nan}

        class Half(Charts):
            def images(self, split):
                return Unknown(split, self.counts.get(split, 0))

        with pytest.raises(DataError, match="no training image has a point and its partner"):
            exported(tmp_path / "x.npz", data=Half(), protocols=[TRANSFER])


class TestFile:
    def test_saving_what_was_loaded_changes_nothing(self, found, tmp_path):
        save_predictions(found, tmp_path / "again.npz")
        again = load_predictions(tmp_path / "again.npz")
        assert again.provenance == found.provenance
        assert again.matches.keys() == found.matches.keys()
        for key, own in found.matches.items():
            for field in fields(Matches):
                np.testing.assert_array_equal(
                    getattr(own, field.name), getattr(again.matches[key], field.name)
                )

    def test_damaged_arrays(self, found, tmp_path):
        save_predictions(found, tmp_path / "whole.npz")
        with np.load(tmp_path / "whole.npz") as archive:
            content = {name: archive[name] for name in archive.files}
        key = f"matches/{DIFFERENT.request().key}"
        for changes, message in [
            ({f"{key}/score": None}, "lacks or has unknown: score"),
            ({f"{key}/more": np.zeros(13)}, "lacks or has unknown: more"),
            ({f"{key}/found": np.zeros((13, 4, 2))}, r"allowed: \(13, 5, 2\)"),
            ({f"{key}/target": np.zeros(12)}, r"allowed: \(13,\)"),
        ]:
            arrays = {k: v for k, v in {**content, **changes}.items() if v is not None}
            np.savez(tmp_path / "damaged.npz", **arrays)
            with pytest.raises(DataError, match=message):
                load_predictions(tmp_path / "damaged.npz")


def test_a_union_asks_for_each_thing_once():
    same, other = SAME.request(), PartnerRequest("none", 3, 0, "test", 0)
    union = Exports.union(
        [
            Exports(matches=(same, other)),
            Exports(landmarks=True, copies=2),
            Exports(matches=(same,)),
        ]
    )
    assert union == Exports(True, 2, (same, other))
    assert Exports.union([]) == Exports()
    assert ForwardNme().exports == Exports(landmarks=True)
    keys = [PairRequest("same", 3, "test", 0).key, PairRequest("same", 3, "val", 0).key]
    assert len({*keys, other.key, replace(other, reflection="learned").key}) == 4
