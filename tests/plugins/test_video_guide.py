"""docs/video.md says what is true."""

import re
from pathlib import Path

import numpy as np
import yaml

from landmark_lab.plugin import available, build, check, discover, parameters
from landmark_lab.roles import ImageData, OpticalFlow, Pairing

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "video.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_of_a_configuration_can_be_used(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    settings = yaml.safe_load(text)
    check(ImageData, {**settings["data"], "root": str(tmp_path)})
    check(Pairing, settings["pairing"])


def test_the_settings_have_these_defaults() -> None:
    rows = re.findall(r"^\| `(flow|pairing)\.(\w+)` \| ([^|]*) \|", TEXT, re.MULTILINE)
    flows = [
        cls
        for cls in available(OpticalFlow).values()
        if cls.__module__.startswith("landmark_lab_plugins.")
    ]
    assert {cls.plugin_name for cls in flows} == {"dis", "farneback"}
    checked = 0
    for part, setting, text in rows:
        for cls in flows if part == "flow" else [available(Pairing)["frames"]]:
            if setting != "name":
                default = parameters(cls)[setting].plain_default
                assert text == ("none" if default is None else f"{default:g}"), setting
                checked += 1
    assert checked == 7


def test_the_example_of_an_estimator_works(tmp_path: Path) -> None:
    text = next(block for block in blocks("python") if block.startswith("# still.py"))
    path = tmp_path / "still.py"
    path.write_text(text, encoding="utf-8")
    discover([path])
    still = build(OpticalFlow, "still")
    frame = np.zeros((12, 16, 3), np.uint8)
    assert still.estimate(frame, frame).shape == (12, 16, 2)
    assert still.resolution == 128
