"""Embeddings that collapse are noticed and cannot win; a stage without landmarks runs."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from landmark_lab import checkpoint
from landmark_lab.callbacks.embedding_health import EmbeddingHealth
from landmark_lab.callbacks.watch import CRITERION
from landmark_lab.config import read
from landmark_lab.data.batch import Pair, Sample
from landmark_lab.experiment import run
from landmark_lab.geometry.affine import AffineWarp
from landmark_lab.losses.similarity import Similarity
from landmark_lab.roles import Correspondence
from tests.running.watched import Idle, watched

COUNT, SIDE, CELLS = 24, 32, 16


class Fixed(Idle):
    """Its images are its vectors, at half their size."""

    layers = ("embedding",)

    def embedding(self, images: Tensor, layer: str | None = None) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, 2)

    def similarity(self, source: Tensor, target: Tensor) -> Tensor:
        return Similarity()(source, target)


def look(vectors: Tensor, still: bool = False) -> tuple[dict[str, float], list[str]]:
    """What is logged and said about vectors (C, h, w) that follow a shift, or stay."""
    shift = torch.tensor([[1.0, 0, 4 / CELLS], [0, 1, 0]]).expand(COUNT, 2, 3)
    source = vectors.repeat_interleave(2, -1).repeat_interleave(2, -2).expand(COUNT, -1, -1, -1)
    target = source if still else source.roll(4, -1)
    index = torch.arange(COUNT)
    pair = Pair(Sample(source, index), Sample(target, index), AffineWarp(shift))
    return watched(Fixed(), pair, EmbeddingHealth())


class Sided(Fixed):
    """Its first coordinate says on which side a pixel is."""

    mirror = True

    def reflect(self, vectors: Tensor) -> Tensor:
        return torch.cat([-vectors[..., :1], vectors[..., 1:]], -1)


def lively() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 4 * torch.nn.functional.normalize(
        torch.randn(8, CELLS, CELLS, generator=generator), dim=0
    )


def test_the_sides_of_mirrored_pairs_are_exchanged() -> None:
    """Vectors whose mirror image is the mirrored image's match without an error."""
    half = lively()[:, :, : CELLS // 2]
    vectors = torch.cat([half, Sided().reflect(half.movedim(0, -1)).movedim(-1, 0).flip(-1)], -1)
    images = vectors.repeat_interleave(2, -1).repeat_interleave(2, -2).expand(COUNT, -1, -1, -1)
    mirror = torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(COUNT, 2, 3)
    index = torch.arange(COUNT)
    # A symmetric object: its mirrored image is the image itself.
    pair = Pair(Sample(images, index), Sample(images, index), AffineWarp(mirror))
    sided, fixed = (watched(one, pair, EmbeddingHealth())[0] for one in (Sided(), Fixed()))
    assert sided["val/matching"] == pytest.approx(0, abs=1e-4)
    assert fixed["val/matching"] > 5


def test_vectors_that_find_each_other_are_left_in_peace() -> None:
    values, said = look(lively())
    assert said == []
    assert values["val/matching"] < 1
    assert values[CRITERION] < 0.1
    assert values["val/guessing"] > 10


def test_a_collapse_is_said_once_and_cannot_win() -> None:
    healthy, _ = look(lively())
    values, said = look(torch.ones(8, CELLS, CELLS))
    assert sum("all alike" in text for text in said) == 1
    assert sum("no better than guessing" in text for text in said) == 1
    assert values[CRITERION] > 0.9 > healthy[CRITERION]
    stuck, _ = look(lively(), still=True)
    assert stuck["val/matching_across"] == pytest.approx(4, abs=0.1)
    assert stuck[CRITERION] > healthy[CRITERION] + 0.1


@pytest.mark.parametrize("method", ["dense", "evc"])
def test_a_method_without_landmarks_is_trained_and_its_best_kept(
    method: str, tmp_path: Path
) -> None:
    backbone = {"name": "hourglass", "width": 8, "depth": 1, "blocks": 1, "stem": 0}
    written = tmp_path / "frames.yaml"
    written.write_text(
        yaml.safe_dump(
            {
                "data": {"name": "toy_faces", "size": 32, "train": 16, "val": 9, "test": 2},
                "pairing": {"name": "synthetic", "annotation": False},
                "loader": {"batch_size": 4},
                "method": {"name": method, "dimension": 4, "backbone": backbone},
                "trainer": {"max_epochs": 2, "accelerator": "cpu"},
                "evaluate": [],
            }
        )
    )
    folder = run(read(written), tmp_path / "runs")
    best = checkpoint.load(folder / "checkpoints" / "train" / "best.ckpt")
    assert isinstance(best, Correspondence)
    assert best.spec["similarity"] == {"kind": "inner", "temperature": 1.0}
    logged = (folder / "metrics" / "train.csv").read_text().splitlines()[0].split(",")
    assert {CRITERION, "val/matching", "val/matching_across", "val/loss"} <= set(logged)
