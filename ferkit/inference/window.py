"""A window of OpenCV's, if this machine can open one."""

import os
import subprocess
import sys

import cv2
import numpy as np

_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1); cv2.destroyAllWindows()"


def window_problem() -> str | None:
    """Why no window can be opened here, for the user; None if one can."""
    # OpenCV's Qt ends the whole process where it finds no display, so this is tried out in another one.
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return "there is no display (DISPLAY is not set)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return "opening a window took more than 30 s"
    if done.returncode == 0:
        return None
    if "not implemented" in done.stderr:
        return "this OpenCV was built without windows (opencv-python-headless); install opencv-python instead"
    words = done.stderr.strip().splitlines()
    return f"the display could not be used: {words[-1].strip()}" if words else "the display could not be used"


class LiveWindow:
    """Shows pictures and tells which keys are pressed.

    Args:
        title: of the window.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown = False

    def show(self, rgb: np.ndarray) -> None:
        """Show a picture, uint8 (H, W, 3)."""
        if not self._shown:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.resizeWindow(self._title, *_comfortable(rgb.shape[1], rgb.shape[0]))
            self._shown = True
        cv2.imshow(self._title, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    def key(self) -> str | None:
        """The key that was pressed, in lower case; ``q`` also for Escape and when the window was closed."""
        code = cv2.waitKey(1) & 0xFF
        if code == 27 or (self._shown and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1):
            return "q"
        return None if code == 0xFF else chr(code).lower()

    def close(self) -> None:
        """Take the window away."""
        if self._shown:
            cv2.destroyAllWindows()
            cv2.waitKey(1)


def _comfortable(width: int, height: int) -> tuple[int, int]:
    """Small pictures are shown larger, large ones as they fit most screens."""
    scale = min(1280 / width, 760 / height)
    scale = min(scale, 2.0)
    return round(width * scale), round(height * scale)
