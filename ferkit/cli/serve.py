"""``fer serve`` and ``fer teach``, which open the page."""

import logging
import os
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.command import echo
from ferkit.cli.options import (
    DETECTOR_WEIGHTS,
    FOLDER,
    PATH,
    command,
    is_quiet,
    model_names,
    offer,
    open_dataset,
    option,
    print_json,
    shared,
)
from ferkit.cli.settings import Chosen, Fields, Setting
from ferkit.core.console import table
from ferkit.core.errors import require_extra
from ferkit.serving.settings import BY_ID, PURPOSES

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ferkit.datasets.dataset import Dataset
    from ferkit.teaching.head import TeachReport

logger = logging.getLogger(__name__)


@command(settings=(
    Fields("ferkit.serving.settings:ServeSettings", "detector", "detector_weights", "detect_size",
           "processes"),
    Fields("ferkit.serving.settings:Limits"),
))  # fmt: skip
@click.argument("model_argument", metavar="[MODEL]", required=False, shell_complete=offer(model_names))
@shared("model")
@option("--host", default="127.0.0.1", group="Network", help="Address to listen on.")
@option("--port", type=click.IntRange(0, 65535), default=8000, group="Network",
        help="Port to listen on; 0 takes any that is free.")  # fmt: skip
@option("--token", metavar="TEXT", group="Access", help="What clients must show; needed wherever others "
        "can reach the server. Better set in the environment or in .env, as FER_SERVE_TOKEN: other users "
        "see command lines.")  # fmt: skip
@option("--purpose", type=click.Choice(list(BY_ID)), metavar="PURPOSE", group="Access",
        help="What expressions are read for where a request does not say so.  [default: each request "
        "must]")  # fmt: skip
@option("--allow-purpose", type=click.Choice([purpose.id for purpose in PURPOSES if purpose.prohibited]),
        multiple=True, metavar="PURPOSE", group="Access",
        help="Allow a purpose that the European Union prohibits, where its law does not hold.")  # fmt: skip
@option("--allowed-host", metavar="NAME", multiple=True, group="Network",
        help="Another name under which the server is called.")  # fmt: skip
@option("--allowed-origin", metavar="https://NAME", multiple=True, group="Network",
        help="Another site whose pages may use the server.")  # fmt: skip
@option("--trusted-proxy", metavar="ADDRESS", multiple=True, group="Network",
        help="A proxy in front of the server, whose X-Forwarded-For is believed.")  # fmt: skip
@option("--root-path", metavar="/PREFIX", default="", group="Network",
        help="The prefix under which a proxy offers the server.")  # fmt: skip
@shared("models_dir")
@option("--log-dir", type=FOLDER, rare=True, group="Every command",
        help="Write one file a day into this folder, a JSON object for each request.")  # fmt: skip
def serve(
    model_argument: str | None, model: str | None, models_dir: Path, settings: Chosen, **options: Any
) -> None:
    """Serve an API and a page that shows expressions live in the browser.

    MODEL is the default: a model's folder, or its name in --models-dir; without one the newest there as the server
    starts, or else the network that comes with ferkit. All models in --models-dir can be asked for.

    Each request declares what expressions are read for. Hiring, work and schools are refused, since the European
    Union prohibits them (AI Act, Article 5(1)(f)).

    \b
    Examples:
        fer serve
        fer serve mlp --port 9000 --purpose research
        FER_SERVE_TOKEN=… fer serve --host 0.0.0.0 --allowed-host faces.example.org
    """
    _prepare("fer serve")
    from ferkit.classifiers.model import choose_model
    from ferkit.serving.app import run_server

    named = model or model_argument or str(choose_model(None, models_dir).folder)
    app = _create({"models_dir": models_dir, "model": named, **options, **settings.given})
    if not app.state.service.reads_videos:
        logger.info("videos are not taken: PyAV is not installed; pip install 'ferkit[video]'")
    run_server(app, app.state.service.settings)


def _prepare(what: str) -> None:
    # A program of our own: these are ours to set, before the libraries read them. Each image has one thread.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    require_extra("serve", what)


def _create(values: dict[str, Any]) -> "FastAPI":
    from ferkit.serving.app import create_app
    from ferkit.serving.settings import settings_from

    return create_app(settings_from(values), console=not is_quiet())


_LISTED = 10


