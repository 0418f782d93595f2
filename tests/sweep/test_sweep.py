"""Sweep files, what they plan, and running them here."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from landmark_lab.cli.sweep import comparison
from landmark_lab.errors import ConfigError, RunError
from landmark_lab.files import read_json
from landmark_lab.plugin import available, discover
from landmark_lab.roles import Method
from landmark_lab.sweep import running
from landmark_lab.sweep.file import Sweep, read_sweep
from landmark_lab.sweep.plan import Planned, combinations, plan
from landmark_lab.sweep.running import TABLE, Outcome, metric_of, ranked, sweep

ROOT = Path(__file__).parents[2]
PROBES = {"virtual_points", "nearest"}
FILES = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
EXPERIMENT = """
data: {name: toy_faces, size: 32, train: 8, val: 8, test: 8}
pairing: synthetic
loader: {batch_size: 4}
method: {name: factorized, landmarks: 3, schedule: constant, backbone: {name: local, width: 8}}
trainer: {max_epochs: 1, accelerator: cpu, log_every_n_steps: 1}
rows: {big: {set: {method.landmarks: 6}}}
"""
SWEEP: dict[str, Any] = {
    "program": "landmark-lab",
    "command": ["landmark-lab", "train", "small.yaml", "--row", "big", "${args_no_hyphens}"],
    "method": "grid",
    "metric": {"name": "val/criterion", "goal": "minimize"},
    "parameters": {
        "method.landmarks": {"values": [3, 4]},
        "method.optimiser.lr": {"values": [0.1, 0.01]},
    },
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a sweep file with changes, beside its experiment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(EXPERIMENT)

    def inner(**changes: Any) -> Path:
        path = tmp_path / "tune.yaml"
        path.write_text(yaml.safe_dump({**SWEEP, **changes}))
        return path

    return inner


# --- the file ------------------------------------------------------------------------------------


def test_a_sweep_file_is_read(write: Callable[..., Path]) -> None:
    found = read_sweep(write(early_terminate={"type": "hyperband"}, run_cap=3))
    assert (found.name, found.method, found.metric, found.goal) == (
        "tune",
        "grid",
        "val/criterion",
        "minimize",
    )
    assert (found.experiment, found.row, found.overrides, found.cap) == (
        Path("small.yaml"),
        "big",
        (),
        3,
    )
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metod": "grid"}, "metod: unknown key.*did you mean 'method'"),
        ({"method": "bayes"}, "method: 'bayes' is only run by W&B's server.*method: random"),
        ({"method": "randm"}, "no method 'randm'.*did you mean 'random'"),
        ({"metric": None}, "metric: a mapping is needed"),
        ({"metric": {"goal": "minimize"}}, r"metric\.name: which logged value"),
        (
            {"metric": {"name": "val/loss", "goal": "minimise"}},
            r"metric\.goal.*did you mean 'minimize'",
        ),
        ({"run_cap": 0}, "run_cap: a whole number"),
        ({"command": ["python", "x.py"]}, "command: is not a command that trains"),
        ({"command": ["landmark-lab", "train", "a.yaml"]}, "not passed on"),
        ({"command": ["landmark-lab", "train", "${args}"]}, "one experiment file is needed"),
        ({"command": ["landmark-lab", "train", "a", "b", "${args}"]}, "one experiment file"),
        ({"parameters": {}}, "parameters: there is nothing to vary"),
        ({"parameters": {"seed": {}}}, r"parameters\.seed: says nothing to choose from"),
        ({"parameters": {"seed": {"values": []}}}, r"seed\.values: a list is needed"),
        ({"parameters": {"seed": {"valus": [1], "value": 1}}}, "did you mean 'value'"),
        ({"parameters": {"seed": {"min": 0.0, "max": 1.0}}}, "a grid needs a finite number"),
        (
            {"parameters": {"a": {"distribution": "unifrm", "min": 0, "max": 1}}},
            r"a\.distribution: there is no distribution.*did you mean 'uniform'",
        ),
        (
            {"parameters": {"a": {"distribution": "uniform", "min": "1e-3", "max": 1}}},
            r"a\.min: a number is needed, not '1e-3'.*write 0\.001",
        ),
        (
            {"parameters": {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
            r"a\.min: must be above 0",
        ),
        ({"parameters": {"a": {"min": 3, "max": 1}}}, "min 3 is above max 1"),
        (
            {"parameters": {"a": {"distribution": "int_uniform", "min": 0.5, "max": 1}}},
            "whole numbers are needed",
        ),
        (
            {"parameters": {"a": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}}},
            r"a\.q: must be above 0",
        ),
        (
            {"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.4]}}},
            "their sum must be 1",
        ),
    ],
)
def test_mistakes_in_a_sweep_file(
    write: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_sweep(write(**changes))


def test_a_missing_or_broken_file(tmp_path: Path, write: Callable[..., Path]) -> None:
    write()
    with pytest.raises(ConfigError, match=r"no such sweep file; did you mean '.*tune\.yaml'"):
        read_sweep(tmp_path / "tun.yaml")
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="is not a readable YAML file"):
        read_sweep(tmp_path / "x.yaml")


# --- what is tried -------------------------------------------------------------------------------


def test_a_grid_takes_every_combination_in_the_order_of_the_file(
    write: Callable[..., Path],
) -> None:
    parameters = {
        "a": {"values": [1, 2]},
        "b": {"parameters": {"c": {"min": 0, "max": 1}}},
        "d": {"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 0.1},
        "e": {"value": "x"},
    }
    found = combinations(read_sweep(write(parameters=parameters)), None, 0)
    assert found[0] == {"a": 1, "b.c": 0, "d": 0.1, "e": "x"}
    assert found[1] == {"a": 1, "b.c": 0, "d": 0.2, "e": "x"}
    assert len(found) == 2 * 2 * 3
    assert len({tuple(values.items()) for values in found}) == len(found)
    assert combinations(read_sweep(write(parameters=parameters)), 5, 0) == found[:5]


def drawn(write: Callable[..., Path], law: dict[str, Any], count: int = 2000) -> list[Any]:
    found = read_sweep(write(method="random", parameters={"x": law}))
    return [values["x"] for values in combinations(found, count, seed=1)]


@pytest.mark.parametrize(
    ("law", "distribution"),
    [
        ({"min": 1.0, "max": 3.0}, stats.uniform(1, 2)),
        ({"distribution": "log_uniform", "min": -2, "max": 1}, stats.loguniform(np.exp(-2), np.e)),
        (
            {"distribution": "log_uniform_values", "min": 0.01, "max": 10},
            stats.loguniform(0.01, 10),
        ),
        (
            {"distribution": "inv_log_uniform", "min": -1, "max": 2},
            stats.loguniform(np.exp(-2), np.e),
        ),
        (
            {"distribution": "inv_log_uniform_values", "min": 0.1, "max": 10},
            stats.loguniform(0.1, 10),
        ),
        ({"distribution": "normal", "mu": 1, "sigma": 2}, stats.norm(1, 2)),
        ({"distribution": "log_normal", "mu": 0.5, "sigma": 0.3}, stats.lognorm(0.3, 0, np.e**0.5)),
        ({"distribution": "beta", "a": 2, "b": 3}, stats.beta(2, 3)),
    ],
)
def test_a_continuous_distribution(
    write: Callable[..., Path], law: dict[str, Any], distribution: Any
) -> None:
    values = drawn(write, law)
    assert stats.kstest(values, distribution.cdf).pvalue > 1e-3
    # Rounded to multiples it is the same distribution.
    name = law.get("distribution", "uniform")
    if not name.startswith("inv_"):
        rounded = drawn(write, {**law, "distribution": f"q_{name}", "q": 0.25})
        expected = [round(value / 0.25) * 0.25 for value in values]
        assert rounded == pytest.approx(expected)


def test_choices_and_their_probabilities(write: Callable[..., Path]) -> None:
    counts = [drawn(write, {"values": [[1, 2], "b"]}).count([1, 2])]
    counts.append(drawn(write, {"values": ["a", "b"], "probabilities": [0.5, 0.5]}).count("a"))
    assert all(abs(count - 1000) < 5 * 22.4 for count in counts)  # standard deviation 22.4
    rare = drawn(write, {"values": ["a", "b"], "probabilities": [0.0, 1.0]})
    assert set(rare) == {"b"}
    whole = drawn(write, {"min": 2, "max": 4})
    assert {type(value) for value in whole} == {int}
    assert stats.chisquare(np.unique(whole, return_counts=True)[1]).pvalue > 1e-3


def test_a_random_search_is_a_function_of_its_seed(write: Callable[..., Path]) -> None:
    parameters = {"a": {"min": 0.0, "max": 1.0}, "b": {"min": 0.0, "max": 1.0}}
    found = read_sweep(write(method="random", parameters=parameters))
    first = combinations(found, 4, 0)
    assert combinations(found, 9, 0)[:4] == first
    assert combinations(found, 4, 1) != first
    assert all(values["a"] != values["b"] for values in first)
    # A further parameter leaves the others as they are.
    more = read_sweep(write(method="random", parameters={"c": {"value": 1}, **parameters}))
    assert [{k: v for k, v in d.items() if k != "c"} for d in combinations(more, 4, 0)] == first
    with pytest.raises(ConfigError, match=r"run_cap: a random search needs a number of runs"):
        combinations(found, None, 0)


# --- the plan ------------------------------------------------------------------------------------


def test_every_run_is_checked_before_the_first(write: Callable[..., Path]) -> None:
    planned = plan(read_sweep(write()))
    assert [one.number for one in planned] == [1, 2, 3, 4]
    assert len({one.id for one in planned}) == 4
    assert planned[0].overrides == ("method.landmarks=3", "method.optimiser.lr=0.1")
    bad = {"method.optimser.lr": {"values": [0.1]}}
    with pytest.raises(ConfigError, match=r"method\.optimser.*did you mean 'optimiser'"):
        plan(read_sweep(write(parameters=bad)))
    bad = {"method.landmarks": {"values": [3, "many"]}}
    with pytest.raises(ConfigError, match=r"method\.landmarks.*'many'"):
        plan(read_sweep(write(parameters=bad)))
    with pytest.raises(ConfigError, match=r"no run will have a 'forward_nme'"):
        plan(read_sweep(write(metric={"name": "forward_nme"})))
    assert plan(read_sweep(write(metric={"name": "forward_nme"})), 1, 0, ["evaluate=[forward_nme]"])


def test_a_combination_that_comes_twice_is_planned_once(write: Callable[..., Path]) -> None:
    parameters = {"method.landmarks": {"values": [3, 4]}}
    found = plan(read_sweep(write(method="random", parameters=parameters)), 8)
    assert sorted(one.values["method.landmarks"] for one in found) == [3, 4]
    assert [one.number for one in found] == [1, 2]
    # How a run is logged does not make it another one.
    logged = plan(read_sweep(write()), 1, 0, ["log.wandb.mode=offline"])
    assert logged[0].id == plan(read_sweep(write()), 1)[0].id
    assert plan(read_sweep(write()), 1, 0, ["seed=3"])[0].id != logged[0].id


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_sweeps_of_the_laboratory_can_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = read_sweep(path)
    assert plan(found, 2)
    assert found.name == path.stem
    # Probes learn from annotated points and are judged by them; all others without labels.
    assert found.metric == ("nme" if path.stem in PROBES else "val/criterion")


def test_every_method_has_a_sweep() -> None:
    discover()
    built_in = {n for n, c in available(Method).items() if c.__module__.startswith("landmark_lab.")}
    # These follow another method, and are swept with it.
    second = {"landmark_detector", "merging_detector"}
    assert built_in - second == {path.stem for path in FILES} - {"factorized_faces"}


def agent_command(path: Path, values: dict[str, Any]) -> list[str]:
    """The command line of W&B's agent, built by its own code."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    config = utils.load_sweep_config(str(path))
    arguments = {key: {"value": value} for key, value in values.items()}
    macros = utils.create_sweep_command_args({"args": arguments})
    words: list[str] = []
    for word in utils.create_sweep_command(config["command"]):
        is_macro = word.startswith("${") and word.endswith("}")
        words += macros[word[2:-1]] if is_macro else [word]
    return words


