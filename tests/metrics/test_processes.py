"""Two processes get what one process gets, padding and unequal shares included."""

from dataclasses import fields
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.evaluation import export, load_predictions
from landmark_lab.metrics.cumulative import (
    AreaUnderCurve,
    FailureRate,
    area_under_curve,
    failure_rate,
)
from landmark_lab.metrics.detection import DetectionScores, detection_counts, detection_scores
from landmark_lab.metrics.distances import nearest_points
from landmark_lab.metrics.equivariance import (
    EquivarianceCriterion,
    equivariance_criterion,
    equivariance_errors,
)
from landmark_lab.metrics.mutual_information import (
    NormalisedMutualInformation,
    contingency,
    normalised_mutual_information,
)
from landmark_lab.metrics.nme import (
    LandmarkErrors,
    NormalisedMeanError,
    image_errors,
    landmark_errors,
    normalised_mean_error,
)
from landmark_lab.metrics.oks import (
    AveragePrecision,
    KeypointSimilarity,
    average_precision,
    keypoint_similarity,
)
from landmark_lab.metrics.pck import CorrectKeypoints, correct_points, share_correct
from tests.evaluation.doubles import Dots, Finder, Spotter, Turns, Views

IMAGES = 11
# Of normalised errors of about 0.05.
THRESHOLD = 0.05
# Within it are some of the points that are off by about 0.05.
REACH = 0.06
SIGMAS = torch.full((4,), 0.04)
COCO = find_spec("pycocotools") is not None
WITH_WARPS = {"warps": Turns(), "augmentation": Views(), "copies": 2}


def inputs():
    generator = torch.Generator().manual_seed(0)
    truth, noise, found = torch.randn(3, IMAGES, 4, 2, generator=generator) * 0.4
    return truth, truth + 0.1 * noise, found


def clusters():
    """Labels (IMAGES, 4) of the landmarks, and of the points that they are nearest to."""
    truth, predicted, _ = inputs()
    nearest, _ = nearest_points(predicted, truth)
    return (nearest + torch.arange(IMAGES)[:, None] % 2) % 4, nearest


def shells():
    return (
        NormalisedMeanError(),
        EquivarianceCriterion(),
        LandmarkErrors(),
        AreaUnderCurve(THRESHOLD),
        FailureRate(THRESHOLD),
        CorrectKeypoints(THRESHOLD, "point"),
        DetectionScores(REACH),
        NormalisedMutualInformation(),
        KeypointSimilarity(SIGMAS),
        *([AveragePrecision(SIGMAS)] if COCO else []),
    )


def update(metrics, rows):
    truth, predicted, found = inputs()
    i = torch.tensor(rows)
    one = torch.ones(len(i))
    metrics[0].update(predicted[i], truth[i], one, i)
    metrics[1].update(found[i], predicted[i], truth[i], i)
    metrics[2].update(predicted[i], truth[i], one, i)
    for metric in metrics[3:5]:
        metric.update(image_errors(predicted[i], truth[i], one), i)
    metrics[5].update(predicted[i], truth[i], one, i)
    metrics[6].update(predicted[i], truth[i], i)
    metrics[7].update(*(labels[i] for labels in clusters()), i)
    for metric in metrics[8:]:
        metric.update(predicted[i], truth[i], one, i / IMAGES, i)


def work(rank, folder):
    dist.init_process_group(
        "gloo",
        f"file://{folder}/store",
        timeout=timedelta(minutes=5),
        rank=rank,
        world_size=2,
    )
    found = {}
    # A sampler that pads repeats images 0 and 1: 11 images became 2 × 6.
    padded = shells()
    for rows in ([[0, 2, 4], [6, 8, 10]], [[1, 3, 5, 7], [9, 0]])[rank]:
        update(padded, rows)
    found["padded"] = [m.compute().tolist() for m in padded]
    # All images on the second process, in two batches; the first has seen none.
    one_sided = shells()
    if rank == 1:
        update(one_sided, [3, 4, 5, 6, 7, 8, 9, 10])
        update(one_sided, [0, 1, 2])
    for metric in one_sided:
        metric._update_count = 1  # quiet: the first process was not updated, on purpose
    found["one_sided"] = [m.compute().tolist() for m in one_sided]
    path = Path(folder) / "two.npz"
    export(Finder(), Dots(), path, **WITH_WARPS, rank=rank, world=2)
    assert path.is_file()  # for every process, as soon as the call returns
    # Images of one process have more keypoints than those of the other.
    loader = LoaderSettings(batch_size=1)
    path = path.with_name("keypoints.npz")
    export(Spotter(), Dots(), path, keypoints=True, loader=loader, rank=rank, world=2)
    dist.destroy_process_group()
    return found


def second(_, folder):
    torch.set_num_threads(1)
    work(1, folder)


def test_two_processes_get_what_one_gets(tmp_path):
    # This process is the first one: starting a process takes longer than all the rest.
    other = mp.spawn(second, (str(tmp_path),), nprocs=1, join=False)
    found = work(0, str(tmp_path))
    assert other.join()
    two = load_predictions(tmp_path / "two.npz")
    one = load_predictions(export(Finder(), Dots(), tmp_path / "one.npz", **WITH_WARPS))
    alone = export(Spotter(), Dots(), tmp_path / "alone.npz", keypoints=True)
    check_alike(load_predictions(alone), load_predictions(tmp_path / "keypoints.npz"))
    truth, predicted, landmarks = inputs()
    errors = equivariance_errors(predicted, truth)
    one_each = torch.ones(IMAGES)
    of_images = image_errors(predicted, truth, one_each)
    expected = [
        normalised_mean_error(predicted, truth, one_each),
        equivariance_criterion(landmarks, errors),
        landmark_errors(predicted, truth, one_each),
        area_under_curve(of_images, THRESHOLD),
        failure_rate(of_images, THRESHOLD),
        share_correct(correct_points(predicted, truth, one_each, THRESHOLD), "point"),
        detection_scores(detection_counts(predicted, truth, REACH)),
        normalised_mutual_information(contingency(*(labels.flatten() for labels in clusters()))),
        keypoint_similarity(predicted, truth, one_each, SIGMAS).mean(),
    ]
    if COCO:
        sure = torch.arange(IMAGES) / IMAGES
        expected.append(average_precision(predicted, truth, one_each, SIGMAS, sure))
    for name, values in found.items():
        for value, right in zip(values, expected, strict=True):
            np.testing.assert_allclose(value, right, rtol=1e-6, err_msg=name)
    check_alike(one, two)


def check_alike(one, two):
    for split, whole in one.splits.items():
        for name in [field.name for field in fields(whole)]:
            mine, theirs = getattr(whole, name), getattr(two.splits[split], name)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                np.testing.assert_array_equal(mine, theirs, err_msg=f"{split}/{name}")
