"""Look at what is there: ``fer models``, ``fer doctor`` and ``fer demo``."""

import importlib.util
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import click

from ferkit.cli.command import Command, Group, echo
from ferkit.cli.options import FOLDER, command, offer, shared, weight_names
from ferkit.cli.settings import Chosen, Fields
from ferkit.core.console import n_cores, table
from ferkit.core.errors import EXTRAS, WeightsError
from ferkit.core.texts import translated

logger = logging.getLogger(__name__)


@click.group(cls=Group)
def models() -> None:
    """List, fetch and verify weights, and list trained models."""


@models.command("list", cls=Command)
@shared("json", help="Print JSON.")
@shared("models_dir")
def list_models(models_dir: Path, **options: Any) -> None:
    """What there is: weights of backbones and detectors, the models in --models-dir, and the one that comes along."""
    from ferkit.classifiers.model import list_models as listed_models
    from ferkit.core.weights import EDITIONS, list_weights, weights_dir

    weights, listed = list_weights(), listed_models(models_dir)
    trained = [entry.model for entry in listed if entry.model is not None]
    broken = [entry for entry in listed if entry.model is None]
    if options["json"]:
        known = [
            {**asdict(w.entry), "path": str(w.path), "present": w.present, "hash_known": w.hash_known}
            for w in weights
        ]
        own: list[dict[str, object]] = [
            {"name": a.name, "kind": a.kind, "labels": list(a.labels.names), "metrics": a.report,
             "trained_on": a.trained_on}
            for a in trained
        ]  # fmt: skip
        own += [{"name": entry.name, "broken": entry.problem} for entry in broken]
        click.echo(json.dumps({"weights": known, "models": own}, ensure_ascii=False, indent=1))
        return
    rows = [
        (
            w.entry.name,
            translated("comes along" if w.entry.packaged else "here" if w.present else "to fetch"),
            _megabytes(w.entry.size),
            translated(w.hash_known),
            translated(w.entry.about),
        )
        for w in weights
    ]
    about = translated("gradient histograms (HOG), needs no weights")
    rows.append(("raw", translated("comes along"), "", "", about))
    echo(table(("weights", "state", "size", "SHA-256", "what"), rows, right=[2]))
    echo("")
    echo(f"kept in {weights_dir()}; SHA-256 'first use' means: not published, kept from the first fetch")
    echo("")
    models = [
        (m.name, translated(m.kind), ", ".join(m.labels.names), _accuracy(m.report), translated(m.trained_on))
        for m in trained
    ]
    models += [(one.name, translated("broken"), translated(one.problem or ""), "", "") for one in broken]
    echo(table(("model", "kind", "classes", "accuracy", "trained on"), models, right=[3]))
    echo(
        f"{', '.join(EDITIONS)} come with the package; the others are in {models_dir}, where 'fer fit' puts them"
    )


@models.command(cls=Command)
@click.argument("names", nargs=-1, required=True, shell_complete=offer(weight_names, files=False))
def fetch(names: tuple[str, ...]) -> None:
    """Fetch weights, so that they are there when there is no network."""
    from ferkit.core.weights import weights_file

    for name in names:
        echo(f"{name}: {weights_file(name)}")


@models.command(cls=Command)
@click.argument("names", nargs=-1, shell_complete=offer(weight_names, files=False))
def verify(names: tuple[str, ...]) -> None:
    """Check the SHA-256 of weights; without names, of all that are here."""
    from ferkit.core.weights import list_weights
    from ferkit.core.weights import verify as verify_weights

    damaged = []
    for name in names or [w.entry.name for w in list_weights() if w.present]:
        try:
            status = verify_weights(name)
        except WeightsError as error:
            damaged.append(name)
            echo(f"{name}: {error}", err=True)
        else:
            known = {"published": "as published", "first use": "as at the first use"}
            against = known.get(status.hash_known, "no hash known")
            echo(f"{name}: {translated(against)}: {status.path}")
    if damaged:
        raise WeightsError(f"{len(damaged)} not as they should be: {', '.join(damaged)}")
    if not names:
        logger.info("verified all weights that are here")


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f} MB"


