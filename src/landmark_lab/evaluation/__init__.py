"""Evaluation in two loops: ``export`` predictions to a file, then ``evaluate`` the file.

The protocols are plugins, one a file, in ``protocols/``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landmark_lab.errors import ConfigError
from landmark_lab.evaluation.predictions import export, load_predictions
from landmark_lab.plugin import parameters
from landmark_lab.roles import Protocol

if TYPE_CHECKING:
    from rich.table import Table


def evaluate(
    predictions: str | Path,
    protocols: Sequence[Protocol],
    untrained: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a file of predictions by several protocols.

    Args:
        predictions: what ``export`` wrote.
        protocols: the protocols; one may come several times with different settings.
        untrained: the same for the network before any training, for comparison.
        checkpoint: refuse predictions of another checkpoint than this file.
        data: refuse predictions of other data than this spec.

    Returns:
        Plain containers for ``results.json``: ``{"protocols": {name: score}}``, see
        ``Score.to_dict``. A protocol that comes once has its plain name; of several, the settings
        that differ from the defaults stand behind it: ``forward_nme(annotated=10)``.

    Raises:
        DataError: a file is unusable or stale, or lacks what a protocol needs.
        ConfigError: a protocol comes twice with the same settings.
    """
    found = load_predictions(predictions, checkpoint=checkpoint, data=data)
    compared = None if untrained is None else load_predictions(untrained, data=data)
    scores = {
        name: protocol.score(found, compared).to_dict()
        for name, protocol in zip(labels(protocols), protocols, strict=True)
    }
    return {"protocols": scores}


def labels(protocols: Sequence[Protocol]) -> list[str]:
    """What each protocol's result is called; see :func:`evaluate`.

    Raises:
        ConfigError: a protocol comes twice with the same settings.
    """
    times = Counter(protocol.plugin_name for protocol in protocols)
    names = [
        full_label(protocol) if times[protocol.plugin_name] > 1 else protocol.plugin_name
        for protocol in protocols
    ]
    for name, count in Counter(names).items():
        if count > 1:
            raise ConfigError(f"the protocol {name} is listed {count} times", where="evaluate")
    return names


def full_label(protocol: Protocol) -> str:
    """A protocol's name with the settings that differ from the defaults."""
    defaults = {
        name: list(p.default) if isinstance(p.default, tuple) else p.default
        for name, p in parameters(type(protocol)).items()
    }
    changed = [
        f"{key}={value}"
        for key, value in protocol.spec.items()
        if key != "name" and value != defaults[key]
    ]
    return protocol.plugin_name + (f"({', '.join(changed)})" if changed else "")


def table(results: Mapping[str, Any]) -> Table:
    """The results of :func:`evaluate` as a table for the terminal.

    A row for every protocol; below it one for each of its further values and of its references. A
    number after ± is the standard deviation over choices of annotated images.
    """
    from rich.markup import escape
    from rich.table import Table

    scores: Mapping[str, Any] = results["protocols"]
    printed = Table(title="Scores, with 95 % intervals over images", caption_justify="left")
    printed.add_column("protocol", overflow="fold")
    printed.add_column("value", justify="right", no_wrap=True)
    printed.add_column("interval", justify="right", no_wrap=True)
    for name, score in scores.items():
        about = f"{escape(name)}\n[dim]{escape(score['unit'])}[/dim]"
        printed.add_row(about, _value(score), _interval(score))
        for key, value in score["values"].items():
            printed.add_row(f"  {escape(key)}", _value(value), _interval(value))
        for reference, value in score["references"].items():
            if value is not None:
                compared = f"  compare: {reference.replace('_', ' ')}"
                printed.add_row(compared, _number(value), "", style="dim")
        printed.add_section()
    notes = [f"{name}: {note}" for name, score in scores.items() for note in score["notes"]]
    printed.caption = escape("\n".join(notes)) or None
    return printed


def _value(value: Mapping[str, Any]) -> str:
    """The number, with its standard deviation where it is a mean over repeats."""
    deviation = value.get("deviation")
    return _number(value["value"]) + ("" if deviation is None else f" ± {_number(deviation)}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def _interval(value: Mapping[str, Any]) -> str:
    return "" if value["low"] is None else f"{_number(value['low'])} – {_number(value['high'])}"


__all__ = ["evaluate", "export", "full_label", "labels", "load_predictions", "table"]
