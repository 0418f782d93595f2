"""Precision, recall and F of unordered keypoints."""

import math

import pytest
import torch

from landmark_lab.metrics.detection import (
    DetectionScores,
    detection_counts,
    detection_scores,
    precision_recall_f,
)
from tests.oracles import metrics as oracle

FAR = 0.15


def draw(seed, images=25, keypoints=9, points=6):
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(images, keypoints, 2, generator=generator, dtype=torch.float64)
    truth = torch.rand(images, points, 2, generator=generator, dtype=torch.float64)
    found[torch.rand(images, keypoints, generator=generator) < 0.3] = torch.nan
    truth[torch.rand(images, points, generator=generator) < 0.3] = torch.nan
    found[0], truth[1] = torch.nan, torch.nan  # nothing found; nothing annotated
    return found, truth


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_the_slow_loop_says(seed):
    found, truth = draw(seed)
    each, pooled = oracle.detection(found.tolist(), truth.tolist(), FAR)
    counts = detection_counts(found, truth, FAR)
    fast = precision_recall_f(counts).tolist()
    for mine, slow in zip(fast, each, strict=True):
        assert mine == pytest.approx(slow or (math.nan,) * 3, nan_ok=True)
    assert detection_scores(counts, "point").tolist() == pytest.approx(pooled)
    for column, mine in enumerate(detection_scores(counts).tolist()):
        known = [row[column] for row in each if row and not math.isnan(row[column])]
        assert mine == pytest.approx(sum(known) / len(known))


def test_nothing_is_matched_one_to_one():
    points = torch.tensor([[[0.0, 0.0], [0.1, 0.0], [0.8, 0.8]]])
    crowd = torch.tensor([[[0.0, 0.0], [0.0, 0.01], [0.01, 0.0]]])
    assert detection_counts(crowd, points, 0.05).tolist() == [[3, 3, 1, 3]]
    between = torch.tensor([[[0.05, 0.0]]])
    assert detection_counts(between, points, 0.051).tolist() == [[1, 1, 2, 3]]
    at = torch.tensor([[[0.0, 0.5], [0.0, -0.5]]])
    assert detection_counts(at, points[:, :1], 0.5).tolist() == [[2, 2, 1, 1]]  # at most


def test_an_image_without_keypoints_and_one_without_points():
    found, truth = draw(5)
    scores = precision_recall_f(detection_counts(found, truth, FAR))
    assert scores[0, 0].isnan()
    assert scores[0, 1:].tolist() == [0, 0]
    assert scores[1].isnan().all()
    none = detection_counts(found[:0], truth[:0], FAR)
    assert detection_scores(none).isnan().all()


def test_moving_and_scaling_everything_and_the_order_change_nothing():
    found, truth = draw(6)
    counts = detection_counts(found, truth, FAR)
    for scale, shift in ((64.0, 17.0), (0.25, -3.0)):
        moved = detection_counts(found * scale + shift, truth * scale + shift, FAR * scale)
        assert torch.equal(moved.nan_to_num(-1), counts.nan_to_num(-1))
    turned = detection_counts(found.flip(1), truth.flip(1), FAR)
    assert torch.equal(turned.nan_to_num(-1), counts.nan_to_num(-1))


@pytest.mark.parametrize("average", ["image", "point"])
def test_batches_do_not_matter_and_repeated_images_count_once(average):
    found, truth = draw(7)
    whole = detection_scores(detection_counts(found, truth, FAR), average)
    metric = DetectionScores(FAR, average)
    for rows in (range(20, 25), range(12), range(25)):
        i = torch.tensor(list(rows))
        padded = torch.cat([found[i], found.new_full((len(i), len(rows), 2), torch.nan)], 1)
        metric.update(padded, truth[i], i)
    torch.testing.assert_close(metric.compute(), whole)
