"""The clusters of self-training: their descriptors, their patches, and which were merged.

D. Mallis, PhD thesis, University of Nottingham 2023,
chapters 5 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.rounds import RoundRecord, same_place
from landmark_lab.geometry.points import to_pixels
from landmark_lab.report import charts
from landmark_lab.report.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    More,
    Picture,
    Pictures,
    Section,
    Table,
    number,
    plural,
)
from landmark_lab.report.context import Context
from landmark_lab.report.pictures import data_uri
from landmark_lab.report.sections.rounds import first
from landmark_lab.seeding import seed_of

_DRAWN = 400  # descriptors of a t-SNE
_FEWEST = 4  # of which there is one: fewer have no neighbourhood to keep
_STEPS = 500  # of a t-SNE
_LARGEST = 12  # clusters that are shown
_PATCHES = 8  # of a cluster
_SIDE = 48  # pixels of a patch
_REACH = 0.2  # from the keypoint to the patch's edge, in half images
_EMPTY = 136  # grey


def clusters(context: Context) -> Section | None:
    """Descriptors before and after, sheets of patches, and what was merged."""
    blocks: list[Block] = []
    for stage, records in context.rounds.items():
        described = [
            record
            for record in records
            if record.descriptors is not None and len(record.sample) >= _FEWEST
        ]
        if len(described) > 1 and _largest(described[-1]):
            drawn = _descriptors(context, stage, described[0], described[-1])
            blocks.append(Charts(drawn, title=f"Descriptors of the stage {stage}"))
        if context.data is not None and _largest(records[-1]):
            blocks.append(_sheets(context, records[-1], stage))
        blocks += _merging(records)
    if not blocks:
        return None
    lead = (
        "A cluster should hold one part of the object: its patches alike, its descriptors together "
        "and apart from others. Patches of several parts mean too few clusters; one part in "
        "several clusters, too many."
    )
    return Section("clusters", "Clusters", lead, blocks)


def _largest(record: RoundRecord) -> list[int]:
    """The clusters with the most keypoints."""
    order = record.counts.argsort(descending=True, stable=True)[:_LARGEST].tolist()
    return [cluster for cluster in order if record.counts[cluster] > 0]


def _descriptors(
    context: Context, stage: str, before: RoundRecord, after: RoundRecord
) -> list[Chart]:
    """A t-SNE of the first and of the last round's descriptors.

    Both in the colours of the last round's clusters: a keypoint of the first round has that of the
    one that lies in its place at the end. The first round's descriptors may be those of the generic
    detector that training began with, of another length: so the caption says whose they are.
    """
    known = set(_largest(after))
    drawn = []
    for record, title in ((before, "Before"), (after, "After")):
        labels = after.table.labels
        if record is not after:
            row = same_place(record.table, after.table)
            labels = torch.where(row >= 0, labels[row.clamp(min=0)], -1)
        assert record.descriptors is not None
        count = min(len(record.sample), _DRAWN)
        some = torch.linspace(0, len(record.sample) - 1, count).round().long()
        chosen = labels[record.sample[some]].tolist()
        x, y = _tsne(record.descriptors[some], seed_of(context.experiment.seed, "t-SNE")).T
        start = first(context, stage)
        numbers = [start + label if label in known else None for label in chosen]
        points, pale = plural(len(chosen), "keypoint"), "pale: of others"
        if record is not after:
            pale = "pale: where none of these lies then"
        drawn.append(
            Chart(
                charts.scattered(x, y, numbers),
                f"{title}: round {record.number}",
                f"t-SNE of the descriptors of {points} in round {record.number}",
                f"{points}, {_described(context, stage, record)}; colours: the "
                f"{plural(len(known), 'largest cluster')} of round {after.number}; {pale}",
            )
        )
    return drawn


def _described(context: Context, stage: str, record: RoundRecord) -> str:
    """Whose descriptors those of a round are, and their length D."""
    assert record.descriptors is not None
    numbers = plural(record.descriptors.shape[1], "number")
    if record.number:
        return f"described by the network with {numbers}"
    detector = context.experiment.stages[stage].method.get("keypoints")
    if not isinstance(detector, Mapping):  # they came from another stage
        return f"described with {numbers}"
    return f"described by {detector['name']} with {numbers}"


def _tsne(descriptors: Tensor, seed: int) -> NDArray[np.float64]:
    """Places (N, 2) in the plane: descriptors (N, D) that are close stay so."""
    from sklearn.manifold import TSNE

    # So few points are as fast without its approximation, which needs all processors to itself.
    # Descriptors that are all alike, those of a collapse, have no principal axes to start from.
    spread = descriptors.shape[1] > 1 and bool(descriptors.std(0).max() > 1e-6)
    method = TSNE(
        method="exact",
        perplexity=min(30.0, (len(descriptors) - 1) / 3),
        init="pca" if spread else "random",
        max_iter=_STEPS,
        random_state=seed % 2**32,
    )
    return np.asarray(method.fit_transform(descriptors.numpy()), dtype=np.float64)


def _sheets(context: Context, record: RoundRecord, stage: str) -> Pictures:
    """Patches of the largest clusters, one strip each."""
    strips = []
    for cluster in _largest(record):
        rows = (record.table.labels == cluster).nonzero()[:, 0]
        places = torch.linspace(0, len(rows) - 1, min(_PATCHES, len(rows))).round().long()
        strip = np.full((_SIDE, _SIDE * _PATCHES, 3), _EMPTY, np.uint8)
        for i, row in enumerate(rows[places].tolist()):
            image = context.image("train", int(record.table.image[row]))
            patch = _patch(image, record.table.points[row])
            strip[:, i * _SIDE : (i + 1) * _SIDE] = patch
        label = f"Cluster {cluster}: {plural(int(record.counts[cluster]), 'keypoint')}"
        source = data_uri(strip)
        strips.append([Picture(source, f"Patches of cluster {cluster}", (), label, _PATCHES)])
    title = f"The largest clusters of the stage {stage}, round {record.number}"
    return Pictures(strips, size="wide", title=title)


def _patch(image: NDArray[np.uint8], point: Tensor) -> NDArray[np.uint8]:
    """What lies around a point of an image, as a small square."""
    size = image.shape[0]
    x, y = to_pixels(point, size, size).tolist()
    reach = max(round(_REACH * size), 1)
    patch = cv2.getRectSubPix(image, (reach, reach), (x, y))
    return cv2.resize(patch, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _merging(records: list[RoundRecord]) -> list[Block]:
    """How many clusters were left after each round, and which went into which."""
    if "merges" not in records[-1].kept:
        return []
    merges = records[-1].kept["merges"]
    left = [int((record.counts > 0).sum()) for record in records]
    numbers = np.array([record.number for record in records], dtype=np.float64)
    line = charts.Line(numbers, np.array(left, dtype=np.float64), dots=True)
    said = ", ".join(map(str, left))
    chart = Chart(
        charts.lines([line], "round", small=True),
        "Clusters left",
        f"Clusters left by round: {said}",
    )
    rows = [
        [
            Cell(f"{merged:.0f}"),
            Cell(f"{into:.0f}"),
            Cell(number(100 * share, " %")),
            Cell(f"{at:.0f}"),
        ]
        for merged, into, share, at in merges.tolist()
    ]
    blocks: list[Block] = [Charts([chart], "small", "Merging")]
    if rows:
        table = Table(["#Cluster", "#Went into", "#Overlap", "#Round"], rows)
        blocks.append(More(f"The history of {plural(len(rows), 'merging')}", [table]))
    return blocks
