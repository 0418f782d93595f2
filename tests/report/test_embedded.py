"""The sections of runs with vectors, with rounds, and with pictures of the training."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from landmark_lab.report.context import Context
from landmark_lab.report.sections.symmetry import symmetry
from tests.report.conftest import KEYPOINTS
from tests.report.page import Element, read_page

SECTIONS = ["frame", "unfolded", "symmetry", "matches", "exchange"]


@pytest.fixture(scope="module")
def page(embedded: Path) -> Element:
    return read_page(embedded / "report.html")


@pytest.fixture(scope="module")
def of_rounds(with_rounds: Path) -> Element:
    return read_page(with_rounds / "report.html")


def test_vectors_have_sections_and_others_do_not(page: Element, finished: Path) -> None:
    shown = [element.attributes["id"] for element in page.all("section")]
    assert shown == ["run", *SECTIONS, "losses"]
    other = read_page(finished / "report.html")
    assert set(SECTIONS).isdisjoint(e.attributes["id"] for e in other.all("section"))
    assert "Not shown" not in page.text


def test_every_picture_is_described_and_the_page_stays_small(page: Element, embedded: Path) -> None:
    pictures = [*page.all("img")]
    assert len(pictures) > 50
    assert all(len(e.attributes["alt"]) > 8 for e in pictures)
    assert len({e.attributes["alt"] for e in page.by_id("frame").all("img")}) == 24
    assert (embedded / "report.html").stat().st_size < 2_000_000


def test_matched_points_have_colours_of_their_own(page: Element, embedded: Path) -> None:
    (style,) = page.all("style")
    used = {e.attributes["class"].split()[-1] for e in page.by_id("matches").all("circle")}
    assert len(used) > 5
    assert all(f".{name}{{--c:#" in style.text for name in used)


def test_pictures_have_their_own_shape(page: Element) -> None:
    frames = [e for e in page.by_id("matches").all("div") if e.attributes.get("class") == "frame"]
    assert {e.attributes["style"] for e in frames} == {"aspect-ratio: 2"}
    assert {e.attributes["viewbox"] for e in page.by_id("matches").all("svg")} == {"-2 -1 4 2"}
    assert {e.attributes["viewbox"] for e in page.by_id("symmetry").all("svg")} == {"-1 -1 2 2"}


def test_a_method_without_a_mirror_image_has_no_plane(embedded: Path) -> None:
    context = Context(embedded)
    method: Any = context.method
    assert context.frames is not None
    assert context.frames.mirrored is not None
    assert symmetry(context) is not None
    method.mirror = False
    plain = Context(embedded)
    plain.__dict__["method"] = method  # in place of the one in the checkpoint
    assert plain.frames is not None
    assert plain.frames.mirrored is None
    assert symmetry(plain) is None


def test_rounds_are_shown_on_the_same_images(of_rounds: Element) -> None:
    page = of_rounds
    shown = [element.attributes["id"] for element in page.all("section")]
    assert shown == ["run", *SECTIONS, "rounds", "clusters", "course", "losses"]
    titles = [e.text for e in page.by_id("rounds").all("h3")]
    assert titles == [f"Train, round {n}, from step {10 * n} on" for n in range(3)]
    dots = [e.attributes for e in page.by_id("rounds").all("circle")]
    assert [e["class"] for e in dots[:20]] == ["d truth"] * 20  # of round 0, without clusters
    assert [e["class"] for e in dots[20:24]] == [f"d k{k}" for k in range(KEYPOINTS)]
    assert [e["cx"] for e in dots[20:24]] == ["-0.750", "-0.250", "0.250", "0.750"]
    assert [e["cx"] for e in dots[:20]] == [e["cx"] for e in dots[40:]]
    steps = [e.text for e in page.by_id("course").all("figcaption")]
    assert steps == ["Step 5", "Step 60", "Step 700"]


def test_curves_of_rounds_say_what_the_tables_hold(of_rounds: Element) -> None:
    page = of_rounds
    alts = [
        e.attributes["aria-label"]
        for e in page.by_id("rounds").all("div")
        if "aria-label" in e.attributes
    ]
    assert any("keypoints in an image ends at 4" in alt for alt in alts)
    assert any("clusters ends at 4" in alt for alt in alts)
    assert any("precision ends at" in alt for alt in alts)


def test_clusters_have_sheets_descriptors_and_a_history(of_rounds: Element) -> None:
    page = of_rounds.by_id("clusters")
    names = [e.text for e in page.all("figcaption")]
    assert [n for n in names if n.startswith("Cluster")] == [
        f"Cluster {k}: 24 keypoints" for k in range(KEYPOINTS)
    ]
    titles = [e.text for e in page.all("p") if e.attributes.get("class") == "title"]
    assert titles == ["Before: round 0", "After: round 2", "Clusters left"]
    assert [row.text for row in page.all("tr")][1:] == ["3 1 75.0 % 2"]


def test_a_damaged_round_is_named_and_the_others_are_shown(
    with_rounds: Path, tmp_path: Path
) -> None:
    shutil.copytree(with_rounds / "rounds", tmp_path / "rounds")
    shutil.copy(with_rounds / "config.yaml", tmp_path)
    (tmp_path / "rounds" / "train" / "001.npz").write_bytes(b"zip?")
    context = Context(tmp_path)
    assert [record.number for record in context.rounds["train"]] == [0, 2]
    assert "001.npz: is no record of a round" in context.missing[0]
