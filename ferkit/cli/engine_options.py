"""Options of the commands that follow faces over time: ``fer webcam`` and ``fer video``."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ferkit.cli.options import detector_option, detector_weights_option

if TYPE_CHECKING:
    from ferkit.inference.build import EngineOptions

F = TypeVar("F", bound=Callable[..., Any])

_NAMES = (
    "detector", "detector_weights", "detect_size", "smooth", "half_life", "window", "repeats", "stay", "hysteresis",
    "dwell", "min_confidence", "min_quality", "calibrate_neutral", "reidentify",
)  # fmt: skip


def engine_options(command: F) -> F:
    """Detector, smoothing and neutral calibration."""
    for option in reversed((
        detector_option(),
        detector_weights_option,
        click.option("--detect-size", type=click.IntRange(64), default=480, show_default=True,
                     help="The detector sees frames scaled down to this longer side; more finds smaller faces."),
        click.option("--smooth", type=click.Choice(["hmm", "ema", "majority", "repeat", "none"]), default="hmm",
                     show_default=True, help="How labels are steadied."),
        click.option("--half-life", type=float, default=0.2, show_default=True, help="Seconds, for ema."),
        click.option("--window", type=float, default=0.6, show_default=True, help="Seconds, for majority."),
        click.option("--repeats", type=int, default=2, show_default=True, help="Frames in a row, for repeat."),
        click.option("--stay", type=float, default=2.0, show_default=True,
                     help="Seconds that an expression lasts, for hmm."),
        click.option("--hysteresis", type=float, default=0.1, show_default=True,
                     help="How much more probable another label must be to take over."),
        click.option("--dwell", type=float, default=0.3, show_default=True,
                     help="Seconds that a label is shown at least."),
        click.option("--min-confidence", type=click.FloatRange(0, 1), default=0.4, show_default=True,
                     help="'unsure' with a lower probability."),
        click.option("--min-quality", type=click.FloatRange(0, 1), default=0.2, show_default=True,
                     help="'unsure' for faces that are smaller, more blurred, darker or more turned away."),
        click.option("--calibrate-neutral", type=click.FloatRange(0), default=0.0, metavar="SECONDS",
                     help="Look at a resting face for so long, then remove its bias."),
        click.option("--reidentify", metavar="BACKBONE",
                     help="Know people again who come back within 20 s, by this recognition network: arcface, "
                     "onnx:FILE …  [default: by motion and looks, for 1 s]"),
    )):  # fmt: skip
        command = option(command)
    return command


def settled_options(
    values: dict[str, Any], *, detect_every: int | None, fps: float = 30.0
) -> "EngineOptions":
    """Take the options of :func:`engine_options` out of ``values``.

    Raises:
        DataError: a value out of range.
    """
    from ferkit.inference.build import EngineOptions
    from ferkit.inference.smoothing import SmoothingSettings

    v = {name: values.pop(name) for name in _NAMES}
    smoothing = SmoothingSettings(
        v["smooth"], v["half_life"], v["window"], v["repeats"], v["stay"], v["hysteresis"], v["dwell"],
        v["min_confidence"], v["min_quality"],
    )  # fmt: skip
    return EngineOptions(
        v["detector"],
        v["detector_weights"],
        v["detect_size"],
        detect_every,
        fps,
        smoothing,
        v["calibrate_neutral"],
        v["reidentify"],
    )


def quiet_video_library() -> None:
    """Keep the remarks of OpenCV's libraries off the terminal; a command says itself what is wrong."""
    # A program of our own: its environment is ours to set, before the libraries read it.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false;*.debug=false")
    os.environ.setdefault("QT_QPA_FONTDIR", str(Path("/usr/share/fonts")))
