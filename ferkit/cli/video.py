"""``fer video``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.engine_options import engine_options, quiet_video_library, settled_options
from ferkit.cli.options import FILE, FOLDER, common_options, is_quiet, lang_option, models_dir_option, say
from ferkit.core.errors import DataError

if TYPE_CHECKING:
    from ferkit.core.labels import LabelSet
    from ferkit.inference.film import FilmRun
    from ferkit.inference.summary import FilmSummary, PersonSummary

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
    help="Write a copy of the film with boxes and labels; with its sound where ffmpeg is there.",
)
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
    """Read the expressions in a film, over time.

    Writes faces.csv (a row for each face and moment) and summary.json into a folder. Stop at any time: the same
    command goes on where it was. MODEL is a model's folder, or its name in --models-dir; without one the
    network that comes with ferkit is taken.

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
        raise click.UsageError("expected one film, after the model where one is named")
    annotated: Path | None = options["annotated"]
    if annotated is not None and annotated.suffix.lower() not in (".mp4", ".mov", ".mkv", ".avi"):
        raise click.UsageError(f"--annotated expects a video file such as faces.mp4, found {annotated}")
    quiet_video_library()
    from ferkit.classifiers.model import choose_model
    from ferkit.core.files import write_json
    from ferkit.core.fingerprint import file_sha256
    from ferkit.inference.build import build_engine
    from ferkit.inference.film import analyse_film, read_rows
    from ferkit.inference.summary import summarise

    film = Path(model_and_film[-1])
    if not film.is_file():
        raise DataError(
            f"expected a video file at {film}, found {'a folder' if film.is_dir() else 'nothing'}; check the path"
        )
    if annotated is not None and annotated.resolve() == film.resolve():
        raise click.UsageError("--annotated would write over the film itself; name another file")
    model = choose_model(model_and_film[0] if len(model_and_film) == 2 else None, models_dir)
    detect_every = options["detect_every"] or (1 if options["every"] else 3)
    settings = settled_options(options, detect_every=detect_every)
    engine, faces = build_engine(model, settings)
    say(faces.reason)

    out = options["out"] or Path(f"{film.stem}-expressions")
    with _FilmProgress("reading faces", is_quiet()) as progress:
        run = analyse_film(
            film, out, engine, [settings, file_sha256(model.folder / "model.json")],
            every_s=options["every"], progress=progress.at,
        )  # fmt: skip
    _remark(run)
    summary = summarise(read_rows(run.table), engine.labels)
    write_json(out / "summary.json", {"film": film.name, "n_frames": run.n_frames, **summary.as_dict()})
    if options["plot"]:
        _plot(run, summary, engine.labels, film, out / "timeline.png", options["lang"])
    if annotated is not None:
        _annotate(run, engine.labels, film, annotated, options["lang"])
    if options["as_csv"]:
        _print_csv(run.table)
    elif options["as_json"]:
        _print_json(run, summary, engine.labels)
    else:
        _print_summary(run, summary, engine.labels, options["lang"])
    say(f"results: {out}")


class _FilmProgress:
    """Progress in frames of a film, which may not say how many it has."""

    def __init__(self, doing: str, quiet: bool) -> None:
        from ferkit.core.progress import Progress

        self._progress = Progress(doing, unit="frames", quiet=quiet)
        self._done: int | None = None

    def at(self, done: int, total: int) -> None:
        if self._done is None:
            self._progress.start(max(total, done), done=done - 1)
            self._done = done - 1
        self._progress.update(done - self._done)
        self._done = done

    def __enter__(self) -> "_FilmProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()


def _remark(run: "FilmRun") -> None:
    if run.resumed_at_s is None:
        say(f"the film was read before with these settings; delete {run.table.parent} to read it anew")
    elif run.resumed_at_s > 0:
        say(f"went on at {run.resumed_at_s:.1f} s, where the last run ended")
    if run.broken_at_s is not None:
        say(f"the film breaks off: nothing can be read after {run.broken_at_s:.1f} s")


def _plot(
    run: "FilmRun", summary: "FilmSummary", labels: "LabelSet", film: Path, path: Path, language: str
) -> None:
    from ferkit.inference.film import read_rows
    from ferkit.inference.timeline import Timeline, plot_timeline

    hint = plot_timeline(Timeline(summary, labels).add(read_rows(run.table)), path, film.name, language)
    if hint:
        say(hint)
    say(f"timeline: {path}")


def _annotate(run: "FilmRun", labels: "LabelSet", film: Path, out: Path, language: str) -> None:
    from ferkit.inference.annotated_film import annotate_film
    from ferkit.inference.overlay import Overlay
    from ferkit.inference.sinks import ffmpeg_is_there

    overlay = Overlay(labels, language)
    if overlay.hint:
        say(overlay.hint)
    if not ffmpeg_is_there():
        say(
            "the annotated film has no sound: ffmpeg is not installed (Debian and Ubuntu: apt-get install ffmpeg)"
        )
    with _FilmProgress("drawing", is_quiet()) as progress:
        annotate_film(film, run.table, out, overlay, labels, progress.at)
    say(f"annotated film: {out}")


def _print_csv(table: Path) -> None:
    with table.open(encoding="utf-8", newline="") as file:
        for line in file:
            click.echo(line, nl=False)


def _print_json(run: "FilmRun", summary: "FilmSummary", labels: "LabelSet") -> None:
    from ferkit.inference.film import read_rows

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


def _print_summary(run: "FilmRun", summary: "FilmSummary", labels: "LabelSet", language: str) -> None:
    from ferkit.core.tables import table
    from ferkit.inference.film import UNSURE_NAME

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
