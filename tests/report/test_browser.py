"""The report in a real browser: desktop and phone, light and dark.

Debian's ``chromium`` and ``chromium-driver``, driven by selenium; skipped where they are missing.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

selenium = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

DESKTOP, PHONE = 1280, 390
VIEWS = [(width, scheme) for width in (DESKTOP, PHONE) for scheme in ("light", "dark")]

# What is wider than the page, and of the pictures: how many, and which show nothing.
LAYOUT = """
const page = document.documentElement;
const pictures = [...document.images];
return {
  wide: page.scrollWidth - page.clientWidth,
  pictures: pictures.length,
  broken: pictures.filter((p) => !p.complete || p.naturalWidth === 0).map((p) => p.alt),
  empty: [...document.querySelectorAll('.chart svg')].filter((s) => {
    const box = s.getBoundingClientRect();
    return box.width < 200 || box.height < 50;
  }).length,
};
"""

# The smallest contrast of text with what is behind it (WCAG 2), and whose it is.
CONTRAST = """
const parts = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
const light = (colour) => {
  const linear = parts(colour).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (colour !== 'rgba(0, 0, 0, 0)') return colour;
  }
  return 'rgb(255, 255, 255)';
};
let worst = [99, ''];
for (const e of document.querySelectorAll('p, dt, dd, th, td, li a, figcaption, .chart text')) {
  const style = getComputedStyle(e);
  const levels = [light(e.closest('svg') ? style.fill : style.color), light(behind(e))].sort();
  const contrast = (Math.max(...levels) + 0.05) / (Math.min(...levels) + 0.05);
  if (contrast < worst[0]) worst = [contrast, e.outerHTML.slice(0, 200)];
}
return worst;
"""


# The last message of a page that has been read.
END = "no more messages"

# Changes that are seen at once.
STILL = """
const style = document.head.appendChild(document.createElement('style'));
style.textContent = '* { transition: none !important; }';
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser without a window."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium or no chromedriver: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = program
    # In a container there is neither a sandbox nor much shared memory.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield started
    started.quit()


def show(browser: Any, file: Path, width: int, scheme: str) -> None:
    """Load a page as a screen of this width in this colour scheme shows it."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(file.as_uri())


def console(browser: Any, until: str = END) -> str:
    """What the browser says of the page, up to the message that contains ``until``.

    It is heard some time after the page has loaded, but in order: ``END``, our own message, comes
    behind what there was to say before.
    """
    browser.execute_script("console.log(arguments[0])", END)
    said: list[str] = []

    def heard(browser: Any) -> bool:
        said.extend(entry["message"] for entry in browser.get_log("browser"))
        return any(until in message for message in said)

    WebDriverWait(browser, timeout=60, poll_frequency=0.05).until(heard)
    return "\n".join(message for message in said if END not in message)


def requests(browser: Any, file: Path) -> list[str]:
    """The addresses that the page asked for, but for data within it."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # The browser's own pages ask, too.
    own = [params["request"]["url"] for params in asked if params["documentURL"] == file.as_uri()]
    return [address for address in own if not address.startswith("data:")]


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
@pytest.mark.parametrize("run", ["finished", "with_rounds"])
def test_the_report_is_whole_on_every_screen(
    browser: Any, request: pytest.FixtureRequest, run: str, width: int, scheme: str
) -> None:
    file = request.getfixturevalue(run) / "report.html"
    show(browser, file, width, scheme)
    assert console(browser) == ""
    assert requests(browser, file) == [file.as_uri()]
    found = browser.execute_script(LAYOUT)
    assert found["pictures"] > 30
    assert found["broken"] == []
    assert found["wide"] == 0
    assert found["empty"] == 0
    contrast, whose = browser.execute_script(CONTRAST)
    assert contrast > 4.5, whose


def test_light_and_dark_differ_in_charts_too(browser: Any, finished: Path) -> None:
    colours = []
    for scheme in ("light", "dark"):
        show(browser, finished / "report.html", DESKTOP, scheme)
        ask = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        colours.append(
            (
                browser.execute_script(ask, "body", "backgroundColor"),
                browser.execute_script(ask, ".chart text", "fill"),
            )
        )
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


def test_a_landmark_that_is_picked_stands_out_in_all_pictures(browser: Any, finished: Path) -> None:
    show(browser, finished / "report.html", DESKTOP, "light")
    opacities = """
        const of = (k) => [...document.querySelectorAll(`#landmarks circle.k${k}`)]
          .map((e) => getComputedStyle(e).opacity);
        return [of(0), of(1)];
    """
    browser.execute_script(STILL)
    button = browser.find_element("css selector", ".legend button[data-landmark='1']")
    for pressed, other in (("true", "0.08"), ("false", "1")):
        # By the keyboard, so that no pointer rests on anything.
        browser.execute_script("arguments[0].focus()", button)
        button.send_keys("\ue007")
        assert button.get_attribute("aria-pressed") == pressed
        hidden, shown = browser.execute_script(opacities)
        assert set(hidden) == {other}
        assert set(shown) == {"1"}


def test_a_page_that_asks_for_something_is_noticed(
    browser: Any, finished: Path, tmp_path: Path
) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    file = tmp_path / "page.html"
    file.write_text(text.replace("<main>", "<main><img src='http://127.0.0.1:9/a.png' alt=''>"))
    show(browser, file, DESKTOP, "light")
    assert "127.0.0.1:9" in console(browser, until="Content Security Policy")
    assert browser.execute_script(LAYOUT)["broken"] == [""]