@command(settings=(
    DETECTOR_WEIGHTS,
    Setting("port", int, 8000, "of the page; 0 takes any that is free"),
    Setting("browser", bool, True, "open the page in the browser"),
))  # fmt: skip
@click.argument("data", metavar="[DATA]", required=False, type=PATH)
@option("--labels", help="Classes to take, as happy,sad,… or a known set (aihub5); others are left out.")
@shared("name", help="Name of the model.  [default: that of DATA]")
@shared("overwrite", "json", "data_detector", "person_pattern", "backbone", "layer", "models_dir")
def teach(data: Path | None, models_dir: Path, settings: Chosen, **options: Any) -> None:
    """Teach classes of your own from a few images, or live on a page.

    DATA is a folder with a folder for each class, or a table; a few images of each class are enough. The accuracy is
    measured by cross-validation: near-copies are kept together, and persons where each class shows several. The model
    goes to models/NAME. Without DATA, the tab Teach of the page is opened on this machine alone, and images stay in
    memory.

    \b
    Examples:
        fer teach
        fer teach photos/ --name smirk
        fer teach photos/ --labels smirk,neutral --person-pattern '^(p\\d+)'
    """
    if data is None:
        _open_page(models_dir, settings)
        return
    from ferkit.core.labels import LabelSet
    from ferkit.core.weights import DEFAULT_EDITION
    from ferkit.datasets.edit import only_labels
    from ferkit.faces.cropping import Cropping, resolve_cropping
    from ferkit.teaching.teacher import Teacher, check_model_name

    name = check_model_name(options["name"] or data.stem)
    dataset = open_dataset(data, options["person_pattern"])
    if options["labels"]:
        dataset = only_labels(dataset, LabelSet.from_text(options["labels"]))
    cropping = resolve_cropping(
        dataset, Cropping.ask(options["detector"], settings["detector_weights"], align=False, margin=0.0)
    )
    logger.info(cropping.reason)
    teacher = Teacher(options["backbone"] or DEFAULT_EDITION, layer=options["layer"])
    failed = teacher.add_dataset(dataset, cropping.cropper(teacher.embedder), _takes(dataset))
    for path, reason in failed[:_LISTED]:
        logger.info(f"left out: {path}: {reason}")
    if len(failed) > _LISTED:
        logger.info(f"… and {len(failed) - _LISTED} more")
    for ids in teacher.examples.conflicts():
        takes = [row.take for row in teacher.examples.rows if row.id in ids]
        logger.warning(
            f"the same image is in several classes: {', '.join(takes)}; remove it from all but one"
        )
    report = teacher.report()
    target = models_dir / name
    teacher.to_model("whole" if cropping.kind == "whole" else "crops").save(
        target, overwrite=options["overwrite"]
    )
    if options["json"]:
        print_json({"model": str(target), **report.to_dict()})
        return
    rows = [(label, str(n), str(report.takes[label])) for label, n in report.counts.items()]
    echo(table(("class", "examples", f"{report.unit}s"), rows, right=[1, 2]))
    _print_findings(report, [row.take for row in teacher.examples.rows])
    echo(f"model: {target}")


def _takes(dataset: "Dataset") -> Any:
    """What belongs together: near-copies of each other."""
    from ferkit.datasets.duplicates import CopySettings, find_copies
    from ferkit.datasets.image_stats import image_stats

    groups = find_copies(image_stats(dataset), CopySettings()).groups()
    return [dataset.samples[i].path for i in groups]


def _print_findings(report: "TeachReport", names: list[str]) -> None:
    for sentence in report.sentences:
        echo(sentence)
    for n, accuracy in report.growth if len(report.growth) > 1 else ():
        echo(f"  with {n:.0f} examples a class: {accuracy:.0%}")
    for one in report.disagreements[:_LISTED]:
        echo(f"  {names[one.row]}: rather {one.label} ({one.probability:.0%})")


def _open_page(models_dir: Path, settings: Chosen) -> None:
    _prepare("fer teach")
    from ferkit.core.weights import DEFAULT_EDITION
    from ferkit.serving.app import run_server

    port, weights = settings["port"], settings["detector_weights"]
    app = _create({
        "models_dir": models_dir, "model": DEFAULT_EDITION, "port": port, "detector_weights": weights
    })  # fmt: skip
    address = f"http://localhost:{port}/#teach"
    logger.info(f"teach at {address}")
    if settings["browser"] and port:
        timer = threading.Timer(1.0, webbrowser.open, [address])
        timer.daemon = True
        timer.start()
    run_server(app, app.state.service.settings)
