"""The window on a screen without a monitor."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ferkit.core.errors import FerkitError
from ferkit.inference.live import LiveWindow, _letter
from tests.inference.squares import moving_squares, write_video


def test_where_no_window_can_be_opened_the_reason_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FerkitError, match=r"there is no display \(DISPLAY is not set\)"):
        LiveWindow("ferkit")
    monkeypatch.setenv("DISPLAY", ":4711")
    with pytest.raises(FerkitError, match="the display cannot be used") as caught:
        LiveWindow("ferkit")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(FerkitError, match=r"pip install 'ferkit\[window\]'"):
        LiveWindow("ferkit")


@pytest.mark.parametrize(
    ("key", "scancode", "letter"),
    [
        (ord("q"), 20, "q"),
        (ord("a"), 20, "a"),
        (0x3142, 20, "q"),
        (0x443, 8, "e"),
        (13, 40, None),
        (ord("1"), 30, None),
    ],
)
def test_keys_are_letters_also_where_hangul_is_typed(key: int, scancode: int, letter: str | None) -> None:
    assert _letter(key, scancode) == letter


SHOW = """
import subprocess, sys, time
import {first}, {second}
import numpy as np
from ferkit.inference.sources import VideoSource
from ferkit.inference.live import LiveWindow

window = LiveWindow("ferkit")
for frame in VideoSource(sys.argv[1]):
    window.show(frame.rgb)
    assert window.key() is None
print(*window._screen.get_size())

def until(condition):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        key = window.key()
        if condition(key):
            return key
        time.sleep(0.02)
    raise SystemExit("nothing happened")

def xdotool(*arguments):
    done = subprocess.run(["xdotool", *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.split()

def found():
    return xdotool("search", "--name", "^ferkit$")[-1]

xdotool("windowsize", found(), "900", "300")
until(lambda key: window._screen.get_size() == (900, 300))
window.show(frame.rgb)
import pygame
pixels = pygame.surfarray.array3d(window._screen)
left = (900 - 400) // 2
assert not pixels[: left - 2].any() and pixels[left + 2 : 650 - 2].any()  # as large as fits, in the middle
xdotool("key", "--window", found(), "f")
until(lambda key: window._full)
xdotool("key", "--window", found(), "Escape")
until(lambda key: not window._full)
xdotool("key", "--window", found(), "s")
assert until(bool) == "s"
pygame.event.post(pygame.event.Event(pygame.QUIT))
assert until(bool) == "q"
window.close()
"""


@pytest.mark.parametrize(("first", "second"), [("av", "pygame"), ("pygame", "av")])
def test_a_real_window_shows_a_video_is_resized_and_closed(
    display: str, tmp_path: Path, first: str, second: str
) -> None:
    video = write_video(tmp_path / "video.mp4", moving_squares(30))
    script = SHOW.format(first=first, second=second)
    done = subprocess.run(
        [sys.executable, "-c", script, video], env={**os.environ, "DISPLAY": display}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(pygame.*\n)?640 480\n", done.stdout), done.stdout
