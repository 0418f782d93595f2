"""`make` chooses a Python, builds .venv once, and never takes a half-made one for a whole one.

The interpreter here is a script that writes down what it is asked to do: nothing is downloaded.
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Answers like Python $VERSION: its version, `-m venv DIR`, `-m pip ...`; logs the last two.
PYTHON = """#!/bin/sh
version=@VERSION@
case "$*" in
*version_info*) echo $version; exit ;;
--version) echo Python $version; exit ;;
*"import ensurepip"*) exit @NO_VENV@ ;;
"-m pip config list") echo "global.index-url='https://mirror.invalid/simple'"; exit ;;
-c*) exit ;;
esac
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
"-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
*" uv=="*) cp "@UV@" .venv/bin/uv ;;
"-m pip install -r"*) exit ${PIP_FAILS:-0} ;;
esac
"""
TOOLS = ["sh", "sed", "awk", "find", "grep", "head", "cat", "rm", "mkdir", "cp", "basename"]
TOOLS += ["echo", "printf"]  # make runs a command without shell syntax directly
TARGETS = ["help", "install", "demo", "test", "test-slow", "lint", "bench", "lock", "clean"]

UV = """#!/bin/sh
echo "uv $* from $UV_DEFAULT_INDEX" >> "$LOG"
exit ${UV_FAILS:-0}
"""


class Place:
    """A copy of the Makefile and of what it reads, with interpreters of our own on the path."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin, self.log = root / "lab", root / "bin", root / "log"
        self.root.mkdir()
        self.bin.mkdir()
        for name in ["Makefile", "requirements.lock", "requirements-gpu.lock", "setup.cfg"]:
            shutil.copy(ROOT / name, self.root)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self._script(root / "uv", UV)
        self.uv = root / "uv"
        # Only the tools that the Makefile uses, so that no real Python is on the path.
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path is not None
            (self.bin / tool).symlink_to(path)

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def add_python(self, name: str, version: str, *, venv: bool = True) -> None:
        text = PYTHON.replace("@VERSION@", version).replace("@UV@", str(self.uv))
        self._script(self.bin / name, text.replace("@NO_VENV@", "0" if venv else "1"))

    def add_shim(self, name: str) -> None:
        """What a version manager leaves on the path for a version that is not chosen."""
        self._script(self.bin / name, "#!/bin/sh\necho 'command not found' >&2\nexit 127\n")

    def make(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make; ``self.calls`` then holds what the interpreters and uv were asked to do."""
        self.log.write_text("")
        done = subprocess.run(
            [shutil.which("make") or "make", *words],
            cwd=self.root,
            env={"PATH": str(self.bin), "LOG": str(self.log), **environment},
            text=True,
            capture_output=True,
        )
        self.calls = self.log.read_text().splitlines()
        return done

    def later(self, name: str) -> None:
        """Give a file a time after everything that was made so far."""
        os.utime(self.root / name, (time.time() + 60, time.time() + 60))

    @property
    def complete(self) -> Path:
        return self.root / ".venv/complete"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_installs_with_uv_from_the_lock_file_and_then_leaves_it(place: Place) -> None:
    place.add_python("python3.12", "3.12")
    done = place.make("install")
    assert done.returncode == 0, done.stderr
    venv, uv, sync, package = place.calls
    assert venv == "python3.12 -m venv .venv"
    assert re.fullmatch(r"python -m pip install --quiet uv==\d+\.\d+\.\d+", uv)
    assert sync == (
        "uv pip sync --python .venv/bin/python requirements.lock"
        " from https://mirror.invalid/simple"  # the user's setting of pip
    )
    assert package.endswith("--no-deps --no-build-isolation --editable .")
    assert place.make("install").returncode == 0
    assert place.calls == []


def test_takes_the_first_python_that_runs_and_is_supported(place: Place) -> None:
    place.add_shim("python3.13")
    place.add_python("python3.12", "3.12", venv=False)
    place.add_python("python3", "3.14")
    assert place.make("install").returncode == 0
    assert place.calls[0] == "python3 -m venv .venv"


def test_unsupported_python_is_named_before_anything_is_done(place: Place) -> None:
    place.add_shim("python3.13")
    place.add_python("python3.11", "3.11", venv=False)
    place.add_python("python3", "3.9")
    for target in ["install", "demo", "test", "lint"]:
        done = place.make(target)
        assert done.returncode != 0
        assert "needs Python 3.11 to 3.14" in done.stderr
        assert "python3.13 is missing or does not run" in done.stderr
        assert "python3.11 lacks venv (Debian, Ubuntu: install python3.11-venv)" in done.stderr
        assert "python3 is Python 3.9" in done.stderr
    assert place.calls == []
    assert not (place.root / ".venv").exists()


def test_named_python_is_the_only_candidate(place: Place) -> None:
    place.add_python("python3.12", "3.12")
    place.add_python("old", "2.7")
    assert place.make("install").returncode == 0
    done = place.make("install", "PYTHON=old")
    assert "old is Python 2.7" in done.stderr
    assert done.returncode != 0
    assert place.make("install").returncode == 0
    assert place.calls == [], "the refusal did not cost the .venv that was there"


def test_another_named_python_makes_another_venv(place: Place) -> None:
    place.add_python("python3.12", "3.12")
    place.add_python("python3.11", "3.11")
    place.make("install")
    place.make("install", "PYTHON=python3.11")
    assert place.calls[0] == "python3.11 -m venv .venv"
    place.make("install")
    assert place.calls == []


@pytest.mark.parametrize("changed", ["requirements.lock", "setup.cfg", "pyproject.toml"])
def test_change_updates_the_venv_in_place(place: Place, changed: str) -> None:
    place.add_python("python3.12", "3.12")
    place.make("install")
    place.later(changed)
    assert place.make("install").returncode == 0
    assert not any("venv" in call and "-m venv" in call for call in place.calls)
    assert any(call.startswith("uv pip sync") for call in place.calls)


def test_failed_installation_starts_afresh(place: Place) -> None:
    place.add_python("python3.12", "3.12")
    assert place.make("install", UV_FAILS="1", PIP_FAILS="1").returncode != 0
    assert not place.complete.exists()
    assert place.make("install").returncode == 0
    assert place.calls[0] == "python3.12 -m venv .venv"
    place.later("requirements.lock")
    assert place.make("install", UV_FAILS="1", PIP_FAILS="1").returncode != 0
    assert not place.complete.exists(), "a failed update leaves nothing to be trusted either"


def test_pip_takes_over_after_two_failures_of_uv(place: Place) -> None:
    place.add_python("python3.12", "3.12")
    assert place.make("install", UV_FAILS="1").returncode == 0
    assert [call.split()[0] for call in place.calls] == ["python3.12", "python", "uv", "uv"] + (
        ["python"] * 2
    )
    assert place.calls[-2] == "python -m pip install -r requirements.lock"


def test_faiss_stays_what_was_asked_for(place: Place) -> None:
    place.add_python("python3.12", "3.12")
    place.make("install", "GPU=1")
    assert "requirements-gpu.lock" in place.calls[2]
    place.make("install")
    assert place.calls == []
    place.make("install", "GPU=0")
    assert "requirements.lock" in place.calls[2]
    assert place.calls[0] == "python3.12 -m venv .venv", "the two faiss share a folder"


def test_moved_or_broken_venv_is_made_again(place: Place) -> None:
    place.add_python("python3.12", "3.12")
    place.make("install")
    moved = place.root.with_name("elsewhere")
    place.root.rename(moved)
    place.root = moved
    place.make("install")
    assert place.calls[0] == "python3.12 -m venv .venv"
    (moved / ".venv/bin/python").unlink()
    place.make("install")
    assert place.calls[0] == "python3.12 -m venv .venv"


def test_help_lists_every_target_and_experiment(place: Place) -> None:
    shutil.copytree(ROOT / "experiments", place.root / "experiments")
    (place.root / "experiments/sweeps").mkdir(exist_ok=True)
    (place.root / "experiments/sweeps/not-an-experiment.yaml").touch()
    (place.root / "experiments/a/b").mkdir(parents=True)
    (place.root / "experiments/a/b/c.yaml").touch()
    text = place.make().stdout
    for target in TARGETS:
        assert re.search(rf"^  {target} +\S", text, re.MULTILINE), target
    targets = re.findall(r"^  (reproduce-\S+)$", text, re.MULTILINE)
    files = [p for p in (place.root / "experiments").rglob("*.yaml") if "sweeps" not in p.parts]
    assert len(set(targets)) == len(files), "two files that one target stands for"
    assert "reproduce-demo" in targets
    planned = place.make("--dry-run", "reproduce-a-b-c", "ARGS=seed=1").stdout
    assert "landmark-lab reproduce experiments/a/b/c.yaml seed=1" in planned


def test_works_without_experiments_and_benchmarks(place: Place) -> None:
    place.add_python("python3.12", "3.12")
    assert place.make("help").returncode == 0
    assert place.make("bench").returncode == 0


def test_no_file_names_a_package_index() -> None:
    names = ["Makefile", "setup.cfg", "pyproject.toml", *(p.name for p in ROOT.glob("*.lock"))]
    for name in names:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"://|--index|--find-links|--extra-index", text), name
