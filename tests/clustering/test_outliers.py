"""Isolated and far keypoints against loops, both engines."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from landmark_lab.clustering.faiss_engine import Engine
from landmark_lab.clustering.neighbours import neighbour_distances
from landmark_lab.clustering.outliers import far_from_centroid, isolated
from tests.clustering.engines import EITHER, blobs
from tests.oracles import clustering as oracle


@EITHER
@pytest.mark.parametrize(("count", "neighbours"), [(60, 10), (60, 11), (60, 100), (2, 5)])
def test_drops_those_with_the_largest_median_distance(
    engine: Engine, count: int, neighbours: int
) -> None:
    points = blobs(count, 5, noise=0.7)
    median = torch.tensor(oracle.isolation(points.tolist(), neighbours))
    found = isolated(points, 0.4, neighbours, engine)
    assert int(found.sum()) == round(0.4 * count)
    assert median[found].min() >= median[~found].max()


@EITHER
def test_neighbours_far_from_the_origin_and_in_several_blocks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landmark_lab.clustering.neighbours._BLOCK", 700)
    points = blobs(300, 5) + 1000
    found = neighbour_distances(points, 20, engine)
    right = torch.cdist(points.double(), points.double()).sort(1).values[:, 1:21]
    torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4)


@EITHER
def test_repeated_points_are_each_others_neighbours(engine: Engine) -> None:
    points = torch.cat([torch.zeros(30, 4), 5 + blobs(20, 20, 4)])
    assert isolated(points, 0.4, 10, engine).nonzero()[:, 0].tolist() == list(range(30, 50))


def test_never_all_and_none_of_a_few() -> None:
    points = blobs(10, 2)
    assert int(isolated(points, 0.99).sum()) == 9
    assert not isolated(points, 0.0).any()
    assert not isolated(points[:1], 0.9).any()
    assert isolated(points[:0]).shape == (0,)


def test_isolated_refuses() -> None:
    points = blobs(10, 2)
    with pytest.raises(ValueError, match="share 1"):
        isolated(points, 1.0)
    with pytest.raises(ValueError, match="neighbours 0"):
        isolated(points, neighbours=0)
    points[0, 0] = torch.inf
    with pytest.raises(ValueError, match="1 of 10 descriptors"):
        isolated(points)


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.floats(0, 1, width=32)), max_size=30),
    st.sampled_from([1.0, 1.5, 2.0]),
)
@settings(max_examples=50, deadline=None)
def test_far_from_the_centroid(rows: list[tuple[int, float]], factor: float) -> None:
    labels = torch.tensor([label for label, _ in rows], dtype=torch.long)
    distances = torch.tensor([distance for _, distance in rows])
    found = far_from_centroid(labels, distances, factor)
    right = oracle.far(labels.tolist(), distances.tolist(), factor * (1 + 1e-9))
    assert found.tolist() == right
    kept: Tensor = labels[~found]
    assert set(labels.tolist()) == set(kept.tolist())


def test_far_refuses() -> None:
    labels, distances = torch.zeros(3, dtype=torch.long), torch.ones(3)
    with pytest.raises(ValueError, match=r"factor 0\.9"):
        far_from_centroid(labels, distances, 0.9)
    with pytest.raises(ValueError, match="allowed"):
        far_from_centroid(labels, distances[:2])
