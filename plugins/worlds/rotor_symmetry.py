"""Does an embedding of the rotor have the rotor's symmetry, and does it match up to a turn?

    python -m landmark_lab_plugins.worlds.rotor_symmetry [NAME=]CHECKPOINT ... [--out FILE.json]

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

Beside them stands what needs no training, measured likewise: the network before its first step, and
as a match the mean shape of the marks (of training clips, each image's legs numbered so that it is
closest to the mean), as it is and moved to the true centre.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``; errors are in pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab import checkpoint
from landmark_lab.data.results import Value
from landmark_lab.embedding import EmbeddingMethod
from landmark_lab.files import sha256, write_json
from landmark_lab.geometry.symmetry import rotations
from landmark_lab.losses.correspondence import best_matches, vectors_at
from landmark_lab.metrics.bootstrap import bootstrap_interval
from landmark_lab.plugin import build
from landmark_lab.roles import Method, Split
from landmark_lab.seeding import seed_of
from landmark_lab_plugins.data.rotor import Rotor

CLIPS, FRAMES, FOLD, SIZE = 20, 10, 3, 80


def images(split: Split = "test") -> tuple[Tensor, Tensor]:
    """Images (CLIPS · FRAMES, 3, H, W) and the marks on the legs (..., FOLD, 2, 2)."""
    found = Rotor(size=SIZE, fold=FOLD, train=CLIPS, test=CLIPS).images(split)
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
    with torch.no_grad():
        found, _ = method.correspond(pictures, pictures.roll(-FRAMES, 0), marks.flatten(1, 2))
    return up_to_a_turn(found.view(marks.shape), marks.roll(-FRAMES, 0))


# --- what needs no training ----------------------------------------------------------------------


def up_to_a_turn(found: Tensor, marks: Tensor) -> Tensor:
    """Errors (B,) of marks (B, FOLD, 2, 2), the legs numbered as suits each image best."""
    return torch.stack([distance(found, marks.roll(s, 1)) for s in range(FOLD)]).amin(0)


def mean_shape(marks: Tensor) -> Tensor:
    """The mean (FOLD, 2, 2) of marks (B, FOLD, 2, 2), each numbered so that it is closest to it."""
    numbered = torch.stack([marks.roll(shift, 1) for shift in range(FOLD)], 1)
    shape = marks[0]
    for _ in range(len(marks)):  # the error falls each time, and there are finitely many
        apart = (numbered - shape).square().flatten(2).sum(2)
        chosen = numbered[torch.arange(len(marks)), apart.argmin(1)].mean(0)
        if torch.equal(chosen, shape):
            break
        shape = chosen
    return shape


def references(marks: Tensor) -> dict[str, Value]:
    """The errors of the mean shape, as it is and moved to the true centre of the marks."""
    shape = mean_shape(images("train")[1])
    there = marks.roll(-FRAMES, 0)
    centred = shape - shape.mean((0, 1)) + there.mean((1, 2), keepdim=True)
    return {
        "mean_shape": measured(up_to_a_turn(shape.expand_as(there), there)),
        "centroid": measured(up_to_a_turn(centred, there)),
    }


def untrained(card: checkpoint.Card) -> Method:
    """The method of a checkpoint as it was before the first step of its stage."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(card.seed, f"weights of {card.stage}"))
        return build(Method, card.method).eval()


# --- results -------------------------------------------------------------------------------------


def measured(errors: Tensor) -> Value:
    """Mean and interval over clips of errors (B,)."""
    clips: NDArray[np.float64] = errors.view(CLIPS, FRAMES).mean(1).double().numpy()
    return Value(float(clips.mean()), *bootstrap_interval(clips))


def scored(method: EmbeddingMethod, pictures: Tensor, marks: Tensor) -> dict[str, Value]:
    """All figures of a network."""
    there, still = turned(method, pictures, marks)
    return {
        "turned": measured(there),
        "not_turned": measured(still),
        "matching": measured(matched(method, pictures, marks)),
    }


def show(what: str, values: Mapping[str, Value]) -> None:
    """Print figures below their name."""
    print(what)
    for name, found in values.items():
        print(f"  {name} {found.value:.2f} ({found.low:.2f}-{found.high:.2f})")


def plain(values: Mapping[str, Value]) -> dict[str, Any]:
    """Figures as plain containers."""
    return {name: found.to_dict() for name, found in values.items()}


def main() -> None:
    """Measure checkpoints, print the figures and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", metavar="[NAME=]CHECKPOINT")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures there")
    arguments = parser.parse_args()
    given = {}
    for text in arguments.checkpoints:
        name, _, path = text.rpartition("=")
        given[name or Path(path).stem] = path
    if len(given) < len(arguments.checkpoints):
        parser.error("two checkpoints of one name; give them names: NAME=CHECKPOINT")
    methods = {name: (checkpoint.load(path), path) for name, path in given.items()}
    pictures, marks = images()
    shapes = references(marks)
    show("matching by a shape", shapes)
    rows: dict[str, Any] = {}
    for name, (method, path) in methods.items():
        start = untrained(checkpoint.read(path)[0])
        if not (isinstance(method, EmbeddingMethod) and isinstance(start, EmbeddingMethod)):
            parser.error(f"{path} holds no embedding")
        found, before = (scored(one, pictures, marks) for one in (method, start))
        show(name, found)
        show(f"{name}, untrained", before)
        rows[name] = {
            "checkpoint": sha256(path),
            "method": dict(method.spec),
            "values": plain(found),
            "untrained": plain(before),
        }
    if arguments.out is not None:
        write_json(
            arguments.out,
            {
                "unit": f"pixels at {SIZE}×{SIZE}, with 95 % intervals over clips",
                "clips": CLIPS,
                "frames": FRAMES,
                "references": plain(shapes),
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
