"""The command line."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import landmark_lab.cli as command_line
from landmark_lab.cli import doctor
from landmark_lab.cli.reproduce import measured
from landmark_lab.config import Experiment
from landmark_lab.errors import DataError, RunError
from landmark_lab.runs import new_run
from tests.command_line import Cli

SETTINGS: dict[str, Any] = {
    "summary": "small",
    "data": {"name": "toy_faces", "size": 32},
    "pairing": "synthetic",
    "method": {"name": "factorized", "landmarks": 5},
    "evaluate": ["forward_nme"],
    "rows": {
        "k5": {"set": {"method.landmarks": 5}, "reported": {"forward_nme": 7.5}},
        "k9": {"set": {"method.landmarks": 9}},
    },
    "seeds": [0, 1],
}
COMMANDS = (
    "train",
    "reproduce",
    "evaluate",
    "compare",
    "predict",
    "fit-points",
    "report",
    "export",
    "sweep",
    "config",
    "list",
    "doctor",
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


# --- help ----------------------------------------------------------------------------------------


def test_help_answers_within_a_second_and_without_torch() -> None:
    program = (
        "import resource, sys\n"
        "sys.argv = ['landmark-lab', '--help']\n"
        "from landmark_lab.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)\n"
        "print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *_, modules, seconds = done.stdout.splitlines()
    slow = {"torch", "pytorch_lightning", "omegaconf", "pydantic", "numpy", "landmark_lab.plugin"}
    assert set(modules.split()) & slow == set()
    assert float(seconds) < 1  # of the processor, which a busy machine does not change
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert f"Example: landmark-lab {command}" in result.out


def test_the_installed_command_and_the_module_are_this_one() -> None:
    command = [sys.executable, "-m", "landmark_lab.cli", "--version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert re.fullmatch(r"\d+\.\d+.*\n", done.stdout)


# --- errors --------------------------------------------------------------------------------------


def test_an_error_is_one_line_without_a_traceback(cli: Cli, small: Path) -> None:
    result = cli("config", small, "method.backbone.dpeth=3")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: method.backbone.dpeth: unknown key 'dpeth'")
    assert len(result.err.splitlines()) == 1
    assert "\x1b" not in result.err  # colours are for terminals


def test_a_developer_can_have_the_traceback(
    cli: Cli, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(command_line.DEBUG_VARIABLE, "1")
    with pytest.raises(ValueError, match="dpeth"):
        cli("config", small, "method.backbone.dpeth=3")


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["config", "FILE", "--rwo", "k5"], ["there is no option --rwo", "did you mean --row?"]),
        (["config", "FILE", "--method.landmarks", "3"], ["there is no option --method.landmarks"]),
        (["config", "FILE", "k5"], ["'k5': is not an override"]),
        (["config", "FILE", "--row", "k6"], ["there is no row 'k6'", "allowed: k5, k9"]),
        (["config", "smal.yaml"], ["no such experiment file", "did you mean 'small.yaml'?"]),
        (["config", "FILE", "--plugin", "nothing.py"], ["--plugin: there is no file"]),
        (["train"], ["which experiment?"]),
        (["train", "--resume", "nothing"], ["nothing: there is no such run folder"]),
        (["list", "backbnoe"], ["there is no role 'backbnoe'", "did you mean 'backbone'?"]),
        (["list", "backbone", "zzz"], ["there is no plugin of role 'backbone' like 'zzz'"]),
    ],
)
def test_mistakes_on_the_command_line(
    cli: Cli, small: Path, arguments: list[str], messages: list[str]
) -> None:
    result = cli(*[str(small) if a == "FILE" else a for a in arguments])
    assert result.code == 2
    for message in messages:
        assert message in result.err


# --- config --------------------------------------------------------------------------------------


def test_config_shows_what_will_be_used(cli: Cli, small: Path) -> None:
    result = cli("config", small, "--row", "k9", "trainer.max_epochs=3", "--data.size=48")
    shown = yaml.safe_load(result.out)
    assert shown["method"]["landmarks"] == 9
    assert shown["method"]["backbone"]["name"]
    assert shown["trainer"] == {"max_epochs": 3}
    assert shown["data"]["size"] == 48
    (small.parent / "shown.yaml").write_text(result.out)
    assert cli("config", small.parent / "shown.yaml").out == result.out


def test_config_has_constructors_judge_their_values(cli: Cli, small: Path) -> None:
    text = yaml.safe_dump({**SETTINGS, "stages": {"one": {}, "two": {"method": {"landmarks": 6}}}})
    small.write_text(text)
    assert cli("config", small).code == 0
    result = cli("config", small, "stages.two.method.landmarks=0")
    assert result.code == 2
    assert result.err.startswith("error: stages.two.method: ")
    result = cli("config", small, "pairing={name: frames, step: 0}")
    assert result.code == 2
    assert "pairing: step must be at least 1, not 0" in result.err


def test_config_looks_at_no_data(cli: Cli, small: Path) -> None:
    assert cli("config", small, "data={name: folder, root: missing}").code == 0


# --- list ----------------------------------------------------------------------------------------


def test_list_shows_names_summaries_parameters_and_places(cli: Cli) -> None:
    out = cli("list", "backbone", "hour*").out
    assert "hourglass  One hourglass" in out
    assert "width: int = 256" in out
    assert "block: 'bottleneck' | 'basic' | 'plain' | 'parallel' = bottleneck" in out
    assert f"plugins{os.sep}backbones{os.sep}hourglass.py" in out
    assert "dilations" not in out


def test_list_without_arguments_shows_all_roles(cli: Cli) -> None:
    out = cli("list").out
    for name in ("simple", "toy_faces", "factorized", "adam", "synthetic", "tps_pair"):
        assert re.search(rf"^  {name}  ", out, re.MULTILINE), name
    assert re.search(r"epochs: tuple\[int, ...\] \(required\)", out)
    assert cli("list", "hour*").out.partition("\n")[2] in out  # a pattern alone is for all roles


def test_a_broken_plugin_is_a_warning_and_stops_nothing(
    cli: Cli, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from landmark_lab import discovery

    monkeypatch.setattr(discovery, "_failures", dict(discovery._failures))
    broken = small.parent / "broken.py"
    broken.write_text("raise RuntimeError('no battery')")
    result = cli("list", "backbone", "--plugin", broken)
    assert result.code == 0
    assert "simple" in result.out
    assert f"warning: failed to load: {broken}: RuntimeError: no battery" in result.err
    assert cli("config", small, "--plugin", broken).code == 0
    result = cli("config", small, "method.backbone=mine", "--plugin", broken)
    assert "there is no backbone called 'mine'" in result.err
    assert "no battery" in result.err


# --- train and reproduce -------------------------------------------------------------------------


@dataclass
class Call:
    """How an experiment was run."""

    experiment: Experiment
    root: Path
    resume: Path | None
    command: Sequence[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Experiments are not trained but get results; the calls are written down."""
    found: list[Call] = []

    def run(
        experiment: Experiment,
        root: Path,
        resume: Path | None = None,
        command: Sequence[str] = (),
    ) -> Path:
        found.append(Call(experiment, root, resume, command))
        folder = resume or new_run(root, experiment, command)
        score = {"value": 7.0 + experiment.seed, "low": 6.5, "high": 7.5, "unit": "%"}
        (folder / "results.json").write_text(json.dumps({"protocols": {"forward_nme": score}}))
        return folder

    import landmark_lab.experiment

    monkeypatch.setattr(landmark_lab.experiment, "run", run)
    return found


