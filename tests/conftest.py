"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch

# The tests run in several processes; more threads each would only be in each other's way.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, or a skip where there is none."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("LANDMARK_LAB_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; LANDMARK_LAB_DATA names another folder")
    return folder


@pytest.fixture(autouse=True)
def _no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in tests end without a report, which takes seconds, but for the report's own tests."""
    if "report" not in request.path.parts:
        monkeypatch.setattr("landmark_lab.experiment.try_report", lambda run: None)
