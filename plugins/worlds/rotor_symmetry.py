"""Does an embedding of the rotor have the rotor's symmetry, and does it match up to a turn?

    python -m landmark_lab_plugins.worlds.rotor_symmetry CHECKPOINT [MORE ...]

Which leg of the rotor is the first one is not to be seen, so the protocol ``matching``, which knows
the legs by number, cannot tell a good embedding from one that mixes them up. Two figures can, in
pixels of 80, over 20 test clips of 10 frames each, with 95 % intervals over clips:

- *turned*: the vector of a mark on one leg is turned by a third about the third axis (Thewlis,
  Bilen, Vedaldi, "Modelling and unsupervised learning of symmetric deformable object categories",
  NeurIPS 2018, section 6.2) and the most similar cell of the same image found; the distance from
  the same mark on the next leg, in the better of the two senses of rotation for the whole network.
  Beside it the distance if the vector is not turned.
- *matching*: the marks are found in a frame of another clip; error up to the numbering of its legs,
  the same for all marks of the pair.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab import checkpoint
from landmark_lab.embedding import EmbeddingMethod
from landmark_lab.geometry.symmetry import rotations
from landmark_lab.losses.correspondence import best_matches, vectors_at
from landmark_lab.metrics.bootstrap import bootstrap_interval
from landmark_lab_plugins.data.rotor import Rotor

CLIPS, FRAMES, FOLD, SIZE = 20, 10, 3, 80


def images() -> tuple[Tensor, Tensor]:
    """Images (CLIPS · FRAMES, 3, H, W) and the marks on the legs (..., FOLD, 2, 2)."""
    found = Rotor(size=SIZE, fold=FOLD, test=CLIPS).images("test")
    length = len(found) // CLIPS
    rows = [
        found[clip * length + frame * length // FRAMES]
        for clip in range(CLIPS)
        for frame in range(FRAMES)
    ]
    pictures = torch.stack([torch.from_numpy(row["image"]) for row in rows])
    points = torch.stack([torch.as_tensor(row["points"]) for row in rows])
    marks = points[:, 1:].reshape(len(points), -1, FOLD, 2).transpose(1, 2)
    return pictures.movedim(-1, 1).float() / 255, marks


def distance(found: Tensor, marks: Tensor) -> Tensor:
    """Mean over the marks, in pixels: (B,)."""
    apart: Tensor = torch.linalg.vector_norm(found - marks, dim=-1)
    return apart.flatten(1).mean(1).mul(SIZE / 2)


@torch.no_grad()
def turned(method: EmbeddingMethod, pictures: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
    """Errors (B,) with turned vectors, and with the vectors as they are."""
    maps = method.embedding(pictures)
    vectors = vectors_at(maps, marks.flatten(1, 2))
    shape = marks.shape
    after = [marks.roll(-shift, 1) for shift in (1, -1)]

    def error(queries: Tensor, truth: Tensor) -> Tensor:
        found, _ = best_matches(queries, maps, method.measure, False)
        return distance(found.view(shape), truth)

    turn = rotations(FOLD, vectors.shape[-1])[1].to(vectors.dtype)
    senses = [error(vectors @ turn.mT, truth) for truth in after]
    return min(senses, key=lambda errors: float(errors.mean())), error(vectors, after[0])


def matched(method: EmbeddingMethod, pictures: Tensor, marks: Tensor) -> Tensor:
    """Errors (B,) of the marks in the frame of the next clip, up to the numbering of the legs."""
    found, _ = method.correspond(pictures, pictures.roll(-FRAMES, 0), marks.flatten(1, 2))
    there = marks.roll(-FRAMES, 0)
    errors = [distance(found.view(marks.shape), there.roll(shift, 1)) for shift in range(FOLD)]
    return torch.stack(errors).amin(0)


def stated(errors: Tensor) -> str:
    """Mean and interval over clips."""
    clips: NDArray[np.float64] = errors.view(CLIPS, FRAMES).mean(1).double().numpy()
    low, high = bootstrap_interval(clips)
    return f"{clips.mean():.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    """Print a line for each checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    pictures, marks = images()
    for path in parser.parse_args().checkpoints:
        method = checkpoint.load(path)
        if not isinstance(method, EmbeddingMethod):
            parser.error(f"{path} holds no embedding")
        there, still = turned(method, pictures, marks)
        print(path)
        print(f"  turned {stated(there)}   not turned {stated(still)}")
        with torch.no_grad():
            print(f"  matching up to a turn {stated(matched(method, pictures, marks))}")


if __name__ == "__main__":
    main()
