"""Follow faces over time: ``fer webcam`` and ``fer video``."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from ferkit.cli.command import echo
from ferkit.cli.options import (
    FILE,
    FOLDER,
    command,
    model_and_rest,
    model_names,
    offer,
    option,
    print_json,
    quiet_video_library,
    shared,
)
from ferkit.cli.settings import Chosen, Fields, Setting
from ferkit.core.errors import FerkitError
from ferkit.core.texts import Translations, current_language

if TYPE_CHECKING:
    from ferkit.core.labels import LabelSet
    from ferkit.inference.engine import Engine, EngineOptions
    from ferkit.inference.live import View
    from ferkit.inference.video import PersonSummary, VideoRun, VideoSummary


logger = logging.getLogger(__name__)

_PEOPLE_SHOWN = 12

_SMOOTHING = Fields(
    "ferkit.inference.smoothing:SmoothingSettings", "half_life_s", "window_s", "repeats", "stay_s", "hysteresis",
    "min_dwell_s", "min_confidence", "min_quality",
)  # fmt: skip


def _engine_options(options: dict[str, Any], settings: Chosen, **values: Any) -> "EngineOptions":
    from ferkit.inference.engine import EngineOptions
    from ferkit.inference.smoothing import SmoothingSettings

    smoothing = SmoothingSettings(options["smooth"], **settings.of(SmoothingSettings))
    chosen = settings.of(EngineOptions) | {k: v for k, v in values.items() if k not in settings.given}
    return EngineOptions(options["detector"], smoothing=smoothing, **chosen)


@command(settings=(
    Fields("ferkit.inference.engine:EngineOptions", "detector_weights", "detect_side", "detect_every",
           "fps", "reidentify", detect_every=None),
    _SMOOTHING, Fields("ferkit.inference.live:LiveSettings", "bars", "history"),
    Setting("size", tuple[int, int] | None, None, "frame size to ask the camera for, width x height"),
    Setting("port", int, 0, "of the browser view; 0 takes a free one"),
))  # fmt: skip
@click.argument("model_argument", metavar="[MODEL]", required=False, shell_complete=offer(model_names))
@shared("model")
@option("-s", "--source", default="0", group="Reading",
        help="Number or device of a camera, a video file, or an address (rtsp://…, http://…).")  # fmt: skip
@shared("detector", group="Reading")
@shared("smooth")
@option("--calibrate-neutral", type=click.FloatRange(0), default=0.0, metavar="SECONDS", group="Reading",
        help="Look at a resting face for so long, then remove its bias.")  # fmt: skip
@option("--view", type=click.Choice(["window", "browser", "none"]), default="window", group="View",
        help="Where to look at it; a browser if no window can be opened. With 'none' every change of a "
        "label is printed.")  # fmt: skip
@option("--mirror/--no-mirror", default=None, group="View",
        help="Show as a mirror does.  [default: for cameras]")  # fmt: skip
@option("--duration", type=click.FloatRange(0, min_open=True), metavar="SECONDS", group="View",
        help="End by itself.")  # fmt: skip
@shared("lang", group="View")
@shared("out", type=FOLDER, default=Path(), show_default=False,
        help="Folder for snapshots and recordings.  [default: here]")  # fmt: skip
@shared("json", help="Print every change of a label as a line of JSON.")
@shared("models_dir")
def webcam(model_argument: str | None, models_dir: Path, settings: Chosen, **options: Any) -> None:
    """See expressions live, from a camera, an address or a file.

    MODEL is a model's folder, or its name in --models-dir; without one the newest there is taken, or else the
    network that comes with ferkit.

    \b
    Keys: q quit, s save an image, r record, m next model, l English/Korean, f full screen, h help.

    \b
    Examples:
        fer webcam
        fer webcam mlp --source 1 --calibrate-neutral 5
        fer webcam --source rtsp://camera/stream --lang ko --smooth ema
        fer webcam --source talk.mp4 --view none --json
    """
    quiet_video_library()
    from ferkit.classifiers.model import choose_model, list_models, read_model
    from ferkit.inference.engine import build_engine
    from ferkit.inference.live import ChangePrinter, LiveSettings, LiveSource, LiveView
    from ferkit.inference.sources import is_camera, source_name

    first = choose_model(options["model"] or model_argument, models_dir).folder
    engine_settings = _engine_options(options, settings, neutral_s=options["calibrate_neutral"])
    view = _open_view(options["view"], settings["port"], options["lang"])

    def load(folder: str) -> "Engine":
        engine, faces = build_engine(read_model(Path(folder)), engine_settings)
        logger.info(faces.reason)
        return engine

    source: str = options["source"]
    mirror = is_camera(source) if options["mirror"] is None else options["mirror"]
    live_settings = LiveSettings(
        options["lang"], mirror, options["duration"], options["out"], **settings.of(LiveSettings)
    )
    printer = ChangePrinter(_print_json_line if options["json"] else _print_line)
    listed = [entry.folder for entry in list_models(models_dir, verify=False) if entry.model is not None]
    others = [str(folder) for folder in listed if folder.resolve() != first.resolve()]
    # One's own before those that come along.
    others.sort(key=lambda folder: Path(folder).parent != models_dir)
    live = LiveView(
        LiveSource(source, settings["size"]),
        [str(first), *others],
        load,
        view,
        live_settings,
        printer if view is None or options["json"] else None,
    )
    try:
        live.run()
    except KeyboardInterrupt:
        logger.info("stopped")
    if live.n_frames == 0:
        raise FerkitError(f"no image came from {source_name(source)}; check it, or try another --source")
    logger.info(f"{live.n_frames} frames")


def _open_view(where: str, port: int, language: str) -> "View | None":
    from ferkit.inference.live import LiveWindow
    from ferkit.inference.sinks import BrowserView

    if where == "none":
        return None
    if where == "window":
        try:
            return LiveWindow("ferkit")
        except FerkitError as error:
            logger.info(f"no window can be opened: {error}; the browser takes its place")
    try:
        view = BrowserView(port, language)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", "a port is below 65536")
        raise FerkitError(f"port {port} cannot be had: {reason}; choose another: --set port=…") from error
    logger.info(f"open {view.url} in a browser on this machine")
    return view


def _print_line(timestamp_s: float, track: int, label: str | None, probability: float) -> None:
    from ferkit.core.labels import LabelSet

    shown = f"{LabelSet((label,)).display(current_language())[0]} {probability:.0%}" if label else "unsure"
    echo(f"{timestamp_s:9.2f} s  face {track}  {shown}")


def _print_json_line(timestamp_s: float, track: int, label: str | None, probability: float) -> None:
    time_s, probability = round(timestamp_s, 3), round(probability, 4)
    print_json({"time_s": time_s, "face": track, "label": label, "probability": probability})


@command(settings=(
    Fields("ferkit.inference.engine:EngineOptions", "detector_weights", "detect_side", "detect_every",
           "neutral_s", "reidentify", detect_every=None),
    _SMOOTHING,
))  # fmt: skip
@click.argument("words", metavar="[MODEL] FILE", nargs=-1, required=True, shell_complete=offer(model_names))
@shared("model")
@option("--every", type=click.FloatRange(0), default=0.0, metavar="SECONDS", group="Reading",
        help="Look at a frame every so often.  [default: every frame]", show_default=False)  # fmt: skip
@shared("detector", group="Reading")
@shared("smooth", rare=True)
@shared("out", type=FOLDER, help="Folder of the results.  [default: FILE's name + '-expressions', here]")
@option("--csv", is_flag=True, group="Output",
        help="Print the table as CSV: a row for each face and moment.")  # fmt: skip
@shared("json", help="Print summary and table as JSON.")
@option("--plot", is_flag=True, extra="plots", group="Output", help="Draw a timeline.")
@option("--annotated", type=FILE, metavar="FILE.mp4", group="Output",
        help="Write a copy of the video with boxes and labels, and with its sound.")  # fmt: skip
@option("--frames", type=FOLDER, metavar="DIR", group="Output", help="Save the frames that were looked at.")
@option("--faces", type=FOLDER, metavar="DIR", group="Output", help="Save the faces that were found.")
@shared("lang", "models_dir")
def video(words: tuple[str, ...], models_dir: Path, settings: Chosen, **options: Any) -> None:
    """Read the expressions in a video, over time.

    FILE is a video file or an address (http://…). Writes faces.csv (a row for each face and moment) and
    summary.json into a folder. Stop at any time: the same command goes on where it was. MODEL is a model's folder,
    or its name in --models-dir; without one the newest there is taken, or else the network that comes with ferkit.

    Reading emotions in job interviews, at work or in schools is prohibited in the European Union (AI Act,
    Article 5(1)(f)).

    \b
    Examples:
        fer video talk.mp4 --every 0.5 --plot
        fer video mlp talk.mp4 --csv > faces.csv
        fer video talk.mp4 --annotated talk-faces.mp4 --lang ko
    """
    if options["csv"] and options["json"]:
        raise click.UsageError("--csv and --json cannot go together")
    annotated: Path | None = options["annotated"]
    quiet_video_library()
    from ferkit.core.files import file_sha256, is_address, write_json
    from ferkit.inference.engine import build_engine
    from ferkit.inference.sinks import VIDEO_SUFFIXES
    from ferkit.inference.sources import check_is_file, load_av
    from ferkit.inference.video import analyse_video, json_pieces, read_rows, save_images, summarise

    video = words[-1]
    title = Path(urlsplit(video).path).name if is_address(video) else Path(video).name
    load_av()
    check_is_file(video)
    if annotated is not None and annotated.suffix.lower() not in VIDEO_SUFFIXES:
        raise click.UsageError(
            f"--annotated expects a video file ({', '.join(VIDEO_SUFFIXES)}), found {annotated}"
        )
    if annotated is not None and not is_address(video) and annotated.resolve() == Path(video).resolve():
        raise click.UsageError("--annotated would write over the video itself; name another file")
    model, _ = model_and_rest(options["model"], words, models_dir, of="video")
    engine_settings = _engine_options(options, settings, detect_every=1 if options["every"] else 3)
    engine, faces = build_engine(model, engine_settings)
    logger.info(faces.reason)

    out = options["out"] or Path(f"{Path(title).stem or 'video'}-expressions")
    identity = [engine_settings, file_sha256(model.folder / "model.json")]
    run = analyse_video(video, out, engine, identity, every_s=options["every"])
    _remark(run)
    summary = summarise(read_rows(run.table), engine.labels)
    write_json(out / "summary.json", {"film": title, "n_frames": run.n_frames, **summary.as_dict()})
    if options["plot"]:
        _plot(run, summary, engine.labels, title, out / "timeline.png", options["lang"])
    if annotated is not None:
        _annotate(run, engine.labels, video, annotated, options["every"], options["lang"])
    if options["frames"] or options["faces"]:
        n_frames, n_faces = save_images(
            video, run.table, options["every"], options["frames"], options["faces"]
        )
        logger.info(f"saved: {n_frames} frames, {n_faces} faces")
    if options["csv"]:
        _print_csv(run.table)
    elif options["json"]:
        head = {"labels": engine.labels.names, "n_frames": run.n_frames, "summary": summary.as_dict()}
        for piece in json_pieces(head, run.table, engine.labels.names):
            click.echo(piece, nl=False)
    else:
        _print_summary(run, summary, engine.labels, options["lang"])
    logger.info(f"results: {out}")


def _remark(run: "VideoRun") -> None:
    if run.resumed_at_s is None:
        logger.info(
            f"the video was read before with these settings; delete {run.table.parent} to read it again"
        )
    elif run.resumed_at_s > 0:
        logger.info(f"went on at {run.resumed_at_s:.1f} s, where the last run ended")
    if run.broken_at_s is not None:
        logger.info(f"the video breaks off: nothing can be read after {run.broken_at_s:.1f} s")
    if run.n_damaged:
        logger.info(f"the video is damaged in {run.n_damaged} places: frames there are missing or distorted")


def _plot(
    run: "VideoRun", summary: "VideoSummary", labels: "LabelSet", title: str, path: Path, language: str
) -> None:
    from ferkit.inference.video import Timeline, plot_timeline, read_rows

    hint = plot_timeline(Timeline(summary, labels).add(read_rows(run.table)), path, title, language)
    if hint:
        logger.info(hint)
    logger.info(f"timeline: {path}")


def _annotate(
    run: "VideoRun", labels: "LabelSet", video: str, out: Path, every_s: float, language: str
) -> None:
    from ferkit.inference.overlay import Overlay
    from ferkit.inference.sinks import annotate_video

    overlay = Overlay(labels, language)
    if overlay.hint:
        logger.info(overlay.hint)
    annotate_video(video, run.table, out, overlay, labels, every_s=every_s)
    logger.info(f"annotated video: {out}")


def _print_csv(table: Path) -> None:
    with table.open(encoding="utf-8", newline="") as file:
        for line in file:
            click.echo(line, nl=False)


def _print_summary(run: "VideoRun", summary: "VideoSummary", labels: "LabelSet", language: str) -> None:
    from ferkit.core.console import table
    from ferkit.inference.video import UNSURE_NAME

    if not summary.people:
        echo(f"no face in {run.n_frames} frames")
        return
    words = Translations(language, "live")
    shown = dict(zip(labels.names, labels.display(language), strict=True))
    shown[UNSURE_NAME] = words("word.unsure")
    columns = [name for name in (*labels.names, UNSURE_NAME) if summary.labels[name]]
    header = ["face", "seen", "readings", *(shown[name] for name in columns), "changes/min", "score"]
    rows = [_person_row(person, columns, words) for person in summary.people[:_PEOPLE_SHOWN]]
    echo(table(header, rows, right=range(2, len(header))))
    if len(summary.people) > _PEOPLE_SHOWN:
        echo(f"… and {len(summary.people) - _PEOPLE_SHOWN} more, seen more briefly; all are in summary.json")
    everybody = ", ".join(
        f"{shown[name]} {n / summary.n_readings:.0%}" for name, n in summary.labels.most_common()
    )
    echo(f"{run.n_frames} frames, {summary.n_readings} readings: {everybody}")


def _person_row(person: "PersonSummary", columns: list[str], words: Translations) -> list[str]:
    shares = [f"{person.labels[name] / person.n:.0%}" if person.labels[name] else "" for name in columns]
    seen = words("word.seen", first=person.first_s, last=person.last_s)
    changes = f"{person.changes_per_minute:.1f}"
    return [f"#{person.face}", seen, str(person.n), *shares, changes, str(person.score)]
