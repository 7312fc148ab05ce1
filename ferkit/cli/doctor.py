"""``fer doctor``: what this machine can and cannot do."""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import click

from ferkit.core.tables import table

EXTRAS = {
    "deepface": ("deepface",),
    "mediapipe": ("mediapipe",),
    "train": ("keras", "tensorflow", "tf2onnx"),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "websockets"),
    "audit": ("cleanlab",),
    "parquet": ("pyarrow",),
}
CORE = ("numpy", "opencv-python", "onnxruntime", "onnx", "scikit-learn", "scikit-image", "skops", "pillow")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it stands, and what to do about it if it is not well."""

    what: str
    state: Literal["ok", "optional", "wrong"]
    found: str
    remedy: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Say what is wrong with this machine, and how to mend it."""
    findings = [finding for check in CHECKS for finding in check()]
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], ensure_ascii=False, indent=1))
    else:
        rows = [(f.state, f.what, f.found) for f in findings]
        click.echo(table(("", "what", "found"), rows))
        remedies = [f for f in findings if f.remedy]
        if remedies:
            click.echo("")
        for finding in remedies:
            click.echo(f"{finding.what}: {finding.remedy}")
    if any(f.state == "wrong" for f in findings):
        raise click.exceptions.Exit(1)


def _python() -> list[Finding]:
    right = (3, 11) <= sys.version_info[:2] < (3, 14)
    remedy = "" if right else "install Python 3.11, 3.12 or 3.13"
    machine = (
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
    return [Finding("Python", "ok" if right else "wrong", machine, remedy)]


def _packages() -> list[Finding]:
    findings = []
    for name in CORE:
        version = _version(name)
        if version is None and name == "opencv-python":
            version = _version("opencv-python-headless") or _version("opencv-contrib-python")
        missing = "pip install --force-reinstall ferkit"
        findings.append(
            Finding(name, "ok" if version else "wrong", version or "missing", "" if version else missing)
        )
    for extra, names in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        here = all(versions.values())
        found = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        remedy = "" if here else f"only if you want it: pip install 'ferkit[{extra}]'"
        findings.append(Finding(f"extra {extra}", "ok" if here else "optional", found, remedy))
    return findings


def _opencv() -> list[Finding]:
    # In a process of its own: a clash of OpenCV builds, or a missing system library, may end it.
    code = "import cv2; print(cv2.__version__, hasattr(cv2, 'CascadeClassifier'), hasattr(cv2, 'FaceDetectorYN'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        remedy = (
            "install libGL (Debian: apt-get install libgl1 libglib2.0-0), or pip install --force-reinstall "
        )
        return [Finding("OpenCV", "wrong", last, remedy + "--no-deps 'opencv-python-headless<5'")]
    version, haar, yunet = done.stdout.split()
    right = haar == yunet == "True"
    return [
        Finding(
            "OpenCV",
            "ok" if right else "wrong",
            f"{version} loads" + ("" if right else ", but has no face detectors"),
            "" if right else "pip install 'opencv-python>=4.10,<5'",
        )
    ]


def _onnxruntime() -> list[Finding]:
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    providers = [p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers()]
    return [Finding("ONNX Runtime", "ok", f"runs on {', '.join(providers)}")]


def _display() -> list[Finding]:
    if sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return [Finding("display", "ok", "there is one")]
    return [
        Finding("display", "optional", "none, so no windows", "pictures, films and folders work without one")
    ]


def _korean_font() -> list[Finding]:
    from ferkit.core.fonts import hangul_font_file

    font = hangul_font_file()
    if font is not None:
        return [Finding("Korean font", "ok", str(font))]
    remedy = "only for Korean labels in pictures: Debian: apt-get install fonts-nanum"
    return [Finding("Korean font", "optional", "none found", remedy)]


def _weights() -> list[Finding]:
    from ferkit.zoo.fetch import list_weights, weights_dir

    here = [w.entry.name for w in list_weights() if w.present]
    findings = [Finding("weights", "ok" if here else "optional", ", ".join(here) or "none fetched yet")]
    if not here:
        findings[0] = Finding(
            "weights",
            "optional",
            "none fetched yet",
            "fetched when first needed; ahead of time: fer models fetch arcface yunet",
        )
    return [*findings, _writable("weights folder", weights_dir())]


def _models() -> list[Finding]:
    from ferkit.classifiers.artifact import broken_models

    return [
        Finding(f"model {name}", "wrong", reason, f"move models/{name} away, or make it again")
        for name, reason in broken_models(Path("models")).items()
    ]


def _place() -> list[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 1e9
    space = Finding(
        "disk", "ok" if free > 1 else "wrong", f"{free:.0f} GB free here", "" if free > 1 else "make room"
    )
    return [_writable("this folder", here), space]


def _writable(what: str, folder: Path) -> Finding:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(nearest, os.W_OK):
        return Finding(what, "ok", f"{folder} can be written")
    return Finding(
        what, "wrong", f"{folder} cannot be written", "correct its permissions, or work in another folder"
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    _python, _packages, _opencv, _onnxruntime, _display, _korean_font, _weights, _models, _place,
)  # fmt: skip
