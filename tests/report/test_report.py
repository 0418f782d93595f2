"""What stands in a report: of a finished run, of an unfinished one, of one with nothing to show."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import landmark_lab.report as reports
from landmark_lab.cli import app
from landmark_lab.config import read
from landmark_lab.errors import RunError
from landmark_lab.evaluation.predictions import load_predictions, save_predictions
from landmark_lab.evaluation.protocols.few_shot import FewShot
from landmark_lab.evaluation.protocols.nme import Nme
from landmark_lab.experiment import run
from landmark_lab.files import read_json
from landmark_lab.optimisation import Adam, Constant
from landmark_lab.report import write_report
from landmark_lab.report.blocks import Text, number
from landmark_lab.report.context import Context
from landmark_lab.report.regressed import regressed
from landmark_lab.report.sections import SECTIONS
from landmark_lab.report.sections.health import health
from landmark_lab.report.sections.regressor import contributions
from landmark_lab.roles import Method, Optimiser, Pair, Schedule
from tests.report.conftest import SETTINGS
from tests.report.page import Element, read_page

WHOLE = [
    "run",
    "results",
    "landmarks",
    "health",
    "pairs",
    "predictions",
    "curves",
    "points",
    "few-shot",
    "regressor",
    "course",
    "losses",
    "rows",
]


@pytest.fixture(scope="module")
def page(finished: Path) -> Element:
    return read_page(finished / "report.html")


def sections(page: Element) -> list[str]:
    return [element.attributes["id"] for element in page.all("section")]


# --- the page -------------------------------------------------------------------------------------


def test_a_run_ends_with_a_report_of_all_sections(page: Element) -> None:
    assert sections(page) == WHOLE
    # Of vectors, see test_embedded.py; of rounds, the same.
    others = {"frame", "unfolded", "symmetry", "matches", "exchange", "rounds", "clusters"}
    named = {make.__name__.replace("_", "-") for make in SECTIONS}
    assert named == {*WHOLE, *others}


def test_the_page_is_one_file_that_asks_for_nothing(finished: Path, page: Element) -> None:
    assert (finished / "report.html").stat().st_size < 4_000_000
    for element in page.all():
        for name, value in element.attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert value.startswith(("data:", "#")), (element.tag, name, value[:80])
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert set(text.split("url(")[1:]) == {
        rest for rest in text.split("url(")[1:] if rest[0] == "#"
    }
    (policy,) = (e for e in page.all("meta") if "http-equiv" in e.attributes)
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:;")


def test_headings_links_and_names_are_in_order(page: Element) -> None:
    levels = [int(e.tag[1]) for e in page.all("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    links = [e.attributes["href"] for nav in page.all("nav") for e in nav.all("a")]
    assert links == [f"#{name}" for name in WHOLE]
    references = [e.attributes["xlink:href"] for e in page.all("use")]
    assert references
    assert {name.removeprefix("#") for name in references} <= set(ids)


def test_who_cannot_see_is_told_what_is_shown(page: Element) -> None:
    pictures = [*page.all("img")]
    assert len(pictures) > 30
    assert all(len(e.attributes["alt"]) > 8 for e in pictures)
    drawings = [e for e in page.all("div") if e.attributes.get("role") == "img"]
    assert len(drawings) > 10
    assert all(len(e.attributes["aria-label"]) > 20 for e in drawings)
    assert all(e.attributes["scope"] in ("col", "row") for e in page.all("th"))
    assert {e.attributes.get("lang") for e in page.all("html")} == {"en"}


def test_what_was_run_and_the_results_are_quoted(finished: Path, page: Element) -> None:
    said = page.by_id("run").text
    assert f"landmark-lab train {finished}/config.yaml" in said
    assert "toy_faces, 32 px" in said
    assert "finished" in said
    assert "From start to evaluation" in said
    scores = read_json(finished / "results.json")["protocols"]
    table = page.by_id("results").text
    for score in scores.values():
        assert number(score["value"]) in table
        assert f"{number(score['low'])} – {number(score['high'])}" in table
        for reference in score["references"].values():
            assert number(reference) in table
    assert "12.2" in table  # the published number
    beside = [row.text for row in page.by_id("rows").all("tr")]
    assert beside[-1] == "two/001 – – 7.75 (7.50 – 8.00) –"


def test_every_landmark_is_drawn_in_its_colour(finished: Path, page: Element) -> None:
    colours = {e.attributes["class"] for e in page.by_id("landmarks").all("circle")}
    assert colours == {f"d k{k}" for k in range(4)}
    found = load_predictions(finished / "predictions" / "best.npz").split("test")
    assert len([*page.by_id("landmarks").all("img")]) == len(found) + 2
    # All images are shown, in order, below the numbered ones.
    drawn = [e for e in page.by_id("landmarks").all("circle") if "k1" in e.attributes["class"]][2:]
    x = [float(e.attributes["cx"]) for e in drawn]
    np.testing.assert_allclose(x, found.landmarks[:, 1, 0], atol=6e-4)


def test_predictions_show_the_protocols_errors(finished: Path, page: Element) -> None:
    context = Context(finished)
    found = context.regressed
    assert found is not None
    assert found.label == "forward_nme"  # and not the one with five annotated images
    score = read_json(finished / "results.json")["protocols"]["forward_nme"]
    per_image = found.per_image
    assert per_image["trained"].mean() == pytest.approx(score["value"])
    for name, value in score["references"].items():
        assert per_image[name].mean() == pytest.approx(value), name
    shown = page.by_id("predictions").text
    assert number(per_image["trained"].min(), " %") in shown
    assert number(per_image["trained"].max(), " %") in shown
    each = [point["error"] for point in score["per_landmark"]]
    assert number(max(each), " %") in page.by_id("points").text


def test_the_few_shot_curve_has_every_number_of_images(finished: Path, page: Element) -> None:
    rows = [row.text for row in page.by_id("few-shot").all("tr")][1:]
    scores = read_json(finished / "results.json")["protocols"].values()
    few, many = sorted(
        (score for score in scores if score["settings"].get("annotated")),
        key=lambda score: score["settings"]["annotated"],
    )[:2]
    assert rows[0].startswith(f"5 {number(few['value'])}")
    assert rows[1].startswith(f"24 {number(many['value'])}")


def test_a_protocol_of_many_numbers_gives_the_few_shot_curve(copied: Callable[..., Path]) -> None:
    folder = copied()
    predictions = load_predictions(folder / "predictions" / "best.npz")
    score = FewShot(annotated=(1, 5, "all"), repeats=3).score(predictions).to_dict()
    (folder / "results.json").write_text(json.dumps({"protocols": {"few_shot": score}}))
    page = read_page(write_report(folder))
    rows = [row.text for row in page.by_id("few-shot").all("tr")][1:]
    assert [row.split()[0] for row in rows] == ["1", "5", "24"]
    for row, value in zip(rows, score["values"].values(), strict=True):
        assert row.split()[1] == number(value["value"])
    assert rows[1].endswith(number(score["values"]["annotated=5"]["deviation"]))


def test_landmarks_that_are_the_points_need_no_regressor(finished: Path) -> None:
    found = load_predictions(finished / "predictions" / "best.npz")
    generator = np.random.default_rng(0)
    splits = {
        name: replace(split, landmarks=split.points + generator.normal(0, 0.1, split.points.shape))
        for name, split in found.splits.items()
    }
    predictions = replace(found, splits=splits)
    shown = regressed({"nme": Nme()}, predictions, predictions)
    assert shown is not None
    assert shown.map is None
    score = Nme().score(predictions, predictions)
    assert shown.per_image["trained"].mean() == pytest.approx(score.value.value)
    assert shown.per_image["untrained"].mean() == pytest.approx(score.value.value)


def test_contributions_are_shares_of_absolute_weights() -> None:
    weights = np.random.default_rng(0).normal(size=(2 * 3, 2 * 5))
    shares = contributions(weights)
    for point in range(5):
        sums = [
            sum(abs(weights[2 * k + i, 2 * point + j]) for i in (0, 1) for j in (0, 1))
            for k in range(3)
        ]
        np.testing.assert_allclose(shares[point], np.array(sums) / sum(sums))


def test_numbers_have_three_digits_that_count() -> None:
    values = (0.0, 1.0, 9.9951, 12.345, 123.4, -0.01234, float("nan"), None)
    shown = [number(value) for value in values]
    assert shown == ["0.00", "1.00", "10.0", "12.3", "123", "−0.0123", "–", "–"]


# --- what is missing ------------------------------------------------------------------------------


def test_a_run_without_results_shows_what_its_checkpoint_finds(copied: Callable[..., Path]) -> None:
    folder = copied("results.json", "predictions/*", "checkpoints/train/[bd]*.ckpt")
    page = read_page(write_report(folder))
    assert sections(page) == ["run", "landmarks", "pairs", "course", "losses"]
    (header,) = page.all("header")
    assert "not evaluated yet" in header.text
    assert "Predictions were not exported" in header.text
    assert len([*page.by_id("landmarks").all("img")]) == 18
    assert "finished" not in page.by_id("run").text
    assert "at step 6" in page.by_id("run").text


def test_a_run_that_has_only_begun_has_a_report(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "config.yaml", tmp_path)
    page = read_page(write_report(tmp_path))
    assert sections(page) == ["run"]
    (header,) = page.all("header")
    assert "no checkpoint" in header.text
    assert "Nothing was logged" in header.text


def test_without_the_data_the_report_has_no_pictures_and_says_so(
    copied: Callable[..., Path],
) -> None:
    folder = copied("figures/training/*")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"] = {"name": "folder", "root": str(folder / "gone")}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    page = read_page(write_report(folder))
    assert [*page.all("img")] == []
    (header,) = page.all("header")
    assert "Without pictures" in header.text
    assert "there is no such folder" in header.text
    assert {"results", "curves", "regressor", "health"} <= set(sections(page))
    assert {"pairs", "predictions"}.isdisjoint(sections(page))
    assert [*page.by_id("regressor").all("line")]  # on an empty square


def test_damaged_files_are_named_and_cost_nothing_else(copied: Callable[..., Path]) -> None:
    folder = copied()
    (folder / "results.json").write_text("{")
    (folder / "predictions" / "untrained.npz").write_bytes(b"zip?")
    with (folder / "metrics" / "train.csv").open("a") as log:
        log.write("1,")  # a row cut off
    page = read_page(write_report(folder))
    (header,) = page.all("header")
    assert "results.json: is not a readable JSON file" in header.text
    assert "untrained.npz: is not a file of predictions" in header.text
    assert {"landmarks", "curves", "losses"} <= set(sections(page))
    assert "untrained" not in page.by_id("curves").text


def test_landmarks_that_are_lost_are_told_as_the_protocol_tells_them(
    copied: Callable[..., Path],
) -> None:
    folder = copied("figures/training/*")
    results = read_json(folder / "results.json")
    healthy = {"error": 1.0, "spread": 9.0, "separation": 8.0, "lost": 0.11}
    lost = [
        healthy,
        {"error": None, "spread": 9.0, "separation": 8.0, "lost": 1.0},
        {"error": 10.0, "spread": 9.0, "separation": None, "lost": 0.53},
        {"error": 1.0, "spread": 9.0, "separation": 0.5, "lost": 0.67},
    ]
    rows = [{"landmark": k, **row} for k, row in enumerate(lost)]
    results["protocols"]["equivariance"]["per_landmark"] = rows
    (folder / "results.json").write_text(json.dumps(results))
    section = health(Context(folder))
    assert section is not None
    said = [block.text for block in section.blocks if isinstance(block, Text)]
    assert "Never found in both an image and its warped copy: 1 (1 of 4)." in said
    assert "Erring by more than they move over images: 2 (1 of 4)." in said
    assert "Nearer to another landmark than they err: 3 (1 of 4)." in said


class Blind(Method, name="report_blind"):
    """Learns something, and finds no landmarks."""

    def __init__(self, weights: dict[str, float], optimiser: Optimiser, schedule: Schedule) -> None:
        super().__init__(weights, optimiser, schedule)
        self.level = nn.Parameter(torch.zeros(3))

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        level = self.level[:, None, None]
        return {"level": (batch.source.image - level).square().mean()}


def test_a_method_without_landmarks_has_only_the_sections_that_apply(tmp_path: Path) -> None:
    method = {
        "name": "report_blind",
        "weights": {"level": 1.0},
        "optimiser": Adam().spec,
        "schedule": Constant().spec,
    }
    settings: dict[str, Any] = {**SETTINGS, "method": method, "evaluate": []}
    settings.pop("rows")
    (tmp_path / "blind.yaml").write_text(yaml.safe_dump(settings))
    folder = run(read(tmp_path / "blind.yaml"), tmp_path / "runs")
    page = read_page(folder / "report.html")
    assert sections(page) == ["run", "losses"]
    (header,) = page.all("header")
    assert "notice" not in " ".join(e.attributes.get("class", "") for e in header.all())
    titles = [e.text for e in page.by_id("losses").all("p") if e.attributes["class"] == "title"]
    assert titles[:2] == ["loss", "level"]


# --- what must not happen -------------------------------------------------------------------------


HOSTILE = "<script>alert(1)</script> \"'&$x_1$"


def test_hostile_names_are_shown_and_not_executed(copied: Callable[..., Path]) -> None:
    folder = copied()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["summary"] = HOSTILE
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for file in (folder / "predictions").glob("*.npz"):
        found = load_predictions(file)
        names = [HOSTILE, *found.provenance.point_names[1:]]
        provenance = replace(found.provenance, point_names=names)
        save_predictions(replace(found, provenance=provenance), file)
    results = read_json(folder / "results.json")
    results["protocols"]["equivariance"]["notes"] = [HOSTILE]
    (folder / "results.json").write_text(json.dumps(results))
    page = read_page(write_report(folder))
    assert len([*page.all("script")]) == 1
    (header,) = page.all("header")
    shown = " ".join(HOSTILE.split())
    assert shown in header.text
    assert shown in page.by_id("results").text
    assert shown in page.by_id("regressor").text
    (heat,) = (e for e in page.by_id("regressor").all("div") if e.attributes.get("role") == "img")
    assert shown in heat.text


def test_a_section_that_fails_costs_no_other(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(context: Context) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(reports, "SECTIONS", (broken, *SECTIONS[:2]))
    with pytest.warns(UserWarning, match="could not be written in full: 'broken': ZeroDivision"):
        page = read_page(write_report(finished, tmp_path / "page.html"))
    assert sections(page) == ["no-broken", "run", "results"]
    assert "Not shown: ZeroDivisionError: oh" in page.by_id("no-broken").text


def test_a_report_that_fails_does_not_cost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**parts: object) -> str:
        raise OSError("no ink")

    monkeypatch.setattr(reports, "render", broken)
    settings = {**SETTINGS, "evaluate": [], "trainer": {**SETTINGS["trainer"], "max_epochs": 1}}
    settings.pop("rows")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    with pytest.warns(UserWarning, match=r"the report could not be written \(OSError: no ink\)"):
        folder = run(read(tmp_path / "small.yaml"), tmp_path / "runs")
    assert not (folder / "report.html").exists()
    assert (folder / "checkpoints" / "train" / "done.ckpt").is_file()


def test_the_command_writes_where_it_is_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "page.html"
    app(["report", str(finished), "--out", str(target)], standalone_mode=False)
    assert capsys.readouterr().out == f"report: {target}\n"
    assert sections(read_page(target)) == WHOLE
    with pytest.raises(RunError, match=r"did you mean .*one/001"):
        app(["report", str(finished.parents[1])], standalone_mode=False)
