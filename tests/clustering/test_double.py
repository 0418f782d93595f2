"""The modified K-means and the double clustering, and where they have too little."""

import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from landmark_lab.clustering.double import double_clustering
from landmark_lab.clustering.modified_kmeans import modified_kmeans

LANDMARKS, VIEWS, IMAGES = 5, 3, 80


def detections(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Descriptors, images, and landmarks with their view; -1 for a second detection.

    A landmark looks a little different in each of three views; every second image has another
    detection near the last landmark.
    """
    generator = torch.Generator().manual_seed(seed)
    look = 4 * torch.randn(LANDMARKS, 1, 32, generator=generator)
    look = look + torch.randn(LANDMARKS, VIEWS, 32, generator=generator)
    rows, image, truth = [], [], []
    for i in range(IMAGES):
        view = i % VIEWS
        own = [*range(LANDMARKS), *([LANDMARKS - 1] if i % 2 else [])]
        for place, landmark in enumerate(own):
            spread = 0.2 if place < LANDMARKS else 1.0
            noise = spread * torch.randn(32, generator=generator)
            rows.append(look[landmark, view] + noise)
            truth.append(landmark * VIEWS + view if place < LANDMARKS else -1)
            image.append(i)
    order = torch.randperm(len(rows), generator=generator)
    return torch.stack(rows)[order], torch.tensor(image)[order], torch.tensor(truth)[order]


def same_partition(one: Tensor, other: Tensor) -> bool:
    """Whether two labellings are the same but for names."""
    pairs = torch.stack([one, other]).unique(dim=1)
    return len(pairs.T) == len(one.unique()) == len(other.unique())


def test_finds_landmarks_and_their_views() -> None:
    descriptors, image, truth = detections()
    found = double_clustering(descriptors, image, LANDMARKS, LANDMARKS * VIEWS, seed=0)
    assert torch.equal(found.keep, truth >= 0)
    assert same_partition(found.coarse.labels[found.keep], truth[found.keep] // VIEWS)
    assert same_partition(found.labels[found.keep], truth[found.keep])
    assert found.counts.sum() == found.keep.sum()
    assert found.centroids_k.shape == (LANDMARKS, 32)
    assert found.centroids_m.shape == (LANDMARKS * VIEWS, 32)
    assert found.fine.distances.isfinite().all()
    torch.testing.assert_close(
        found.fine.distances[found.keep],
        (descriptors - found.centroids_m[found.labels]).norm(dim=1)[found.keep],
    )


def test_the_hungarian_algorithm_keeps_the_second_one() -> None:
    descriptors, image, truth = detections()
    found = modified_kmeans(descriptors, image, 8, seed=0, assignment="hungarian")
    assert found.keep.all()
    found = modified_kmeans(descriptors, image, 15, seed=0, assignment="hungarian", far=1.5)
    assert found.keep[truth < 0].float().mean() < 0.5
    assert found.keep[truth >= 0].float().mean() > 0.9


def test_centroids_carried_over_keep_the_clusters() -> None:
    descriptors, image, _ = detections()
    first = double_clustering(descriptors, image, LANDMARKS, 15, seed=0)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    again = double_clustering(
        descriptors,
        image,
        LANDMARKS,
        15,
        seed=1,
        initial_k=first.centroids_k,
        initial_m=first.centroids_m[order],
    )
    assert torch.equal(again.coarse.labels, first.coarse.labels)
    kept = first.keep
    assert torch.equal(order[again.labels[kept]], first.labels[kept])


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 40),
    images=st.integers(1, 6),
    k=st.integers(1, 6),
    more=st.integers(0, 6),
    far=st.sampled_from([None, 1.0, 2.0]),
    rule=st.sampled_from(["drop", "hungarian"]),
    same=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_never_twice_never_empty_never_nan(
    seed: int, count: int, images: int, k: int, more: int, far: float, rule: str, same: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    descriptors = torch.randn(count, 4, generator=generator) * (not same)
    image = torch.randint(images, (count,), generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = double_clustering(
            descriptors,
            image,
            k,
            k + more,
            seed=seed,
            assignment=rule,
            far=far,
            restarts=2,
            engine="torch",
        )
    assert found.keep.any()
    assert image[found.keep].bincount().max() <= k
    for one in (found.coarse, found.fine):
        pairs = torch.stack([image, one.labels])[:, one.keep]
        assert len(pairs.unique(dim=1).T) == len(pairs.T)
        assert one.centroids.isfinite().all()
        assert one.distances.isfinite().all()
        assert torch.equal(one.counts, one.labels[one.keep].bincount(minlength=len(one.centroids)))
    assert not (found.fine.keep & ~found.coarse.keep).any()


def test_fewer_keypoints_than_clusters() -> None:
    descriptors, image, _ = detections()
    with pytest.warns(UserWarning, match="7 keypoints cannot make 9 clusters"):
        found = modified_kmeans(descriptors[:7], torch.arange(7), 9, seed=0)
    assert sorted(found.labels.tolist()) == list(range(7))
    assert found.centroids.shape == (7, 32)
    # The next round has enough again: what is missing is found anew.
    again = modified_kmeans(descriptors, image, 9, seed=0, initial=found.centroids)
    assert again.centroids.shape == (9, 32)
    # And the other way round: too many centroids from the round before.
    with pytest.warns(UserWarning, match="7 keypoints"):
        few = modified_kmeans(descriptors[:7], torch.arange(7), 9, seed=0, initial=again.centroids)
    assert few.centroids.shape == (7, 32)


def test_the_second_clustering_may_have_too_few() -> None:
    descriptors, _, _ = detections()
    with pytest.warns(UserWarning, match="4 keypoints cannot make 10 clusters"):
        found = double_clustering(
            descriptors[:30], torch.zeros(30, dtype=torch.long), 4, 10, seed=0
        )
    assert int(found.keep.sum()) == 4


def test_an_empty_cluster_of_the_round_before() -> None:
    descriptors, image, _ = detections()
    start = torch.cat([descriptors[:4], torch.full((1, 32), 1e3)])
    found = modified_kmeans(descriptors, image, 5, seed=0, initial=start)
    assert found.centroids.isfinite().all()
    assert (found.counts > 0).all()


def test_refuses_what_cannot_be_clustered() -> None:
    descriptors, image, _ = detections()
    with pytest.raises(ValueError, match="no keypoint to make 5 clusters of"):
        double_clustering(descriptors[:0], image[:0], 5, 10, seed=0)
    with pytest.raises(ValueError, match="m 4 with k 5; allowed: m at least k"):
        double_clustering(descriptors, image, 5, 4, seed=0)
    with pytest.raises(ValueError, match=r"image \(3,\)"):
        modified_kmeans(descriptors, image[:3], 5, seed=0)
    descriptors[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        modified_kmeans(descriptors, image, 5, seed=0)
