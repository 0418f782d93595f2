"""Which images are matched: fixed choices, the same for every method.

A choice is a function of a seed, the split and the positions of its images: an image's place in the
order does not depend on how many images follow it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.sampling import Images
from landmark_lab.errors import DataError
from landmark_lab.roles import Split
from landmark_lab.seeding import rng

Positions = NDArray[np.int64]


def shuffled(images: Images, split: Split, seed: int, annotated: bool) -> Positions:
    """The positions of a split's images in random order.

    Args:
        images: of the split.
        split: its name.
        seed: of the order.
        annotated: leave out images of which no point is annotated.
    """
    order = rng(seed, f"matched images {split}").random(len(images)).argsort(kind="stable")
    if annotated and images.annotated is not None:
        order = order[images.annotated[order]]
    return order


def some_images(images: Images, count: int, split: Split, seed: int, annotated: bool) -> Positions:
    """So many images (M,), or all there are, in the order of their positions."""
    return np.sort(shuffled(images, split, seed, annotated)[:count])


def strangers(images: Images, count: int, split: Split, seed: int) -> NDArray[np.int64]:
    """Pairs of annotated images of different individuals.

    An image is the source of at most one pair. Its target is the next image, in random order, of
    another individual; where individuals are not known, the next image.

    Args:
        images: of the split.
        count: how many pairs; fewer if there are fewer annotated images.
        split: its name.
        seed: of the order.

    Returns:
        (M, 2) positions of source and target, the sources increasing.

    Raises:
        DataError: an image has no stranger among the others.
    """
    order = shuffled(images, split, seed, annotated=True)
    who = np.arange(len(images)) if images.identity is None else images.identity
    pairs = []
    for place, source in enumerate(order[:count].tolist()):
        others = np.roll(order, -place)
        targets = others[who[others] != who[source]]
        if len(targets) == 0:
            raise DataError(
                f"image {source} of the split '{split}' cannot be matched with another "
                f"individual: there is none among its {len(order)} annotated images",
                hint="'kind: same' matches two warps of one image",
            )
        pairs.append((source, int(targets[0])))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)
