"""The tab Teach in a real browser: the camera plays a face that changes between two expressions."""

import time
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


def scene(seconds: float = 1.6, fps: int = 10, cycles: int = 6) -> Iterator[np.ndarray]:
    """No image comes twice before the camera begins again: the same image twice is one example."""
    person = Identity.random(np.random.default_rng(2))  # whom Haar's detector finds with either expression
    drawn = {
        name: [render_face(person, name, np.random.default_rng(i), size=140) for i in range(5)]
        for name in PHASES
    }
    rng = np.random.default_rng(0)
    for _ in range(cycles):
        for expression, wall in PHASES.items():
            for i in range(round(seconds * fps)):
                frame = np.full((360, 640, 3), wall, np.uint8)
                x, y = rng.integers((160, 30), (201, 71))
                face = cv2.resize(drawn[expression][i % 5], (280, 280))
                frame[y : y + 280, x : x + 280] = cv2.convertScaleAbs(face, alpha=rng.uniform(0.8, 1.1))
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
    before, tries = examples(page, label), iter(range(30))

    def recorded() -> bool:
        """On a busy machine no frame may be read in a whole phase."""
        if examples(page, label) == before and next(tries, None) is not None:
            page.driver.execute_async_script(RECORD, label, is_red)
        return examples(page, label) > before

    page.until(recorded, f"examples of {label}", 200)


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


def teach_two(page: Browser, port: int) -> str:
    """Name two classes and record three takes of each; what the page reports of them."""
    page.open(f"http://localhost:{port}/#teach")
    page.until(lambda: page.one("#panel-teach").is_displayed(), "the tab")
    page.click("#teach-start")
    state_purpose(page)
    page.until(lambda: page.one("#teach-stage").get_attribute("data-state") == "running", "the stream")
    name_class(page, 0, "씩 웃음")
    name_class(page, 1, "wow")
    for _ in range(3):
        record(page, "씩 웃음", True)
        record(page, "wow", False)
    return page.until(
        lambda: (text := page.text("#teach-report")) and "right on takes" in text and text, "a report", 60
    )


