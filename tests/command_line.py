"""Running commands of the command line in the test's own process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import landmark_lab.cli as command_line
from landmark_lab import user_plugins


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def runner(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> Cli:
    """Runs commands in a folder, on a wide terminal, without the plugins of the environment."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv(user_plugins.VARIABLE, "")
    monkeypatch.delenv(command_line.DEBUG_VARIABLE, raising=False)
    monkeypatch.setenv("LANDMARK_LAB_LAUNCH", "test")
    monkeypatch.setenv("COLUMNS", "140")

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["landmark-lab", *map(str, arguments)])
        capsys.readouterr()
        try:
            command_line.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        else:
            code = 0
        return Result(code, *capsys.readouterr())

    return run
