"""Partners of clusters in the mirrored image: an involution, the best of all."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from landmark_lab.clustering.flip import certainty, partners
from tests.oracles import clustering as oracle


@given(
    st.integers(1, 6).flatmap(
        lambda k: st.tuples(
            st.just(k),
            st.lists(st.tuples(st.integers(-1, k - 1), st.integers(-1, k - 1)), max_size=40),
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_the_involution_that_explains_the_most(case: tuple[int, list[tuple[int, int]]]) -> None:
    k, rows = case
    labels, mirrored = [a for a, _ in rows], [b for _, b in rows]
    one, other = torch.tensor(labels).long(), torch.tensor(mirrored).long()
    found = partners(one, other, k)
    assert torch.equal(found[found], torch.arange(k))
    most = max(oracle.explained(p, labels, mirrored) for p in oracle.involutions(k))
    assert oracle.explained(found.tolist(), labels, mirrored) == most
    sure = certainty(one, other, found)
    for cluster in range(k):
        known = [row for row in rows if min(row) >= 0]
        ends = [end for a, b in known for end in ((a, b), (b, a)) if end[0] == cluster]
        right = sum(b == found[cluster] for _, b in ends) / max(len(ends), 1)
        assert sure[cluster] == pytest.approx(right)


def test_three_clusters_in_a_circle_cannot_all_be_partners() -> None:
    # A linear assignment would answer 0 → 1 → 2 → 0, which is no mirroring.
    labels = torch.tensor([0] * 10 + [1] * 9 + [2] * 8)
    mirrored = torch.tensor([1] * 10 + [2] * 9 + [0] * 8)
    assert partners(labels, mirrored, 3).tolist() == [1, 0, 2]


def test_a_face() -> None:
    # Eyes 0 and 1, mouth corners 2 and 3, chin 4, and a cluster without keypoints.
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (2000,), generator=generator)
    wrong = torch.rand(2000, generator=generator) < 0.3
    mirrored = torch.tensor([1, 0, 3, 2, 4])[labels]
    mirrored = mirrored.where(~wrong, torch.randint(-1, 5, (2000,), generator=generator))
    found = partners(labels, mirrored, 6)
    assert found.tolist() == [1, 0, 3, 2, 4, 5]
    sure = certainty(labels, mirrored, found)
    assert ((sure[:5] > 0.6) & (sure[:5] < 0.9)).all()
    assert sure[5] == 0


def test_many_clusters_of_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, mirrored = torch.randint(40, (2, 2000), generator=generator)
    found = partners(labels, mirrored, 40)
    assert torch.equal(found[found], torch.arange(40))
    networkx = pytest.importorskip("networkx")
    counts = torch.zeros(40, 40)
    counts.index_put_((labels, mirrored), torch.ones(2000), accumulate=True)
    graph = networkx.Graph()
    for i in range(40):
        for j in range(i):
            gain = counts[i, j] + counts[j, i] - counts[i, i] - counts[j, j]
            if gain > 0:
                graph.add_edge(i, j, weight=int(gain))
    best = sum(graph[i][j]["weight"] for i, j in networkx.max_weight_matching(graph))
    explained = counts[torch.arange(40), found].sum() - counts.diagonal().sum()
    assert explained == best


def test_refuses_labels_that_do_not_fit() -> None:
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="labels from 0 to 2; allowed: from -1 to 1"):
        partners(labels, labels, 2)
    with pytest.raises(ValueError, match="allowed"):
        partners(labels, labels[:2], 3)
