"""Options that several commands share."""

import logging
import os
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ferkit.core.console import hidden_progress
from ferkit.core.files import parse_toml, read_regular

if TYPE_CHECKING:
    from ferkit.datasets.dataset import Dataset
    from ferkit.inference.engine import EngineOptions


F = TypeVar("F", bound=Callable[..., Any])

DATA = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


class SizeType(click.ParamType):
    """``112`` or ``96x112`` (width x height), as a pair of whole numbers."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) > 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
            self.fail(f"expected a size such as 112 or 96x112, found {value!r}", param, ctx)
        return int(parts[0]), int(parts[-1])


SIZE = SizeType()


def common_options(command: F) -> F:
    """``--config``, ``--log-dir`` and ``--quiet``, for every command that does work."""
    log_dir_option = click.option(
        "--log-dir", type=FOLDER, expose_value=False, callback=_start_log, is_eager=True,
        help="Also write messages to one file a day in this folder.",
    )  # fmt: skip
    return config_option(log_dir_option(quiet_option(command)))


def config_option(command: F) -> F:
    """``--config``."""
    return click.option(
        "--config", type=FILE, is_eager=True, expose_value=False, callback=_read_config,
        help="TOML file with options: at its top, or in a table named like the command.",
    )(command)  # fmt: skip


def quiet_option(command: F) -> F:
    """``--quiet``; :func:`say` keeps to it."""
    return click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_set_quiet, is_eager=True,
        help="No progress and no remarks, only results and errors.",
    )(command)  # fmt: skip


cache_dir_option = click.option(
    "--cache-dir", type=FOLDER, default=Path("cache"), show_default=True, help="Folder of all embeddings."
)
models_dir_option = click.option(
    "--models-dir", type=FOLDER, default=Path("models"), show_default=True, help="Folder of trained models."
)


def person_option(command: F) -> F:
    """``--person-pattern`` and ``--columns``, for commands that read a data set by :func:`load_data`."""
    pattern = click.option(
        "--person-pattern",
        help="Regular expression whose first group finds the person in a file name, so that nobody is in train and "
        "test at once. AI Hub's names are understood without it.",
    )
    columns = click.option(
        "--columns", metavar="path=NAME,label=NAME,split=NAME,group=NAME", expose_value=False, callback=_set_columns,
        help="Columns of a table that calls them something that nobody knows.",
    )  # fmt: skip
    return pattern(columns(command))


def load_data(path: Path, person_pattern: str | None = None) -> "Dataset":
    """Read the data set that a user names, with what ``--columns`` says of a table."""
    from ferkit.datasets.load import load_dataset

    return load_dataset(path, person_pattern, given_columns())


def given_columns() -> dict[str, str]:
    """What ``--columns`` says: the name of a column by meaning."""
    return click.get_current_context().meta.get("ferkit.columns", {})


def _set_columns(ctx: click.Context, param: click.Parameter, text: str | None) -> None:
    if text is not None:
        from ferkit.datasets.tables import parse_columns

        ctx.meta["ferkit.columns"] = parse_columns(text)


detector_weights_option = click.option(
    "--detector-weights", type=FILE, help="Take this file as the detector's weights."
)
margin_option = click.option(
    "--margin",
    type=click.FloatRange(0, 2),
    default=0.1,
    show_default=True,
    help="Added around the face on each side, as a share of its box.",
)
test_size_option = click.option(
    "--test-size",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share held out, where the data have no train/ and test/ of their own.",
)
group_split_option = click.option(
    "--group-split/--no-group-split",
    default=True,
    show_default=True,
    help="Keep each person on one side, where persons are known.",
)
lang_option = click.option(
    "--lang",
    type=click.Choice(["en", "ko"]),
    default="en",
    show_default=True,
    help="Language of the expressions' names.",
)


class DetectorType(click.Choice):
    """One of our detectors, or ``deepface:NAME`` for one of DeepFace's.

    Args:
        boxes: whether the command reads data sets, which may have boxes: ``given``.
    """

    name = "detector"

    def __init__(self, boxes: bool = False) -> None:
        given = ["given"] if boxes else []
        super().__init__(["auto", "none", *given, "haar", "yunet", "mediapipe", "mtcnn", "deepface:NAME"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if str(value).startswith("deepface:") and value != "deepface:NAME":
            return str(value)
        return super().convert(value, param, ctx)


def detector_option(
    auto: str = "'auto' does as in the model's training", boxes: bool = False
) -> Callable[[F], F]:
    """``--detector``; ``auto`` says what that word means to the command, ``boxes`` that its data may have some."""
    given = " 'given' takes the boxes that DATA has," if boxes else ""
    return click.option(
        "-d",
        "--detector",
        type=DetectorType(boxes),
        default="auto",
        show_default=True,
        help=f"Finds the face; 'none' takes images whole,{given} {auto}.",
    )


def say(message: str) -> None:
    """A remark for the user: to standard error, so that results can be piped, and to the log."""
    logging.getLogger("ferkit").info(message)


def is_quiet() -> bool:
    """Whether ``--quiet`` was given."""
    return bool(click.get_current_context().meta.get("ferkit.quiet"))


def _set_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta["ferkit.quiet"] = value
    logger = logging.getLogger("ferkit")
    if value:
        ctx.find_root().with_resource(hidden_progress())
        return
    handler = _StandardError()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)

    def stop() -> None:
        logger.removeHandler(handler)
        logger.setLevel(level)

    ctx.find_root().call_on_close(stop)


class _StandardError(logging.Handler):
    """Prints remarks to standard error, so that results can be piped; errors are click's to print."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR and record.exc_info is None:
            click.echo(record.getMessage(), err=True)


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        values = parse_toml(read_regular(path))
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise click.BadParameter(f"{path} is no TOML file: {error}") from None
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    options = {key: value for key, value in values.items() if key not in tables}
    options |= tables.get(ctx.info_name or "", {})
    options = {key.replace("-", "_"): value for key, value in options.items()}
    # As on the command line: --json is the parameter as_json.
    names = {o.lstrip("-").replace("-", "_"): p.name for p in ctx.command.params for o in p.opts if p.name}
    unknown = sorted(options.keys() - names.keys())
    if unknown:
        raise click.BadParameter(f"{path}: fer {ctx.info_name} has no option {', '.join(unknown)}")
    ctx.default_map = {**(ctx.default_map or {}), **{names[key]: value for key, value in options.items()}}


def _start_log(ctx: click.Context, param: click.Parameter, folder: Path | None) -> None:
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / f"fer-{date.today():%Y-%m-%d}.log", encoding="utf-8")
    except OSError as error:
        raise click.BadParameter(f"{folder} cannot be written: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("ferkit")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.info("fer %s", " ".join(sys.argv[1:]))

    def stop_log() -> None:
        logger.removeHandler(handler)
        handler.close()

    # With the whole command, so that the error that ends it is written too.
    ctx.find_root().call_on_close(stop_log)


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
    from ferkit.inference.engine import EngineOptions
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
    """Keep OpenCV's remarks about cameras off the terminal; a command says itself what is wrong."""
    # A program of our own: its environment is ours to set, before the library reads it.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
