"""What ``evaluate`` and ``compare`` read: run folders or files of predictions, and protocols."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landmark_lab.errors import ConfigError, RunError

if TYPE_CHECKING:
    from landmark_lab.roles import Protocol

RESULTS = "results.json"


@dataclass(frozen=True)
class Scored:
    """Predictions that protocols can score.

    Attributes:
        path: the run folder or the file, as it was given.
        predictions: the file of predictions.
        untrained: the same of the network before any training, if there is one.
        checkpoint: what the predictions must be of, if it is still there.
        data: the data that they must be of, if that is known.
        evaluate: specs of the run's own protocols.
        results: the run's results, of a run folder; they need not exist.
    """

    path: Path
    predictions: Path
    untrained: Path | None = None
    checkpoint: Path | None = None
    data: dict[str, Any] | None = None
    evaluate: tuple[dict[str, Any], ...] = ()
    results: Path | None = None


def scored(path: Path) -> Scored:
    """The predictions of a run folder, or a file of predictions.

    Raises:
        RunError: it is neither, or the run has no predictions yet.
        ConfigError: the run's configuration is damaged.
    """
    if path.is_file():
        return Scored(path, path)

    from landmark_lab.runs import recorded

    experiment = recorded(path)
    predictions = path / "predictions" / "best.npz"
    if not predictions.is_file():
        raise RunError(
            "the run has no predictions yet",
            where=str(path),
            allowed=f"a run that was evaluated, with {predictions.relative_to(path)}",
            hint=f"landmark-lab train --resume {path}",
        )
    untrained = predictions.with_name("untrained.npz")
    *_, (name, stage) = experiment.stages.items()
    saved = [path / "checkpoints" / name / f"{kind}.ckpt" for kind in ("best", "done")]
    return Scored(
        path,
        predictions,
        untrained if untrained.is_file() else None,
        next((file for file in saved if file.is_file()), None),
        stage.data,
        experiment.evaluate,
        path / RESULTS,
    )


def protocols(given: Sequence[str], own: Sequence[dict[str, Any]], where: str) -> list[Protocol]:
    """The protocols that were given, or else a run's own.

    Args:
        given: texts ``NAME[,key=value]...``.
        own: specs of the run's protocols.
        where: the run or file, for messages.

    Raises:
        ConfigError: there are none, or one is wrong.
    """
    from landmark_lab.plugin import available, build
    from landmark_lab.roles import Protocol

    specs = [parse_protocol(text) for text in given] or list(own)
    if not specs:
        raise ConfigError(
            "by which protocol?",
            where=where,
            allowed=available(Protocol),
            hint="for example: forward_nme,annotated=10",
        )
    return [build(Protocol, spec, spec["name"]) for spec in specs]


def round_files(found: Scored, chosen: Sequence[Protocol]) -> dict[str, list[Path]]:
    """The files of the rounds of a run, by its stages.

    Args:
        found: the run.
        chosen: by which they are to be scored.

    Raises:
        RunError: there are none.
        ConfigError: none of the protocols is about keypoints.
    """
    from landmark_lab.evaluation.keypoint_scores import KeypointProtocol
    from landmark_lab.plugin import available
    from landmark_lab.roles import Protocol

    about = [name for name, cls in available(Protocol).items() if issubclass(cls, KeypointProtocol)]
    if not any(isinstance(protocol, KeypointProtocol) for protocol in chosen):
        raise ConfigError(
            "none of the protocols is about keypoints", where="--rounds", allowed=about
        )
    stages: dict[str, list[Path]] = {}
    for file in sorted(found.path.glob("rounds/*/*.npz")):
        stages.setdefault(file.parent.name, []).append(file)
    if not stages:
        raise RunError(
            "no rounds were written down", where=str(found.path), allowed="a run of self-training"
        )
    return stages


def parse_protocol(text: str) -> dict[str, Any]:
    """The spec of a protocol that is written ``NAME[,key=value]...``; values are YAML.

    Raises:
        ConfigError: it has another form.
    """
    from landmark_lab.config import parse_override

    # A comma inside a value is not followed by a key.
    name, *settings = re.split(r",(?=\s*\w+\s*=)", text)
    if not re.fullmatch(r"\w+", name):
        raise ConfigError(
            "is not a protocol",
            where=f"'{text}'",
            allowed="NAME[,key=value]..., for example forward_nme,annotated=10",
        )
    spec: dict[str, Any] = {"name": name}
    for setting in settings:
        keys, value = parse_override(setting.strip())
        spec[".".join(keys)] = value
    return spec