@pytest.mark.parametrize("macro", ["${args}", "${args_no_hyphens}"])
def test_an_agent_runs_what_is_planned_here(write: Callable[..., Path], macro: str) -> None:
    path = write(command=["landmark-lab", "train", "small.yaml", "seed=2", macro])
    planned = plan(read_sweep(path), 1)[0]
    words = agent_command(path, dict(planned.values))
    assert words[:3] == ["landmark-lab", "train", "small.yaml"]
    assert [word.removeprefix("--") for word in words[3:]] == list(planned.overrides)


def test_the_command_of_an_agent_trains_and_logs_to_its_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    path = ROOT / "experiments" / "sweeps" / "factorized.yaml"
    command = agent_command(path, combinations(read_sweep(path), 1, 0)[0])
    assert command[0] == "landmark-lab"
    quick = ["trainer.max_epochs=1", "data.size=32", "data.train=8", "data.val=8", "data.test=8"]
    quick += ["loader.batch_size=4", "loader.workers=0", "trainer.accelerator=cpu", "evaluate=[]"]
    quick += ["method.backbone.width=8", "method.backbone.depth=1", "method.landmarks=3"]
    agent = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "chosen1", "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-m", "landmark_lab.cli", *command[1:], *quick, "--runs", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **agent, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "demo" / "001"
    assert read_json(run / "wandb.json")["id"] == "chosen1"
    assert list(run.glob("wandb/offline-run-*-chosen1/run-chosen1.wandb"))
    assert metric_of(run, "val/criterion", "minimize") > 0
    with pytest.raises(RunError, match="has no value 'forward_nme'"):
        metric_of(run, "forward_nme", "minimize")


