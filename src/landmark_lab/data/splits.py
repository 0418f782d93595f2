"""Drawing training, validation and test splits that share no individual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from landmark_lab.errors import DataError
from landmark_lab.seeding import seed_of


def draw_splits(groups: Sequence[str], fractions: Mapping[str, float], seed: int) -> list[str]:
    """Give every item to a split, items of one group to the same.

    Which group comes first is a function of (seed, its name) alone, so that files may be added or
    reordered with little change.

    Args:
        groups: the group of each item, e.g. the individual in an image.
        fractions: part of the items for each split but "train", which gets the rest; a split with
            a fraction above 0 gets at least one group.
        seed: of the draw.

    Returns:
        The split of each item.

    Raises:
        DataError: there are fewer groups than splits.
    """
    counts = Counter(groups)
    wanted = [name for name, fraction in fractions.items() if fraction > 0]
    if len(counts) <= len(wanted):
        splits = len(wanted) + 1
        raise DataError(f"{len(counts)} groups cannot fill {splits} splits without sharing one")
    order = sorted(counts, key=lambda group: seed_of(seed, f"split {group}"))
    chosen = dict.fromkeys(order, "train")
    for position, name in enumerate(wanted):
        target, taken = fractions[name] * len(groups), 0
        others = len(wanted) - position  # each gets a group too
        while len(order) > others and (not taken or taken + counts[order[0]] / 2 <= target):
            taken += counts[order[0]]
            chosen[order.pop(0)] = name
    return [chosen[group] for group in groups]
