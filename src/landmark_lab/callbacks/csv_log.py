"""The log of a run as one CSV table that survives resuming.

Lightning's own CSV logger deletes its file when a run is resumed.
"""

import contextlib
import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from landmark_lab.errors import RunError
from landmark_lab.files import atomic


def column(path: Path, name: str) -> list[float]:
    """The values of a column in the order in which they were logged; none if there is no file.

    What is not a number is left out.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        texts = [row.get(name) for row in csv.DictReader(stream)]
    values = [float(text) for text in texts if text]
    return [value for value in values if not math.isnan(value)]


class CsvLog(Logger):
    """Writes one row a logged step; columns appear when a value is first logged.

    Args:
        path: the file.
        until: keep only the rows up to this step of a file that exists, because the run continues
            from there; None starts afresh.
    """

    def __init__(self, path: Path, until: int | None = None) -> None:
        super().__init__()
        self.path = path
        self._rows: list[dict[str, str]] = []
        self._pending: list[dict[str, str]] = []
        self._columns: list[str] = ["epoch", "step"]
        if until is not None and path.is_file():
            self._continue(until)

    @property
    def name(self) -> str:
        """Lightning asks for one."""
        return "csv"

    @property
    def version(self) -> int:
        """Lightning asks for one."""
        return 0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep a row; it is written by :meth:`save`."""
        row = {"step": str(step)} | {name: repr(float(value)) for name, value in metrics.items()}
        row["epoch"] = str(int(float(row.get("epoch", 0))))
        self._pending.append(row)
        if len(self._pending) >= 100:
            self.save()

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the configuration."""

    @rank_zero_only
    def save(self) -> None:
        """Append the rows that wait; a new column means writing the table anew."""
        if not self._pending:
            return
        new = [n for row in self._pending for n in row if n not in self._columns]
        self._columns += dict.fromkeys(new)
        if new or not self.path.exists():
            self._rewrite()
            return
        length = self.path.stat().st_size
        try:
            with self.path.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, self._columns).writerows(self._pending)
        except OSError as error:
            with contextlib.suppress(OSError):  # a row cut off is none, see _continue
                os.truncate(self.path, length)
            raise RunError(
                f"could not be written ({error.strerror})", where=str(self.path)
            ) from error
        self._rows += self._pending
        self._pending = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left, also after an error."""
        self.save()

    @rank_zero_only
    def _continue(self, until: int) -> None:
        """Keep the rows of the file below a step; a row that a crash cut off is none."""
        whole, _, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
        reader = csv.DictReader(whole.splitlines())
        for row in reader:
            if None in row or None in row.values() or not (row.get("step") or "").isdigit():
                continue
            if int(row["step"]) < until:
                self._pending.append({name: value for name, value in row.items() if value})
        for row in self._pending:
            self._columns += [name for name in row if name not in self._columns]
        self._rewrite()

    def _rewrite(self) -> None:
        self._rows += self._pending
        self._pending = []
        with atomic(self.path) as file, file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self._columns)
            writer.writeheader()
            writer.writerows(self._rows)
