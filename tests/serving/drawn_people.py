"""Drawn people side by side whose expressions change: what a camera sees where no photograph may be shown."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ferkit.datasets.synthetic import Identity, render_face

SIZE_WH = (960, 540)
SEEDS = (2, 3, 14)
"""Of people whom both Haar's detector and YuNet find."""

ROLES = (("happy", "neutral", "surprise"), ("surprise", "happy", "angry"), ("neutral", "sad", "happy"))


def drawn_frames(
    n_frames: int, fps: float = 25.0, act_s: float = 3.0, drawn_px: int = 280
) -> Iterator[np.ndarray]:
    """RGB frames (H, W, 3): each person goes through three expressions, and back to the first.

    Args:
        n_frames: how many.
        fps: frames a second.
        act_s: seconds of one expression.
        drawn_px: size at which faces are drawn before they are enlarged; a quarter of the time with half of it.
    """
    people = [Identity.random(np.random.default_rng(seed)) for seed in SEEDS]
    side = 280
    for i in range(n_frames):
        frame = _room()
        for k, person in enumerate(people):
            act, share = divmod(i / fps / act_s + 0.29 * k, 1)
            expression = ROLES[k][int(act) % len(ROLES[k])]
            # From rest to the expression, for a while, and back: a cosine with a flat top.
            intensity = float(np.clip(1.6 * np.sin(np.pi * share), 0, 1.05))
            face = render_face(
                person, expression, np.random.default_rng(SEEDS[k]), size=drawn_px, intensity=intensity
            )
            face = cv2.resize(face, (side, side))
            left = 20 + k * (side + 40)
            top = 120 + round(10 * np.sin(i / fps * 1.3 + k))
            _frame_in(frame, face, left, top)
        yield frame


def write_camera_clip(path: Path, frames: Iterator[np.ndarray]) -> Path:
    """Frames as the Motion JPEG that Chromium plays as a camera's image."""
    with path.open("wb") as file:
        for frame in frames:
            _, jpeg = cv2.imencode(
                ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90]
            )
            file.write(jpeg.tobytes())
    return path


def read_frames(video: Path, n_frames: int) -> Iterator[np.ndarray]:
    """The first frames of a video, RGB."""
    capture = cv2.VideoCapture(str(video))
    try:
        for _ in range(n_frames):
            good, bgr = capture.read()
            if not good:
                return
            yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def write_video(path: Path, frames: Iterator[np.ndarray], fps: float = 25.0) -> Path:
    """Frames as a video that any player takes."""
    writer = None
    for frame in frames:
        if writer is None:
            size_wh = (frame.shape[1], frame.shape[0])
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size_wh)
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    assert writer is not None
    writer.release()
    return path


def _room() -> np.ndarray:
    height, width = SIZE_WH[1], SIZE_WH[0]
    shade = np.linspace(0, 1, height)[:, None, None]
    wall = (1 - shade) * np.array([226, 219, 207]) + shade * np.array([188, 184, 178])
    return np.broadcast_to(wall, (height, width, 3)).astype(np.uint8).copy()


def _frame_in(frame: np.ndarray, face: np.ndarray, left: int, top: int) -> None:
    """Put a face in with rounded corners."""
    side = len(face)
    mask = np.zeros((side, side), np.uint8)
    r = side // 8
    cv2.rectangle(mask, (r, 0), (side - r, side), 255, -1)
    cv2.rectangle(mask, (0, r), (side, side - r), 255, -1)
    for x in (r, side - r - 1):
        for y in (r, side - r - 1):
            cv2.circle(mask, (x, y), r, 255, -1, cv2.LINE_AA)
    alpha = mask[..., None] / 255
    there = frame[top : top + side, left : left + side]
    frame[top : top + side, left : left + side] = (alpha * face + (1 - alpha) * there).astype(np.uint8)
