"""Self-training: its losses by loops, its landmarks, its second stage, and that it learns."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from landmark_lab import checkpoint
from landmark_lab.config import read
from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import read_round
from landmark_lab.errors import ConfigError
from landmark_lab.experiment import run
from landmark_lab.geometry.points import inside
from landmark_lab.keypoint_network import KeypointMaps
from landmark_lab.losses.contrastive import background_points
from landmark_lab.losses.heatmap import Gaussian, gaussian_target
from landmark_lab.methods.landmark_detector import LandmarkDetector
from landmark_lab.methods.self_training import SelfTraining
from landmark_lab.plugin import build
from landmark_lab.roles import Embedding, Keypoints, Landmarks, Method, Pairing
from landmark_lab.rounds import _fill, by_label
from landmark_lab.seeding import BatchDraw

BACKBONE = {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "stem": 0, "groups": 4}
BACKBONE["norm"] = "group"
COUNT, POINTS, SIZE = 4, 5, 32


def method(**changes: Any) -> SelfTraining:
    torch.manual_seed(0)
    small = {"landmarks": 3, "clusters": 4, "backbone": BACKBONE, "dimension": 8, "background": 6}
    built = build(Method, {"name": "self_training", "keypoints": "grid", **small, **changes})
    assert isinstance(built, SelfTraining)
    return built


def detector(**changes: Any) -> LandmarkDetector:
    torch.manual_seed(0)
    given = {"labels": {"stage": "x"}, "landmarks": 3, "backbone": BACKBONE, **changes}
    built = build(Method, {"name": "landmark_detector", **given})
    assert isinstance(built, LandmarkDetector)
    return built


def learning(model: Any, pairing: str = "synthetic", clustered: bool = True) -> Pair:
    """Give a method a table of random keypoints, and a pair of random images."""
    generator = torch.Generator().manual_seed(1)
    total = COUNT * POINTS
    points = torch.rand(total, 2, generator=generator) * 1.6 - 0.8
    labels = torch.randint(-1, 4, (total,), generator=generator)
    mirrored = torch.randint(-1, 4, (total,), generator=generator)
    image = torch.arange(COUNT).repeat_interleave(POINTS)
    model.table = KeypointTable.of(COUNT, image, points, torch.ones(total), labels, mirrored)
    model.labelled = clustered
    model.draw = BatchDraw.single(3, COUNT)
    sample = Sample(torch.rand(COUNT, 3, SIZE, SIZE, generator=generator), torch.arange(COUNT))
    made: Pair = build(Pairing, pairing).pair((sample, sample), BatchDraw.single(2, COUNT))
    return made


# --- the losses ----------------------------------------------------------------------------------


def contrastive_oracle(
    vectors: Tensor,
    places: Tensor,
    labels: Tensor,
    kind: str,
    other_images: Sequence[int] = (),
    margin: float = 0.8,
) -> Tensor:
    """Half the mean over positive pairs plus half the mean over negative ones, by loops.

    Args:
        vectors: (2B, M + R, D), the last R of an image being background.
        places: (2B, M + R, 2) in the views.
        labels: (2B, M).
        kind: ``views``, whose negatives are of the same image, or ``views, other_cluster``;
            ``same_image`` or ``other_cluster``, whose positives are of one cluster.
        other_images: sources that are no view of their target's image: mirror images.
    """
    rows = []
    for view in range(2 * COUNT):
        for m in range(places.shape[1]):
            if inside(places[view, m]):
                own = m < POINTS
                label = int(labels[view, m]) if own else -1
                shown = f"mirrored {view}" if view in other_images else view % COUNT
                known = (view % COUNT, m) if own else None
                rows.append((shown, known, label, vectors[view, m]))
    near, apart = [], []
    for (i, m, y, f), (j, n, z, g) in combinations(rows, 2):
        same = m == n and m is not None
        cluster = y >= 0 and y == z
        single = same and y < 0 and z < 0
        if m is not None and n is not None and (same if "views" in kind else cluster or single):
            near.append((f - g).square().sum())
        elif not same and (m, n) != (None, None) and not cluster:
            other = "other_cluster" in kind and y >= 0 and z >= 0
            if i == j or other:
                apart.append((margin - (f - g).norm()).clamp(min=0).square())
    assert len(near) > 3
    assert len(apart) > 3
    return (torch.stack(near).mean() + torch.stack(apart).mean()) / 2


@pytest.mark.parametrize("pairing", ["synthetic", "mirrored"])
@pytest.mark.parametrize(
    ("clustered", "settings", "kind"),
    [
        (False, {}, "views"),
        (True, {}, "same_image"),
        (True, {"negatives": "other_cluster"}, "other_cluster"),
        (True, {"correspondence": "equivariance"}, "views"),
        (
            True,
            {"correspondence": "equivariance", "negatives": "other_cluster"},
            "views, other_cluster",
        ),
    ],
)
def test_the_losses_are_those_of_the_paper(
    clustered: bool, settings: dict[str, Any], kind: str, pairing: str
) -> None:
    model = method(**settings)
    pair = learning(model, pairing, clustered=clustered)
    found = model.losses(pair)
    (places, labels, _), images = model._views(pair)
    maps: KeypointMaps = model.network(images)
    draw = model.draw.child("background").uniform(2, 6, 2).transpose(0, 1).flatten(0, 1)
    places = torch.cat([places, background_points(places, draw)], 1)
    vectors = model.network.sample(maps.descriptors, places)
    # Views are mirrored whole, but for those that learn from clusters.
    other_images: list[int] = []
    if pair.mirrored is not None and kind in ("same_image", "other_cluster"):
        other_images = pair.mirrored.nonzero()[:, 0].tolist()
        assert 0 < len(other_images) < COUNT
    expected = contrastive_oracle(vectors, places, labels, kind, other_images)
    torch.testing.assert_close(found["contrastive"], expected, rtol=1e-5, atol=1e-6)
    target = gaussian_target(places[:, :POINTS], (16, 16), Gaussian(1.0))
    torch.testing.assert_close(found["detection"], (maps.score - target).square().mean())


def test_every_part_learns() -> None:
    model = method()
    pair = learning(model)
    terms = model.losses(pair)
    assert terms.keys() == model.weights.keys()
    sum(terms.values()).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_images_without_keypoints_do_no_harm() -> None:
    model = method()
    pair = learning(model)
    model._table = model.table.select(model.table.image != 1)
    terms = model.losses(pair)
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(term.isfinite() for term in terms.values())


def test_without_clusters_a_mirrored_pair_is_mirrored_whole() -> None:
    model = method()
    pair = learning(model, "mirrored", clustered=False)
    assert pair.mirrored is not None
    assert 0 < pair.mirrored.sum() < COUNT
    (points, labels, _), images = model._views(pair)
    assert torch.equal(images[:COUNT], pair.source.image)
    assert torch.equal(labels[:COUNT][~pair.mirrored], labels[COUNT:][~pair.mirrored])
    for row in range(COUNT):
        target = pair.target.image[row]
        expected = target.flip(-1) if pair.mirrored[row] else target
        assert torch.equal(images[COUNT + row], expected)
        plain = model.in_views(pair).points[1, row]
        sign = -1 if pair.mirrored[row] else 1
        expected = plain * torch.tensor([sign, 1])
        torch.testing.assert_close(points[COUNT + row], expected, equal_nan=True)
    model.labelled = True
    assert torch.equal(model._views(pair)[1][COUNT:], pair.target.image)
    # Learning by equivariance does so throughout, and the mirror image has the mirrored labels.
    model.correspondence = "equivariance"
    (points, labels, _), again = model._views(pair)
    assert torch.equal(again, images)
    assert torch.equal(labels[:COUNT], labels[COUNT:])
    assert not torch.equal(labels[COUNT:], model.in_views(pair).labels[1])


# --- what it finds -------------------------------------------------------------------------------


class Scripted(torch.nn.Module):
    """A network that finds given cells with given descriptors."""

    def __init__(self, cells: list[tuple[int, int, float, list[float]]]) -> None:
        super().__init__()
        self.score, self.vectors = torch.zeros(1, 1, 16, 16), torch.zeros(1, 8, 16, 16)
        for row, column, score, vector in cells:
            self.score[0, 0, row, column] = score
            # Around it, so that a point between cells has it, too.
            around = self.vectors[0, :, row - 1 : row + 2, column - 1 : column + 2]
            around[: len(vector)] = torch.tensor(vector)[:, None, None]

    def forward(self, images: Tensor) -> KeypointMaps:
        return KeypointMaps(
            *(m.expand(len(images), -1, -1, -1) for m in (self.score, self.vectors))
        )

    def sample(self, descriptors: Tensor, points: Tensor) -> Tensor:
        return method().network.sample(descriptors, points)


def test_a_landmark_is_the_keypoint_nearest_to_its_centroid() -> None:
    model = method()
    images = torch.zeros(2, 3, SIZE, SIZE)
    points, score = model.landmarks(images)
    assert points.isnan().all()
    assert not score.any()
    cells = [(3, 4, 0.9, [1.0, 0.4]), (10, 4, 0.3, [1.0, 0.1]), (8, 12, 0.5, [0.0, 1.0])]
    model.network = Scripted([*cells, (13, 13, 0.1, [1.0])])  # type: ignore[assignment]
    model.centroids_k[:2] = torch.eye(8)[:2]  # the third cluster does not exist
    points, score = model.landmarks(images)
    # Both of the first two are of cluster 0; the second is closer. The last is below the threshold.
    expected = torch.tensor([[4.0, 10.0], [12.0, 8.0]]) * 2 / 16 + 1 / 16 - 1
    torch.testing.assert_close(points[0, :2], expected)
    assert points[0, 2].isnan().all()
    torch.testing.assert_close(score[1], torch.tensor([0.3, 0.5, 0.0]))
    all_points, all_scores, labels = model.keypoints(images)
    assert labels[0, :4].tolist() == [0, 1, 0, -1]  # by score
    assert torch.equal(labels >= 0, all_scores > 0)
    assert torch.equal(all_points.isnan().any(-1), all_scores == 0)


def test_what_it_offers() -> None:
    model = method()
    assert isinstance(model, Landmarks)
    assert isinstance(model, Keypoints)
    assert isinstance(model, Embedding)
    vectors = model.embedding(torch.rand(2, 3, SIZE, SIZE))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2, 16, 16))
    rows = vectors.flatten(2).mT[:, :7]
    torch.testing.assert_close(model.similarity(rows, rows * 3).diagonal(0, 1, 2), torch.ones(2, 7))
    with pytest.raises(ValueError, match="no layer"):
        model.embedding(torch.rand(2, 3, SIZE, SIZE), "scores")


# --- labels --------------------------------------------------------------------------------------


def found_table(mirror: bool = True) -> KeypointTable:
    """Three landmarks in 20 images, of which 0 and 1 are partners, and one that is too much."""
    rows = []
    centres = torch.eye(8)[:3]
    generator = torch.Generator().manual_seed(0)
    for image in range(20):
        for k in range(3):
            noise = torch.randn(2, 8, generator=generator) * 0.02
            own, there = centres[k] + noise[0], centres[[1, 0, 2][k]] + noise[1]
            rows.append((image, float(k), torch.cat([own, there])))
        if image % 4 == 0:  # a second keypoint of the first cluster
            far = centres[0] + 0.1 * torch.ones(8)
            rows.append((image, 9.0, torch.cat([far, far])))
    image, kind, vectors = zip(*rows, strict=True)
    points = torch.stack([torch.tensor([k / 10, 0.0]) for k in kind])
    described = torch.stack(vectors)[:, : 16 if mirror else 8]
    return KeypointTable.of(
        20, torch.tensor(image), points, torch.ones(len(points)), descriptors=described
    )


@pytest.mark.parametrize("mirror", [True, False])
def test_clusters_keep_one_keypoint_an_image_and_know_the_other_side(mirror: bool) -> None:
    model = method(mirror=mirror)
    labelled = model.conclude(found_table(mirror))
    kept = labelled.table
    assert len(kept) == 60
    kind = (kept.points[:, 0] * 10).round().long()
    assert kind.max() == 2
    names = [int(kept.labels[kind == k].unique()) for k in range(3)]
    assert sorted(names) == [0, 1, 2]
    assert labelled.kept["centroids_k"].shape == (3, 8)
    if not mirror:
        assert (kept.mirrored == -1).all()
        return
    for k, partner in enumerate([1, 0, 2]):
        assert kept.mirrored[kind == k].unique().tolist() == [names[partner]]
    second = detector()
    again = second.relabel(kept, 0)
    assert [int(again.kept["partner"][names[k]]) for k in range(3)] == [names[k] for k in (1, 0, 2)]


def test_fewer_keypoints_than_clusters_make_fewer_clusters(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(SelfTraining, "_data", SimpleNamespace(draw_seed=0))
    model = method(mirror=False)
    few = found_table(mirror=False)
    few = few.select(torch.arange(len(few)) < 2)
    labelled = model.relabel(few, 1)
    assert len(labelled.table) == 2
    assert labelled.kept["centroids_k"].isfinite().all()
    assert any("2" in str(warning.message) for warning in recwarn)
    _fill(model.centroids_k, labelled.kept["centroids_k"])
    assert model.centroids_k.isnan().any(1).tolist() == [False, False, True]
    points, score = model.landmarks(torch.rand(2, 3, SIZE, SIZE))
    assert torch.equal(points.isnan().any(-1), score == 0)


# --- the second stage ----------------------------------------------------------------------------


def test_each_landmark_has_its_map() -> None:
    model = detector()
    pair = learning(model)
    model._table = model.table.select(model.table.labels < 3)  # as many as there are maps
    once = torch.unique(
        torch.stack([model.table.image, model.table.labels]), dim=1, return_inverse=True
    )[1]
    first = torch.tensor([int((once[:i] == once[i]).sum()) == 0 for i in range(len(once))])
    model._table = model.table.select(first)
    (points, moved), (labels, _), _ = model.in_views(pair)
    ordered = by_label(points, labels, 3)
    assert ordered.shape == (COUNT, 3, 2)
    for image in range(COUNT):
        for k in range(3):
            own = points[image][labels[image] == k]
            assert torch.equal(ordered[image, k].isnan().any(), torch.tensor(len(own) == 0))
            if len(own):
                torch.testing.assert_close(ordered[image, k], own[0])
    (loss,) = model.losses(pair).values()
    maps = model.network(torch.cat([pair.source.image, pair.target.image])).detach()
    whole = torch.cat([ordered, by_label(moved, labels, 3)])
    errors = []
    for row in range(2 * COUNT):
        for k in range(3):
            if inside(whole[row, k]):
                target = gaussian_target(
                    whole[row : row + 1, k : k + 1], (16, 16), Gaussian(0.75, 3)
                )
                errors.append((maps[row, k] - target[0, 0]).square().mean())
    torch.testing.assert_close(loss.detach(), torch.stack(errors).mean())


def test_the_mirror_image_finds_the_mirrored_landmarks() -> None:
    model = detector().eval()
    model.partner.copy_(torch.tensor([1, 0, 2]))
    images = torch.rand(2, 3, SIZE, SIZE)
    points, score = model.landmarks(images)
    mirrored, its = model.landmarks(images.flip(-1))
    torch.testing.assert_close(mirrored[:, [1, 0, 2]] * torch.tensor([-1, 1]), points)
    torch.testing.assert_close(its[:, [1, 0, 2]], score)


def test_it_says_how_sure_the_partners_are(caplog: pytest.LogCaptureFixture) -> None:
    labels, mirrored = torch.tensor([0, 1, 2, 0, 1, 0]), torch.tensor([1, 0, 2, 1, 0, 2])
    image = torch.tensor([0, 0, 0, 1, 1, 2])
    table = KeypointTable.of(3, image, torch.zeros(6, 2), torch.ones(6), labels, mirrored)
    with caplog.at_level("INFO"):
        assert detector().relabel(table, 0).kept["partner"].tolist() == [1, 0, 2]
    # Counted in both directions: 4 of 5, 4 of 4, 2 of 3.
    assert "in mirror images 82% of the keypoints are their partners" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        detector(mirror=False).relabel(table, 0)
    assert "mirror images" not in caplog.text


@pytest.mark.parametrize(
    ("teacher", "changes", "message"),
    [
        ({"name": "factorized"}, {}, "labels no keypoints"),
        ({"landmarks": 4}, {}, "learns 3 landmarks from the 4 of"),
        ({"mirror": False}, {}, "not set to look at mirror images"),
    ],
)
def test_teachers_that_do_not_fit(
    teacher: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    given = build(Method, teacher) if "name" in teacher else method(**teacher)
    with pytest.raises(ConfigError, match=message):
        detector(**changes).check_teacher(given)


def test_a_cluster_without_keypoints_is_a_landmark_that_is_never_found() -> None:
    model = detector().eval()
    labels = torch.tensor([0, 2, -1, 0, 2])
    table = KeypointTable.of(
        2, torch.tensor([0, 0, 0, 1, 1]), torch.zeros(5, 2), torch.ones(5), labels, labels
    )
    with pytest.warns(UserWarning, match="1 of 3 clusters hold no keypoint"):
        kept = model.relabel(table, 0).kept
    assert kept["learned"].tolist() == [True, False, True]
    images = torch.rand(2, 3, SIZE, SIZE)
    before = model.landmarks(images)[0]
    model.learned.copy_(kept["learned"])
    points, scores = model.landmarks(images)
    assert points[:, 1].isnan().all()
    assert (scores[:, 1] == 0).all()
    torch.testing.assert_close(points[:, [0, 2]], before[:, [0, 2]], equal_nan=True)


# --- both stages ---------------------------------------------------------------------------------


def experiment(folder: Path, steps: int, second: int, **changes: Any) -> Path:
    backbone = {**BACKBONE, "width": 32, "depth": 2}
    first = {
        "name": "self_training",
        "landmarks": 5,
        "clusters": 10,
        "keypoints": {"name": "sift"},
        "backbone": backbone,
        "dimension": 32,
        "warm_up": steps // 3,
        "every": steps // 3,
        "optimiser": {"name": "rmsprop", "lr": 1e-3},
        "schedule": "constant",
    }
    stages = {
        "keypoints": {"method": {**first, **changes.pop("method", {})}},
        "landmarks": {
            "method": {
                "name": "landmark_detector",
                "labels": {"stage": "keypoints"},
                "landmarks": 5,
                "backbone": backbone,
                "optimiser": {"name": "rmsprop", "lr": 1e-3},
            },
            "start_from": {"stage": "keypoints", "parts": ["network.backbone"]},
            "trainer": {"max_steps": second},
        },
    }
    settings: dict[str, Any] = {
        "data": {"name": "toy_faces", "size": 32, "train": 64, "val": 16, "test": 64},
        "pairing": {"name": "mirrored", "pairing": {"name": "synthetic", "annotation": False}},
        "loader": {"batch_size": 8},
        "trainer": {"max_steps": steps, "max_epochs": -1, "accelerator": "cpu"},
        "stages": stages,
        **changes,
    }
    (folder / "self.yaml").write_text(yaml.safe_dump(settings))
    return folder / "self.yaml"


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_a_second_stage_learns_from_the_first(tmp_path: Path) -> None:
    folder = run(read(experiment(tmp_path, 6, 2)), tmp_path / "runs")
    first = read_round(folder / "rounds" / "keypoints" / "002.npz")
    assert first.table.labels.min() >= 0
    labels = read_round(folder / "rounds" / "landmarks" / "000.npz")
    assert labels.table.labels.max() < 5
    pairs = torch.stack([labels.table.image, labels.table.labels])
    assert torch.unique(pairs, dim=1).shape == pairs.shape  # one of a kind in an image
    model = checkpoint.load(folder / "checkpoints" / "landmarks" / "done.ckpt")
    assert isinstance(model, LandmarkDetector)
    assert torch.equal(model.partner, labels.kept["partner"])
    assert model.partner[model.partner].tolist() == [0, 1, 2, 3, 4]
    points, _ = model.landmarks(torch.rand(2, 3, 32, 32))
    assert points.shape == (2, 5, 2)


def test_labels_come_from_an_earlier_stage(tmp_path: Path) -> None:
    path = experiment(tmp_path, 6, 2)
    with pytest.raises(
        ConfigError, match=r"stages.landmarks.method.labels.stage: .*'keypoint'.*did"
    ):
        run(read(path, ["stages.landmarks.method.labels.stage=keypoint"]), tmp_path)
    with pytest.raises(ConfigError, match="no earlier stage"):
        run(read(path, ["stages.landmarks.method.labels.stage=landmarks"]), tmp_path)
    with pytest.raises(ConfigError, match="learns 4 landmarks from the 5 of"):
        run(read(path, ["stages.landmarks.method.landmarks=4"]), tmp_path)
