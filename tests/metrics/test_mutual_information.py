"""Normalised mutual information."""

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from landmark_lab.metrics.mutual_information import (
    NormalisedMutualInformation,
    contingency,
    normalised_mutual_information,
)


def draw(seed, count=400, clusters=9, points=5):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(clusters, (count,), generator=generator)
    noise = torch.randint(points, (count,), generator=generator)
    second = torch.where(torch.rand(count, generator=generator) < 0.6, first % points, noise)
    return first, second


@pytest.mark.parametrize("seed", range(4))
def test_it_is_that_of_scikit_learn(seed):
    first, second = draw(seed, clusters=3 + 4 * seed)
    table = contingency(first, second)
    np.testing.assert_array_equal(table, contingency_matrix(first, second))
    expected = normalized_mutual_info_score(second, first)
    assert float(normalised_mutual_information(table)) == pytest.approx(expected)
    assert float(normalised_mutual_information(7.5 * table.T)) == pytest.approx(expected)


def test_the_limits():
    same = torch.tensor([0, 0, 1, 2, 2, 2])
    assert float(normalised_mutual_information(contingency(same, 2 - same))) == pytest.approx(1)
    crossed = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert float(normalised_mutual_information(contingency(*crossed))) == pytest.approx(0)
    one = torch.zeros(5, dtype=torch.int64)
    assert float(normalised_mutual_information(contingency(one, one))) == 1
    assert normalized_mutual_info_score(one, one) == 1
    assert float(normalised_mutual_information(contingency(one, torch.arange(5)))) == 0
    nothing = contingency(torch.full((4,), -1), torch.zeros(4, dtype=torch.int64))
    assert normalised_mutual_information(nothing).isnan()


def test_many_tables_at_once_and_labels_nobody_has():
    tables = [contingency(*draw(seed)) for seed in range(3)]
    whole = normalised_mutual_information(torch.stack(tables))
    assert whole.tolist() == [float(normalised_mutual_information(t)) for t in tables]
    first, second = draw(0)
    gaps = normalised_mutual_information(contingency(3 * first, 5 * second))
    assert float(gaps) == pytest.approx(float(whole[0]))


def test_unlabelled_things_are_left_out_and_repeated_images_count_once():
    first, second = (labels.reshape(40, 10) for labels in draw(1))
    first, second = first.clone(), second.clone()
    first[:, :3], second[::4, 5] = -1, -1
    kept = (first >= 0) & (second >= 0)
    expected = normalized_mutual_info_score(second[kept], first[kept])
    metric = NormalisedMutualInformation()
    for rows in (range(30, 40), range(35), range(40)):
        i = torch.tensor(list(rows))
        metric.update(first[i], second[i], i)
    assert float(metric.compute()) == pytest.approx(expected)
