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

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def speed(folder: Path, n_images: int, batch_size: int, rounds: int) -> None:
    """Images a second: the loop, the raw session at the same batch size, DeepFace one by one and as a list."""
    from networks import arcface_resnet34

    from ferkit.datasets.load import load_dataset
    from ferkit.datasets.synthetic import write_dataset
    from ferkit.embedder.embedders import open_embedder
    from ferkit.embedder.extract import StoreOptions, embed_dataset
    from ferkit.faces.cropping import Cropping

    weights = arcface_resnet34(folder / ".deepface" / "weights" / "arcface_weights.onnx")
    write_dataset(
        folder / "faces", n_per_class=-(-n_images // 7), n_persons=20, size=112, seed=0, splits={"train": 1.0}
    )
    dataset = load_dataset(folder / "faces")
    dataset = dataset.subset(dataset.samples[:n_images])
    files = [str(dataset.root / sample.path) for sample in dataset.samples]
    embedder = open_embedder("arcface", weights=weights)

    def loop(i: int) -> None:
        options = StoreOptions(root=folder / f"cache{i}", batch_size=batch_size)
        embed_dataset(dataset, embedder, Cropping.ask("none"), options)

    raw = _raw_session(weights, batch_size)
    batch = np.random.default_rng(0).random((batch_size, 112, 112, 3), np.float32)

    def session(_: int) -> None:
        for _ in range(len(files) // batch_size):
            raw(batch)

    os.environ |= {"DEEPFACE_HOME": str(folder), "DEEPFACE_BACKEND_ENGINE": "onnx"}
    from deepface import DeepFace

    few = files[: max(16, n_images // 4)]
    common = {"model_name": "ArcFace", "enforce_detection": False}
    candidates: dict[str, tuple[Callable[[int], None], int]] = {
        "fer embed": (loop, len(files)),
        f"raw session, batch {batch_size}": (session, len(files) // batch_size * batch_size),
        "DeepFace.represent one by one, skip": (
            lambda _: [DeepFace.represent(f, detector_backend="skip", **common) for f in few] and None, len(few)),
        "DeepFace.represent one by one, opencv": (
            lambda _: [DeepFace.represent(f, detector_backend="opencv", **common) for f in few] and None, len(few)),
        "DeepFace.represent as a list, skip": (
            lambda _: DeepFace.represent(few, detector_backend="skip", **common) and None, len(few)),
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(-1, rounds):  # the first round warms up
        for name, (run, n) in candidates.items():
            start = time.perf_counter()
            run(i)
            if i >= 0:
                rates[name].append(n / (time.perf_counter() - start))
    ours = statistics.median(rates["fer embed"])
    print(
        f"{len(files)} PNG files of 112x112, ArcFace ResNet-34, batch {batch_size}, median of {rounds} rounds"
    )
    for name, values in rates.items():
        middle = statistics.median(values)
        print(
            f"  {name:40s} {middle:7.1f} images/s   fer embed is {ours / middle:5.2f}x   "
            f"({min(values):.1f} to {max(values):.1f})"
        )


def _raw_session(weights: Path, batch_size: int) -> Callable[[np.ndarray], object]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def memory(folder: Path, data: Path, backbone: str, sizes: tuple[int, ...]) -> None:
    """Peak resident memory of a ``fer embed`` process over more and more images."""
    from ferkit.datasets.load import load_dataset

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
            speed(Path(folder), arguments["images"], arguments["batch_size"], arguments["rounds"])
        else:
            memory(Path(folder), arguments["data"], arguments["backbone"], tuple(arguments["sizes"]))


if __name__ == "__main__":
    main()
