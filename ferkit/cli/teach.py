"""``fer teach``."""

import json
import logging
import os
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.options import DETECTOR_WEIGHTS, PATH, command, is_quiet, open_dataset, option, shared
from ferkit.cli.settings import Chosen, Setting
from ferkit.core.console import table
from ferkit.core.errors import DependencyError

if TYPE_CHECKING:
    from ferkit.datasets.dataset import Dataset
    from ferkit.teaching.validation import TeachReport

logger = logging.getLogger(__name__)

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
        click.echo(json.dumps({"model": str(target), **report.to_dict()}, ensure_ascii=False))
        return
    rows = [(label, str(n), str(report.takes[label])) for label, n in report.counts.items()]
    click.echo(table(("class", "examples", f"{report.unit}s"), rows, right=[1, 2]))
    _print_findings(report, [row.take for row in teacher.examples.rows])
    click.echo(f"model: {target}")


def _takes(dataset: "Dataset") -> Any:
    """What belongs together: near-copies of each other."""
    from ferkit.datasets.duplicates import CopySettings, find_copies
    from ferkit.datasets.image_stats import image_stats

    groups = find_copies(image_stats(dataset), CopySettings()).groups()
    return [dataset.samples[i].path for i in groups]


def _print_findings(report: "TeachReport", names: list[str]) -> None:
    for sentence in report.sentences:
        click.echo(sentence)
    for n, accuracy in report.growth if len(report.growth) > 1 else ():
        click.echo(f"  with {n:.0f} examples a class: {accuracy:.0%}")
    for one in report.disagreements[:_LISTED]:
        click.echo(f"  {names[one.row]}: rather {one.label} ({one.probability:.0%})")


def _open_page(models_dir: Path, settings: Chosen) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        from ferkit.serving.app import create_app
        from ferkit.serving.server import run_server
    except ModuleNotFoundError as error:
        raise DependencyError(f"{error.name} is not installed; pip install 'ferkit[serve]'") from error
    from ferkit.core.weights import DEFAULT_EDITION
    from ferkit.serving.settings import settings_from

    port = settings["port"]
    own = {"models_dir": models_dir, "model": DEFAULT_EDITION, "port": port}
    server_settings = settings_from(
        own
        if settings["detector_weights"] is None
        else {**own, "detector_weights": settings["detector_weights"]}
    )
    app = create_app(server_settings, console=not is_quiet())
    address = f"http://localhost:{port}/#teach"
    logger.info(f"teach at {address}")
    if settings["browser"] and port:
        timer = threading.Timer(1.0, webbrowser.open, [address])
        timer.daemon = True
        timer.start()
    run_server(app, server_settings)
