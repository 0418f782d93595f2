"""docs/keypoints.md says what is true."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from landmark_lab.plugin import available, build, check, discover, parameters
from landmark_lab.roles import KeypointDetector, Method

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "keypoints.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_all_detectors_are_listed() -> None:
    named = set(re.findall(r"^\| `(\w+)` \| .* \| .* \|$", TEXT, re.MULTILINE))
    ours = {
        name
        for name, cls in available(KeypointDetector).items()
        if cls.__module__.startswith("landmark_lab_plugins.")
    }
    assert ours <= named


def written(value: object) -> str:
    """A default as the table has it."""
    if value is None:
        return "all"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def test_the_settings_have_these_defaults() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|[^|]*\|$", TEXT, re.MULTILINE)
    known = available(KeypointDetector)
    checked = 0
    for setting, text in rows:
        for name in ("sift", "orb", "superpoint"):
            if setting not in parameters(known[name]):
                continue
            own = text.partition("`superpoint` ")[2] if name == "superpoint" else ""
            default = parameters(known[name])[setting].plain_default
            shown = default if isinstance(default, list) else [default]
            expected = ", ".join(written(value) for value in shown)
            assert (own or text.partition(";")[0]) == expected, (setting, name)
            checked += 1
    assert checked == 18


@pytest.mark.parametrize("text", blocks("yaml"))
def test_settings_can_be_used(text: str) -> None:
    check(Method, yaml.safe_load(text)["method"])


def test_the_example_of_a_detector_works(tmp_path: Path) -> None:
    (snippet,) = blocks("python")
    path = tmp_path / snippet.splitlines()[0].removeprefix("# ")
    path.write_text(snippet, encoding="utf-8")
    discover([path])
    image = np.zeros((16, 16, 3), np.uint8)
    image[4, 12] = 255
    detector = build(KeypointDetector, {"name": path.stem, "count": 1})
    found = detector.detect(image, np.random.default_rng(0))
    assert found.points.tolist() == [[9 / 16, -7 / 16]]
