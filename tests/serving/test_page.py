"""The page in a real browser, with a camera that plays a clip of faces."""

import csv
import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from ferkit.faces.detectors import open_detector
from ferkit.serving.api import REASON_EN, REASON_KO
from tests.conftest import SHARED
from tests.serving.accessibility import low_contrast, nameless
from tests.serving.browser import Browser
from tests.serving.drawn_people import drawn_frames, read_frames, write_camera_clip, write_video
from tests.serving.running import TOKEN, Running, running

YUNET = SHARED / "models" / "face_detection_yunet_640.onnx"
CLIP = SHARED / "media" / "woman_596x336.mp4"
PHOTO = SHARED / "media" / "couple.jpg"
DETECTOR = {"detector": "yunet", "detector_weights": YUNET} if YUNET.is_file() else {"detector": "haar"}

EN = {"angry", "disgust", "fear", "happy", "neutral", "sad", "surprise", "unsure"}
KO = {"분노", "혐오", "공포", "기쁨", "중립", "슬픔", "놀람", "불확실"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scene() -> list[np.ndarray]:
    """What the camera sees: the speaker of the shared clip, or drawn people."""
    return list(read_frames(CLIP, 60)) if CLIP.is_file() else list(drawn_frames(12, fps=4, drawn_px=120))


@pytest.fixture(scope="module")
def photo(scene: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "두 사람.jpg"  # names are in any script
    rgb = cv2.cvtColor(cv2.imread(str(PHOTO)), cv2.COLOR_BGR2RGB) if PHOTO.is_file() else scene[2]
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    path.write_bytes(jpeg.tobytes())
    return path


@pytest.fixture(scope="module")
def video(scene: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("page") / "film.mp4", iter(scene[:12]), fps=4)


@pytest.fixture(scope="module")
def page_server(models_dir: Path) -> Iterator[Running]:
    with running(models_dir, model="ferkit2", **DETECTOR) as server:
        yield server


@pytest.fixture(scope="module")
def browser(scene: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    found = Browser(write_camera_clip(folder / "camera.mjpeg", iter(scene)), folder / "saved")
    yield found
    found.close()


@pytest.fixture
def page(browser: Browser, page_server: Running) -> Iterator[Browser]:
    """The page, freshly opened; afterwards it must have stayed with its server and without complaints."""
    host = f"localhost:{page_server.port}"
    browser.resize(1280, 800)
    browser.prefer(color_scheme="light")
    browser.forget()
    browser.open(f"http://{host}/")
    browser.js("localStorage.clear()")
    browser.open(f"http://{host}/")
    yield browser
    assert not browser.foreign_requests(host)
    assert not browser.complaints()


def state_purpose(page: Browser, purpose: str = "research") -> None:
    page.until(lambda: page.one("#purpose-dialog").is_displayed(), "the question for the purpose")
    page.click(f'#purpose-options input[value="{purpose}"]')
    page.click("#purpose-ok")


def start_camera(page: Browser) -> None:
    page.click("#start")
    state_purpose(page)
    page.until(lambda: page.all(".person .bars"), "a face")


def painted(page: Browser) -> list[float] | None:
    """Left, top, right and bottom of what is drawn over the camera's image, as shares of it; None for nothing."""
    return page.js("""
        const overlay = document.querySelector("#overlay"), { width, height } = overlay;
        const copy = Object.assign(document.createElement("canvas"), { width, height });
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(overlay, 0, 0);
        const pixels = context.getImageData(0, 0, width, height).data;
        let box = null;
        for (let y = 0; y < height; y += 2) for (let x = 0; x < width; x += 2) {
            if (!pixels[4 * (y * width + x) + 3]) continue;
            box ??= [x, y, x, y];
            box = [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x), Math.max(box[3], y)];
        }
        return box && [box[0] / width, box[1] / height, box[2] / width, box[3] / height];
    """)


def faces_of(scene: list[np.ndarray]) -> np.ndarray:
    """The smallest box around all faces of all frames, mirrored, as shares of the frame."""
    detector = open_detector(DETECTOR["detector"], DETECTOR.get("detector_weights"))
    boxes = np.concatenate([detector.detect(frame).xyxy for frame in scene[::4]])
    height, width = scene[0].shape[:2]
    left, top = boxes[:, :2].min(axis=0)
    right, bottom = boxes[:, 2:].max(axis=0)
    return np.array([1 - right / width, top / height, 1 - left / width, bottom / height])


def test_the_camera_shows_faces_in_both_languages(page: Browser, scene: list[np.ndarray]):
    page.js("""
        window.most = 0; const send = WebSocket.prototype.send;
        WebSocket.prototype.send = function (data) {
            if (!this.waiting) { // of this connection
                const waiting = this.waiting = new Map();
                this.addEventListener("message", (event) => {
                    const { frame = 0 } = JSON.parse(event.data);
                    waiting.forEach((sent, n) => n <= frame && waiting.delete(n));
                });
            }
            if (typeof data !== "string") {
                // What took longer is taken for lost, as on a busy machine.
                this.waiting.forEach((sent, n) => performance.now() - sent > 3900 && this.waiting.delete(n));
                this.waiting.set(new DataView(data).getUint32(0, true), performance.now());
                window.most = Math.max(window.most, this.waiting.size);
            }
            return send.call(this, data);
        };
    """)
    page.click("#start")
    page.until(lambda: page.one("#purpose-dialog").is_displayed(), "the question for the purpose")
    page.click('#purpose-options input[value="hiring"]')
    page.until(lambda: REASON_EN in page.text("#purpose-dialog"), "the reason")
    assert not page.one("#purpose-ok").is_enabled()
    assert page.one("#stage").get_attribute("data-state") == "idle"
    page.click('#purpose-options input[value="research"]')
    page.click("#purpose-ok")

    page.until(lambda: page.all(".person .bars"), "a face")
    assert page.text(".running") == "Recognition is on"
    assert page.text(".person .now") in EN
    assert len(page.all(".person:first-child .bars li")) == 7
    box = np.array(page.until(lambda: painted(page), "a box"))
    expected = faces_of(scene)
    centre, wanted = (box[:2] + box[2:]) / 2, (expected[:2] + expected[2:]) / 2
    assert np.abs(centre - wanted).max() < 0.12, (box, expected)
    page.until(lambda: re.search(r"[\d.]+ frames/s · \d+ ms", page.text("#speed")), "the speed")

    page.click("#language")
    assert page.js("return document.documentElement.lang") == "ko"
    assert page.text(".person .now") in KO
    assert (
        set(
            page.js(
                "return [...document.querySelectorAll('.person:first-child .bars .name')].map(n => n.textContent)"
            )
        )
        < KO
    )
    assert page.text(".running") == "표정 인식 중"
    page.until(lambda: "초당" in page.text("#speed"), "the speed in Korean")

    page.js("document.querySelector('#model').value = 'tiny'")
    page.js("document.querySelector('#model').dispatchEvent(new Event('change'))")
    page.until(lambda: len(page.all(".person:first-child .bars li")) == 3, "the other model's classes")
    page.js("document.querySelector('#model').value = 'ferkit'")
    page.js("document.querySelector('#model').dispatchEvent(new Event('change'))")
    page.until(lambda: len(page.all(".person:first-child .bars li")) == 7, "the first model's classes")

    page.click("#rest")
    page.until(lambda: page.one("#resting").is_displayed(), "the countdown")
    assert int(page.text("#resting-count")) <= 5
    page.click("#mirror")
    assert page.one("#mirror").get_attribute("aria-pressed") == "false"
    assert 1 <= page.js("return window.most") <= 2  # frames on their way

    check_saved_table(page)
    page.click("#stop")
    assert page.one("#start").is_displayed()
    assert page.js("return document.querySelector('#video').srcObject") is None
    assert page.one("#save-csv").is_enabled()  # what was read may still be saved


def check_saved_table(page: Browser) -> None:
    with page.save("#save-csv", ".csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all({row["label"], row["raw_label"]} <= EN for row in rows)
    total = [sum(float(v) for name, v in row.items() if name.startswith("p_")) for row in rows]
    assert np.allclose(total, 1, atol=0.01)
    saved = json.loads(page.save("#save-json", ".json").read_text(encoding="utf-8"))
    assert saved["purpose"] == "research"
    assert len(saved["faces"]) >= len(rows)
    image = cv2.imread(str(page.save("#save-png", ".png")))
    assert image.shape[:2] == tuple(
        page.js("const v = document.querySelector('#video'); return [v.videoHeight, v.videoWidth]")
    )


def test_images_and_a_video_are_read(page: Browser, photo: Path, video: Path, tmp_path: Path):
    page.one("#file-any").send_keys(str(photo))
    state_purpose(page)
    page.until(lambda: page.all(".picture .face"), "faces in the image")
    assert page.text(".picture h3") == photo.name
    assert len(page.all(".picture .face")) >= 2 or not PHOTO.is_file()
    assert page.text(".picture .now") in EN
    page.click("#language")
    assert page.text(".picture .now") in KO
    with page.save("#pictures-csv", ".csv").open(encoding="utf-8-sig", newline="") as file:
        assert {row["picture"] for row in csv.DictReader(file)} == {photo.name}

    damaged = tmp_path / "broken.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    page.one("#file-pictures").send_keys(str(damaged))
    page.until(lambda: "손상" in page.text(".picture .status"), "the word that it is damaged")
    assert page.text("#pictures-status").startswith("2장 중 1장 인식")
    assert page.text("#pictures-status").endswith("1장 읽을 수 없음")
    ends = page.js(
        "return [...document.querySelectorAll('.picture .track')].map(n => n.getBoundingClientRect().left)"
    )
    assert len(set(ends)) == 1  # bars begin where the others do, so that they can be compared
    page.click("#pictures-clear")
    assert not page.all(".picture")

    page.one("#file-any").send_keys(str(video))
    page.until(lambda: page.all(".film-result .person"), "the video's people")
    assert "인물 1" in page.text(".film-result .person h3")
    shares = page.js(
        "return [...document.querySelectorAll('.shares li')].map(n => n.textContent.split(' ')[0])"
    )
    assert set(shares) <= KO
    page.until(
        lambda: page.js("return document.querySelector('.film-result video').readyState") >= 1, "the copy"
    )
    job = page.js(
        "return performance.getEntriesByType('resource').map(e => e.name).find(n => n.includes('result.json'))"
    )
    page.click(".film-head .toolbar > button")
    status = "return (async () => (await fetch(arguments[0])).status)()"
    page.until(lambda: page.js(status, job) == 404, "the video to be removed from the server")
    assert any("404" in complaint for complaint in page.complaints())  # of this very question


def test_what_is_missing_is_said_in_plain_words(page: Browser, tmp_path: Path):
    reasons = {
        "NotAllowedError": "Allow it",
        "NotFoundError": "No camera",
        "NotReadableError": "another program",
    }
    for error, words in reasons.items():
        page.js(
            f"navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{error}'))"
        )
        page.click("#start")
        if error == "NotAllowedError":
            state_purpose(page)
        page.until(lambda words=words: words in page.text("#problem"), words)
    page.js("""
        navigator.mediaDevices.getUserMedia = () => new Promise((resolve) => {
            window.allow = () => resolve(document.createElement("canvas").captureStream());
        });
    """)
    page.click("#problem button")  # try again
    page.until(lambda: "Waiting for the camera" in page.text("#speed"), "that it waits")
    page.click("#stop")
    page.js("window.allow()")  # too late
    assert page.one("#start").is_displayed()
    assert page.js("return document.querySelector('#video').srcObject") is None
    page.js("Object.defineProperty(window, 'isSecureContext', { value: false })")
    page.click("#start")
    page.until(lambda: "https" in page.text("#problem"), "that the page is not secure")

    bring = """
        const data = new DataTransfer(); data.items.add(new File(["no image"], "notes.txt", { type: "text/plain" }));
        window.dispatchEvent(new DragEvent("dragenter", { dataTransfer: data }));
        window.shownOnce = document.querySelector("#veil").checkVisibility();
        window.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
    """
    page.js(bring)
    assert page.js("return window.shownOnce && !document.querySelector('#veil').checkVisibility()")
    page.until(lambda: "notes.txt" in page.text("#problem"), "that it is no image")
    page.js("""
        const canvas = Object.assign(document.createElement("canvas"), { width: 300, height: 200 });
        canvas.getContext("2d").fillRect(0, 0, 100, 100);
        canvas.toBlob((blob) => {
            const data = new DataTransfer(); data.items.add(new File([blob], "flat.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, cancelable: true }));
        });
    """)
    page.until(lambda: page.all(".picture"), "the image that was pasted")
    page.until(lambda: "No face" in page.text(".picture .status"), "that it shows nobody")
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(11_000_000)
    page.one("#file-pictures").send_keys(str(large))
    page.until(lambda: "10 MB" in page.text(".picture .status"), "that it is too large")
    page.js("document.querySelector('#language').click()")
    page.click("#purpose-chip")
    page.click('#purpose-options input[value="education"]')
    page.until(lambda: REASON_KO in page.text("#purpose-dialog"), "the reason in Korean")


def test_the_page_survives_its_server_and_asks_for_its_token(browser: Browser, models_dir: Path):
    from selenium.webdriver import Keys

    browser.resize(1280, 800)
    with running(models_dir, model="ferkit2", **DETECTOR) as server:
        port = server.port
        browser.open(f"http://localhost:{port}/")
        start_camera(browser)
    browser.until(lambda: "cannot be reached" in browser.text("#problem"), "that the server is gone")
    assert browser.one("#stage").get_attribute("data-state") == "waiting"
    with running(models_dir, model="ferkit2", port=port, token=TOKEN, **DETECTOR):
        browser.until(lambda: browser.one("#token-dialog").is_displayed(), "the question for the token")
        for token in ("a wrong one", TOKEN):
            browser.until(lambda: browser.one("#token-dialog").is_displayed(), "the question for the token")
            browser.one("#token-input").send_keys(token)
            browser.one("#token-input").send_keys(Keys.ENTER)
        browser.until(
            lambda: browser.one("#stage").get_attribute("data-state") == "running", "the stream", 40
        )
        assert not browser.one("#problem").is_displayed()
        assert TOKEN not in browser.js("return document.documentElement.outerHTML + location.href")
        browser.click("#stop")


def test_everybody_can_use_it(page: Browser, photo: Path):
    page.one("#file-pictures").send_keys(str(photo))
    state_purpose(page)
    page.until(lambda: page.all(".picture .face"), "faces in the image")
    page.prefer(color_scheme="light", reduced_motion="reduce")
    for (width, height), scheme, tab in product(
        [(320, 700), (390, 844), (1280, 800)], ["light", "dark"], ["camera", "pictures", "film"]
    ):
        page.resize(width, height)
        page.prefer(color_scheme=scheme, reduced_motion="reduce")
        page.until(
            lambda scheme=scheme: page.js("return document.documentElement.dataset.theme") == scheme, scheme
        )
        page.click(f"#tab-{tab}")
        where = f"{tab}, {width} px, {scheme}"
        assert not nameless(page), where
        assert not low_contrast(page), where
        assert page.js("return document.documentElement.scrollWidth") <= width, where
        page.click("#purpose-chip")
        assert not low_contrast(page), f"{where}, purpose"
        page.js("document.querySelector('#purpose-dialog').close()")
    assert page.js("return document.getAnimations().length") == 0
    assert page.js("return document.querySelectorAll('main, header, footer, aside').length") == 4


def test_it_can_be_used_with_keys_alone(page: Browser):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    def focused() -> str:
        return page.js("return document.activeElement.id")

    press(Keys.TAB)
    assert "skip" in page.js("return document.activeElement.className")
    press(Keys.ENTER)
    assert focused() == "main"
    page.js("document.querySelector('#tab-camera').focus()")
    press(Keys.ARROW_LEFT)
    assert focused() == "tab-teach"
    assert page.one("#panel-teach").is_displayed()
    press(Keys.HOME)
    assert page.one("#panel-camera").is_displayed()
    page.js("document.querySelector('#start').focus()")
    outline = page.js("return getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
    press(Keys.ENTER)
    page.until(lambda: page.one("#purpose-dialog").is_displayed(), "the question for the purpose")
    press(Keys.SPACE, Keys.ENTER)
    page.until(lambda: page.one("#stage").get_attribute("data-state") == "running", "the stream")
    assert focused() == "stop"
    page.until(
        lambda: re.search(
            r"Person \d+: \w+\.",
            page.text("#announcer") or page.js("return document.querySelector('#announcer').textContent"),
        ),
        "the word for screen readers",
    )
    press(Keys.ENTER)
    assert focused() == "start"
