"""What was run, and how to run it again."""

import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from landmark_lab.config import Stage, to_yaml
from landmark_lab.report.blocks import Block, Cell, Code, Facts, More, Section, Table, Text, plural
from landmark_lab.report.context import Context


def run(context: Context) -> Section:
    """The command, the configuration, the versions, the machine, the dates."""
    experiment = context.experiment
    configuration = context.run / "config.yaml"
    blocks: list[Block] = [
        Code(f"landmark-lab train {shlex.quote(str(configuration))}", "The same run again"),
    ]
    started, *continued = context.commands or [""]
    if started:
        blocks.append(Code(_command(started), "The command it was started with"))
    if continued:
        blocks.append(Code("\n".join(map(_command, continued)), "Continued with"))
    blocks += [Facts([*_facts(context)]), _stages(context)]
    git = context.environment.get("git")
    if git and git["dirty"]:
        blocks.append(
            Text(
                "The source code had changes that were not committed: the commit alone does not "
                "give this run again.",
                "warn",
            )
        )
    libraries = context.environment.get("libraries", {})
    if libraries:
        blocks.append(More("Versions of the libraries", [Facts([*libraries.items()])]))
    whole = to_yaml(experiment.to_mapping())
    blocks.append(More("The whole configuration, every default filled in", [Code(whole)]))
    lead = "Everything is a function of the configuration and the seed."
    return Section("run", "What was run", lead, blocks)


def _command(written: str) -> str:
    """The command as a user types it, however Python was started."""
    words = shlex.split(written)
    return shlex.join(["landmark-lab", *words[1:]]) if words else ""


def _facts(context: Context) -> Iterator[tuple[str, str]]:
    experiment, machine = context.experiment, context.environment
    yield "Run folder", str(context.run.resolve())
    yield "Seed", str(experiment.seed)
    if context.predictions is not None:
        splits = context.predictions.splits.items()
        seen = ", ".join(f"{len(split):,} {name}" for name, split in splits)
        limits = context.predictions.provenance.limits
        yield "Images evaluated", seen + (f" (limited: {', '.join(limits)})" if limits else "")
    yield from _times(context)
    if not machine:
        return
    devices = ", ".join(machine.get("cuda_devices") or ()) or "no GPU"
    yield "Machine", f"{plural(machine['processors'], 'processor')}, {devices}"
    yield "System", machine["platform"]
    libraries = machine.get("libraries", {})
    main = [f"landmark-lab {machine['landmark_lab']}", f"Python {machine['python']}"]
    main += [f"{name} {libraries[name]}" for name in ("torch",) if name in libraries]
    yield "Versions", ", ".join(main)
    git = machine.get("git")
    if git:
        yield "Source code", f"commit {git['commit'][:12]}" + (", changed" if git["dirty"] else "")


def _times(context: Context) -> Iterator[tuple[str, str]]:
    """When it started, and how long until its predictions were written, interruptions included."""
    text = context.environment.get("started")
    started = None if text is None else datetime.fromisoformat(text)
    if started is not None:
        yield "Started", f"{started:%Y-%m-%d %H:%M} UTC"
    if context.predictions is None:
        return
    evaluated = datetime.fromisoformat(context.predictions.provenance.date)
    yield "Evaluated", f"{evaluated:%Y-%m-%d %H:%M} UTC"
    if started is not None:
        minutes, seconds = divmod(round((evaluated - started).total_seconds()), 60)
        hours, minutes = divmod(minutes, 60)
        yield "From start to evaluation", f"{hours} h {minutes} min {seconds} s"


def _stages(context: Context) -> Table:
    rows = []
    for name, stage in context.experiment.stages.items():
        last = max((steps[-1] for steps, _ in context.logs.get(name, {}).values()), default=None)
        logged = "not started" if last is None else f"at step {last + 1:.0f}"
        state = Cell("finished", "good") if context.done(name) else Cell(logged, "warn")
        cells = [Cell(name), state, *(Cell(text) for text in _stage(stage))]
        rows.append(cells)
    columns = ("Stage", "State", "Method", "Data", "Pairing", "Training", "Starts from")
    return Table(columns, rows, "The stages")


def _stage(stage: Stage) -> Iterator[str]:
    method = stage.method
    parts = [_short(method, "landmarks", "weights")]
    for part in ("backbone", "optimiser"):
        if isinstance(method.get(part), Mapping):
            parts.append(_short(method[part], "width", "lr"))
    yield "; ".join(parts)
    preprocess = stage.data.get("preprocess") or {}
    size = preprocess.get("size") or stage.data.get("size")
    root = stage.data.get("root")
    place = f" {Path(root).name}" if root else ""
    yield f"{stage.data['name']}{place}" + (f", {size} px" if size else "")
    yield "" if stage.pairing is None else _short(stage.pairing)
    limits = {"max_steps": "steps", "max_epochs": "epochs"}
    length = [
        f"{stage.trainer[key]:,} {noun}"
        for key, noun in limits.items()
        if stage.trainer.get(key) not in (None, -1)
    ]
    batch = stage.loader.get("batch_size")
    yield ", ".join([*length, *([f"batch {batch}"] if batch else [])])
    start = stage.start_from or {}
    source = start.get("stage") or start.get("checkpoint")
    parts = [*start.get("parts", ())]
    yield f"{source}" + (f" ({', '.join(parts)})" if parts else "") if source else "nothing"


def _short(spec: Mapping[str, Any], *keys: str) -> str:
    """A plugin's name with a few of its settings."""
    shown = []
    for key in keys:
        value = spec.get(key)
        if isinstance(value, Mapping):
            shown.append(", ".join(f"{name} {weight:g}" for name, weight in value.items()))
        elif value is not None:
            shown.append(f"{key} {value}")
    return str(spec["name"]) + (f" ({'; '.join(shown)})" if shown else "")
