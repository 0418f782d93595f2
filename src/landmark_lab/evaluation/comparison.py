"""Is one method better than another? Two files of predictions, scored on the same images.

Both methods must have been asked the same question: the same test images with the same annotation,
the same protocol with the same settings and version. What may differ is everything about the
method, and whatever of the data's settings leaves the images and points as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from landmark_lab.config import differences
from landmark_lab.data.results import Predictions, Score
from landmark_lab.errors import DataError
from landmark_lab.evaluation.common import nan_mean
from landmark_lab.metrics.paired import paired_difference
from landmark_lab.roles import Protocol


@dataclass(frozen=True)
class Comparison:
    """Two methods under one protocol.

    Attributes:
        first, second: the protocol's value for each, over the images that count for both.
        difference: the first minus the second.
        low, high: bootstrap interval of the difference over these images.
        first_better: share of the resamples in which the first is better; a tie counts half.
        unit: of the values.
        higher_is_better: whether a larger value is the better one.
        images: number of images that count for both.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    first_better: float
    unit: str
    higher_is_better: bool
    images: int


def compare(
    first: Predictions,
    second: Predictions,
    protocol: Protocol,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two methods by a paired bootstrap over the test images.

    Args:
        first, second: what the methods found.
        protocol: by which both are scored.
        resamples: of the images.
        seed: of the resamples.

    Raises:
        DataError: the two were not made on the same images, or not measured alike, or lack
            something that the protocol needs.
    """
    scores = protocol.score(first), protocol.score(second)
    check_comparable(first, second, scores)
    mine, theirs = scores[0].per_image, scores[1].per_image
    if mine is None or theirs is None:
        raise DataError(
            f"'{protocol.plugin_name}' is no mean over images, so two runs cannot be compared in "
            "pairs of images by it",
            where=second.source,
            hint="look at the two intervals: landmark-lab evaluate",
        )
    both = ~np.isnan(mine + theirs)
    if not both.any():
        raise DataError(f"no image counts for both it and {first.source}", where=second.source)
    found = paired_difference(mine, theirs, resamples, seed)
    higher = scores[0].higher_is_better
    return Comparison(
        nan_mean(mine[both]),
        nan_mean(theirs[both]),
        found.difference,
        found.low,
        found.high,
        1 - found.first_lower if higher else found.first_lower,
        scores[0].unit,
        higher,
        found.images,
    )


def check_comparable(first: Predictions, second: Predictions, scores: tuple[Score, Score]) -> None:
    """Refuse to compare scores of different images, or scores that were not measured alike.

    Raises:
        DataError: the data, the images, their annotation or the protocol's settings differ.
    """
    mine, theirs = (score.settings for score in scores)
    split = mine.get("split", "test")
    _check_images(first, second, str(split))
    changed = differences(mine, theirs)
    if changed:
        raise DataError(
            f"is not measured like {first.source} by '{scores[0].protocol}' "
            f"({', '.join(changed[:5])})",
            where=second.source,
        )


def check_version(results: Mapping[str, Any], label: str, protocol: Protocol, where: str) -> None:
    """Refuse to go on with results of another version of a protocol.

    Args:
        results: the content of a ``results.json``.
        label: what the protocol is called there.
        protocol: the protocol as it is now.
        where: the file, for the message.

    Raises:
        DataError: the results are of another version.
    """
    recorded = results.get("protocols", {}).get(label, {}).get("version", protocol.version)
    if recorded != protocol.version:
        raise DataError(
            f"'{label}' was scored by version {recorded} of the protocol; this is version "
            f"{protocol.version}, which may give another number",
            where=where,
            hint="score the run again: landmark-lab evaluate RUN --merge",
        )


def _check_images(first: Predictions, second: Predictions, split: str) -> None:
    """Same data set, same images, same annotation; other settings of the data may differ."""
    mine, theirs = first.provenance, second.provenance
    changed = differences(mine.data, theirs.data)
    if mine.data.get("name") != theirs.data.get("name"):
        raise DataError(
            f"was made on other data than {first.source} ({', '.join(changed[:3])})",
            where=second.source,
        )
    one, other = first.split(split), second.split(split)
    if not np.array_equal(one.index, other.index):
        raise DataError(
            f"holds other images of the split '{split}' than {first.source} "
            f"({len(other)} and {len(one)})",
            where=second.source,
        )
    reason = f" ({', '.join(changed[:3])})" if changed else ""
    for name in ("points", "visible", "box"):
        if not _same(getattr(one, name), getattr(other, name)):
            raise DataError(
                f"has other annotation ({name}) of the split '{split}' than {first.source}{reason}",
                where=second.source,
                hint="other images, another annotation file, or images that were cut otherwise",
            )
    if changed and one.points is None:
        raise DataError(
            f"was made on other data than {first.source}{reason}",
            where=second.source,
            hint="without annotated points nothing shows that the images are the same",
        )


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and np.allclose(one, other, atol=1e-4, equal_nan=True)
