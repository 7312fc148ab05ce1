"""Every page that ferkit makes, in a real browser, with names that try to run."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from ferkit.cli.main import main
from ferkit.evaluation.report.page import write_comparison
from ferkit.inference.sinks import BrowserView
from tests.evaluation.reports import made_up
from tests.serving.bad_models import network, read_values, write_record
from tests.serving.browser import Browser
from tests.serving.running import image, running

NAMES = (
    "<img src=x onerror=window.hacked=1>",
    "\"'><script>window.hacked=1<&#47;script>",
    "{{7*7}}${7*7}javascript:window.hacked=1",
)
"""Of files and folders, so without a slash; the pages below also get one with a script's end."""

ENDS = "</script></style></title><script>window.hacked=1</script>"

pytestmark = [pytest.mark.slow, pytest.mark.attack]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(None, tmp_path_factory.mktemp("saved"))
    yield found
    found.close()


def nothing_ran(browser: Browser) -> None:
    """Nothing of the names did anything, now or a moment later."""
    time.sleep(0.3)
    assert browser.js("return window.hacked") is None
    # Names became text: no element was made of them.
    assert browser.js("return document.querySelectorAll('img[src=x], [onerror], [onload]').length") == 0
    assert "49" not in browser.js("return document.title")


def test_the_report_of_a_comparison(browser: Browser, tmp_path: Path) -> None:
    comparison = made_up((*NAMES[:2], ENDS), 60, candidates=(f"head@{ENDS}", NAMES[0]), paths=None)
    write_comparison(comparison, tmp_path / "report")
    pages = list((tmp_path / "report").rglob("*.html"))
    assert pages
    for page in pages:
        browser.driver.get(page.as_uri())
        nothing_ran(browser)
        assert "window.hacked" in browser.js("return document.body.textContent")


def test_the_page_of_an_audit(browser: Browser, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / "data" / NAMES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (48, 48), np.uint8) if i % 4 else np.full((48, 48), 40, np.uint8)
        (folder / f"{i}{NAMES[0]}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    out = tmp_path / "audit"
    done = CliRunner().invoke(
        main, ["audit", str(tmp_path / "data"), "--out", str(out), "--embeddings", "none"]
    )
    assert done.exit_code == 0, done.output
    browser.driver.get((out / "audit.html").as_uri())
    nothing_ran(browser)
    assert "onerror" in browser.js("return document.body.textContent")


def test_the_page_of_the_live_view(browser: Browser) -> None:
    view = BrowserView()
    try:
        view.show(np.zeros((48, 64, 3), np.uint8))
        browser.driver.set_page_load_timeout(3)
        with contextlib.suppress(Exception):  # its image never ends, nor does its loading
            browser.driver.get(f"{view.url}?{NAMES[0]}#{ENDS}")
        assert browser.js("return document.title") == "ferkit live"
        nothing_ran(browser)
    finally:
        browser.driver.set_page_load_timeout(60)
        view.close()


def test_the_page_of_the_server(browser: Browser, tmp_path: Path) -> None:

    from onnx import helper

    from ferkit.classifiers.kinds import save_network_model
    from ferkit.classifiers.model import ModelRecord
    from ferkit.core.weights import NETWORK_ONNX

    models = tmp_path / "models"
    content = network([helper.make_node("Softmax", ["r"], ["y"])], {})
    record = ModelRecord(kind="network", labels=(*NAMES[:2], ENDS), input_size_wh=(48, 48))
    save_network_model(models / NAMES[0], {NETWORK_ONNX: content}, record)
    values = read_values(models / NAMES[0])
    write_record(models / NAMES[0], values | {"licence": ENDS})
    photo = tmp_path / f"{NAMES[0]}.jpg"
    photo.write_bytes(image())
    with running(models, model=NAMES[0]) as server:
        browser.open(f"http://localhost:{server.port}/?{NAMES[0]}#{ENDS}")
        nothing_ran(browser)
        browser.click("#tab-pictures")
        browser.one("#file-pictures").send_keys(str(photo))
        browser.until(lambda: browser.one("#purpose-dialog").is_displayed(), "the question for the purpose")
        browser.click('#purpose-options input[value="research"]')
        browser.click("#purpose-ok")
        shown = "return document.querySelector('#panel-pictures').textContent"
        browser.until(lambda: "hacked" in browser.js(shown), "the hostile names as text")
        nothing_ran(browser)
        browser.driver.get(f"http://localhost:{server.port}/docs?{NAMES[0]}")
        nothing_ran(browser)
