"""The CSV log grows new columns, survives a crash, and continues from a step."""

import csv
from pathlib import Path

import pytest

from landmark_lab.callbacks.csv_log import CsvLog, column
from landmark_lab.errors import RunError


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write(path: Path, steps: int = 4) -> str:
    log = CsvLog(path)
    for step in range(steps):
        log.log_metrics({"loss": step / 2, "epoch": 0}, step)
        log.save()
    log.log_metrics({"val": 7.0, "epoch": 0}, steps - 1)
    log.save()
    return path.read_text()


def test_columns_appear_when_a_value_is_first_logged(tmp_path: Path) -> None:
    write(tmp_path / "x.csv")
    found = rows(tmp_path / "x.csv")
    assert [row["step"] for row in found] == ["0", "1", "2", "3", "3"]
    assert found[-1] == {"epoch": "0", "step": "3", "loss": "", "val": "7.0"}


@pytest.mark.parametrize("cut", ["0", "0,", "0,4,0.", "0,4,2.0,,9,9\n", "\n\n", ""])
def test_a_row_that_a_crash_cut_off_is_none(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "x.csv"
    whole = write(path)
    path.write_text(whole + cut)
    log = CsvLog(path, until=4)
    assert path.read_text() == whole
    log.log_metrics({"loss": 2.0, "epoch": 0}, 4)
    log.save()
    assert rows(path)[-1]["step"] == "4"


def test_rows_behind_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    write(tmp_path / "x.csv")
    CsvLog(tmp_path / "x.csv", until=2)
    assert [row["step"] for row in rows(tmp_path / "x.csv")] == ["0", "1"]


def test_a_column_is_read_without_what_is_no_number(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "x.csv")
    for step, value in enumerate((3.0, float("nan"), 1.0)):
        log.log_metrics({"val": value, "epoch": 0}, step)
        log.log_metrics({"loss": 7.0, "epoch": 0}, step)
    log.save()
    assert column(tmp_path / "x.csv", "val") == [3.0, 1.0]
    assert column(tmp_path / "x.csv", "other") == []
    assert column(tmp_path / "missing.csv", "val") == []


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full, a device that is always full")
    path = tmp_path / "x.csv"
    log = CsvLog(path)
    log.log_metrics({"loss": 1.0}, 0)
    log.save()
    path.unlink()
    path.symlink_to(full)
    log.log_metrics({"loss": 1.0}, 1)
    with pytest.raises(RunError, match=r"x\.csv: could not be written"):
        log.save()
