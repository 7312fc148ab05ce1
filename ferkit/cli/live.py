"""Follow faces over time: ``fer webcam`` and ``fer video``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from ferkit.cli.options import (
    FILE,
    FOLDER,
    SIZE,
    common_options,
    engine_options,
    lang_option,
    models_dir_option,
    quiet_video_library,
    say,
    settled_options,
)
from ferkit.core.errors import DataError, FerkitError

if TYPE_CHECKING:
    from ferkit.core.labels import LabelSet
    from ferkit.inference.engine import Engine
    from ferkit.inference.live import View
    from ferkit.inference.video import PersonSummary, VideoRun, VideoSummary


@click.command()
@click.argument("model", required=False)
@click.option(
    "-s",
    "--source",
    default="0",
    show_default=True,
    help="Number or device of a camera, a video file, or an address (rtsp://…, http://…).",
)
@click.option("--size", type=SIZE, help="Frame size to ask the camera for: width x height.")
@click.option("--mirror/--no-mirror", default=None, help="Show as a mirror does.  [default: for cameras]")
@lang_option
@click.option(
    "--bars/--no-bars", default=True, show_default=True, help="All probabilities of the largest face."
)
@click.option(
    "--history/--no-history", default=True, show_default=True, help="A strip with the last 20 seconds."
)
@click.option(
    "--fps",
    type=click.FloatRange(1, 240),
    default=30.0,
    show_default=True,
    help="Frame rate to hold, by detecting less often where that is needed.",
)
@click.option(
    "--detect-every", type=click.IntRange(1), help="Detect in every n-th frame.  [default: as --fps needs]"
)
@click.option("--duration", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="End by itself.")
@click.option(
    "--out", type=FOLDER, default=Path(), help="Folder for snapshots and recordings.  [default: here]"
)
@click.option(
    "--view",
    "where",
    type=click.Choice(["window", "browser", "none"]),
    default="window",
    show_default=True,
    help="Where to look at it; a browser if no window can be opened. With 'none' every change of a label is printed.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Of --view browser.  [default: a free one]"
)
@click.option("--json", "as_json", is_flag=True, help="Print every change of a label as a line of JSON.")
@engine_options
@models_dir_option
@common_options
def webcam(model: str | None, models_dir: Path, **options: Any) -> None:
    """See expressions live, from a camera, an address or a file.

    MODEL is a model's folder, or its name in --models-dir; without one the network that
    comes with ferkit is taken.

    \b
    Keys: q quit, s save an image, r record, m next model, l English/Korean, f full screen, h help.

    \b
    Examples:
        fer webcam
        fer webcam mlp --source 1 --calibrate-neutral 5
        fer webcam --source rtsp://camera/stream --lang ko --smooth hmm
        fer webcam --source talk.mp4 --view none --json
    """
    quiet_video_library()
    from ferkit.classifiers.model import choose_model, list_models, read_model
    from ferkit.inference.engine import build_engine
    from ferkit.inference.live import ChangePrinter, LiveSettings, LiveView
    from ferkit.inference.sources import LiveSource, is_camera, source_name

    first = choose_model(model, models_dir).folder
    engine_settings = settled_options(options, detect_every=options["detect_every"], fps=options["fps"])
    view = _open_view(options["where"], options["port"])

    def load(folder: str) -> "Engine":
        engine, faces = build_engine(read_model(Path(folder)), engine_settings)
        say(faces.reason)
        return engine

    source: str = options["source"]
    mirror = is_camera(source) if options["mirror"] is None else options["mirror"]
    settings = LiveSettings(
        options["lang"], mirror, options["duration"], options["out"], options["bars"], options["history"]
    )
    printer = ChangePrinter(_print_json if options["as_json"] else _print_line)
    listed = [entry.folder for entry in list_models(models_dir, verify=False) if entry.model is not None]
    others = [str(folder) for folder in listed if folder.resolve() != first.resolve()]
    live = LiveView(
        LiveSource(source, options["size"]),
        [str(first), *others],
        load,
        view,
        settings,
        printer if view is None or options["as_json"] else None,
    )
    try:
        live.run()
    except KeyboardInterrupt:
        say("stopped")
    if live.n_frames == 0:
        raise FerkitError(f"no image came from {source_name(source)}; check it, or try another --source")
    say(f"{live.n_frames} frames")


def _open_view(where: str, port: int) -> "View | None":
    from ferkit.inference.browser_view import BrowserView
    from ferkit.inference.live import LiveWindow

    if where == "none":
        return None
    if where == "window":
        try:
            return LiveWindow("ferkit")
        except FerkitError as error:
            say(f"no window can be opened: {error}; the browser takes its place")
    try:
        view = BrowserView(port)
    except OSError as error:
        raise FerkitError(f"port {port} cannot be had: {error.strerror}; choose another --port") from error
    say(f"open {view.url} in a browser on this machine")
    return view


def _print_line(timestamp_s: float, track: int, label: str | None, probability: float) -> None:
    shown = "unsure" if label is None else f"{label} {probability:.0%}"
    click.echo(f"{timestamp_s:9.2f} s  face {track}  {shown}")


def _print_json(timestamp_s: float, track: int, label: str | None, probability: float) -> None:
    values = {
        "time_s": round(timestamp_s, 3),
        "face": track,
        "label": label,
        "probability": round(probability, 4),
    }
    click.echo(json.dumps(values, ensure_ascii=False))


_PEOPLE_SHOWN = 12


@click.command()
@click.argument("model_and_film", metavar="[MODEL] FILE", nargs=-1, required=True)
@click.option(
    "--every",
    type=click.FloatRange(0),
    default=0.0,
    metavar="SECONDS",
    help="Look at a frame every so often.  [default: every frame]",
)
@click.option(
    "--out", type=FOLDER, help="Folder of the results.  [default: FILE's name + '-expressions', here]"
)
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV: a row for each face and moment.")
@click.option("--json", "as_json", is_flag=True, help="Print summary and table as JSON.")
@click.option("--plot", is_flag=True, help="Draw a timeline.")
@click.option(
    "--annotated",
    type=FILE,
    metavar="FILE.mp4",
    help="Write a copy of the video with boxes and labels, and with its sound.",
)
@click.option("--frames", type=FOLDER, metavar="DIR", help="Save the frames that were looked at.")
@click.option("--faces", type=FOLDER, metavar="DIR", help="Save the faces that were found.")
@lang_option
@click.option(
    "--detect-every",
    type=click.IntRange(1),
    help="Detect in every n-th frame looked at, and track between.  [default: 3; with --every 1]",
)
@engine_options
@models_dir_option
@common_options
def video(model_and_film: tuple[str, ...], models_dir: Path, **options: Any) -> None:
    """Read the expressions in a video, over time.

    FILE is a video file or an address (http://…). Writes faces.csv (a row for each face and moment) and
    summary.json into a folder. Stop at any time: the same command goes on where it was. MODEL is a model's folder,
    or its name in --models-dir; without one the network that comes with ferkit is taken.

    Reading emotions in job interviews, at work or in schools is prohibited in the European Union (AI Act,
    Article 5(1)(f)).

    \b
    Examples:
        fer video talk.mp4 --every 0.5 --plot
        fer video mlp talk.mp4 --csv > faces.csv
        fer video talk.mp4 --annotated talk-faces.mp4 --lang ko
    """
    if options["as_csv"] and options["as_json"]:
        raise click.UsageError("--csv and --json cannot go together")
    if len(model_and_film) > 2:
        raise click.UsageError("expected one video, after the model where one is named")
    annotated: Path | None = options["annotated"]
    quiet_video_library()
    from ferkit.classifiers.model import choose_model
    from ferkit.core.addresses import is_address
    from ferkit.core.files import file_sha256, write_json
    from ferkit.inference.engine import build_engine
    from ferkit.inference.sinks import VIDEO_SUFFIXES
    from ferkit.inference.sources import load_av
    from ferkit.inference.video import analyse_video, read_rows, save_images, summarise

    video = model_and_film[-1]
    title = Path(urlsplit(video).path).name if is_address(video) else Path(video).name
    load_av()
    if not is_address(video) and not Path(video).is_file():
        found = "a folder" if Path(video).is_dir() else "nothing"
        raise DataError(f"expected a video file at {video}, found {found}; check the path")
    if annotated is not None and annotated.suffix.lower() not in VIDEO_SUFFIXES:
        raise click.UsageError(
            f"--annotated expects a video file ({', '.join(VIDEO_SUFFIXES)}), found {annotated}"
        )
    if annotated is not None and not is_address(video) and annotated.resolve() == Path(video).resolve():
        raise click.UsageError("--annotated would write over the video itself; name another file")
    model = choose_model(model_and_film[0] if len(model_and_film) == 2 else None, models_dir)
    detect_every = options["detect_every"] or (1 if options["every"] else 3)
    settings = settled_options(options, detect_every=detect_every)
    engine, faces = build_engine(model, settings)
    say(faces.reason)

    out = options["out"] or Path(f"{Path(title).stem or 'video'}-expressions")
    identity = [settings, file_sha256(model.folder / "model.json")]
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
        say(f"saved: {n_frames} frames, {n_faces} faces")
    if options["as_csv"]:
        _print_csv(run.table)
    elif options["as_json"]:
        _video_print_json(run, summary, engine.labels)
    else:
        _print_summary(run, summary, engine.labels, options["lang"])
    say(f"results: {out}")


def _remark(run: "VideoRun") -> None:
    if run.resumed_at_s is None:
        say(f"the video was read before with these settings; delete {run.table.parent} to read it again")
    elif run.resumed_at_s > 0:
        say(f"went on at {run.resumed_at_s:.1f} s, where the last run ended")
    if run.broken_at_s is not None:
        say(f"the video breaks off: nothing can be read after {run.broken_at_s:.1f} s")


def _plot(
    run: "VideoRun", summary: "VideoSummary", labels: "LabelSet", title: str, path: Path, language: str
) -> None:
    from ferkit.inference.video import Timeline, plot_timeline, read_rows

    hint = plot_timeline(Timeline(summary, labels).add(read_rows(run.table)), path, title, language)
    if hint:
        say(hint)
    say(f"timeline: {path}")


def _annotate(
    run: "VideoRun", labels: "LabelSet", video: str, out: Path, every_s: float, language: str
) -> None:
    from ferkit.inference.overlay import Overlay
    from ferkit.inference.video import annotate_video

    overlay = Overlay(labels, language)
    if overlay.hint:
        say(overlay.hint)
    annotate_video(video, run.table, out, overlay, labels, every_s=every_s)
    say(f"annotated video: {out}")


def _print_csv(table: Path) -> None:
    with table.open(encoding="utf-8", newline="") as file:
        for line in file:
            click.echo(line, nl=False)


def _video_print_json(run: "VideoRun", summary: "VideoSummary", labels: "LabelSet") -> None:
    from ferkit.inference.video import read_rows

    head = {"labels": labels.names, "n_frames": run.n_frames, "summary": summary.as_dict()}
    click.echo(json.dumps(head, ensure_ascii=False)[:-1] + ', "faces": [', nl=False)
    for i, row in enumerate(read_rows(run.table)):
        values = {
            "frame": row.frame,
            "time_s": row.time_s,
            "face": row.face,
            "box": row.xyxy,
            "quality": row.quality,
            "label": row.label,
            "raw_label": row.raw_label,
            "probabilities": dict(zip(labels.names, row.proba, strict=True)),
        }
        click.echo(("," if i else "") + "\n " + json.dumps(values, ensure_ascii=False), nl=False)
    click.echo("\n]}")


def _print_summary(run: "VideoRun", summary: "VideoSummary", labels: "LabelSet", language: str) -> None:
    from ferkit.core.console import table
    from ferkit.inference.video import UNSURE_NAME

    if not summary.people:
        click.echo(f"no face in {run.n_frames} frames")
        return
    shown = dict(zip(labels.names, labels.display(language), strict=True))
    shown[UNSURE_NAME] = "불확실" if language == "ko" else UNSURE_NAME
    columns = [name for name in (*labels.names, UNSURE_NAME) if summary.labels[name]]
    header = ["face", "seen", "readings", *(shown[name] for name in columns), "changes/min", "score"]
    rows = [_person_row(person, columns) for person in summary.people[:_PEOPLE_SHOWN]]
    click.echo(table(header, rows, right=range(2, len(header))))
    if len(summary.people) > _PEOPLE_SHOWN:
        click.echo(
            f"… and {len(summary.people) - _PEOPLE_SHOWN} more, seen more briefly; all are in summary.json"
        )
    everybody = ", ".join(
        f"{shown[name]} {n / summary.n_readings:.0%}" for name, n in summary.labels.most_common()
    )
    click.echo(f"{run.n_frames} frames, {summary.n_readings} readings: {everybody}")


def _person_row(person: "PersonSummary", columns: list[str]) -> list[str]:
    shares = [f"{person.labels[name] / person.n:.0%}" if person.labels[name] else "" for name in columns]
    seen = f"{person.first_s:.1f}–{person.last_s:.1f} s"
    return [
        f"#{person.face}",
        seen,
        str(person.n),
        *shares,
        f"{person.changes_per_minute:.1f}",
        str(person.score),
    ]
