"""The methods of ``world.py`` can be built while a test of this folder runs."""

from pathlib import Path

import pytest

from landmark_lab.roles import Method
from tests.inference.world import Blind, DotFinder, save_method


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Method.registry, "dot_finder", DotFinder)
    monkeypatch.setitem(Method.registry, "blind", Blind)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_method(tmp_path / "best.ckpt")
