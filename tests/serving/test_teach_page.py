"""The tab Teach in a real browser: the camera plays a face that changes between two expressions."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from ferkit.cli.main import main
from ferkit.datasets.synthetic import Identity, render_face
from tests.serving.accessibility import low_contrast, nameless
from tests.serving.browser import Browser
from tests.serving.drawn_people import write_camera_clip
from tests.serving.running import Running, running
from tests.serving.test_page import DETECTOR, state_purpose

pytestmark = pytest.mark.slow

PHASES = {"happy": (226, 214, 200), "surprise": (188, 204, 226)}
"""What is shown, and the colour of the wall behind it, by which the test knows when."""


def scene(seconds: float = 1.6, fps: int = 10) -> Iterator[np.ndarray]:
    person = Identity.random(np.random.default_rng(14))
    for expression, wall in PHASES.items():
        drawn = [render_face(person, expression, np.random.default_rng(i), size=140) for i in range(5)]
        for i in range(round(seconds * fps)):
            frame = np.full((360, 640, 3), wall, np.uint8)
            frame[50:330, 180:460] = cv2.resize(drawn[i % len(drawn)], (280, 280))
            yield frame


@pytest.fixture(scope="module")
def teaching(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Running]]:
    folder = tmp_path_factory.mktemp("teach")
    # The camera plays thirty frames a second; each is there long enough.
    clip = write_camera_clip(folder / "camera.mjpeg", (f for f in scene() for _ in range(4)))
    with running(folder / "models", model="ferkit2", **DETECTOR) as server:
        browser = Browser(clip, folder / "saved")
        browser.driver.set_script_timeout(60)
        try:
            yield browser, server
        finally:
            browser.close()


RECORD = """
    const [label, red, done] = arguments;
    const video = document.querySelector("#teach-video"), canvas = document.createElement("canvas");
    const phase = () => {
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(video, 0, 0, canvas.width, canvas.height);
        const [r, , b] = context.getImageData(5, 5, 1, 1).data;
        return r > b;
    };
    const card = [...document.querySelectorAll(".class")].find((c) => c.dataset.label === label);
    const button = card.querySelector(".hold");
    let began = false, last = phase();
    const timer = setInterval(() => {
        const now = phase();
        if (!began && now === red && last !== red) {
            began = true;
            button.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true, cancelable: true }));
        } else if (began && now !== red) {
            window.dispatchEvent(new PointerEvent("pointerup"));
            clearInterval(timer);
            done(true);
        }
        last = now;
    }, 20);
"""


def record(page: Browser, label: str, is_red: bool) -> None:
    before, tries = examples(page, label), iter(range(8))

    def recorded() -> bool:
        """On a busy machine no frame may be read in a whole phase."""
        if examples(page, label) == before and next(tries, None) is not None:
            page.driver.execute_async_script(RECORD, label, is_red)
        return examples(page, label) > before

    page.until(recorded, f"examples of {label}")


def examples(page: Browser, label: str) -> int:
    return int(page.js(
        'return [...document.querySelectorAll(".class")].find((c) => c.dataset.label === arguments[0])'
        '?.querySelector(".count").textContent.match(/\\d+/)?.[0] ?? 0', label,
    ))  # fmt: skip


def name_class(page: Browser, i: int, name: str) -> None:
    page.js(
        'const field = document.querySelectorAll(".class-name")[arguments[0]]; field.value = arguments[1];'
        'field.dispatchEvent(new Event("change"))', i, name,
    )  # fmt: skip
    page.until(
        lambda: page.js('return document.querySelectorAll(".class")[arguments[0]].dataset.label', i) == name,
        name,
    )


def test_two_expressions_are_taught_corrected_saved_and_used(
    teaching: tuple[Browser, Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, server = teaching
    host = f"localhost:{server.port}"
    page.resize(1280, 900)
    page.open(f"http://{host}/#teach")
    page.until(lambda: page.one("#panel-teach").is_displayed(), "the tab")
    page.click("#teach-start")
    state_purpose(page)
    page.until(lambda: page.one("#teach-stage").get_attribute("data-state") == "running", "the stream")
    name_class(page, 0, "씩 웃음")
    name_class(page, 1, "wow")

    for _ in range(3):
        record(page, "씩 웃음", True)
        record(page, "wow", False)
    assert "Cannot tell yet" not in page.until(
        lambda: (text := page.text("#teach-report")) and "right on takes" in text and text, "a report", 60
    )
    seen: set[str] = set()

    def both_were_shown() -> bool:
        seen.add(page.text("#teach-now").rpartition(" ")[0])
        return {"씩 웃음", "wow"} <= seen

    page.until(both_were_shown, "both labels")

    thumbs = examples(page, "wow")
    page.click('.class[data-label="wow"] .thumb')
    page.until(lambda: examples(page, "wow") == thumbs - 1, "one example less")
    page.click("#teach-undo")
    page.until(lambda: examples(page, "wow") == thumbs, "it back")
    assert not nameless(page)
    assert not low_contrast(page)

    page.one("#teach-name").send_keys("mine")
    page.click("#teach-keep")
    page.until(lambda: "fer predict mine" in page.text("#toasts"), "the model")
    choices = 'return [...document.querySelector("#model").options].map((o) => o.value)'
    page.until(
        lambda: "mine" in page.js(choices), "the model among those to choose from"
    )  # asked for after it is told
    assert server.service.catalog.default == "ferkit2"
    folder = server.service.settings.models_dir / "mine"
    photo = tmp_path / "face.png"
    cv2.imwrite(str(photo), cv2.cvtColor(next(scene()), cv2.COLOR_RGB2BGR))
    detector = ["--detector", DETECTOR["detector"]]
    if "detector_weights" in DETECTOR:
        detector += ["--set", f"detector_weights={DETECTOR['detector_weights']}"]
    result = CliRunner().invoke(main, ["predict", str(folder), str(photo), *detector])
    assert result.exit_code == 0, result.output
    assert "씩 웃음" in result.output

    page.open(f"http://{host}/?again#teach")  # what is not saved is gone, and nothing is remembered
    page.until(lambda: examples(page, "Class 1") == 0 and page.all(".class"), "an empty tab")
    page.until(lambda: len(server.service.teaching) == 0, "the session's end")
    assert not page.foreign_requests(host)


@pytest.mark.parametrize(("width", "height", "mobile"), [(1280, 900, False), (320, 700, True)])
def test_the_tab_fits_in_both_languages(
    teaching: tuple[Browser, Running], width: int, height: int, mobile: bool
) -> None:
    page, server = teaching
    page.resize(width, height, mobile)
    page.open(f"http://localhost:{server.port}/?{width}#teach")
    page.until(lambda: page.all(".class"), "the classes")
    for _ in range(2):
        page.click("#language")
        assert page.js("return document.documentElement.scrollWidth <= window.innerWidth")
        assert not nameless(page)
        assert not low_contrast(page)
