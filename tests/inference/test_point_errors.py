"""Errors, their table and the verdict."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from landmark_lab.inference.point_errors import PointErrors, summary, table, verdict


def errors(gain: float, count: int = 12) -> PointErrors:
    """Made-up errors of about ten pixels, and of so many more for the mean shape."""
    generator = np.random.default_rng(0)
    truth = generator.uniform(0, 100, (count, 2, 2))
    truth[0, 1] = np.nan
    turned = generator.uniform(0, 2 * np.pi, (2, count, 2))
    directions = np.stack([np.cos(turned), np.sin(turned)], -1)
    length = generator.uniform(8, 12, (2, count, 2, 1))
    predicted = truth + length[0] * directions[0]
    shape = truth + (length[1] + gain) * directions[1]
    sides = np.full(count, 50.0)
    sides[1] = np.nan
    return PointErrors(("a", "b"), predicted, truth, shape, sides, "the distance of the eyes")


def test_means_as_loops() -> None:
    made = errors(5)
    means: dict[str, list[float]] = {"a": [], "b": [], "all": []}
    for n in range(12):
        own = []
        for p, name in enumerate(made.names):
            distance = math.dist(made.predicted[n, p], made.truth[n, p])
            if not math.isnan(distance):
                own.append(distance)
                means[name].append(distance)
        means["all"].append(sum(own) / len(own))
    found = summary(made.pixels, made.names)
    assert found == {name: pytest.approx(sum(v) / len(v)) for name, v in means.items()}
    assert summary(np.full((3, 2), np.nan), made.names) == {"a": None, "b": None, "all": None}
    percent = made.percent(made.pixels)
    assert percent[0, 0] == pytest.approx(2 * made.pixels[0, 0])
    assert np.isnan(percent[1]).all()  # its normaliser is unknown


def test_the_table_shows_every_point_and_all() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(errors(5), "Errors"))
    text = console.export_text()
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert [row[:2] for row in rows] == [["a", "12"], ["b", "11"], ["all", "12"]]
    mean = summary(errors(5).pixels, ("a", "b"))["all"]
    assert rows[2][2] == f"{mean:.1f}"
    low, high = map(float, rows[2][3].split(" – "))
    assert low < float(rows[2][2]) < high
    assert "%: of the distance of the eyes" in text


@pytest.mark.parametrize(("gain", "better"), [(5, True), (0, False), (-5, False)])
def test_the_verdict_asks_for_a_clear_gain(gain: float, better: bool) -> None:
    found, line = verdict(errors(gain))
    assert found == better
    assert line.startswith("better" if better else "not clearly better")
