"""Clustering is done where the descriptors are, and says so."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from landmark_lab.clustering.assignment import Rule
from landmark_lab.clustering.double import double_clustering
from landmark_lab.clustering.flip import partners
from landmark_lab.clustering.merging import merge
from landmark_lab.clustering.outliers import isolated
from tests.clustering.engines import blobs
from tests.clustering.pretended import PretendedCuda

RULES = pytest.mark.parametrize("rule", ["drop", "hungarian"])


def clusters(descriptors: Tensor, image: Tensor, rule: Rule) -> dict[str, Any]:
    """The results of all that a round does with descriptors, twice, as a later round does."""
    first = double_clustering(descriptors, image, 4, 9, seed=0, assignment=rule, restarts=2)
    found = double_clustering(
        descriptors,
        image,
        4,
        9,
        seed=1,
        initial_k=first.centroids_k[:3].cpu(),
        initial_m=first.centroids_m.cpu(),
        assignment=rule,
        far=1.5,
    )
    one, other = found.labels.chunk(2)
    return {
        "labels": found.labels,
        "distances": found.fine.distances,
        "centroids": found.centroids_m,
        "counts": found.counts,
        "isolated": isolated(descriptors, 0.3, 7),
        "partners": partners(one, other, 9),
        "worker": found.fine.worker,
    }


@RULES
def test_on_a_gpu_that_faiss_cannot_use(monkeypatch: pytest.MonkeyPatch, rule: Rule) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    descriptors, image = blobs(300, 6), torch.arange(300) // 7
    here = clusters(descriptors, image, rule)
    assert here.pop("worker") == "torch on cpu"
    with PretendedCuda():
        there = clusters(descriptors.to("cuda"), image, rule)
        assert there.pop("worker") == "torch on cuda:0"
        assert all(value.is_cuda for value in there.values())
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_channels_are_merged_on_a_gpu() -> None:
    points = torch.rand(40, 6, 2, generator=torch.Generator().manual_seed(0)) / 8
    found = torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) < 0.8
    into, steps = merge(points, found, 0.3, 0.05)
    assert steps
    with PretendedCuda():
        there, again = merge(points.to("cuda"), found.to("cuda"), 0.3, 0.05)
        assert there.is_cuda
    assert torch.equal(there, into)
    assert again == steps


def test_the_pretended_gpu_is_as_strict_as_a_real_one() -> None:
    points = blobs(8, 2)
    with PretendedCuda():
        there = points.to("cuda")
        assert (there * 2).is_cuda
        assert (there + torch.tensor(1.0)).is_cuda
        assert there[torch.arange(3)].is_cuda
        assert torch.zeros(3, device=there.device).is_cuda
        assert not there.cpu().is_cuda
        with pytest.raises(RuntimeError, match="cuda:0 and on the CPU"):
            there + points
        with pytest.raises(RuntimeError, match="indices on cuda:0"):
            points[torch.arange(3, device="cuda")]
        with pytest.raises(TypeError, match="NumPy"):
            there.numpy()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@RULES
def test_on_a_gpu(rule: Rule) -> None:
    descriptors, image = blobs(3000, 6, noise=0.1), torch.arange(3000) // 7
    found = clusters(descriptors.cuda(), image, rule)
    assert found.pop("worker") in ("torch on cuda:0", "faiss on cuda:0")
    assert all(value.is_cuda for value in found.values())
    assert found["centroids"].isfinite().all()
