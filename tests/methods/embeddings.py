"""What the tests of dense, symmetric and evc share: small networks, blobs, pairs, errors."""

from typing import Any

import torch
from torch import Tensor

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.embedding import EmbeddingMethod
from landmark_lab.geometry.affine import AffineWarp
from landmark_lab.metrics.embedding import guessing_error, matching_error
from landmark_lab.plugin import build
from landmark_lab.roles import Method, Pairing
from landmark_lab.seeding import BatchDraw

TINY = {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "block": "basic", "stem": 0}
WARPS = {
    "name": "affine",
    "rotation": [5.0, 15.0],
    "scale": [0.1, 0.15],
    "translation": [0.1, 0.15],
}


def method(name: str, **settings: Any) -> EmbeddingMethod:
    """A small one; group norm, so that images do not depend on their batch."""
    torch.manual_seed(0)
    backbone = {**TINY, "norm": "group", "groups": 4}
    built = build(Method, {"name": name, "backbone": backbone, **settings})
    assert isinstance(built, EmbeddingMethod)
    return built


def sample(images: Tensor) -> Sample:
    return Sample(images, torch.arange(len(images)))


def random_pair(count: int = 4, size: int = 16, mirrored: bool = False) -> Pair:
    """Unrelated noise with a known warp, in float64; every other warp mirrored if asked for."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, count, 3, size, size, generator=generator, dtype=torch.float64)
    matrix = torch.tensor([[[0.9, -0.3, 0.1], [0.2, 1.1, -0.2]]], dtype=torch.float64)
    matrix = matrix.repeat(count, 1, 1)
    if mirrored:
        matrix[::2, :, 0] *= -1
    return Pair(sample(images[0]), sample(images[1]), AffineWarp(matrix))


def pairs(images: Tensor, seed: int, pairing: dict[str, Any] | None = None) -> Pair:
    """Two warped views of each image."""
    spec = {"name": "synthetic", "warps": WARPS, "annotation": False, "independent_colours": False}
    members = (sample(images),)
    return build(Pairing, pairing or spec).pair(members, BatchDraw.single(seed, len(images)))


def train(model: EmbeddingMethod, images: Tensor, steps: int, **settings: Any) -> list[float]:
    """Adam on random batches; the loss of every step."""
    optimiser = torch.optim.Adam(model.train().parameters(), settings.pop("lr", 3e-3))
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(steps):
        rows = torch.randint(len(images), (8,), generator=generator)
        loss = model.losses(pairs(images[rows], step, **settings))["matching"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def error(model: EmbeddingMethod, pair: Pair) -> tuple[float, float]:
    """Mean error in pixels of matching the two views, and that of guessing."""
    queries = model.loss.queries(pair.warp, (16, 16), (32, 32))  # type: ignore[union-attr, operator]
    source, target = (model.eval().embedding(s.image) for s in (pair.source, pair.target))
    queried, keys = (target, source) if queries.in_target else (source, target)
    truth = (queries.targets, queries.weight > 0)
    found = matching_error(queries.vectors(queried), keys, *truth, model.similarity, (32, 32))
    return found.mean().item(), guessing_error(*truth, (16, 16), (32, 32)).mean().item()
