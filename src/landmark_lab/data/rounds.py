"""A round of self-training: its pseudo-labels, what it changed, and its file.

See ``landmark_lab/rounds.py`` for what makes rounds.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.errors import DataError
from landmark_lab.files import atomic
from landmark_lab.metrics.mutual_information import contingency, normalised_mutual_information

# A keypoint has stayed where one was before within so many half-widths of the image: one cell of
# the published 64×64 maps.
_NEAR = 2 / 64
# Descriptors of so many keypoints are written down, for pictures of their clusters.
_SAMPLE = 2000
# Pairs of keypoints compared at a time, 32 MB of differences.
_PAIRS = 1 << 22


@dataclass(frozen=True)
class Labelled:
    """The pseudo-labels of a round, and what the method keeps of how they came about.

    Attributes:
        table: the keypoints that are learned from, with labels; its descriptors are only used to
            write some of them down. Those of a keypoint without any are NaN.
        kept: values for buffers of the method, by their names, e.g. centroids. One with fewer rows
            than its buffer leaves the others NaN (−1 in a buffer of integers).
        clustered: what clustered and where, e.g. ``"faiss on cpu"``; empty if nothing did.
    """

    table: KeypointTable
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    clustered: str = ""


@dataclass(frozen=True)
class Change:
    """What a round changed; logged as ``round/NAME``.

    Attributes:
        number: of the round.
        keypoints: mean number in an image.
        without: share of the images without one.
        stayed: share of the keypoints that lie where one was in the last round; NaN in the first.
        agreement: normalised mutual information of their labels then and now; NaN without labels.
        clusters: number of clusters with keypoints.
        largest: share of the labelled keypoints that the largest cluster has.
    """

    number: int
    keypoints: float
    without: float
    stayed: float
    agreement: float
    clusters: int
    largest: float

    def __str__(self) -> str:
        parts = [f"{self.keypoints:.1f} keypoints in an image"]
        if self.without:
            parts.append(f"none in {self.without:.1%} of the images")
        if self.clusters:
            parts.append(f"{self.clusters} clusters, the largest of {self.largest:.1%}")
        if not math.isnan(self.stayed):
            parts.append(f"{self.stayed:.0%} where one was before")
        if not math.isnan(self.agreement):
            parts.append(f"clusters agree by {self.agreement:.2f}")
        return f"round {self.number}: " + ", ".join(parts)


# --- what changed --------------------------------------------------------------------------------


def compare(table: KeypointTable, before: KeypointTable | None, number: int, images: int) -> Change:
    """What a round changed.

    Args:
        table: its pseudo-labels.
        before: those of the last round, if there was one.
        number: of the round.
        images: how many are trained on.
    """
    table = table.to("cpu")
    counts = table.labels[table.labels >= 0].bincount()
    stayed = agreement = float("nan")
    if before is not None and len(before):
        before = before.to("cpu")
        row = same_place(table, before)
        stayed = float((row >= 0).float().mean())
        then = torch.where(row >= 0, before.labels[row.clamp(min=0)], -1)
        agreement = float(normalised_mutual_information(contingency(table.labels, then)))
    return Change(
        number=number,
        keypoints=len(table) / images,
        without=1 - int((table.counts() > 0).sum()) / images,
        stayed=stayed,
        agreement=agreement,
        clusters=int((counts > 0).sum()),
        largest=float(counts.max() / counts.sum()) if len(counts) else 0.0,
    )


def same_place(table: KeypointTable, other: KeypointTable, distance: float = _NEAR) -> Tensor:
    """For each keypoint of a table, the nearest one of the same image in another table.

    Args:
        table: T keypoints.
        other: of the same images.
        distance: in half-widths of the image; farther ones do not count.

    Returns:
        (T,) int64, rows of the other table; −1 where there is none.
    """
    counts = other.counts()
    first = counts.cumsum(0) - counts
    rows = [torch.empty(0, dtype=torch.int64)]
    portion = max(1, _PAIRS // max(table.most * other.most, 1))
    for images in torch.split(torch.arange(table.images), portion):
        points, _, _, found = table.padded(images)
        others = other.padded(images)[0]
        if not others.shape[1]:
            rows.append(torch.full((int(found.sum()),), -1))
            continue
        apart = torch.linalg.vector_norm(points[:, :, None] - others[:, None], dim=-1)
        apart = apart.nan_to_num(nan=torch.inf)
        nearest = apart.min(-1)
        row = torch.where(nearest.values <= distance, first[images, None] + nearest.indices, -1)
        rows.append(row[found])
    return torch.cat(rows)


# --- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundRecord:
    """What was written down of a round.

    Attributes:
        number: of the round.
        step: of the training, at which it began.
        looked_at: (I,) int64, rising, the images that keypoints were looked for in. A file from
            before these were written down has those with a keypoint.
        table: its pseudo-labels, without descriptors.
        counts: (clusters,) keypoints of each cluster.
        sample: (S,) rows of the table of which descriptors were written down.
        descriptors: (S, D) float32 of these rows, or None of a round without descriptors.
        kept: what else the method kept, e.g. centroids.
        clustered: what clustered and where; see :class:`Labelled`.
    """

    number: int
    step: int
    looked_at: Tensor
    table: KeypointTable
    counts: Tensor
    sample: Tensor
    descriptors: Tensor | None
    kept: dict[str, Tensor]
    clustered: str


def write_round(
    path: Path, labelled: Labelled, step: int, number: int, looked_at: NDArray[np.int64]
) -> None:
    """Write a round down, atomically; see :class:`RoundRecord`.

    Raises:
        RunError: the file cannot be written.
    """
    table = labelled.table
    state = table.state()
    arrays: dict[str, Any] = {f"table/{k}": np.asarray(v) for k, v in state.items()}
    arrays |= {f"kept/{name}": value.cpu().numpy() for name, value in labelled.kept.items()}
    rows = torch.arange(len(table))
    if table.descriptors is not None:
        rows = rows[~table.descriptors.isnan().any(1).cpu()]
    # Evenly over the table, and so over the images.
    sample = rows[torch.linspace(0, max(len(rows) - 1, 0), min(len(rows), _SAMPLE)).long()]
    if table.descriptors is not None:
        arrays["descriptors"] = table.descriptors[sample].half().cpu().numpy()
    counts = table.labels[table.labels >= 0].bincount().cpu().numpy()
    arrays |= {"sample": sample.numpy(), "counts": counts, "step": np.int64(step)}
    arrays |= {"looked_at": np.sort(looked_at), "clustered": np.str_(labelled.clustered)}
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, number=np.int64(number), **arrays)


def read_round(path: str | Path) -> RoundRecord:
    """Read what :func:`write_round` wrote.

    Raises:
        DataError: the file is missing, damaged, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = {name: np.asarray(archive[name]) for name in archive.files}
        clustered = str(values.pop("clustered", ""))
        part = by_prefix({name: torch.from_numpy(value) for name, value in values.items()})
        own, state = part[""], part["table"]
        table = KeypointTable.from_state({**state, "images": int(state["images"])})
        descriptors = own.get("descriptors")
        looked_at = own.get("looked_at")
        return RoundRecord(
            number=int(own["number"]),
            step=int(own["step"]),
            looked_at=torch.unique(table.image) if looked_at is None else looked_at,
            table=table,
            counts=own["counts"],
            sample=own["sample"],
            descriptors=None if descriptors is None else descriptors.float(),
            kept=part.get("kept", {}),
            clustered=clustered,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"is no record of a round ({error})", where=str(path)) from error


def looked_at(records: Sequence[RoundRecord]) -> NDArray[np.int64]:
    """The images that the rounds of one stage are about, (I,) rising: whatever is said of a round
    (keypoints in an image, recall) is said of all of them, whether or not they have a keypoint.

    They are the same in all rounds; of files that do not say so (see :class:`RoundRecord`), the
    images with a keypoint in any of the rounds.
    """
    none = np.empty(0, np.int64)
    return np.unique(np.concatenate([none, *(one.looked_at.numpy() for one in records)]))


def by_prefix(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``{"a/b": value}`` as ``{"a": {"b": value}}``; without a prefix under ``""``."""
    parts: dict[str, dict[str, Any]] = {"": {}}
    for key, value in values.items():
        prefix, _, name = key.rpartition("/")
        parts.setdefault(prefix, {})[name] = value
    return parts
