"""What the method is trained on: pairs of views, with the landmarks found in both."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.sampling import CollateItems, Items, Key
from landmark_lab.plugin import build
from landmark_lab.report.blocks import Mark, Picture, Pictures, Section
from landmark_lab.report.context import Context
from landmark_lab.report.pictures import SPLITS, data_uri
from landmark_lab.report.sections.landmarks import marks
from landmark_lab.roles import Pair, Pairing
from landmark_lab.seeding import BatchDraw

_SHOWN = 6


def pairs(context: Context) -> Section | None:
    """Source and target of a few pairs that were not trained on."""
    if context.finder is None or context.stage.pairing is None:
        return None
    pairing = build(Pairing, context.stage.pairing, "pairing")
    drawn = _draw(context, pairing)
    if drawn is None:
        return None
    source, target = _images(drawn.source.image), _images(drawn.target.image)
    in_source, in_target = context.find(source), context.find(target)
    carried = None
    if drawn.warp is not None:
        carried = drawn.warp.to_target(torch.from_numpy(in_source).float()).double().numpy()
    groups = []
    for row in range(len(source)):
        expected = [] if carried is None else _expected(carried[row], in_target[row])
        views = {
            "Source": (source[row], marks(in_source[row], 3)),
            "Target": (target[row], [*expected, *marks(in_target[row], 3)]),
        }
        groups.append(
            [
                Picture(data_uri(image), f"{side} of pair {row + 1} with its landmarks", shown)
                for side, (image, shown) in views.items()
            ]
        )
    lead = f"Pairs of the pairing '{pairing.plugin_name}', without the colour changes of training."
    if carried is None:
        lead += " Dots: landmarks found in each image by itself."
    else:
        lead += (
            " Dots: landmarks found in each view by itself. Rings in the right one: where the "
            "known warp carries the left one's landmarks; a line joins each to its dot. The "
            "shorter the lines, the better."
        )
    return Section("pairs", "Training pairs", lead, [Pictures(groups, size="medium")])


def _draw(context: Context, pairing: Pairing) -> Pair | None:
    """Pairs of images at equal distances in the first split that has any."""
    for split in SPLITS:
        images = context.images(split)
        if not len(images):
            continue
        count = min(_SHOWN, len(images))
        items = Items(images, pairing.members, context.experiment.seed, None)
        chosen = np.linspace(0, len(images) - 1, count).round().astype(int).tolist()
        loaded = CollateItems(count)([items[Key(0, i, image)] for i, image in enumerate(chosen)])
        draw = BatchDraw.single(context.experiment.seed, count, purpose="pairs of the report")
        return pairing.pair(tuple(one.with_float_image() for one in loaded.members), draw)
    return None


def _images(batch: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in [0, 1] as (B, H, W, 3) uint8."""
    whole = (batch.clamp(0, 1) * 255).round().byte()
    image: NDArray[np.uint8] = whole.permute(0, 2, 3, 1).contiguous().numpy()
    return image


def _expected(carried: NDArray[np.floating], found: NDArray[np.floating]) -> list[Mark]:
    """Rings at the carried landmarks (K, 2), and lines to where they were found."""
    drawn = []
    for k, ((x, y), end) in enumerate(zip(carried.tolist(), found.tolist(), strict=True)):
        if max(abs(x), abs(y)) < 1.0:  # it lies on the picture
            drawn.append(Mark("ring", x, y, k, size=3.6))
            drawn.append(Mark("line", x, y, k, size=1.2, end=(end[0], end[1])))
    return drawn
