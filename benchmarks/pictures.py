"""Makes the images of the documentation again: ``python -m benchmarks.pictures docs/images [NAME …]``.

Everything is recorded from the program itself, on drawn people: no photograph is needed, and none may be shown. Figures
on data sets of others come from the benchmarks that measure them, as ``docs/results.md`` says. Needs Chromium.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw

from ferkit.core.style import open_font
from tests.serving.browser import Browser
from tests.serving.drawn_people import drawn_frames, read_frames, write_camera_clip, write_video
from tests.serving.running import running
from tests.serving.test_page import state_purpose
from tests.serving.test_teach_page import scene, teach_two

ROOT = Path(__file__).resolve().parents[1]


def fer(*words: str | Path, cwd: Path) -> None:
    """Run a command as a user does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FER_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-m", "ferkit", *map(str, words)],
        cwd=cwd,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def aihub(images: Path, work: Path) -> None:
    """The AI Hub tutorial: a contact sheet."""
    subprocess.run(
        [sys.executable, "-m", "tests.synthetic_aihub", str(work / "aihub"), "40"], cwd=ROOT, check=True
    )
    fer("dataset", "import", "aihub", "aihub/", "-o", "aihub.csv", cwd=work)
    fer("crop", "aihub.csv", "faces/", "--size", "112", cwd=work)
    sheet = sorted((work / "faces" / "contact-sheets").glob("*.jpg"))[0]
    sheet.replace(images / "crop-contact-sheet.jpg")


def report(images: Path, work: Path) -> None:
    """The page of ``fer compare``, in light and dark."""
    draw_faces(work / "drawn")
    words = "compare drawn -c dummy -c logistic@ferkit -c ferkit --detector none"
    fer(*words.split(), cwd=work)
    page = work / "comparison" / "drawn" / "report.html"
    with browser(None, work) as shown:
        shown.resize(1000, 900)
        shown.driver.get(page.as_uri())
        shown.screenshot(images / "report.png")


def audit(images: Path, work: Path) -> None:
    """The page of ``fer audit``."""
    draw_faces(work / "drawn")
    first = sorted((work / "drawn").rglob("*.png"))
    first[-1].write_bytes(first[0].read_bytes())  # a copy across the split, with another label
    fer("audit", "drawn", cwd=work)
    with browser(None, work) as shown:
        shown.resize(1100, 900)
        shown.driver.get((work / "drawn-audit" / "audit.html").as_uri())
        save_jpeg(shown, images / "audit-page.jpg")


def live(images: Path, work: Path) -> None:
    """``fer video`` on drawn people: the moving picture."""
    fps = 12.5
    write_video(work / "people.mp4", drawn_frames(int(9 * fps), fps=fps), fps=fps)
    fer("video", "people.mp4", "--annotated", "read.mp4", "--detector", "haar", cwd=work)
    frames = [
        Image.fromarray(rgb).crop((0, 70, 960, 440)).resize((800, 308), Image.Resampling.LANCZOS)
        for rgb in read_frames(work / "read.mp4", 10_000)
    ][::2]
    frames[0].save(
        images / "live.webp",
        save_all=True,
        append_images=frames[1:],
        duration=round(2000 / fps),
        loop=0,
        quality=60,
        method=4,
    )


def page(images: Path, work: Path) -> None:
    """The page of ``fer serve``: camera, images and videos, the question for the purpose, and a phone."""
    clip = write_camera_clip(work / "camera.mjpeg", drawn_frames(25 * 9, drawn_px=140))
    photo, video = work / "three people.jpg", work / "three people.mp4"
    Image.fromarray(next(drawn_frames(1))).save(photo)
    write_video(video, drawn_frames(25 * 9), fps=25)
    (work / "models").mkdir()
    with running(work / "models", model="ferkit2", detector="haar") as server, browser(clip, work) as shown:
        shown.resize(1280, 800)
        shown.open(f"http://localhost:{server.port}/")
        shown.click("#start")
        shown.until(lambda: shown.one("#purpose-dialog").is_displayed(), "the question for the purpose")
        shown.click('#purpose-options input[value="hiring"]')
        save_jpeg(shown, images / "page-purpose.jpg")
        state_purpose(shown)
        shown.until(lambda: len(shown.all(".person .bars")) >= 3, "three people", 60)
        time.sleep(20)  # so that the timelines show something
        shown.until(lambda: "frames/s" in shown.one("#speed").text, "the speed")
        save_jpeg(shown, images / "page-desktop.jpg")
        on_a_phone(shown, images / "page-phone.jpg")
        shown.click("#stop")
        shown.click("#tab-pictures")
        shown.one("#file-pictures").send_keys(str(photo))
        shown.until(lambda: len(shown.all(".picture .face")) >= 3, "the image", 60)
        save_jpeg(shown, images / "page-pictures.jpg")
        shown.prefer(color_scheme="dark")
        shown.click("#tab-film")
        shown.one("#file-film").send_keys(str(video))
        shown.until(lambda: shown.all(".film-result .person"), "the video's people", 120)
        shown.until(
            lambda: shown.js("return document.querySelector('.film-result video').readyState") >= 1, "a copy"
        )
        shown.js("document.querySelector('.film-result video').currentTime = 4; window.scrollTo(0, 0)")
        time.sleep(2)  # for the frame to be drawn
        save_jpeg(shown, images / "page-video.jpg")


