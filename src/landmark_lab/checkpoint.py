"""Checkpoints: what they carry besides weights, and how a trained method is loaded from one.

A checkpoint holds the specs of the method and of its data as plain containers, so that the method
can be built again without its experiment file or its training data.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import CheckpointIO

from landmark_lab import __version__
from landmark_lab.errors import CheckpointError
from landmark_lab.files import load_checkpoint, save_checkpoint
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData, Method

KEY = "landmark_lab"
FORMAT = 1


@dataclass(frozen=True)
class Card:
    """What a checkpoint says about itself.

    Attributes:
        method: the method's spec.
        data: the spec of the data it was trained on.
        size: side of its images in pixels.
        preprocess: how files became images, or None for data that draws its own.
        point_names: names of the data's annotated points.
        seed: the experiment's seed.
        stage: the stage of the experiment.
        version: of the laboratory.
        format: of this card.
    """

    method: dict[str, Any]
    data: dict[str, Any]
    size: int
    preprocess: dict[str, Any] | None
    point_names: list[str]
    seed: int
    stage: str
    version: str = __version__
    format: int = FORMAT


def card(method: Method, data: ImageData, seed: int, stage: str) -> Card:
    """The card of a method that is being trained."""
    preprocess = None if data.preprocess is None else asdict(data.preprocess)
    return Card(method.spec, data.spec, data.size, preprocess, list(data.point_names), seed, stage)


def read(path: str | Path) -> tuple[Card, dict[str, Any]]:
    """Read a checkpoint's card and content, executing nothing in it.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or not of this laboratory.
    """
    content = load_checkpoint(path)
    raw = content.get(KEY)
    if not isinstance(raw, Mapping) or "state_dict" not in content:
        raise CheckpointError("is not a checkpoint of this laboratory", where=str(path))
    if raw.get("format") != FORMAT:
        raise CheckpointError(
            f"has format {raw.get('format')!r}", where=str(path), allowed=f"format {FORMAT}"
        )
    try:
        described = Card(**raw)
    except TypeError as error:
        raise CheckpointError("has an incomplete card", where=str(path)) from error
    if not isinstance(content["state_dict"], Mapping):
        raise CheckpointError("holds no weights", where=str(path))
    return described, content


def load(path: str | Path) -> Method:
    """Build the method that a checkpoint holds, in evaluation mode on the CPU.

    Raises:
        CheckpointError: see :func:`read`, or the weights do not fit the method.
        ConfigError: the method's plugin is not installed.
    """
    described, content = read(path)
    method = build(Method, described.method, where=f"{path}: method")
    load_weights(method, content["state_dict"], path)
    return method.eval()


def load_weights(
    method: Method,
    state: Mapping[str, Any],
    path: str | Path,
    parts: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
) -> None:
    """Copy weights into a method.

    Args:
        method: where to.
        state: weights by name.
        path: where they come from, for messages.
        parts: only these parts (prefixes such as ``backbone``); all by default.
        without: but not these.

    Raises:
        CheckpointError: a part exists on neither side, or names or shapes differ.
    """

    def chosen(name: str) -> bool:
        wanted = not parts or any(_within(name, part) for part in parts)
        return wanted and not any(_within(name, part) for part in without)

    own = method.state_dict()
    for part in (*parts, *without):
        if not any(_within(name, part) for name in own):
            tops = {name.partition(".")[0] for name in own}
            raise CheckpointError(
                f"the method '{method.plugin_name}' has no part '{part}'",
                where=str(path),
                got=part,
                allowed=tops,
            )
    given = {name: value for name, value in state.items() if chosen(name)}
    expected = {name: value for name, value in own.items() if chosen(name)}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - given.keys())]
    problems += [f"{name} is unknown" for name in sorted(given.keys() - expected.keys())]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, not {tuple(value.shape)}"
        for name, value in expected.items()
        if name in given and given[name].shape != value.shape
    ]
    if problems:
        shown = ", ".join(problems[:3]) + (f" and {len(problems) - 3} more" * (len(problems) > 3))
        raise CheckpointError(
            f"its weights do not fit the method '{method.plugin_name}': {shown}",
            where=str(path),
            hint="load some parts only (start_from: parts, except), or choose the right method",
        )
    method.load_state_dict(given, strict=False)


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


class SafeCheckpointIO(CheckpointIO):
    """Lightning's door to checkpoint files: written atomically, read without executing anything."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        save_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_checkpoint(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
