"""K-means against scikit-learn, both engines, and what it refuses."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.cluster import KMeans

from landmark_lab.clustering import faiss_engine
from landmark_lab.clustering.faiss_engine import Engine
from landmark_lab.clustering.kmeans import kmeans
from landmark_lab.errors import MissingDependencyError
from tests.clustering.engines import EITHER, NEEDS_FAISS, blobs


@EITHER
@pytest.mark.parametrize(("noise", "k"), [(0.2, 25), (0.8, 20), (0.8, 50)])
def test_as_good_as_scikit_learn(engine: Engine, noise: float, k: int) -> None:
    points = blobs(4000, 25, noise=noise)
    ours = kmeans(points, k, seed=0, restarts=10, engine=engine)
    theirs = KMeans(k, n_init=10, random_state=0).fit(points.numpy())
    assert ours.engine == engine
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=0.02)


@EITHER
def test_labels_and_inertia_belong_to_the_centroids(engine: Engine) -> None:
    points = blobs(1000, 10)
    found = kmeans(points, 10, seed=0, engine=engine)
    distances = torch.cdist(points.double(), found.centroids.double())
    nearest = distances.min(1)
    assert (found.labels == nearest.indices).all()
    assert found.inertia == pytest.approx(nearest.values.square().sum().item(), rel=1e-5)
    assert found.centroids.shape == (10, 16)
    assert found.centroids.dtype == torch.float32
    assert found.device in ("cpu", "cuda:0")


@EITHER
def test_the_same_seed_gives_the_same_bits_and_another_another_start(engine: Engine) -> None:
    points = blobs(2000, 30, noise=1.0)
    state = torch.get_rng_state()
    one, two = (kmeans(points, 20, seed=1, restarts=2, engine=engine) for _ in range(2))
    assert torch.equal(one.centroids, two.centroids)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(kmeans(points, 20, seed=2, engine=engine).centroids, one.centroids)


@NEEDS_FAISS
def test_the_engines_agree_from_the_same_start() -> None:
    points = blobs(3000, 20)
    one = kmeans(points, 20, seed=0, engine="faiss")
    two = kmeans(points, 20, seed=0, engine="torch")
    assert one.inertia == pytest.approx(two.inertia, rel=1e-3)


@EITHER
def test_restarts_keep_the_best(engine: Engine) -> None:
    points = blobs(2000, 40, noise=0.4)
    few = kmeans(points, 40, seed=0, restarts=1, engine=engine)
    many = kmeans(points, 40, seed=0, restarts=5, engine=engine)
    assert many.inertia <= few.inertia


@EITHER
def test_carries_centroids_over(engine: Engine) -> None:
    points = blobs(2000, 10)
    first = kmeans(points, 10, seed=0, engine=engine)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    again = kmeans(points, 10, seed=5, initial=first.centroids[order], engine=engine)
    torch.testing.assert_close(again.centroids, first.centroids[order], rtol=1e-4, atol=1e-4)


@EITHER
def test_completes_centroids_that_are_carried_over(engine: Engine) -> None:
    # Of ten clusters far from one another the first six are known, the others are found.
    centres = 100 * torch.eye(10)
    points = centres.repeat(30, 1) + blobs(300, 1, 10, noise=0.1)
    known = kmeans(points, 10, seed=0, initial=centres, engine=engine).centroids
    found = kmeans(points, 10, seed=0, initial=known[:6], engine=engine)
    torch.testing.assert_close(found.centroids[:6], known[:6])
    assert found.labels.bincount().tolist() == [30] * 10


@EITHER
def test_uses_every_point(engine: Engine) -> None:
    # faiss would silently draw 256 points a centroid, and lose most of the far ones.
    points = torch.cat([torch.zeros(20_000, 2), torch.ones(7, 2), 2 * torch.ones(7, 2)])
    points = points + 1e-3 * torch.randn(len(points), 2, generator=torch.Generator().manual_seed(0))
    found = kmeans(points, 3, seed=0, engine=engine)
    assert sorted(found.labels.bincount().tolist()) == [7, 7, 20_000]


@EITHER
def test_as_many_clusters_as_points_and_repeated_points(engine: Engine) -> None:
    points = blobs(12, 12)
    assert kmeans(points, 12, seed=0, engine=engine).inertia == pytest.approx(0, abs=1e-6)
    same = torch.ones(50, 3)
    # faiss moves the centroids of empty clusters by a thousandth.
    assert kmeans(same, 4, seed=0, engine=engine).inertia == pytest.approx(0, abs=1e-3)


def test_an_empty_cluster_is_given_a_point() -> None:
    points = blobs(500, 5)
    start = torch.cat([points[:4], torch.full((1, 16), 1e4)])
    found = kmeans(points, 5, seed=0, initial=start, engine="torch")
    assert (found.labels.bincount(minlength=5) > 0).all()


@EITHER
def test_refuses_what_cannot_be_clustered(engine: Engine) -> None:
    points = blobs(20, 4)
    with pytest.raises(ValueError, match="20 points cannot make 21 clusters"):
        kmeans(points, 21, seed=0, engine=engine)
    with pytest.raises(ValueError, match="at least 1"):
        kmeans(points, 0, seed=0, engine=engine)
    with pytest.raises(ValueError, match=r"initial centroids \(5, 16\); allowed: at most 4 rows"):
        kmeans(points, 4, seed=0, initial=points[:5], engine=engine)
    with pytest.raises(ValueError, match="of 16 numbers"):
        kmeans(points, 4, seed=0, initial=points[:4, :3], engine=engine)
    with pytest.raises(ValueError, match="allowed"):
        kmeans(points.long(), 4, seed=0, engine=engine)
    points[3, 2], points[7, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 20 points contain NaN or infinity"):
        kmeans(points, 4, seed=0, engine=engine)


def test_torch_takes_over_where_faiss_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    points = blobs(200, 4)
    assert kmeans(points, 4, seed=0).engine == "torch"
    with pytest.raises(MissingDependencyError, match="pip install 'faiss-cpu'"):
        kmeans(points, 4, seed=0, engine="faiss")


@NEEDS_FAISS
@pytest.mark.parametrize(
    ("gpus", "points", "engine", "where"),
    [
        (0, "cuda:1", "torch", "cpu"),
        (2, "cuda:1", "faiss", "cuda:1"),
        (2, "cpu", "faiss", "cuda:0"),
        (0, "cpu", "faiss", "cpu"),
    ],
)
def test_faiss_works_on_the_gpu_of_the_points_if_it_has_one(
    monkeypatch: pytest.MonkeyPatch, gpus: int, points: str, engine: str, where: str
) -> None:
    import faiss

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: gpus)
    device = torch.device(points)
    given: Any = SimpleNamespace(is_cuda=device.type == "cuda", device=device)
    assert faiss_engine.device(given) == torch.device(where)
    assert faiss_engine.choose(None, given) == engine
    assert faiss_engine.choose("faiss", given) == "faiss"
    assert faiss_engine.choose("torch", given) == "torch"


@NEEDS_FAISS
def test_faiss_takes_one_gpu_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    used: list[int] = []

    def to_gpu(resources: object, number: int, index: Any) -> Any:
        used.append(number)
        return index

    def to_all(*_: object, **__: object) -> None:
        raise AssertionError("all GPUs were asked for")

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 4)
    monkeypatch.setattr(faiss.extra_wrappers, "get_num_gpus", lambda: 4, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_all, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    points = blobs(200, 4)
    there = kmeans(points, 4, seed=0, engine="faiss")
    assert used == [0]
    assert there.device == "cuda:0"
    monkeypatch.undo()
    assert torch.equal(there.centroids, kmeans(points, 4, seed=0, engine="faiss").centroids)


@EITHER
@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-5])
def test_points_that_lie_close_together_far_from_the_origin(engine: Engine, spread: float) -> None:
    # Descriptors of length 1 that have hardly learned to differ.
    direction = torch.nn.functional.normalize(torch.ones(16), dim=0)
    points = direction + spread * blobs(300, 5)
    found = kmeans(points, 5, seed=0, restarts=3, engine=engine)
    reference = KMeans(5, n_init=10, random_state=0).fit(points.double().numpy())
    assert found.inertia == pytest.approx(reference.inertia_, rel=0.02)
    exact = torch.cdist(points.double(), found.centroids.double()).argmin(1)
    assert (found.labels == exact).double().mean() > 0.99