def teach(images: Path, work: Path) -> None:
    """The tab Teach: two classes of a drawn person."""
    clip = write_camera_clip(work / "camera.mjpeg", (frame for frame in scene() for _ in range(4)))
    with running(work / "models", model="ferkit2", detector="haar") as server, browser(clip, work) as shown:
        shown.driver.set_script_timeout(60)
        shown.resize(1280, 1060)
        teach_two(shown, server.port)
        time.sleep(6)  # until the notes over the page are gone
        shown.js("window.scrollTo(0, 0)")
        save_jpeg(shown, images / "teach-desktop.jpg")
        on_a_phone(shown, images / "teach-phone.jpg")


def on_a_phone(shown: Browser, path: Path) -> None:
    """Take the page on a phone, in Korean and dark, and leave it as it was."""
    shown.click("#language")
    shown.prefer(color_scheme="dark")
    shown.resize(390, 844, mobile=True)
    shown.js("window.scrollTo(0, 0)")
    time.sleep(2)  # for the page to settle
    save_jpeg(shown, path)
    shown.click("#language")
    shown.prefer(color_scheme="light")
    shown.resize(1280, 800)


def card(images: Path, work: Path) -> None:
    """What other sites show when somebody links to the documentation."""
    size = (1200, 630)
    shown = Image.new("RGB", size, "#0b6e69")
    moving = Image.open(images / "live.webp")
    moving.seek(moving.n_frames // 2)
    inset = moving.convert("RGB").crop((0, 0, 534, 308)).resize((690, 398), Image.Resampling.LANCZOS)
    shown.paste(inset, (size[0] - inset.width, 116))
    draw = ImageDraw.Draw(shown)
    for text, y, px in (
        ("ferkit", 190, 96),
        ("Facial expression recognition", 320, 30),
        ("on your own faces", 362, 30),
    ):
        font = open_font((text,), px)
        assert font is not None
        draw.text((56, y), text, "#ffffff", font=font)
    shown.save(images / "social-card.png", optimize=True)


def draw_faces(folder: Path) -> None:
    """A data set of drawn faces; of this seed no two are so alike that they count as copies."""
    from ferkit.datasets.synthetic import write_dataset

    write_dataset(folder, n_per_class=24, n_persons=24, seed=1)


@contextmanager
def browser(clip: Path | None, work: Path) -> Iterator[Browser]:
    """Chromium, closed at the end."""
    shown = Browser(clip, work)
    try:
        yield shown
    finally:
        shown.close()


def screenshot(shown: Browser, work: Path) -> bytes:
    """What is seen, as PNG."""
    shown.screenshot(work / "shot.png")
    return (work / "shot.png").read_bytes()


def save_jpeg(shown: Browser, path: Path) -> None:
    """What is seen, as JPEG."""
    Image.open(io.BytesIO(screenshot(shown, path.parent))).convert("RGB").save(
        path, quality=85, optimize=True
    )
    (path.parent / "shot.png").unlink()


PICTURES: tuple[Callable[[Path, Path], None], ...] = (aihub, report, audit, live, page, teach, card)

if __name__ == "__main__":
    target, names = Path(sys.argv[1]).resolve(), sys.argv[2:]
    for picture in PICTURES:
        if not names or picture.__name__ in names:
            with tempfile.TemporaryDirectory() as folder:
                picture(target, Path(folder))
            print(picture.__name__, (picture.__doc__ or "").partition("\n")[0])
