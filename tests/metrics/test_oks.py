"""Object keypoint similarity, and average precision over it."""

import sys

import numpy as np
import pytest
import torch

from landmark_lab.errors import MissingDependencyError
from landmark_lab.metrics import oks
from landmark_lab.metrics.oks import (
    AveragePrecision,
    KeypointDetections,
    KeypointSimilarity,
    average_precision,
    keypoint_similarity,
)
from tests.oracles import metrics as oracle

pytest.importorskip("pycocotools")
SIGMAS = torch.tensor([0.05, 0.08, 0.03, 0.1], dtype=torch.float64)


def draw(seed, images=40, points=4):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(images, points, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    size = torch.rand(images, 1, 1, generator=generator, dtype=torch.float64)
    found = truth + 0.2 * size * noise
    truth[torch.rand(images, points, generator=generator) < 0.3] = torch.nan
    found[torch.rand(images, points, generator=generator) < 0.2] = torch.nan
    area = torch.rand(images, generator=generator, dtype=torch.float64) + 0.5
    truth[3], area[4] = torch.nan, torch.nan  # they do not count
    scores = torch.rand(images, generator=generator, dtype=torch.float64)
    return found, truth, area, scores


def counted(truth, area):
    return [n for n in range(len(truth)) if area[n] > 0 and not truth[n].isnan().all()]


def test_the_similarity_is_what_the_slow_loop_says():
    found, truth, area, _ = draw(0)
    similarity = keypoint_similarity(found, truth, area, SIGMAS)
    for n in counted(truth, area):
        slow = oracle.keypoint_similarity(
            found[n].tolist(), truth[n].tolist(), float(area[n]), SIGMAS.tolist()
        )
        assert float(similarity[n]) == pytest.approx(slow)
    assert similarity[3:5].isnan().all()
    assert similarity.isnan().sum() == 40 - len(counted(truth, area))


def test_similarity_and_precision_belong_together():
    """With one object an image, recall is the share of similarities above the threshold."""
    found, truth, area, scores = draw(1)
    thresholds = (0.3, 0.5, 0.75)
    detections = KeypointDetections(found, truth, area, SIGMAS, scores, thresholds)
    rows = detections.precision_recall()
    similarity = keypoint_similarity(found, truth, area, SIGMAS)
    known = ~similarity.isnan()
    assert detections.counts.tolist() == known.tolist()
    assert len(detections) == len(counted(truth, area)) < len(truth)
    order = scores[known].argsort(descending=True)
    for threshold, (precision, recall) in zip(thresholds, rows.tolist(), strict=True):
        right = (similarity[known] >= threshold)[order].numpy()
        assert recall == pytest.approx(right.mean())
        assert precision == pytest.approx(interpolated(right))


def interpolated(right):
    """The area under the precision-recall curve at 101 recalls, from its definition."""
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / len(right)
    best = [
        max((p for p, r in zip(precision, recall, strict=True) if r >= asked), default=0.0)
        for asked in np.linspace(0, 1, 101)
    ]
    return sum(best) / 101


def test_perfect_and_lost_predictions():
    _, truth, area, scores = draw(2)
    perfect = average_precision(truth, truth, area, SIGMAS, scores)
    assert perfect.tolist() == pytest.approx([1, 1])
    lost = average_precision(torch.full_like(truth, torch.nan), truth, area, SIGMAS, scores)
    assert lost.tolist() == [0, 0]
    nothing = average_precision(truth[3:4], truth[3:4], area[3:4], SIGMAS, scores[3:4])
    assert nothing.isnan().all()


def test_moving_and_scaling_everything_changes_nothing():
    found, truth, area, scores = draw(3)
    expected = average_precision(found, truth, area, SIGMAS, scores)
    moved = average_precision(64 * found + 9, 64 * truth + 9, 64**2 * area, SIGMAS, scores)
    torch.testing.assert_close(moved, expected)


def test_resampled_objects_are_those_objects_evaluated():
    found, truth, area, scores = draw(4)
    detections = KeypointDetections(found, truth, area, SIGMAS, scores)
    before, count = detections.precision_recall(), len(detections)
    drawn = np.random.default_rng(0).integers(count, size=count)
    again = detections.precision_recall(drawn)
    i = torch.tensor(counted(truth, area))[torch.from_numpy(drawn)]
    alone = KeypointDetections(found[i], truth[i], area[i], SIGMAS, scores[i])
    torch.testing.assert_close(again, alone.precision_recall())
    assert not torch.equal(again, before)
    torch.testing.assert_close(detections.precision_recall(), before)


def test_batches_do_not_matter_and_it_says_nothing(capsys):
    found, truth, area, scores = draw(5)
    shells = KeypointSimilarity(SIGMAS), AveragePrecision(SIGMAS)
    for rows in (range(30, 40), range(35), range(40)):
        i = torch.tensor(list(rows))
        for shell in shells:
            shell.update(found[i], truth[i], area[i], scores[i], i)
    similarity = keypoint_similarity(found, truth, area, SIGMAS).nanmean()
    torch.testing.assert_close(shells[0].compute(), similarity)
    expected = average_precision(found, truth, area, SIGMAS, scores)
    torch.testing.assert_close(shells[1].compute(), expected)
    assert capsys.readouterr().out == ""


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(MissingDependencyError, match="pip install 'pycocotools'"):
        average_precision(*draw(0)[:3], SIGMAS, draw(0)[3])
    assert "pycocotools" not in vars(oks)
