"""How fast and how large ``fer embed`` is, against the bare network and against DeepFace, in one run.

    python benchmarks/embed.py speed                # the loop against the raw session, and against DeepFace
    python benchmarks/embed.py memory data/         # peak memory at 2,000 and at 30,000 images
    python benchmarks/embed.py startup photo.jpg    # fer --help, and fer predict on one photo

Without --weights the network is DeepFace's ArcFace ResNet-34 with random weights: as fast as the real one.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ferkit.core.console import hidden_progress
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.load import load_dataset
from ferkit.datasets.synthetic import write_dataset
from ferkit.embedder.embedders import Embedder, open_embedder
from ferkit.embedder.engines import CPU, Engine, available_devices, cosines, precisions_of
from ferkit.embedder.extract import StoreOptions, embed_dataset
from ferkit.faces.cropping import Cropping

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


ENGINES = {
    "ONNX Runtime float32": CPU,
    "OpenVINO float32": Engine("openvino"),
    "OpenVINO bfloat16": Engine("openvino", "bfloat16"),
}


def speed(
    folder: Path,
    images: int,
    batch_size: int,
    rounds: int,
    mobilefacenet: Path | None,
    clock: Callable[[], float],
) -> None:
    """Images a second by each engine, the loop and the bare network; DeepFace's ways; all by turns in one run."""
    from networks import arcface_resnet34

    weights = arcface_resnet34(folder / ".deepface" / "weights" / "arcface_weights.onnx")
    write_dataset(
        folder / "faces", n_per_class=-(-images // 7), n_persons=20, size=112, seed=0, splits={"train": 1.0}
    )
    dataset = load_dataset(folder / "faces")
    dataset = dataset.subset(dataset.samples[:images])
    files = [str(dataset.root / sample.path) for sample in dataset.samples]
    crops = np.stack([dataset.read(sample) for sample in dataset.samples])
    os.environ |= {"DEEPFACE_HOME": str(folder), "DEEPFACE_BACKEND_ENGINE": "onnx"}
    from deepface import DeepFace

    few = files[: max(16, images // 8)]
    common = {"model_name": "ArcFace", "enforce_detection": False}
    ways: dict[str, tuple[Callable[[int], object], int]] = {
        "DeepFace.represent one by one, skip": (
            lambda _: [DeepFace.represent(f, detector_backend="skip", **common) for f in few], len(few)),
        "DeepFace.represent as a list, skip": (
            lambda _: DeepFace.represent(few, detector_backend="skip", **common), len(few)),
    }  # fmt: skip
    theirs = list(ways)
    here = {name: engine for name, engine in ENGINES.items() if name.startswith("ONNX") or _is_here(engine)}
    for name, engine in here.items():
        embedder = open_embedder("arcface", weights=weights, engines=[engine])
        ways[f"bare network, {name}"] = _bare(embedder, crops, batch_size), images
        ways[f"fer embed, {name}"] = _loop(embedder, dataset, folder / name, batch_size), images
    for name, engine in here.items():
        shipped = open_embedder("ferkit", engines=[engine])
        many = np.resize(crops[:, ::2, ::2], (2048, 56, 56, 3))[:, :48, :48]
        ways[f"bundled network, {name}, batches of 64"] = _bare(shipped, np.ascontiguousarray(many), 64), 2048
    rates = _by_turns(ways, rounds, clock)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    best = max(middle[name] for name in theirs)
    print(f"{images} PNG files of 112x112, ArcFace ResNet-34, batch {batch_size}, median of {rounds} rounds")
    for name, values in rates.items():
        over = "" if name.startswith("bundled") else f"   {middle[name] / best:5.2f}x the best DeepFace way"
        print(f"  {name:50s} {middle[name]:8.1f} images/s{over}   ({min(values):.1f} to {max(values):.1f})")
    for name in here:
        bare, loop = (middle[f"{kind}, {name}"] for kind in ("bare network", "fer embed"))
        print(f"  fer embed has {loop / bare:.0%} of the bare network's rate: {name}")
    _cosines(crops, mobilefacenet, here)


def _is_here(engine: Engine) -> bool:
    return engine.name in available_devices() and engine.precision in precisions_of(engine)


def _bare(embedder: Embedder, crops: np.ndarray, batch_size: int) -> Callable[[int], object]:
    return lambda _: [embedder.embed(crops[i : i + batch_size]) for i in range(0, len(crops), batch_size)]


def _loop(embedder: Embedder, dataset: Dataset, folder: Path, batch_size: int) -> Callable[[int], object]:
    def run(i: int) -> None:
        options = StoreOptions(root=folder / f"cache{i}", batch_size=batch_size)
        with hidden_progress():
            embed_dataset(dataset, embedder, Cropping.ask("none"), options)

    return run


def _by_turns(
    ways: dict[str, tuple[Callable[[int], object], int]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(-1, rounds):  # the first round warms up
        for name, (run, n) in ways.items():
            start = clock()
            run(i)
            if i >= 0:
                rates[name].append(n / (clock() - start))
    return rates


def _cosines(crops: np.ndarray, mobilefacenet: Path | None, here: dict[str, Engine]) -> None:
    backbones = {"ferkit": "ferkit"} | ({"MobileFaceNet": f"onnx:{mobilefacenet}"} if mobilefacenet else {})
    for title, spec in backbones.items():
        exact = open_embedder(spec, engines=[CPU]).embed(crops)
        for name, engine in here.items():
            if engine != CPU:
                found = cosines(exact, open_embedder(spec, engines=[engine]).embed(crops))
                print(f"  {title}, {name}: cosine {found.mean():.5f}, the least {found.min():.5f}")


def memory(folder: Path, data: Path, backbone: str, sizes: tuple[int, ...]) -> None:
    """Peak resident memory of a ``fer embed`` process over more and more images."""
    dataset = load_dataset(data)
    print(f"peak memory of 'fer embed --backbone {Path(backbone).name}'")
    for n in sizes:
        if n > len(dataset):
            print(f"  {n} images: {data} has only {len(dataset)}")
            continue
        table = folder / f"first{n}.csv"
        rows = [f"{(dataset.root / s.path).resolve()},{s.label}" for s in dataset.samples[:n]]
        table.write_text("path,label\n" + "\n".join(rows), encoding="utf-8")
        command = [
            "embed",
            str(table),
            "--backbone",
            backbone,
            "--detector",
            "none",
            "--cache-dir",
            str(folder),
            "-q",
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ferkit", *command], check=True, stdout=subprocess.DEVNULL)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        note = "" if peak > before else " at most (an earlier process was larger)"
        print(
            f"  {n:6d} images: {peak / 1024:6.0f} MB{note}, {n / (time.perf_counter() - start):.0f} images/s"
        )


def startup(photo: Path, model: str, models_dir: Path, rounds: int) -> None:
    """Seconds from the start of a command to its end, the best of some."""
    fer = [sys.executable, "-m", "ferkit"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "fer --help": [*fer, "--help"],
        f"fer predict {model} {photo.name}": [
            *fer,
            "predict",
            model,
            str(photo),
            "--models-dir",
            str(models_dir),
        ],
    }
    for name, command in commands.items():
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        print(f"  {name:40s} {min(seconds):.2f} s (median {statistics.median(seconds):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("speed")
    sub.add_argument("--images", type=int, default=256)
    sub.add_argument("--batch-size", type=int, default=16)
    sub.add_argument("--rounds", type=int, default=3)
    busy = "on a busy machine: count the processor's time; start it on one core (taskset -c 0)"
    sub.add_argument("--busy", action="store_true", help=busy)
    sub.add_argument("--mobilefacenet", type=Path, help="its ONNX file, for the cosines")
    sub = commands.add_parser("memory")
    sub.add_argument("data", type=Path)
    sub.add_argument("--backbone", default="raw")
    sub.add_argument("--sizes", type=int, nargs="+", default=(2000, 30000))
    sub = commands.add_parser("startup")
    sub.add_argument("photo", type=Path)
    sub.add_argument("--model", default="mlp")
    sub.add_argument("--models-dir", type=Path, default=Path("models"))
    sub.add_argument("--rounds", type=int, default=5)
    arguments = vars(parser.parse_args())
    command = arguments.pop("command")
    if command == "startup":
        startup(**arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        if command == "speed":
            clock = time.process_time if arguments.pop("busy") else time.perf_counter
            speed(Path(folder), clock=clock, **arguments)
        else:
            memory(Path(folder), arguments["data"], arguments["backbone"], tuple(arguments["sizes"]))


if __name__ == "__main__":
    main()
