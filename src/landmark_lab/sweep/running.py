"""Running a sweep here, and the table of its runs."""

import csv
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from landmark_lab.callbacks.csv_log import column
from landmark_lab.config import read
from landmark_lab.data.results import read_results
from landmark_lab.errors import LandmarkLabError, RunError
from landmark_lab.files import atomic
from landmark_lab.plugin import find
from landmark_lab.roles import Method
from landmark_lab.runs import CONFIG, in_use
from landmark_lab.sweep.file import Sweep, read_sweep
from landmark_lab.sweep.plan import Planned, plan

TABLE = "sweep.csv"
_RESULT_COLUMNS = ("number", "id", "status", "metric", "seconds", "run", "error")


@dataclass(frozen=True)
class Outcome:
    """What became of a planned run.

    Attributes:
        planned: the run.
        status: "finished", "failed", or "planned" for one that has not run.
        metric: the sweep's metric, or None.
        seconds: how long it took, or None.
        run: its folder, or None.
        error: why it failed, in one line.
    """

    planned: Planned
    status: Literal["planned", "finished", "failed"] = "planned"
    metric: float | None = None
    seconds: float | None = None
    run: Path | None = None
    error: str = ""


def sweep(
    path: Path,
    runs: Path,
    count: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    options: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> tuple[Sweep, list[Outcome]]:
    """Run a sweep here, one run after the other.

    Each run is a process of its own, with the command line that W&B's agent would use, so that a
    crash stops no other run. The table ``RUNS/NAME/sweep.csv`` is written after every run. Called
    again, finished runs are not repeated, interrupted ones are continued, failed ones tried again.

    Args:
        path: the sweep file.
        runs: the folder of all run folders; the sweep's lie in ``NAME/ID`` below it.
        count: how many combinations, see :func:`combinations`.
        seed: of the random search.
        overrides: settings of all runs, stronger than the file's.
        options: further options of ``landmark-lab train``.
        say: prints a line.

    Returns:
        The sweep, and the outcomes in the order of the plan.

    Raises:
        ConfigError: before the first run: the file, or a run that it plans, is wrong.
    """
    chosen = read_sweep(path)
    outcomes = [Outcome(planned) for planned in plan(chosen, count, seed, overrides)]
    folder = runs / chosen.name
    folder.mkdir(parents=True, exist_ok=True)
    for note in chosen.notes:
        say(note)
    with in_use(folder):
        before = _recorded(folder / TABLE)
        for i, outcome in enumerate(outcomes):
            planned = outcome.planned
            values = ", ".join(f"{key}={value}" for key, value in planned.values.items())
            title = f"[{planned.number}/{len(outcomes)}] {values}"
            if (known := before.get(planned.id)) is not None:
                outcomes[i] = replace(known, planned=planned)
                say(f"{title}: finished before, {chosen.metric} {known.metric:.4g}")
                continue
            say(title)
            outcomes[i] = _run(chosen, planned, folder, options, say)
            _write(folder / TABLE, outcomes)
        _write(folder / TABLE, outcomes)
    return chosen, outcomes


def ranked(chosen: Sweep, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes, the best first; runs without a metric last."""
    sign = 1 if chosen.goal == "minimize" else -1

    def rank(outcome: Outcome) -> tuple[bool, float]:
        return outcome.metric is None, sign * (outcome.metric or 0.0)

    return sorted(outcomes, key=rank)


def metric_of(run: Path, name: str, goal: Literal["minimize", "maximize"]) -> float:
    """The metric of a run: the score of a protocol, or a logged value of the weights that count.

    Of a method that keeps its best weights that is the best value, of any other one the last.

    Args:
        run: the run folder.
        name: of a protocol in ``results.json``, or of a column in the last stage's log.
        goal: which of the logged values is the best.

    Raises:
        RunError: the run has no such value.
    """
    results = run / "results.json"
    scores = read_results(results)["protocols"] if results.is_file() else {}
    if name in scores:
        return float(scores[name]["value"])
    stage = list(read(run / CONFIG).stages.values())[-1]
    values = column(run / "metrics" / f"{stage.name}.csv", name)
    if not values:
        raise RunError(f"has no value '{name}'", where=str(run), got=name, allowed=scores)
    if not find(Method, stage.method["name"]).keeps_best:
        return values[-1]
    return min(values) if goal == "minimize" else max(values)


def _run(
    chosen: Sweep,
    planned: Planned,
    folder: Path,
    options: Sequence[str],
    say: Callable[[str], None],
) -> Outcome:
    own = folder / planned.id
    command = [sys.executable, "-m", "landmark_lab.cli", "train", str(chosen.experiment)]
    command += [*planned.overrides, *options, "--runs", str(own)]
    command += ["--row", chosen.row] if chosen.row else []
    begun = _run_folder(own)
    command += ["--resume", str(begun)] if begun else []
    started = time.monotonic()
    last = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            say(f"    {line.rstrip()}")
            last = line.strip() or last
    seconds = round(time.monotonic() - started, 1)
    run = _run_folder(own)
    try:
        if process.returncode or run is None:
            raise RunError(last or f"exit code {process.returncode}")
        value = metric_of(run, chosen.metric, chosen.goal)
    except LandmarkLabError as error:
        return Outcome(planned, "failed", None, seconds, run, str(error))
    return Outcome(planned, "finished", value, seconds, run)


def _run_folder(folder: Path) -> Path | None:
    """The newest run below a folder, or None."""
    found = sorted(file.parent for file in folder.glob(f"**/{CONFIG}"))
    return found[-1] if found else None


def _write(path: Path, outcomes: Sequence[Outcome]) -> None:
    """The table of a sweep, the runs of earlier calls that are not planned now included."""
    rows = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as stream:
            rows = {row["id"]: row for row in csv.DictReader(stream)}
    for outcome in outcomes:
        planned = outcome.planned
        texts = {
            "number": str(planned.number),
            "id": planned.id,
            "status": outcome.status,
            "metric": "" if outcome.metric is None else repr(outcome.metric),
            "seconds": "" if outcome.seconds is None else repr(outcome.seconds),
            "run": "" if outcome.run is None else str(outcome.run),
            "error": outcome.error,
        }
        rows[planned.id] = texts | {key: str(value) for key, value in planned.values.items()}
    columns = dict.fromkeys([*_RESULT_COLUMNS, *itertools.chain(*rows.values())])
    with atomic(path) as file, file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*columns], restval="")
        writer.writeheader()
        writer.writerows(rows.values())


def _recorded(path: Path) -> dict[str, Outcome]:
    """The finished runs in a table, by id."""
    if not path.is_file():
        return {}
    found = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row.get("status") == "finished" and row.get("metric"):
                nothing = Planned(0, row["id"], {}, ())
                run = Path(row["run"]) if row["run"] else None
                seconds = float(row["seconds"]) if row["seconds"] else None
                found[row["id"]] = Outcome(nothing, "finished", float(row["metric"]), seconds, run)
    return found