def test_two_expressions_are_taught_corrected_saved_and_used(
    teaching: tuple[Browser, Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, server = teaching
    host = f"localhost:{server.port}"
    page.resize(1280, 900)
    assert "Cannot tell yet" not in teach_two(page, server.port)
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


def photos(folder: Path, n: int, first: int = 0) -> list[Path]:
    """Files of different images of the person."""
    folder.mkdir(parents=True, exist_ok=True)
    person = Identity.random(np.random.default_rng(2))
    files = []
    for i in range(first, first + n):
        face = cv2.resize(render_face(person, "happy", np.random.default_rng(i), size=140), (280, 280))
        files.append(folder / f"{i}.png")
        cv2.imwrite(str(files[-1]), cv2.cvtColor(face, cv2.COLOR_RGB2BGR))
    return files


def video(path: Path, seeds: tuple[int, ...], seconds: float) -> Path:
    """A WebM video of people next to each other, each with a face of another brightness."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 5, (320 * len(seeds), 360))
    assert writer.isOpened()
    faces = [
        [render_face(Identity.random(np.random.default_rng(seed)), "happy", np.random.default_rng(i), size=140)
         for i in range(5)] for seed in seeds
    ]  # fmt: skip
    for i in range(round(seconds * 5)):
        frame = np.full((360, 320 * len(seeds), 3), 210, np.uint8)
        for k, drawn in enumerate(faces):
            frame[50:330, 320 * k + 20 : 320 * k + 300] = cv2.resize(drawn[i % 5], (280, 280))
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def drop(page: Browser, selector: str, files: list[Path]) -> bool:
    """Drop real files and folders; whether the classes could be seen while they hovered over them."""
    box = page.js("return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", selector)
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "data": data}
    for kind in ("dragEnter", "dragOver"):
        page.driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, **at})
    seen = page.js(
        "return !document.querySelector('#veil').checkVisibility() && "
        "document.querySelectorAll('.class.over').length"
    )
    page.driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": "drop", **at})
    return seen == page.js("return document.querySelector(arguments[0]).matches('.class') ? 1 : 0", selector)


def press(page: Browser, key: str, kind: str) -> None:
    """Press (``keyDown``) or let go of (``keyUp``) a digit."""
    values = {"type": kind, "key": key, "code": f"Digit{key}", "windowsVirtualKeyCode": ord(key)}
    page.driver.execute_cdp_cmd("Input.dispatchKeyEvent", values)


def fresh_tab(teaching: tuple[Browser, Running], name: str) -> tuple[Browser, Running]:
    """The tab Teach as it is first seen."""
    page, server = teaching
    page.resize(1280, 900)
    page.open(f"http://localhost:{server.port}/?{name}#teach")
    page.until(lambda: page.all(".class"), "the classes")
    return page, server


def test_photos_videos_and_folders_fall_onto_a_class(
    teaching: tuple[Browser, Running], tmp_path: Path
) -> None:
    page, _ = fresh_tab(teaching, "drop")
    assert drop(page, '.class[data-label="Class 2"]', photos(tmp_path, 3))
    state_purpose(page)
    page.until(lambda: examples(page, "Class 2") == 3, "three photos", 30)
    assert drop(page, '.class[data-label="Class 1"]', [video(tmp_path / "short.webm", (2,), 1.0)])
    page.until(lambda: examples(page, "Class 1") >= 2, "examples of the video", 30)
    page.until(lambda: page.one("#teach-stage").get_attribute("data-state") == "idle", "its end", 30)

    photos(tmp_path / "grin", 2, first=10)
    (tmp_path / "grin" / "notes.txt").write_text("no image")
    assert drop(page, '.class[data-label="Class 2"]', [tmp_path / "grin"])  # a class that is aimed at decides
    page.until(lambda: examples(page, "Class 2") == 5, "those of the folder", 30)
    photos(tmp_path / "frown", 2, first=20)
    assert drop(page, "#teach-stage", [tmp_path / "frown"])  # else the folder's name
    page.until(lambda: examples(page, "frown") == 2, "a class called like the folder", 30)
    assert examples(page, "Class 1") + examples(page, "Class 2") >= 7


def test_keys_collect_while_they_are_held(teaching: tuple[Browser, Running]) -> None:
    page, _ = fresh_tab(teaching, "keys")
    page.click("#teach-start")
    state_purpose(page)
    page.until(lambda: page.one("#teach-stage").get_attribute("data-state") == "running", "the stream", 30)
    page.click(".class-name")
    press(page, "2", "keyDown")
    press(page, "2", "keyUp")
    assert not page.all(".class.recording")  # it is typed
    page.click("#teach-report")
    press(page, "9", "keyDown")
    assert not page.all(".class.recording")  # there is no ninth class
    for number in ("2", "1"):
        press(page, number, "keyDown")
        page.until(lambda number=number: examples(page, f"Class {number}") >= 2, "examples", 30)
        press(page, "9", "keyUp")  # another key
        assert page.all(f'.class.recording[data-label="Class {number}"]')
        press(page, number, "keyUp")
        assert not page.all(".class.recording")
    counted = page.until(
        lambda: "Cannot tell yet" in page.text("#teach-report") and examples(page, "Class 2"), "a report", 30
    )
    assert counted == examples(page, "Class 2")


def test_of_two_faces_in_view_the_one_that_is_clicked_on_is_collected(
    teaching: tuple[Browser, Running], tmp_path: Path
) -> None:
    page, _ = fresh_tab(teaching, "two")
    drop(page, '.class[data-label="Class 1"]', [video(tmp_path / "two.webm", (2, 14), 4.0)])
    state_purpose(page)
    page.until(lambda: page.one("#teach-ask").is_displayed(), "the question which face", 40)
    assert examples(page, "Class 1") == 0
    stopped = (
        "const video = document.querySelector('#teach-stage video'); return video.paused && !video.ended"
    )
    page.until(lambda: page.js(stopped), "a video that waits for the answer")
    box = page.js("return document.querySelector('#teach-overlay').getBoundingClientRect().toJSON()")
    place = {"x": box["x"] + 0.75 * box["width"], "y": box["y"] + box["height"] / 2}
    for kind in ("mousePressed", "mouseReleased"):
        click = {"type": kind, **place, "button": "left", "clickCount": 1}
        page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", click)
    page.until(lambda: examples(page, "Class 1") >= 2, "examples of one of them", 30)
    assert not page.one("#teach-ask").is_displayed()
    page.click("#teach-stop")
    shades = page.js("""
        return [...document.querySelectorAll(".thumb img")].map((image) => {
            const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
            context.drawImage(image, 0, 0, 10, 10);
            const { data } = context.getImageData(3, 3, 4, 4);
            return data.reduce((sum, value, i) => sum + (i % 4 < 3 ? value : 0), 0) / 48;
        });
    """)
    assert shades
    wanted = render_face(
        Identity.random(np.random.default_rng(14)), "happy", np.random.default_rng(0), size=140
    )
    other = render_face(
        Identity.random(np.random.default_rng(2)), "happy", np.random.default_rng(0), size=140
    )
    near, far = (float(face[42:98, 42:98].mean()) for face in (wanted, other))
    assert all(abs(shade - near) < abs(shade - far) for shade in shades), (shades, near, far)


def test_a_tab_closed_in_mid_burst_is_forgotten(teaching: tuple[Browser, Running]) -> None:
    page, server = teaching
    page.driver.get("about:blank")
    page.until(lambda: len(server.service.teaching) == 0, "that nobody teaches")
    kept = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    fresh_tab(teaching, "closed")
    page.click("#teach-start")
    state_purpose(page)
    page.until(lambda: page.one("#teach-stage").get_attribute("data-state") == "running", "the stream", 30)
    press(page, "1", "keyDown")
    page.until(lambda: examples(page, "Class 1") >= 1, "examples", 30)
    assert len(server.service.teaching) == 1
    page.driver.close()
    page.driver.switch_to.window(kept)
    end = time.monotonic() + 20
    while len(server.service.teaching) or server.metric("ferkit_streams"):
        assert time.monotonic() < end, "the session lives on"
        time.sleep(0.05)


def test_korean_particles_fit_the_name_before(teaching: tuple[Browser, Running]) -> None:
    page, _ = fresh_tab(teaching, "particles")
    said = page.driver.execute_async_script(
        """
        const [names, done] = arguments;
        import("./static/js/i18n.js").then(({ setLanguage, t }) => {
            setLanguage("ko");
            done(names.map((label) => t("teach.odd.move", { label })));
        });
        """,
        ["기쁨", "분노", "길", "클래스 1", "클래스 3", "wow"],
    )
    assert said == [
        *(
            "기쁨으로 이동",
            "분노로 이동",
            "길로 이동",
            "클래스 1로 이동",
            "클래스 3으로 이동",
            "wow(으)로 이동",
        ),
    ]


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
    page.js(
        "document.querySelector('#teach-report p').textContent = 'x'.repeat(80)"
    )  # a class may be called so
    assert page.js("const r = document.querySelector('#teach-report'); return r.scrollWidth <= r.clientWidth")