def test_train_passes_everything_on(cli: Cli, small: Path, calls: list[Call]) -> None:
    result = cli("train", small, "method.landmarks=3", "--seed", "7", "--runs", "out")
    assert result.out.splitlines()[-1] == "run: out/small/001"
    (call,) = calls
    assert call.experiment.seed == 7
    assert call.experiment.stages["train"].method["landmarks"] == 3
    assert list(call.command)[:2] == ["landmark-lab", "train"]
    assert cli("train", small, "--runs", "out").out.splitlines()[-1] == "run: out/small/002"


def test_a_sweep_agent_passes_options(cli: Cli, small: Path, calls: list[Call]) -> None:
    for arguments in ((small, "--method.landmarks=3"), ("--method.landmarks=3", small)):
        assert cli("train", *arguments, "--seed=2").code == 0
        assert calls[-1].experiment.stages["train"].method["landmarks"] == 3
        assert calls[-1].experiment.seed == 2


def test_a_run_is_continued(cli: Cli, small: Path, calls: list[Call]) -> None:
    folder = cli("train", small, "--row", "k9").out.split()[-1]
    assert folder == "runs/small/k9/001"
    for arguments in ([], [small, "--row", "k9"], ["trainer.max_epochs=9"]):
        assert cli("train", *arguments, "--resume", folder).code == 0
        assert calls[-1].resume == Path(folder)
        assert calls[-1].experiment.stages["train"].method["landmarks"] == 9
    assert calls[-1].experiment.stages["train"].trainer == {"max_epochs": 9}
    result = cli("train", small, "--row", "k5", "--resume", folder)
    assert result.code == 2
    assert "stages.train.method.landmarks: 9 -> 5" in result.err


