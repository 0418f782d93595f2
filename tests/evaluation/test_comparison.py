"""Comparing two methods on the same images."""

from dataclasses import replace

import numpy as np
import pytest

from landmark_lab.errors import DataError
from landmark_lab.evaluation.comparison import check_version, compare
from landmark_lab.evaluation.protocols.equivariance import Equivariance
from landmark_lab.evaluation.protocols.forward_nme import ForwardNme
from landmark_lab.evaluation.protocols.pck import Pck
from landmark_lab.metrics.paired import paired_difference
from tests.evaluation.test_protocols import scene


def test_it_is_the_paired_bootstrap_of_the_errors_of_images():
    first, second = scene(noise=0.02), scene(noise=0.06)
    found = compare(first, second, ForwardNme(), resamples=2000)
    scores = [ForwardNme().score(one) for one in (first, second)]
    assert (found.first, found.second) == tuple(score.value.value for score in scores)
    expected = paired_difference(*(score.per_image for score in scores), 2000)
    assert (found.difference, found.low, found.high) == (
        expected.difference,
        expected.low,
        expected.high,
    )
    assert found.first_better == 1
    assert compare(second, first, ForwardNme()).first_better == 0
    assert found.images == 40


def test_where_higher_is_better():
    first, second = scene(noise=0.02), scene(noise=0.1)
    protocol = Pck(normaliser="points_longer_side", threshold=0.05)
    found = compare(first, second, protocol)
    assert found.higher_is_better
    assert found.difference > 0
    assert found.first_better == 1
    assert compare(second, first, protocol).first_better == 0


def test_only_images_that_count_for_both():
    first, second = scene(noise=0.02), scene(noise=0.06)
    names = ("landmarks", "points")
    for found in (first, second):
        test = found.splits["test"]
        test.points[:5, 0] = np.nan  # no normaliser
        assert all(len(getattr(test, name)) == 40 for name in names)
    assert compare(first, second, ForwardNme()).images == 35


class TestBadInput:
    def test_other_data(self):
        with pytest.raises(DataError, match=r"other data than predictions \(name: 'made up' -> 'e"):
            compare(scene(), scene(data={"name": "else"}), ForwardNme())

    def test_other_settings_of_the_same_images(self):
        """What leaves the points as they are leaves the question as it is."""
        changed = scene(data={"name": "made up", "cache_mb": 3})
        assert compare(scene(), changed, ForwardNme()).difference == 0
        first, second = (
            replace(found, splits={n: replace(s, points=None) for n, s in found.splits.items()})
            for found in (scene(), changed)
        )
        with pytest.raises(DataError, match="no annotated points"):
            compare(first, second, ForwardNme())

    def test_other_images(self):
        other = scene()
        test = other.splits["test"]
        values = {
            name: getattr(test, name)[:39]
            for name in ("index", "landmarks", "score", "points", "visible")
        }
        splits = {**other.splits, "test": replace(test, **values)}
        with pytest.raises(DataError, match=r"other images of the split 'test' .* \(39 and 40\)"):
            compare(scene(), replace(other, splits=splits), ForwardNme())

    @pytest.mark.parametrize("change", ["moved", "fewer"])
    def test_other_annotation(self, change):
        other = scene(data={"name": "made up", "annotations": "new.json"})
        points = other.splits["test"].points
        if change == "moved":
            points += 0.01
        else:
            points[3, 2] = np.nan
        message = r"other annotation \(points\) of the split 'test' .*annotations: None -> 'new.jso"
        with pytest.raises(DataError, match=message):
            compare(scene(), other, ForwardNme())

    def test_other_visibility(self):
        other = scene()
        other.splits["test"].visible[0, 0] = False
        with pytest.raises(DataError, match=r"other annotation \(visible\)"):
            compare(scene(), other, ForwardNme(points="annotated"))

    def test_another_normaliser(self):
        other = scene(normaliser=[2, 3])
        with pytest.raises(DataError, match=r"not measured like .* by 'forward_nme' \(normaliser"):
            compare(scene(), other, ForwardNme())

    def test_other_warps(self):
        first, second = (with_warps(scene(warps={"name": name})) for name in ("a", "b"))
        assert compare(first, first, Equivariance()).difference == 0
        with pytest.raises(DataError, match=r"not measured like .* \(warps.name: 'a' -> 'b'"):
            compare(first, second, Equivariance())

    def test_another_version_of_the_protocol(self):
        results = {"protocols": {"forward_nme": {"version": 0}}}
        message = r"r.json: 'forward_nme' was scored by version 0 .* version 1, .*evaluate RUN"
        with pytest.raises(DataError, match=message):
            check_version(results, "forward_nme", ForwardNme(), "r.json")
        results["protocols"]["forward_nme"]["version"] = 1
        check_version(results, "forward_nme", ForwardNme(), "")
        check_version({}, "forward_nme", ForwardNme(), "")


def with_warps(found):
    test = found.splits["test"]
    turned = np.float32(test.landmarks @ np.array([[0.96, 0.28], [-0.28, 0.96]]))
    test = replace(test, warped=turned + np.float32(0.01), expected=turned)
    return replace(found, splits={**found.splits, "test": test})
