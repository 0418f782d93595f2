"""The sections of runs with vectors, with rounds, and with pictures of the training."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from landmark_lab.data.rounds import Labelled, write_round
from landmark_lab.evaluation.keypoint_tables import score_rounds, table_predictions
from landmark_lab.evaluation.protocols.keypoint_detection import KeypointDetection
from landmark_lab.report.blocks import Charts
from landmark_lab.report.context import Context
from landmark_lab.report.sections.clusters import _tsne, clusters
from landmark_lab.report.sections.rounds import _curves, _scores
from landmark_lab.report.sections.symmetry import symmetry
from tests.report.conftest import KEYPOINTS, labelled
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
    by = ("", ", clustered by faiss on cpu", ", clustered by faiss on cpu")
    assert titles == [f"Train, round {n}, from step {10 * n} on{by[n]}" for n in range(3)]
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
    (note,) = (e.text for e in page.by_id("rounds").all("figcaption") if "Precision" in e.text)
    assert "within 10 px of one of the 18 annotated points, in images of 256" in note
    assert "All points count" in note


def test_clusters_have_sheets_descriptors_and_a_history(of_rounds: Element) -> None:
    page = of_rounds.by_id("clusters")
    names = [e.text for e in page.all("figcaption")]
    assert [n for n in names if n.startswith("Cluster")] == [
        f"Cluster {k}: 24 keypoints" for k in range(KEYPOINTS)
    ]
    titles = [e.text for e in page.all("p") if e.attributes.get("class") == "title"]
    assert titles == ["Before: round 0", "After: round 2", "Clusters left"]
    before, after = (n for n in names if n.startswith("96 keypoints"))
    # The method is none that starts from a detector.
    assert before.startswith("96 keypoints, described with 4 numbers; colours: the 4 largest")
    assert after.startswith("96 keypoints, described by the network with 4 numbers; colours")
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


def test_the_recall_of_rounds_is_that_of_the_command(with_rounds: Path, tmp_path: Path) -> None:
    """Of the images that were looked at: some without a keypoint, and not of all there are."""
    shutil.copy(with_rounds / "config.yaml", tmp_path)
    context = Context(tmp_path)
    assert context.data is not None
    tables = []
    for number in range(2):
        found, step = labelled(number)
        image = found.table.image
        table = found.table.select((image > number) & (image < 17) & (image % 3 != number))
        file = tmp_path / "rounds" / "train" / f"{number:03d}.npz"
        write_round(file, Labelled(table), step, number, np.arange(20))
        tables.append(table)
    records = context.rounds["train"]
    shown = _scores(context, records)
    assert shown is not None
    files = sorted((tmp_path / "rounds" / "train").iterdir())
    known = table_predictions({"train": tables[0]}, context.data, {})
    told = score_rounds(files, known, {"detection": KeypointDetection(resamples=2)})
    for column, name in enumerate(("precision", "recall")):
        expected = [one.scores["detection"].values[name].value / 100 for one in told]
        np.testing.assert_allclose(shown[:, column], expected)
    assert [one.scores["detection"].images for one in told] == [20, 20]
    mean = _curves(context, "train", records)[0].alt.rpartition(" ")[2]
    assert float(mean) == pytest.approx(len(tables[1]) / 20, rel=1e-2)


def test_descriptors_that_are_all_alike_are_drawn(with_rounds: Path, tmp_path: Path) -> None:
    shutil.copy(with_rounds / "config.yaml", tmp_path)
    for number in range(2):
        found, step = labelled(2)
        alike = replace(found.table, descriptors=torch.full((len(found.table), 5), 0.3))
        file = tmp_path / "rounds" / "train" / f"{number:03d}.npz"
        write_round(file, Labelled(alike), step, number, np.arange(24))
    section = clusters(Context(tmp_path))
    assert section is not None
    drawn = [c for block in section.blocks if isinstance(block, Charts) for c in block.charts]
    assert [chart.title for chart in drawn] == ["Before: round 0", "After: round 1"]
    assert all(chart.svg.count("<use") >= len(found.table) for chart in drawn)


@pytest.mark.parametrize(("count", "dimension"), [(4, 1), (5, 7), (40, 1), (40, 2)])
def test_few_and_short_descriptors_have_places(count: int, dimension: int) -> None:
    vectors = torch.randn(count, dimension, generator=torch.Generator().manual_seed(0))
    for descriptors in (vectors, torch.ones(count, dimension)):
        places = _tsne(descriptors, seed=3)
        assert places.shape == (count, 2)
        assert np.isfinite(places).all()
        np.testing.assert_array_equal(places, _tsne(descriptors, seed=3))