def test_reproduce_compares_all_rows_and_seeds(cli: Cli, small: Path, calls: list[Call]) -> None:
    result = cli("reproduce", small)
    assert [(c.experiment.row, c.experiment.seed) for c in calls] == [
        ("k5", 0),
        ("k5", 1),
        ("k9", 0),
        ("k9", 1),
    ]
    tables, _, summary_file = result.out.rpartition("summary: ")
    last = tables[tables.rindex("small") :]
    assert re.search(r"k5 +│ forward_nme │ +7.5 │ +7.5 │ ± 0.707 over 2 seeds .*│ +\+0", last)
    assert re.search(r"k9 +│ forward_nme │ +– │", last)
    assert summary_file == "runs/small/reproduced-001.json\n"
    summary = json.loads(Path("runs/small/reproduced-001.json").read_text())
    assert [(row["row"], row["measured"], row["reported"]) for row in summary["rows"]] == [
        ("k5", 7.5, 7.5),
        ("k9", 7.5, None),
    ]
    assert summary["rows"][0]["runs"] == ["runs/small/k5/001", "runs/small/k5/002"]
    cli("reproduce", small, "--row", "k5")
    assert Path("runs/small/reproduced-002.json").is_file()  # none is overwritten


def test_reproduce_one_row(cli: Cli, small: Path, calls: list[Call]) -> None:
    result = cli("reproduce", small, "--row", "k5", "seeds=[3]")
    assert [(c.experiment.row, c.experiment.seed) for c in calls] == [("k5", 3)]
    assert "6.5 – 7.5" in result.out


def test_reproduce_checks_all_rows_before_the_first(
    cli: Cli, small: Path, calls: list[Call]
) -> None:
    rows = {**SETTINGS["rows"], "k9": {"set": {"method.landmark": 9}}}
    small.write_text(yaml.safe_dump({**SETTINGS, "rows": rows}))
    result = cli("reproduce", small)
    assert result.code == 2
    assert "method.landmark" in result.err
    assert calls == []


