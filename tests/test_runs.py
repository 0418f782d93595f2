"""Run folders."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from landmark_lab import runs
from landmark_lab.config import Experiment, Stage, read
from landmark_lab.errors import RunError
from landmark_lab.files import write_json
from landmark_lab.runs import environment, in_use, new_run, open_run, process_rank, recorded

STAGE = Stage("train", {"name": "factorized", "landmarks": 5}, {"name": "toy_faces"})
EXPERIMENT = Experiment("faces", {"train": STAGE}, seed=2)


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"):
        monkeypatch.delenv(key, raising=False)
    # So that what a test sets does not stay.
    monkeypatch.setenv("LANDMARK_LAB_LAUNCH", "test")
    monkeypatch.setattr(runs, "_started", 0)


def test_a_run_folder_says_what_was_run(tmp_path: Path) -> None:
    folder = new_run(tmp_path, EXPERIMENT, ["landmark-lab", "train", "my file.yaml"])
    assert folder == tmp_path / "faces" / "001"
    assert recorded(folder).to_mapping() == EXPERIMENT.to_mapping()
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 2
    assert (folder / "command.txt").read_text() == "landmark-lab train 'my file.yaml'\n"
    versions = json.loads((folder / "environment.json").read_text())
    assert versions["libraries"]["torch"]
    assert versions["python"]


def test_runs_are_numbered_and_rows_apart(tmp_path: Path) -> None:
    names = [new_run(tmp_path, EXPERIMENT).name for _ in range(3)]
    assert names == ["001", "002", "003"]
    row = replace(EXPERIMENT, row="k10")
    assert new_run(tmp_path, row) == tmp_path / "faces" / "k10" / "001"
    (tmp_path / "faces" / "017").mkdir()
    assert new_run(tmp_path, EXPERIMENT).name == "018"


def test_runs_that_start_together_get_their_own_folders(tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(runs._numbered(tmp_path))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 16


def test_the_processes_of_a_run_share_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = new_run(tmp_path, EXPERIMENT), new_run(tmp_path, EXPERIMENT)
    monkeypatch.setattr(runs, "_started", 0)  # another process, which inherits the environment
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert new_run(tmp_path, EXPERIMENT) == first
    assert new_run(tmp_path, EXPERIMENT) == second


def test_a_process_does_not_wait_for_ever(tmp_path: Path) -> None:
    write_json(tmp_path / "001" / "environment.json", {"launch": "another"})
    with pytest.raises(RunError, match="the first process has made no run folder"):
        runs._made_by_rank_zero(tmp_path, "this", patience=0.1)


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "1"}, 1),
        ({"RANK": "0", "LOCAL_RANK": "0"}, 0),
        ({"RANK": "5", "LOCAL_RANK": "1"}, 5),
        ({"SLURM_PROCID": "3"}, 3),
        ({"NODE_RANK": "1"}, 1),
    ],
)
def test_the_rank_is_what_the_launcher_says(
    variables: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert process_rank() == rank


@pytest.mark.parametrize("key", ["RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"])
@pytest.mark.parametrize("value", ["first", "", "-1", "1.5"])
def test_a_rank_that_is_no_number(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(key, value)
    with pytest.raises(RunError, match=rf"variable {key}: '{value}' is not the number of a proc"):
        process_rank()


def test_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "faces").write_text("a file")
    with pytest.raises(RunError, match="cannot be made"):
        new_run(tmp_path, EXPERIMENT)


# --- one process a folder ------------------------------------------------------------------------

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from landmark_lab.runs import in_use\n"
    "with in_use(Path(sys.argv[1])):\n"
    "    print('holding', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that works in the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
        process.kill()


def test_a_folder_in_use_by_another_process_is_refused(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = re.escape(socket.gethostname())
    message = rf"{re.escape(str(tmp_path))}: is in use by process {holder.pid} on {host} since "
    with pytest.raises(RunError, match=message), in_use(tmp_path):
        pass
    # The other processes of a launch are not kept out by their first one.
    monkeypatch.setenv("LOCAL_RANK", "1")
    with in_use(tmp_path):
        pass
    monkeypatch.delenv("LOCAL_RANK")
    # A process that is killed leaves its note, but not its lock.
    holder.kill()
    holder.wait()
    assert (tmp_path / "running.json").is_file()
    with in_use(tmp_path):
        assert json.loads((tmp_path / "running.json").read_text())["process"] == os.getpid()
    assert not (tmp_path / "running.json").exists()


def test_a_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="oops"), in_use(tmp_path):
        raise ValueError("oops")
    with in_use(tmp_path):
        # Within one process too.
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}"), in_use(tmp_path):
            pass
        (tmp_path / "running.json").write_text("{")
        with pytest.raises(RunError, match="in use by another process"), in_use(tmp_path):
            pass


def test_the_workers_of_a_killed_process_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "running.json", {"host": socket.gethostname(), "process": 2**22 + 1})
    held = FileLock(tmp_path / ".lock", thread_local=False)  # as an orphan would hold it
    held.acquire()
    threading.Timer(0.3, held.release).start()
    with in_use(tmp_path):
        pass


def test_a_disk_that_cannot_lock_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **more: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="this file system cannot lock"), in_use(tmp_path):
        pass


# --- resuming ------------------------------------------------------------------------------------


def test_only_a_run_folder_can_be_continued(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such run folder"):
        open_run(tmp_path / "missing")
    folder = new_run(tmp_path, EXPERIMENT)
    with pytest.raises(RunError, match=r"is not a run folder.*did you mean .*faces/001\?"):
        open_run(tmp_path)
    assert open_run(folder) == folder


def test_a_run_continues_with_its_own_configuration(tmp_path: Path) -> None:
    folder = new_run(tmp_path, EXPERIMENT)
    longer = replace(STAGE, trainer={"max_epochs": 9}, save_every=1, loader={"workers": 2})
    assert open_run(folder, replace(EXPERIMENT, stages={"train": longer})) == folder
    other = replace(STAGE, method={"name": "factorized", "landmarks": 6})
    with pytest.raises(RunError, match=r"stages\.train\.method\.landmarks: 5 -> 6"):
        open_run(folder, replace(EXPERIMENT, stages={"train": other}))
    with pytest.raises(RunError, match="seed: 2 -> 3"):
        open_run(folder, replace(EXPERIMENT, seed=3))


def test_the_environment_is_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no repository
    assert json.loads(json.dumps(environment())) == environment()
    assert environment()["git"] is None


def test_a_saved_configuration_is_an_experiment_file(tmp_path: Path) -> None:
    folder = new_run(tmp_path, replace(EXPERIMENT, row="k10"))
    experiment = read(folder / "config.yaml", ["seed=5"])
    assert (experiment.name, experiment.row, experiment.seed) == ("faces", "k10", 5)
