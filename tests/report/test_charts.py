"""Charts: SVG that fits into a page."""

import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from landmark_lab.report import charts

X = np.arange(1.0, 6)

CHARTS: dict[str, Callable[[], str]] = {
    "lines": lambda: charts.lines(
        [
            charts.Line(X, X**3, "a <b>", error=X),
            charts.Line(X, X, faint=True),
            charts.Line(X, 2 * X, style=":", dots=True, steps=True),
        ],
        "x $y$",
        log_y=True,
    ),
    "few": lambda: charts.lines([charts.Line(X, X)], "n", log_x=True, x_ticks=[1, 5], small=True),
    "bars_across": lambda: charts.bars_across(["a", "b"], [1, 2], ["accent", "pale"], (0, 0.5, 3)),
    "bars": lambda: charts.bars([f"p{i}" for i in range(70)], np.linspace(0, 1, 70), "%", 0.5, "m"),
    "numbered": lambda: charts.numbered(X, np.array([0, 9, np.nan, 3, 1]), "x", "y", ("u", "d")),
    "nothing": lambda: charts.numbered(X * np.nan, X, "x", "y", ("u", "d")),
    "scattered": lambda: charts.scattered(X, X**2, [0, None, 1, 5, None]),
    "heat": lambda: charts.heat(np.array([[0, np.nan], [1, 2]]), ["a", "b"], ["1", "2"], "x"),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_a_part_of_a_page(name: str) -> None:
    svg = CHARTS[name]()
    root = ElementTree.fromstring(svg.replace("xlink:", ""))
    assert root.tag == "svg"
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    assert "style" not in {element.tag for element in root.iter()}
    assert "http" not in svg
    # The page's colours and font, and no others but those that mean a landmark or a value.
    assert "var(--" in svg
    assert "#0101" not in svg
    assert "font-family" not in svg
    ids = re.findall(r' id="([^"]*)"', svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#(\w+)', svg)) == set(ids)


def test_level_lines_are_where_a_map_is_zero() -> None:
    y, x = np.mgrid[:6, :8].astype(float)
    (line,) = charts.level_lines(x - 2.25 + 0 * y, np.ones((6, 8), bool))
    np.testing.assert_allclose(line[:, 0], 2.25)
    assert sorted(line[:, 1]) == [0, 1, 2, 3, 4, 5]
    assert charts.level_lines(x - 2.25, np.zeros((6, 8), bool)) == []


def test_charts_of_one_page_share_no_names_and_are_always_the_same() -> None:
    first, second = (set(re.findall(r' id="([^"]*)"', CHARTS[n]())) for n in ("lines", "bars"))
    assert first.isdisjoint(second)
    assert CHARTS["lines"]() == CHARTS["lines"]()


def test_names_are_escaped_and_dollars_are_dollars() -> None:
    svg = CHARTS["lines"]()
    assert "a &lt;b&gt;" in svg
    assert "x $y$" in svg


def test_what_is_whole_has_whole_ticks() -> None:
    """There is no round 0.5."""

    def ticks(x: NDArray[np.float64]) -> list[str]:
        svg = charts.lines([charts.Line(x, 20 - x)], "round", small=True)
        labels = re.findall(r"<text[^>]*>([^<]*)<", svg)
        return labels[: labels.index("round")]

    assert ticks(np.arange(4.0)) == ["0", "1", "2", "3"]
    assert all("." not in label for label in ticks(np.array([0, np.nan, 2])))
    assert any("." in label for label in ticks(np.arange(4.0) / 4))
