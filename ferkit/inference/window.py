"""A window on the screen, by pygame: OpenCV's would bring a second FFmpeg and a second window system with it."""

import locale
import os
import sys
from collections import deque
from typing import Any

import cv2
import numpy as np

from ferkit.core.errors import FerkitError


class LiveWindow:
    """Shows images and tells which keys are pressed. It can be resized; the key f fills the screen and back.

    Args:
        title: of the window.

    Raises:
        FerkitError: no window can be opened here; the message says why.
    """

    def __init__(self, title: str) -> None:
        self._pygame = _open_display()
        self._title = title
        self._screen: Any = None
        self._full = False
        self._shown: np.ndarray | None = None
        self._pressed: deque[str] = deque()

    def show(self, rgb: np.ndarray) -> None:
        """Show an image, uint8 (H, W, 3), as large as fits into the window."""
        pygame = self._pygame
        if self._screen is None:
            self._open_screen(_comfortable(rgb.shape[1], rgb.shape[0]), pygame.RESIZABLE)
        self._shown = rgb
        width, height = self._screen.get_size()
        scale = min(width / rgb.shape[1], height / rgb.shape[0])
        size_wh = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
        if size_wh != (rgb.shape[1], rgb.shape[0]):
            rgb = cv2.resize(rgb, size_wh, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        image = pygame.image.frombuffer(np.ascontiguousarray(rgb).data, size_wh, "RGB")
        self._screen.fill((0, 0, 0))
        self._screen.blit(image, ((width - size_wh[0]) // 2, (height - size_wh[1]) // 2))
        pygame.display.flip()

    def key(self) -> str | None:
        """The next key that was pressed, in lower case; ``q`` also for Escape and when the window was closed."""
        if self._screen is None:
            return None
        pygame = self._pygame
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                self._pressed.append("q")
            elif event.type == pygame.VIDEORESIZE and self._shown is not None:
                self._screen = pygame.display.get_surface()
                self.show(self._shown)
            elif event.type == pygame.KEYDOWN:
                self._press(event)
        return self._pressed.popleft() if self._pressed else None

    def _press(self, event: Any) -> None:
        if event.key == self._pygame.K_ESCAPE:
            if self._full:
                self._fill_screen(False)
            else:
                self._pressed.append("q")
        elif key := _letter(event.key, event.scancode):
            if key == "f":
                self._fill_screen(not self._full)
            else:
                self._pressed.append(key)

    def _fill_screen(self, full: bool) -> None:
        pygame = self._pygame
        self._full = full
        assert self._shown is not None
        size_wh = (0, 0) if full else _comfortable(self._shown.shape[1], self._shown.shape[0])
        self._open_screen(size_wh, pygame.FULLSCREEN if full else pygame.RESIZABLE)
        self.show(self._shown)

    def _open_screen(self, size_wh: tuple[int, int], flags: int) -> None:
        self._screen = self._pygame.display.set_mode(size_wh, flags)
        # Xlib knows no C.UTF-8, common in containers, and would give a name that other programs cannot read.
        kept = locale.setlocale(locale.LC_CTYPE)
        locale.setlocale(locale.LC_CTYPE, "C")
        self._pygame.display.set_caption(self._title)
        locale.setlocale(locale.LC_CTYPE, kept)

    def close(self) -> None:
        """Take the window away."""
        self._screen = None
        self._pygame.display.quit()


def _open_display() -> Any:
    # Without a display SDL may open one that nobody sees.
    named = (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.environ.get("SDL_VIDEODRIVER")
    )
    if sys.platform.startswith("linux") and not named:
        raise FerkitError("there is no display (DISPLAY is not set)")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
    except ImportError:
        raise FerkitError("pygame-ce is not installed (pip install 'ferkit[window]')") from None
    try:
        pygame.display.init()
    except pygame.error as error:
        raise FerkitError(f"the display cannot be used ({error})") from None
    if pygame.display.get_driver() == "offscreen" and not os.environ.get("SDL_VIDEODRIVER"):
        pygame.display.quit()
        raise FerkitError("the display cannot be used (no program answers there)")
    return pygame


def _letter(key: int, scancode: int) -> str | None:
    """The Latin letter of a key: where another script is being typed, the one that a Latin keyboard has there."""
    if ord("a") <= key <= ord("z"):
        return chr(key)
    return chr(ord("a") + scancode - 4) if key > 127 and 4 <= scancode <= 29 else None


def _comfortable(width: int, height: int) -> tuple[int, int]:
    """Small images are shown larger, large ones as they fit most screens."""
    scale = min(1280 / width, 760 / height, 2.0)
    return round(width * scale), round(height * scale)
