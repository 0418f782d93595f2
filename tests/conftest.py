"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch

from tests.command_line import Cli, runner

# The tests run in several processes; more threads each would only be in each other's way.
torch.set_num_threads(1)
# A process that a test starts must compute with as many, or its sums differ in the last bit.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, or a skip where there is none."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("LANDMARK_LAB_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; LANDMARK_LAB_DATA names another folder")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept between runs is kept in a folder of the tests, started processes included."""
    os.environ["LANDMARK_LAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in tests end without a report, which takes seconds, but for the report's own tests."""
    if "report" not in request.path.parts:
        monkeypatch.setattr("landmark_lab.experiment.try_report", lambda run: None)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run a command in this process, in a folder of its own."""
    return runner(monkeypatch, capsys, tmp_path)
