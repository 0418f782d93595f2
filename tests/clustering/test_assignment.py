"""At most one keypoint of an image in each cluster, against loops and all permutations."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from landmark_lab.clustering.assignment import (
    Assignment,
    assign,
    assign_nearest,
    drop_duplicates,
    hungarian,
)
from tests.oracles import clustering as oracle


def keypoints(seed: int, count: int, images: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Descriptors, centroids, and images in no order."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, 3, generator=generator),
        torch.randn(k, 3, generator=generator),
        torch.randint(images, (count,), generator=generator) * 7 - 3,
    )


SIZES = {
    "seed": st.integers(0, 10**6),
    "count": st.integers(0, 12),
    "images": st.integers(1, 4),
    "k": st.integers(1, 5),
}


def sum_in(found: Assignment, which: Tensor) -> float:
    return float(found.distances[which & found.keep].double().square().sum())


@given(**SIZES)
@settings(max_examples=40, deadline=None)
def test_dropping_keeps_the_closest_one(seed: int, count: int, images: int, k: int) -> None:
    descriptors, centroids, image = keypoints(seed, count, images, k)
    nearest = assign_nearest(descriptors, centroids)
    found = drop_duplicates(nearest, image)
    right = oracle.drop_duplicates(
        nearest.labels.tolist(), nearest.distances.tolist(), image.tolist()
    )
    assert found.labels.tolist() == right


@given(**SIZES)
@settings(max_examples=40, deadline=None)
def test_hungarian_is_the_best_matching(seed: int, count: int, images: int, k: int) -> None:
    descriptors, centroids, image = keypoints(seed, count, images, k)
    found = hungarian(descriptors, centroids, image)
    for one in image.unique():
        own = image == one
        best = oracle.smallest_sum(descriptors[own].tolist(), centroids.tolist())
        assert sum_in(found, own) == pytest.approx(best, rel=1e-5)
        assert int(found.keep[own].sum()) == min(int(own.sum()), k)


@given(**SIZES, rule=st.sampled_from(["drop", "hungarian"]))
@settings(max_examples=40, deadline=None)
def test_never_twice_in_an_image_and_whatever_the_order(
    seed: int, count: int, images: int, k: int, rule: str
) -> None:
    descriptors, centroids, image = keypoints(seed, count, images, k)
    found = assign(descriptors, centroids, image, rule)
    assert found.distances.isfinite().all()
    pairs = torch.stack([image, found.labels])[:, found.keep]
    assert len(pairs.unique(dim=1).T) == len(pairs.T)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    again = assign(descriptors[order], centroids, image[order], rule)
    assert torch.equal(again.labels, found.labels[order])
    torch.testing.assert_close(again.distances, found.distances[order])


def test_hungarian_gives_the_second_the_next_best() -> None:
    centroids = torch.tensor([[0.0], [10.0], [100.0]])
    descriptors = torch.tensor([[1.0], [0.5], [99.0], [1.0]])
    image = torch.tensor([0, 0, 0, 1])
    assert assign(descriptors, centroids, image, "hungarian").labels.tolist() == [1, 0, 2, 0]
    assert assign(descriptors, centroids, image, "drop").labels.tolist() == [-1, 0, 2, 0]


def test_many_images_are_solved_in_portions() -> None:
    descriptors, centroids, image = keypoints(0, 4000, 900, 6)
    found = hungarian(descriptors, centroids, image)
    for one in image.unique()[::60]:
        own = image == one
        alone = hungarian(descriptors[own], centroids, image[own])
        assert torch.equal(found.labels[own], alone.labels)


def test_equally_close_ones() -> None:
    same = Assignment(torch.zeros(4, dtype=torch.long), torch.ones(4))
    assert drop_duplicates(same, torch.tensor([1, 0, 1, 0])).labels.tolist() == [0, 0, -1, -1]


def test_the_distance_of_a_removed_one_is_to_the_nearest_centroid() -> None:
    descriptors, centroids, image = keypoints(1, 12, 1, 3)
    nearest = assign_nearest(descriptors, centroids)
    for rule in ("drop", "hungarian"):
        found = assign(descriptors, centroids, image, rule)
        assert (~found.keep).any()
        assert torch.equal(found.distances[~found.keep], nearest.distances[~found.keep])


def test_refuses_what_does_not_fit() -> None:
    descriptors, centroids, image = keypoints(0, 10, 2, 3)
    with pytest.raises(ValueError, match=r"image \(9,\)"):
        assign(descriptors, centroids, image[:9])
    with pytest.raises(ValueError, match=r"allowed: \(T, D\) and \(k, D\)"):
        assign(descriptors, centroids[:, :2], image)
    with pytest.raises(ValueError, match="k at least 1"):
        assign(descriptors, centroids[:0], image, "hungarian")
    descriptors[4, 1] = torch.nan
    with pytest.raises(ValueError, match="1 of 10 descriptors contain NaN"):
        assign(descriptors, centroids, image)
