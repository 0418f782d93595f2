"""Where plugins come from: installed packages, files and folders; and modules that fail."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from landmark_lab import discovery, plugin, user_plugins
from landmark_lab.errors import ConfigError
from landmark_lab.plugin import Plugin, available, discover, failures, find

HERE = Path(__file__).resolve().parent


class Fruit(Plugin, role="test_fruit"):
    """Something to eat."""


Write = Callable[..., Path]

APPLE = """
from tests.test_discovery import Fruit

class Apple(Fruit, name="{name}"):
    '''An apple.'''
    def __init__(self, weight: float = 0.1) -> None: ...
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a plugin file and name it in the environment; everything is undone afterwards."""
    monkeypatch.setenv(user_plugins.VARIABLE, "")
    monkeypatch.setattr(discovery, "_failures", dict(discovery._failures))

    def write(file: str, text: str, listed: str | None = None) -> Path:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        user_plugins.announce(tmp_path / (listed or file))
        return path

    yield write
    Fruit.registry.clear()


def test_a_file_in_the_environment_variable(write: Write) -> None:
    path = write("my fruit.v2.py", APPLE.format(name="apple"))
    found = available(Fruit)["apple"]
    assert str(path) in plugin.definition(found)
    assert plugin.build(Fruit, "apple").spec == {"name": "apple", "weight": 0.1}


def test_a_folder_of_files(write: Write) -> None:
    write("folder/a.py", APPLE.format(name="a"), listed="folder")
    write("folder/b.py", APPLE.format(name="b"), listed="folder")
    assert list(available(Fruit)) == ["a", "b"]


def test_a_package_with_relative_imports_and_a_program(write: Write) -> None:
    write("fruits/__init__.py", "", listed="fruits")
    write("fruits/names.py", "NAME = 'pear'", listed="fruits")
    write("fruits/__main__.py", "raise SystemExit('ran')", listed="fruits")
    write("fruits/pear.py", "from .names import NAME\n" + APPLE.replace('"{name}"', "NAME"))
    os.environ[user_plugins.VARIABLE] = str(write("fruits/x.py", "").parent)
    assert list(available(Fruit)) == ["pear"]
    assert not [f for f in failures() if "fruits" in f.module]


def test_paths_given_by_hand_reach_the_processes_that_are_started(
    tmp_path: Path, write: Write
) -> None:
    path = tmp_path / "given.py"
    path.write_text(APPLE.format(name="given"))
    discover([path])
    discover([path])
    assert list(available(Fruit)) == ["given"]
    assert os.environ[user_plugins.VARIABLE] == str(path)


def _name_of(cls: type[Plugin], queue: "multiprocessing.Queue[str]") -> None:
    queue.put(cls.plugin_name)


def test_a_process_that_starts_afresh_knows_the_class(write: Write) -> None:
    write("fresh.py", APPLE.format(name="fresh"))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_name_of, args=(available(Fruit)["fresh"], queue))
    process.start()
    assert queue.get(timeout=120) == "fresh"
    process.join()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("raise RuntimeError('no battery')", "RuntimeError: no battery"),
        ("import not_installed_anywhere", "No module named 'not_installed_anywhere'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class (", "SyntaxError"),
        (
            "from landmark_lab.plugin import Plugin\n"
            "from tests.test_discovery import Fruit\n"
            "class Bad(Fruit, name='bad'):\n"
            "    '''Bad.'''\n"
            "    def __init__(self, *args: int) -> None: ...",
            "every parameter must be named",
        ),
    ],
    ids=["raises", "imports", "exits", "syntax", "rule"],
)
def test_a_broken_file_is_the_cause_when_its_name_is_asked_for(
    write: Write, text: str, cause: str
) -> None:
    broken = write("broken.py", APPLE.format(name="half") + "\n" + text)
    write("whole.py", APPLE.format(name="whole"))
    assert list(available(Fruit)) == ["whole"]  # what it defined before it failed is undone
    assert [f for f in failures() if f.module == str(broken)]
    with pytest.raises(ConfigError) as caught:
        find(Fruit, "half")
    assert "there is no test_fruit called 'half'" in str(caught.value)
    assert cause in str(caught.value)
    assert str(broken) in str(caught.value)
    assert find(Fruit, "whole").plugin_name == "whole"


def test_a_taken_name_is_a_failure_of_the_second_module(write: Write) -> None:
    first = write("first.py", APPLE.format(name="apple"))
    second = write("second.py", APPLE.format(name="apple"))
    assert str(first) in plugin.definition(available(Fruit)["apple"])
    (failure,) = [f for f in failures() if f.module == str(second)]
    assert str(first) in str(failure)
    assert "the name 'apple' of role 'test_fruit' is taken by" in str(failure)


def test_a_path_that_is_nothing(write: Write, tmp_path: Path) -> None:
    discover([tmp_path / "missing.py", write("notes.txt", "no Python")])
    causes = {f.module: str(f) for f in failures()}
    assert "No such file" in causes[str(tmp_path / "missing.py")]
    assert "a Python file or a folder" in causes[str(tmp_path / "notes.txt")]


def test_an_installed_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(HERE / "example_plugin", source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
    subprocess.run([*build, "--outdir", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    # What `pip install --no-deps --target` does with a wheel that is only Python.
    zipfile.ZipFile(wheel).extractall(target)
    program = (
        "import json\n"
        "from landmark_lab.plugin import build, definition, find\n"
        "from landmark_lab.roles import WarpGenerator\n"
        "from landmark_lab.seeding import BatchDraw\n"
        "made = build(WarpGenerator, {'name': 'squeeze', 'least': 0.5})\n"
        "view, warp = made.draw(BatchDraw.single(0, 3), (8, 8))\n"
        "print(json.dumps([made.spec, definition(type(made)), len(warp)]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    spec, where, count = json.loads(done.stdout.splitlines()[-1])
    assert spec == {"name": "squeeze", "least": 0.5}
    assert str(target) in where
    assert count == 3