def _accuracy(metrics: dict) -> str:
    accuracy = metrics.get("accuracy")
    value = accuracy.get("value") if isinstance(accuracy, dict) else None
    return f"{value:.1%}" if isinstance(value, (int, float)) else ""


CORE = ("numpy", "onnxruntime", "onnx", "scikit-learn", "skops", "pillow")
_OPENCV = tuple(
    f"opencv-{kind}" for kind in ("python-headless", "python", "contrib-python", "contrib-python-headless")
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it stands, and what to do about it if it is not well."""

    what: str
    state: Literal["ok", "optional", "wrong"]
    found: str
    remedy: str = ""


@command()
@shared("json", help="Print JSON.")
def doctor(**options: Any) -> None:
    """Say what is wrong with this machine, and how to mend it."""
    findings = [finding for check in CHECKS for finding in check()]
    if options["json"]:
        click.echo(json.dumps([asdict(f) for f in findings], ensure_ascii=False, indent=1))
    else:
        rows = [(translated(f.state), translated(f.what), translated(f.found)) for f in findings]
        echo(table(("", "what", "found"), rows))
        remedies = [f for f in findings if f.remedy]
        if remedies:
            echo("")
        for finding in remedies:
            echo(f"{translated(finding.what)}: {translated(finding.remedy)}")
    if any(f.state == "wrong" for f in findings):
        raise click.exceptions.Exit(1)


def _finding(
    what: str, well: bool, found: str, remedy: str, otherwise: Literal["optional", "wrong"] = "wrong"
) -> Finding:
    return Finding(what, "ok" if well else otherwise, found, "" if well else remedy)


def _python() -> Iterator[Finding]:
    well = (3, 11) <= sys.version_info[:2] < (3, 14)
    machine = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {n_cores()} cores"
    yield _finding("Python", well, machine, "install Python 3.11, 3.12 or 3.13")


def _packages() -> Iterator[Finding]:
    for name in CORE:
        version = _version(name) or _version(f"{name}-gpu")
        yield _finding(name, bool(version), version or "missing", "pip install --force-reinstall ferkit")
    for extra, names in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        found = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        remedy = f"only if you want it: pip install 'ferkit[{extra}]'"
        yield _finding(f"extra {extra}", all(versions.values()), found, remedy, "optional")


def _opencv() -> Iterator[Finding]:
    # In a process of its own: a clash of OpenCV builds, or a missing system library, may end it.
    code = "import cv2; print(cv2.__version__, hasattr(cv2, 'CascadeClassifier'), hasattr(cv2, 'FaceDetectorYN'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    reinstall = "pip install --force-reinstall --no-deps 'opencv-python-headless>=4.10,<5'"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        remedy = f"install libGL (Debian: apt-get install libgl1 libglib2.0-0), or {reinstall}"
        yield Finding("OpenCV", "wrong", last, remedy)
        return
    wheels = [name for name in _OPENCV if _version(name)]
    several = f", of {len(wheels)} wheels over one cv2: {', '.join(wheels)}" if len(wheels) > 1 else ""
    version, haar, yunet = done.stdout.split()
    well = haar == yunet == "True"
    found = f"{version} loads" + ("" if well else ", but has no face detectors") + several
    yield _finding("OpenCV", well, found, reinstall)


def _onnxruntime() -> Iterator[Finding]:
    if importlib.util.find_spec("onnxruntime") is None:
        return
    from ferkit.embedder.engines import REMEDIES, Engine, available_devices, precisions_of

    here = available_devices()
    found = f"networks run on {', '.join(here)}"
    if "openvino" in here:
        found += f" (openvino in {', '.join(precisions_of(Engine('openvino')))})"
    wheels = [name for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino") if _version(name)]
    if len(wheels) > 1:
        remedy = "they hide one another: pip uninstall all of them, then pip install the one that you want"
        yield Finding("engines", "wrong", f"{' and '.join(wheels)} are both there; {found}", remedy)
        return
    elsewhere = {"darwin": ("directml", "cuda", "tensorrt"), "win32": ("coreml",)}
    without = {*here, *elsewhere.get(sys.platform, ("coreml", "directml"))}
    remedies = [f"for {device}: {remedy}" for device, remedy in REMEDIES.items() if device not in without]
    yield Finding("engines", "ok", found, "; ".join(remedies))


def _display() -> Iterator[Finding]:
    variables = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    well = sys.platform in ("win32", "darwin") or bool(variables)
    found = "there is one" if well else "none, so no windows"
    yield _finding("display", well, found, "images, videos and folders work without one", "optional")


def _korean_font() -> Iterator[Finding]:
    from ferkit.core.style import hangul_font_file

    font = hangul_font_file()
    remedy = "only for Korean labels in images: Debian: apt-get install fonts-nanum"
    yield _finding("Korean font", font is not None, str(font or "none found"), remedy, "optional")


def _weights() -> Iterator[Finding]:
    from ferkit.core.weights import list_weights, weights_dir

    here = ", ".join(w.entry.name for w in list_weights() if w.present)
    remedy = "fetched when first needed; ahead of time: fer models fetch arcface yunet"
    yield _finding("weights", bool(here), here or "none fetched yet", remedy, "optional")
    yield _writable("weights folder", weights_dir())


def _broken_models() -> Iterator[Finding]:
    from ferkit.classifiers.model import list_models

    for one in list_models(Path("models")):
        if one.model is None:
            remedy = f"move {one.folder} away, or make it again"
            yield Finding(f"model {one.name}", "wrong", one.problem or "", remedy)


def _place() -> Iterator[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 1e9
    yield _writable("this folder", here)
    yield _finding("disk", free > 1, f"{free:.0f} GB free here", "make room")


def _writable(what: str, folder: Path) -> Finding:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    well = os.access(nearest, os.W_OK)
    found = f"{folder} can be written" if well else f"{folder} cannot be written"
    return _finding(what, well, found, "correct its permissions, or work in another folder")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python, _packages, _opencv, _onnxruntime, _display, _korean_font, _weights, _broken_models, _place,
)  # fmt: skip


@command(settings=(
    Fields("ferkit.evaluation.demo:DemoSettings"),
))  # fmt: skip
@shared("out", type=FOLDER, default=Path("demo"), help="Folder for everything it makes.")
def demo(out: Path, settings: Chosen) -> None:
    """Run all steps on data it makes itself, offline.

    Draws labelled faces, embeds them, fits a dummy, logistic, mlp and svm head, measures them on persons that they
    never saw, and leaves models, reports and plots. The faces are drawings: the figures say nothing about photographs.
    """
    from ferkit.evaluation.demo import DemoSettings, run_demo

    rows = run_demo(out, DemoSettings(**settings.of(DemoSettings)))
    cells = []
    for row in rows:
        figures = row.evaluation.figures
        accuracy, f1 = figures["accuracy"], figures["macro_f1"]
        interval = translated(f"{100 * accuracy.low:.1f}% to {100 * accuracy.high:.1f}%")
        cells.append((row.name, f"{accuracy.value:.1%}", interval, f"{f1.value:.1%}", f"{row.seconds:.1f} s"))
    echo(table(("model", "accuracy", "95% interval", "macro-F1", "training"), cells, right=[1, 3, 4]))
    n, persons_seen = rows[0].evaluation.n, rows[0].evaluation.n_groups
    echo("")
    echo(f"on {n} drawn faces of {persons_seen} persons that training never saw")
    shown = [str(out / name) for name in ("demo.png", "report") if (out / name).exists()]
    echo(f"look at {' and '.join(shown)}; then try:")
    echo(f"  fer predict {out / 'models' / 'mlp'} {out / 'faces' / 'test' / 'happy'}")
