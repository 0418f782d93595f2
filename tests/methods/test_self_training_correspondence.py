"""Self-training with clusters: its losses, its rounds, what it passes on, and merging detectors."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from landmark_lab import checkpoint
from landmark_lab.config import read
from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import read_round, write_round
from landmark_lab.errors import ConfigError, DataError, LandmarkLabError
from landmark_lab.experiment import run
from landmark_lab.losses.heatmap import Gaussian, gaussian_target
from landmark_lab.methods.merging_detector import MergingDetector, _relabelled
from landmark_lab.methods.self_training_correspondence import SelfTrainingCorrespondence
from landmark_lab.plugin import build
from landmark_lab.report.blocks import Charts
from landmark_lab.report.context import Context
from landmark_lab.report.sections.clusters import clusters
from landmark_lab.roles import Embedding, Keypoints, Landmarks, Method, Pairing
from landmark_lab.seeding import BatchDraw

BACKBONE = {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "stem": 0, "groups": 4}
BACKBONE["norm"] = "group"
SIZE, COUNT, POINTS, CLUSTERS = 32, 4, 5, 4


def method(**changes: Any) -> SelfTrainingCorrespondence:
    torch.manual_seed(0)
    small = {"clusters": CLUSTERS, "keypoints": "sift", "backbone": BACKBONE, "dimension": 8}
    built = build(Method, {"name": "self_training_correspondence", **small, **changes})
    assert isinstance(built, SelfTrainingCorrespondence)
    built._trainer = SimpleNamespace(datamodule=SimpleNamespace(draw_seed=0, size=SIZE))  # type: ignore[assignment]
    return built


def detector(**changes: Any) -> MergingDetector:
    torch.manual_seed(0)
    given = {"labels": {"stage": "x"}, "clusters": CLUSTERS, "backbone": BACKBONE, **changes}
    built = build(Method, {"name": "merging_detector", **given})
    assert isinstance(built, MergingDetector)
    built._trainer = SimpleNamespace(datamodule=SimpleNamespace(draw_seed=0, size=SIZE))  # type: ignore[assignment]
    return built


def keypoints(depth: int | None = 8) -> KeypointTable:
    """Random keypoints with random labels, some of them without."""
    generator = torch.Generator().manual_seed(1)
    total = COUNT * POINTS
    points = torch.rand(total, 2, generator=generator) * 1.6 - 0.8
    # One keypoint of each cluster in an image, and one without a cluster.
    labels = torch.cat([torch.randperm(POINTS, generator=generator) - 1 for _ in range(COUNT)])
    image = torch.arange(COUNT).repeat_interleave(POINTS)
    vectors = None if depth is None else torch.randn(total, depth, generator=generator)
    return KeypointTable.of(
        COUNT, image, points, torch.rand(total, generator=generator), labels, labels, vectors
    )


def pair() -> Pair:
    generator = torch.Generator().manual_seed(2)
    sample = Sample(torch.rand(COUNT, 3, SIZE, SIZE, generator=generator), torch.arange(COUNT))
    made: Pair = build(Pairing, "synthetic").pair((sample, sample), BatchDraw.single(2, COUNT))
    return made


# --- the first stage -----------------------------------------------------------------------------


def test_the_losses_are_those_of_the_paper() -> None:
    model, batch = method(), pair()
    model.table, model.draw = keypoints(), BatchDraw.single(3, COUNT)
    found = model.losses(batch)
    (points, moved), (labels, _), _ = model.in_views(batch)
    maps = model.network(torch.cat([batch.source.image, batch.target.image]))
    places = torch.cat([points, moved])
    vectors = model.network.sample(maps.descriptors, places)
    rows = [
        (int(labels[view % COUNT, m]), vectors[view, m], (view % COUNT, m))
        for view in range(2 * COUNT)
        for m in range(POINTS)
        if labels[view % COUNT, m] >= 0 and (places[view, m].abs() <= 1).all()
    ]
    near, apart = [], []
    for (y, f, _), (z, g, _) in combinations(rows, 2):
        if y == z:
            near.append((f - g).square().sum())
        else:
            apart.append((0.8 - (f - g).norm()).clamp(min=0).square())
    expected = (torch.stack(near).mean() + torch.stack(apart).mean()) / 2
    assert torch.allclose(found["contrastive"], expected, atol=1e-5)
    target = gaussian_target(places, (16, 16), Gaussian())
    assert torch.allclose(found["detection"], (maps.score - target).square().mean())
    sum(found.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_first_clusters_are_those_of_the_descriptors_that_came_along() -> None:
    model = method(isolated=0.0, clusters=2)
    table = keypoints()
    vectors = torch.zeros(20, 8)
    vectors[::2, 0], vectors[1::2, 1] = 1.0, 1.0
    alternating = torch.arange(20).remainder(2)
    two = replace(table, descriptors=vectors).select(torch.arange(20) % 5 < 2)
    found = model.relabel(two, 0)
    assert not found.kept
    label = found.table.labels
    groups = alternating[torch.arange(20) % 5 < 2]
    assert len(label) == 8
    assert ((label == label[0]) == (groups == groups[0])).all()


def test_isolated_keypoints_are_left_out_at_the_start_only() -> None:
    model = method(isolated=0.4, far=100.0)
    assert len(model.relabel(keypoints(), 0).table) <= 12
    model.table = keypoints()
    assert (model.relabel(keypoints(), 1).table.labels >= 0).sum() > 12


def test_keypoints_without_descriptors_are_refused_and_an_alternative_named() -> None:
    with pytest.raises(DataError, match=r"method\.keypoints: .*sift"):
        method().relabel(keypoints(None), 0)


def test_pseudo_labels_are_of_the_last_two_rounds() -> None:
    model = method(far=100.0)
    table = keypoints()
    model.table = table
    # What is found again, a little aside, is the later one; one is not found, one is new.
    shifted = replace(table, points=table.points + 0.01)
    lost = (table.labels >= 0).nonzero()[3, 0]
    again = shifted.select(torch.arange(20) != lost)
    fresh = KeypointTable.of(
        4,
        torch.tensor([3]),
        torch.tensor([[0.9, -0.9]]),
        torch.ones(1),
        descriptors=torch.ones(1, 8),
    )
    found = KeypointTable.concat([again, fresh])
    labelled = model.relabel(found, 1).table
    named = labelled.select(labelled.labels >= 0)
    assert {tuple(p) for p in named.points.tolist()} <= {tuple(p) for p in found.points.tolist()}
    unnamed = labelled.select(labelled.labels < 0)
    assert table.points[lost].tolist() in unnamed.points.tolist()
    # And never anything that is two rounds old.
    model.table = labelled
    model.centroids.copy_(model.relabel(found, 1).kept["centroids"])
    third = model.relabel(found, 2).table
    assert table.points[lost].tolist() not in third.points.tolist()


def test_clustered_keypoints_are_written_down_with_their_descriptors(tmp_path: Path) -> None:
    model, table = method(far=100.0), keypoints()
    model.table = table
    lost = (table.labels >= 0).nonzero()[3, 0]
    found = table.select(torch.arange(20) != lost)
    labelled = model.relabel(found, 1)
    write_round(tmp_path / "001.npz", labelled, 7, 1, np.arange(COUNT))
    record = read_round(tmp_path / "001.npz")
    # All with a cluster, and not the one of the round before, which nothing describes now.
    assert record.sample.tolist() == (record.table.labels >= 0).nonzero()[:, 0].tolist()
    assert 8 < len(record.sample) < len(record.table)
    assert (record.table.points == table.points[lost]).all(1).any()
    assert record.descriptors is not None
    assert found.descriptors is not None
    for row, vector in zip(record.sample.tolist(), record.descriptors, strict=True):
        own = (found.points == record.table.points[row]).all(1)
        assert torch.allclose(vector, found.descriptors[own][0], atol=2e-3)  # of half precision
    # What is learned from holds places and labels only.
    model.table = labelled.table
    assert model.table.descriptors is None


def test_an_image_has_one_keypoint_of_a_cluster_at_most() -> None:
    model = method(far=100.0)
    model.table = keypoints()
    labelled = model.relabel(keypoints(), 1).table
    named = labelled.select(labelled.labels >= 0)
    pairs = list(zip(named.image.tolist(), named.labels.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) > 8


def test_centroids_are_carried_over_from_the_generic_clusters() -> None:
    model = method()
    table = keypoints()
    model.table = table
    found = replace(table, labels=torch.full((20,), -1))
    carried = model._carried(found)
    assert carried is not None
    assert table.descriptors is not None
    means = [table.descriptors[table.labels == k].mean(0) for k in range(CLUSTERS)]
    assert torch.allclose(carried, torch.stack(means), atol=1e-6)
    model.centroids.copy_(torch.rand(CLUSTERS, 8))
    assert torch.equal(model._carried(found), model.centroids)  # type: ignore[arg-type]


def test_fewer_keypoints_than_clusters_and_empty_clusters_are_survived() -> None:
    model = method(clusters=30, far=100.0)
    model.table = keypoints()
    with pytest.warns(UserWarning, match="20 keypoints cannot make 30 clusters"):
        labelled = model.relabel(keypoints(), 1)
    assert labelled.table.labels.max() < 30
    assert labelled.kept["centroids"].isfinite().all()
    model.centroids[:20].copy_(labelled.kept["centroids"])
    points, _, labels = model.keypoints(torch.rand(2, 3, SIZE, SIZE))
    assert labels.max() < 20
    assert (labels[points.isnan().any(-1)] == -1).all()


def test_it_offers_keypoints_with_clusters_and_an_embedding() -> None:
    model = method(threshold=0.0)
    assert isinstance(model, Keypoints)
    assert isinstance(model, Embedding)
    images = torch.rand(2, 3, SIZE, SIZE)
    assert (model.keypoints(images)[2] == -1).all()
    assert torch.allclose(model.embedding(images).norm(dim=1), torch.ones(()))
    with pytest.raises(ConfigError, match="mirror"):
        model.check_pairs(build(Pairing, "mirrored"), None)  # type: ignore[arg-type]


# --- the second stage ----------------------------------------------------------------------------


def test_only_clusters_with_a_keypoint_count() -> None:
    model, batch = detector(), pair()
    model.table = keypoints(None).select(keypoints(None).labels != 2)
    model.losses(batch)["detection"].backward()
    gradient = model.network.head.weight.grad
    assert gradient is not None
    assert gradient[2].abs().max() == 0
    assert gradient[[0, 1, 3]].abs().amax((1, 2, 3)).min() > 0


def test_merged_clusters_share_a_channel_and_nothing_is_resized() -> None:
    model = detector(clusters=5)
    first = model.relabel(keypoints(None), 0)
    assert first.kept["landmark"].tolist() == [0, 1, 2, 3, -1]
    model.table = first.table
    model.landmark.copy_(first.kept["landmark"])
    before = {name: p.shape for name, p in model.named_parameters()}
    # Channels 1 and 3 fire in one place, 3 in fewer images.
    image = torch.arange(4).repeat(4)[:-1]
    label = torch.arange(4).repeat_interleave(4)[:-1]
    points = torch.stack([label * 0.4 - 0.8, image * 0.1], -1)
    points[label == 3] = points[(label == 1) & (image < 3)]
    found = KeypointTable.of(4, image, points.float(), torch.ones(15), label)
    labelled = model.relabel(found, 1)
    assert labelled.kept["landmark"].tolist() == [0, 1, 2, 1, -1]
    assert labelled.kept["merges"].tolist() == [[3, 1, 1, 1]]
    model.landmark.copy_(labelled.kept["landmark"])
    model.merges[:1] = labelled.kept["merges"]
    model.table = labelled.table
    assert {name: p.shape for name, p in model.named_parameters()} == before
    # In each image one keypoint is left of the two: that of the channel's own cluster.
    assert set(labelled.table.labels.tolist()) == {0, 1, 2}
    own = first.table.select(first.table.labels == 1)
    assert torch.equal(labelled.table.points[labelled.table.labels == 1], own.points)
    points, scores = model.landmarks(torch.rand(2, 3, SIZE, SIZE))
    assert points.shape == (2, 3, 2)
    assert scores.shape == (2, 3)
    assert (
        model.find(Sample(torch.rand(2, 3, SIZE, SIZE), torch.arange(2)))
        .points[:, 3:]
        .isnan()
        .all()
    )
    # Nothing overlaps in the next round; the history stays.
    apart = found.select(found.labels != 3)
    again = model.relabel(apart, 2)
    assert again.kept["merges"].tolist() == [[3, 1, 1, 1]]
    assert again.kept["landmark"].tolist() == [0, 1, 2, 1, -1]


def test_a_keypoint_of_the_absorbed_cluster_stands_in() -> None:
    model = detector()
    table = keypoints(None)
    model.table = table.select(table.labels >= 0).select(
        ~((table.labels == 1) & (table.image == 0))[table.labels >= 0]
    )
    into = torch.tensor([0, 1, 2, 1])
    joined = _relabelled(model.table, into)
    of_one = joined.select(joined.labels == 1)
    assert of_one.image.tolist() == [0, 1, 2, 3]
    three = table.points[(table.labels == 3) & (table.image == 0)]
    assert torch.equal(of_one.points[:1], three)


@pytest.mark.parametrize(
    "changes", [{"share": 0.0}, {"cells": -1.0}, {"fires": 1.0}, {"threshold": -0.1}]
)
def test_wrong_settings_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(LandmarkLabError, match=next(iter(changes))):
        detector(**changes)


@pytest.mark.parametrize("changes", [{"clusters": 0}, {"far": 0.5}, {"threshold": 1.0}])
def test_wrong_settings_of_the_first_stage(changes: dict[str, Any]) -> None:
    with pytest.raises(LandmarkLabError, match=next(iter(changes))):
        method(**changes)


def test_the_second_stage_has_as_many_clusters_as_the_first() -> None:
    with pytest.raises(
        ConfigError, match=r"method.clusters: learns 4 clusters from the 7 of .*; allowed: 7"
    ):
        detector().check_teacher(method(clusters=7))


def test_no_stage_follows_a_second_stage() -> None:
    with pytest.raises(ConfigError, match="'merging_detector' labels no keypoints"):
        detector().check_teacher(detector())


# --- an experiment -------------------------------------------------------------------------------

STAGES: dict[str, Any] = {
    "name": "correspondence",
    "data": {"name": "toy_faces", "size": 32, "train": 12, "val": 4, "test": 4},
    "pairing": {"name": "synthetic"},
    "loader": {"batch_size": 4, "workers": 0, "colours": {}},
    "stages": {
        "keypoints": {
            "method": {
                "name": "self_training_correspondence",
                "clusters": CLUSTERS,
                "keypoints": {"name": "sift", "contrast": 0.0},
                "backbone": BACKBONE,
                "dimension": 8,
                "warm_up": 2,
                "every": 2,
                "threshold": 0.0,
            },
            "trainer": {"max_steps": 5, "max_epochs": -1, "accelerator": "cpu"},
        },
        "landmarks": {
            "method": {
                "name": "merging_detector",
                "clusters": CLUSTERS,
                "labels": {"stage": "keypoints"},
                "backbone": BACKBONE,
                "every": 2,
                "share": 0.01,
                "cells": 20.0,
                "fires": 0.0,
            },
            "start_from": {"stage": "keypoints", "parts": ["network.backbone"]},
            "trainer": {"max_steps": 4, "max_epochs": -1, "accelerator": "cpu"},
        },
    },
}


def test_both_stages_run_and_merging_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "correspondence.yaml"
    path.write_text(yaml.safe_dump(STAGES))
    folder = run(read(path), tmp_path / "runs")
    rounds = [read_round(file) for file in sorted((folder / "rounds" / "keypoints").iterdir())]
    assert [one.number for one in rounds] == [0, 1, 2]
    assert rounds[2].kept["centroids"].shape[1] == 8
    described = [None if one.descriptors is None else one.descriptors.shape[1] for one in rounds]
    assert described == [128, 8, 8]
    section = clusters(Context(folder))
    assert section is not None
    blocks = [block for block in section.blocks if isinstance(block, Charts)]
    before, after = next(
        b for b in blocks if b.title == "Descriptors of the stage keypoints"
    ).charts
    assert (before.title, after.title) == ("Before: round 0", "After: round 2")
    assert "described by sift with 128 numbers" in before.caption
    assert "described by the network with 8 numbers" in after.caption
    loaded = checkpoint.load(folder / "checkpoints" / "landmarks" / "done.ckpt")
    assert isinstance(loaded, MergingDetector)
    assert isinstance(loaded, Landmarks)
    # With such a share and radius all that fire are merged.
    found = len(loaded.landmark[loaded.landmark >= 0].unique())
    assert found < CLUSTERS
    assert loaded.merges.isfinite().all(1).sum() >= 1
    assert loaded.landmarks(torch.rand(1, 3, 32, 32))[0].shape == (1, found, 2)
    last = read_round(folder / "rounds" / "landmarks" / "001.npz")
    assert set(last.table.labels.tolist()) <= set(loaded.landmark.tolist())