@pytest.mark.parametrize(
    ("method", "values"), [("factorized", (0.25, 0.75)), ("rounds", (0.5, 0.5))]
)
def test_a_logged_metric_is_that_of_the_weights_that_count(
    tmp_path: Path, method: str, values: tuple[float, float]
) -> None:
    """Self-training keeps its last weights, other methods their best."""
    stages = {"first": {"method": "factorized"}, "second": {"method": "factorized"}}
    if method == "rounds":
        stages["second"]["method"] = "landmark_detector"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": "toy_faces", "stages": stages}))
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "first.csv").write_text("step,val/criterion\n1,0.1\n")
    log = "step,val/criterion,train/loss\n1,0.75,\n2,0.25,\n3,,1\n4,0.5,\n5,,1\n"
    (tmp_path / "metrics" / "second.csv").write_text(log)
    goals: tuple[Any, Any] = ("minimize", "maximize")
    assert tuple(metric_of(tmp_path, "val/criterion", goal) for goal in goals) == values


# --- running -------------------------------------------------------------------------------------


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "tune" / TABLE).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_failures_are_recorded_and_finished_runs_are_not_repeated(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    broken = [2]

    def run(chosen: Sweep, planned: Planned, folder: Path, *rest: Any) -> Outcome:
        calls.append(planned.number)
        if planned.number in broken:
            return Outcome(planned, "failed", None, 1.0, None, "error: no memory")
        return Outcome(planned, "finished", 10.0 - planned.number, 2.0, folder / planned.id)

    monkeypatch.setattr(running, "_run", run)
    lines: list[str] = []
    chosen, outcomes = sweep(write(), tmp_path / "runs", say=lines.append)
    assert calls == [1, 2, 3, 4]
    assert lines[0] == "[1/4] method.landmarks=3, method.optimiser.lr=0.1"
    assert [one.planned.number for one in ranked(chosen, outcomes)] == [4, 3, 1, 2]
    rows = table(tmp_path / "runs")
    assert [row["status"] for row in rows] == ["finished", "failed", "finished", "finished"]
    assert rows[1]["error"] == "error: no memory"
    assert rows[0]["method.optimiser.lr"] == "0.1"
    # The failed one is tried again, the others keep what they have.
    broken.clear()
    _, again = sweep(write(), tmp_path / "runs", say=lines.append)
    assert calls == [1, 2, 3, 4, 2]
    assert [one.metric for one in again] == [9.0, 8.0, 7.0, 6.0]
    # Other values of the parameters add to the table.
    sweep(write(parameters={"seed": {"values": [8]}}), tmp_path / "runs", say=lines.append)
    assert len(table(tmp_path / "runs")) == 5
    shown = comparison(chosen, outcomes)
    assert [str(cell) for cell in shown.columns[2].cells] == ["6", "7", "9", "–"]


def test_maximising(write: Callable[..., Path]) -> None:
    chosen = read_sweep(write(metric={"name": "val/spread", "goal": "maximize"}))
    planned = plan(chosen)
    outcomes = [Outcome(one, "finished", float(one.number)) for one in planned]
    assert [one.planned.number for one in ranked(chosen, outcomes)] == [4, 3, 2, 1]


@pytest.mark.slow
def test_a_sweep_runs_here_and_goes_on_after_a_crash(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    # The second cannot work, which only its images show.
    path = write(parameters={"method.landmarks": {"values": [3, 500]}})
    runs = tmp_path / "runs"
    _, outcomes = sweep(path, runs)
    assert [one.status for one in outcomes] == ["finished", "failed"]
    assert "500 landmarks" in outcomes[1].error
    assert outcomes[0].run is not None
    assert outcomes[0].metric == metric_of(outcomes[0].run, "val/criterion", "minimize")
    # A run that was interrupted is continued in its own folder.
    (outcomes[0].run / "checkpoints" / "train" / "done.ckpt").unlink()
    (runs / "tune" / TABLE).unlink()
    _, again = sweep(path, runs)
    assert again[0].run == outcomes[0].run
    assert again[0].metric == outcomes[0].metric