@pytest.mark.parametrize("alone", [False, True])
def test_a_row_that_fails_does_not_cost_the_others(
    cli: Cli, small: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    import landmark_lab.experiment

    succeed = landmark_lab.experiment.run

    def run(experiment: Experiment, root: Path, command: Sequence[str]) -> Path:
        if experiment.row == "k5":
            raise DataError("no weights")
        return succeed(experiment, root, command=command)

    monkeypatch.setattr(landmark_lab.experiment, "run", run)
    result = cli("reproduce", small, *(["--row", "k5"] if alone else []))
    assert result.code == 2
    if alone:
        assert result.err == "error: no weights\n"
        return
    assert result.err.splitlines() == [
        "error: row k5: no weights",
        "error: 1 of 2 rows failed: k5",
    ]
    summary = json.loads(Path("runs/small/reproduced-001.json").read_text())
    assert [row["row"] for row in summary["rows"]] == ["k9"]


def test_results_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        measured(tmp_path)


# --- doctor --------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine with everything in order, to be broken by the tests."""
    from landmark_lab import runs

    state: dict[str, Any] = {
        "absent": {"faiss-gpu", "tensorboard"},
        "errors": {},
        "torch": "2.11 for CUDA 13.0",
    }

    def run_python(code: str) -> tuple[str, str]:
        for library, error in state["errors"].items():
            if f"import {library}" in code:
                return "", error
        return ("0" if "faiss" in code else state["torch"]), ""

    monkeypatch.setattr(runs, "installed", lambda n: None if n in state["absent"] else "1.0")
    monkeypatch.setattr(doctor_module(), "_run_python", run_python)
    return state


def doctor_module() -> Any:
    return sys.modules[doctor.__module__]


def test_doctor_is_content(cli: Cli, machine: dict[str, Any]) -> None:
    result = cli("doctor")
    assert result.code == 0, result
    assert "ok  torch 2.11 for CUDA 13.0" in result.out
    assert "--  no CUDA device" in result.out
    assert "ok  faiss clusters on the CPU" in result.out
    assert "--  tensorboard is not installed" in result.out
    assert re.search(r"ok  plugins: \d+ backbone", result.out)


def test_doctor_names_the_devices(cli: Cli, machine: dict[str, Any]) -> None:
    machine["torch"] += "\nGPU one\nGPU two"
    assert "ok  CUDA devices: GPU one, GPU two" in cli("doctor").out


@pytest.mark.parametrize(
    ("absent", "errors", "message"),
    [
        ({}, {}, "faiss-cpu and faiss-gpu are both installed"),
        ({"faiss-gpu"}, {"faiss": "ImportError: x"}, "faiss cannot be used: ImportError: x"),
        ({"faiss-gpu"}, {"torchvision": "nms"}, "torchvision 1.0 does not fit torch 1.0 (nms)"),
        ({"faiss-gpu"}, {"torch\n": "libcudart"}, "torch cannot be used: libcudart"),
        ({"faiss-gpu", "torchmetrics"}, {}, "torchmetrics is not installed"),
    ],
)
def test_doctor_finds_a_problem(
    cli: Cli, machine: dict[str, Any], absent: Any, errors: dict[str, str], message: str
) -> None:
    machine.update(absent=set(absent), errors=errors)
    result = cli("doctor")
    assert result.code == 1
    assert f"!!  {message}" in result.out
    assert "problems found: 1" in result.err


def test_doctor_shows_broken_plugins(
    cli: Cli, machine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from landmark_lab import discovery

    monkeypatch.setattr(discovery, "_failures", dict(discovery._failures))
    (tmp_path / "broken.py").write_text("1 / 0")
    result = cli("doctor", "--plugin", "broken.py")
    assert result.code == 1
    assert "!!  plugins failed to load" in result.out
    assert "ZeroDivisionError" in result.out


def test_doctor_asks_real_processes() -> None:
    ask = doctor_module()._run_python
    assert ask("print(1)") == ("1", "")
    assert ask("raise ValueError('x')") == ("", "ValueError: x")
    assert ask("import os; os._exit(3)") == ("", "exit code 3")


def test_run_errors_have_the_exit_code_of_errors(
    cli: Cli, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import landmark_lab.experiment

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise RunError("could not be written (No space left on device)", where="x")

    monkeypatch.setattr(landmark_lab.experiment, "run", full_disk)
    result = cli("train", small)
    assert (result.code, result.err) == (
        2,
        "error: x: could not be written (No space left on device)\n",
    )
