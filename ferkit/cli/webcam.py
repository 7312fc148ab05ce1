"""``fer webcam``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.engine_options import engine_options, quiet_video_library, settled_options
from ferkit.cli.options import FOLDER, SIZE, common_options, lang_option, models_dir_option, say
from ferkit.core.errors import FerkitError

if TYPE_CHECKING:
    from ferkit.inference.live import View


@click.command()
@click.argument("model", required=False)
@click.option(
    "-s",
    "--source",
    default="0",
    show_default=True,
    help="Number of a camera, a video file, or an address (rtsp://…, http://…).",
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
    Keys: q quit, s save a picture, r record, m next model, l English/Korean, h help.

    \b
    Examples:
        fer webcam
        fer webcam mlp --source 1 --calibrate-neutral 5
        fer webcam --source rtsp://camera/stream --lang ko --smooth hmm
        fer webcam --source talk.mp4 --view none --json
    """
    quiet_video_library()
    from ferkit.classifiers.model import choose_model, list_models, read_model
    from ferkit.inference.build import build_engine
    from ferkit.inference.live import ChangePrinter, LiveSettings, LiveView, LoadedModel
    from ferkit.inference.live_source import LiveSource

    first = choose_model(model, models_dir).folder
    engine_settings = settled_options(options, detect_every=options["detect_every"], fps=options["fps"])
    view = _open_view(options["where"], options["port"])

    def load(folder: str) -> LoadedModel:
        engine, faces = build_engine(read_model(Path(folder)), engine_settings)
        say(faces.reason)
        return LoadedModel(Path(folder).name, engine)

    source: str = options["source"]
    is_file = Path(source).is_file()
    mirror = options["mirror"] if options["mirror"] is not None else not is_file
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
        say,
        printer if view is None or options["as_json"] else None,
    )
    try:
        live.run()
    except KeyboardInterrupt:
        say("stopped")
    if live.n_frames == 0:
        raise FerkitError(f"no picture came from {source}; check it, or try another --source")
    say(f"{live.n_frames} frames")


def _open_view(where: str, port: int) -> "View | None":
    from ferkit.inference.browser_view import BrowserView
    from ferkit.inference.window import LiveWindow, window_problem

    if where == "none":
        return None
    if where == "window":
        problem = window_problem()
        if problem is None:
            return LiveWindow("ferkit")
        say(f"no window can be opened: {problem}; the browser takes its place")
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
