"""How fast and how large ``fer embed`` is, against the bare network and against DeepFace, in one run.

    python benchmarks/embed.py speed                # the loop against the raw session, and against DeepFace
    python benchmarks/embed.py precision data/      # what a head loses by each precision
    python benchmarks/embed.py memory data/         # peak memory at 2,000 and at 30,000 images
    python benchmarks/embed.py startup photo.jpg    # fer --help, and fer predict on one photo
    python benchmarks/embed.py workers data/        # one process against workers and parts

Without --weights the network is DeepFace's ArcFace ResNet-34 with random weights: as fast as the real one.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from ferkit.classifiers.heads import fit_head, head_settings
from ferkit.core.console import hidden_progress, map_ahead
from ferkit.core.errors import FerkitError
from ferkit.core.weights import EDITIONS
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.load import load_dataset
from ferkit.datasets.synthetic import write_dataset
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.engines import CPU, Engine, available_devices, cosines, precisions_of
from ferkit.embedder.extract import StoreOptions, embed_dataset, open_for_store
from ferkit.embedder.settings import Embedder
from ferkit.faces.cropping import Cropping

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


ENGINES = {
    "ONNX Runtime float32": CPU,
    "OpenVINO float32": Engine("openvino"),
    "OpenVINO bfloat16": Engine("openvino", "bfloat16"),
    "OpenVINO int8": Engine("openvino", "int8"),
}


def speed(
    folder: Path,
    images: int,
    batch_size: int,
    rounds: int,
    mobilefacenet: Path | None,
    photos: Path | None,
    yunet: Path | None,
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
    ways = _deepface_ways(folder, files[: max(16, images // 8)], weights)
    theirs = list(ways)
    here = {name: engine for name, engine in ENGINES.items() if name.startswith("ONNX") or _is_here(engine)}
    for name, engine in here.items():
        embedder = _opened("arcface", dataset, folder, engine, weights=weights)
        ways[f"bare network, {name}"] = _bare(embedder, crops, batch_size), images
        ways[f"fer embed, {name}"] = _loop(embedder, dataset, folder / name, batch_size), images
        if photos:
            shown = _copies(photos, folder / "photos", images // 4)
            crop = Cropping.ask("yunet", yunet, no_face="whole")
            ways[f"fer embed with YuNet on photos, {name}"] = (
                _loop(embedder, shown, folder / f"{name}-photos", batch_size, crop), len(shown))  # fmt: skip
    for edition in EDITIONS:
        for name, engine in here.items():
            shipped = _opened(edition, dataset, folder, engine)
            many = np.ascontiguousarray(np.resize(crops[:, ::2, ::2], (8 * images, 56, 56, 3))[:, :48, :48])
            ways[f"{edition}, {name}, batches of 64"] = _bare(shipped, many, 64), len(many)
    rates = _by_turns(ways, rounds, clock)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    best = max(middle[name] for name in theirs)
    print(f"{images} PNG files of 112x112, ArcFace ResNet-34, batch {batch_size}, median of {rounds} rounds")
    for name, values in rates.items():
        alone = name.startswith((*EDITIONS, "fer embed with"))
        over = "" if alone else f"   {middle[name] / best:5.2f}x the best DeepFace way"
        print(f"  {name:50s} {middle[name]:8.1f} images/s{over}   ({min(values):.1f} to {max(values):.1f})")
    for name in here:
        bare, loop = (middle[f"{kind}, {name}"] for kind in ("bare network", "fer embed"))
        print(f"  fer embed has {loop / bare:.0%} of the bare network's rate: {name}")
    _cosines(dataset, folder, crops, mobilefacenet, here)


def _deepface_ways(
    folder: Path, files: list[str], weights: Path
) -> dict[str, tuple[Callable[[int], object], int]]:
    """DeepFace's own loops; where it is not installed, what they come to: its graph by ONNX Runtime, as it comes.

    DeepFace opens the same session with its default options, and adds reading and resizing.
    """
    os.environ |= {"DEEPFACE_HOME": str(folder), "DEEPFACE_BACKEND_ENGINE": "onnx"}
    if find_spec("deepface") is None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB"), np.float32) / 255 for file in files])
        feeds = [{session.get_inputs()[0].name: pixels[i : i + 16]} for i in range(0, len(pixels), 16)]
        name = "DeepFace's graph as a list, without its loop (DeepFace is not installed)"
        return {name: (lambda _: [session.run(None, feed) for feed in feeds], len(pixels))}
    from deepface import DeepFace

    common = {"model_name": "ArcFace", "enforce_detection": False, "detector_backend": "skip"}
    return {
        "DeepFace.represent one by one, skip": (
            lambda _: [DeepFace.represent(f, **common) for f in files], len(files)),
        "DeepFace.represent as a list, skip": (lambda _: DeepFace.represent(files, **common), len(files)),
    }  # fmt: skip


def _opened(
    spec: str, dataset: Dataset, folder: Path, engine: Engine, weights: Path | None = None
) -> Embedder:
    device = "cpu" if engine.name == "onnxruntime" else engine.name
    nowhere = StoreOptions(root=folder / "none")
    crop = Cropping.ask("none")
    return open_for_store(
        spec, dataset, crop, nowhere, device=device, precision=engine.precision, weights=weights
    )


def _is_here(engine: Engine) -> bool:
    return engine.name in available_devices() and engine.precision in precisions_of(engine)


def _bare(embedder: Embedder, crops: np.ndarray, batch_size: int) -> Callable[[int], object]:
    """The network alone, as many batches at a time as it takes."""
    batches = [crops[i : i + batch_size] for i in range(0, len(crops), batch_size)]
    return lambda _: list(map_ahead(embedder.embed, batches, workers=embedder.at_once))


def _copies(photos: Path, folder: Path, n: int) -> Dataset:
    """The photos of a folder in turn, as ``n`` files."""
    files = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    folder.mkdir(exist_ok=True)
    for i in range(n):
        shutil.copyfile(files[i % len(files)], folder / f"{i:06d}{files[i % len(files)].suffix}")
    return load_dataset(folder)


def _loop(
    embedder: Embedder, dataset: Dataset, folder: Path, batch_size: int, crop: Cropping | None = None
) -> Callable[[int], object]:
    def run(i: int) -> None:
        options = StoreOptions(root=folder / f"cache{i}", batch_size=batch_size)
        with hidden_progress():
            embed_dataset(dataset, embedder, crop or Cropping.ask("none"), options)

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


def _cosines(
    dataset: Dataset, folder: Path, crops: np.ndarray, mobilefacenet: Path | None, here: dict[str, Engine]
) -> None:
    backbones = {name: name for name in EDITIONS}
    backbones |= {"MobileFaceNet": f"onnx:{mobilefacenet}"} if mobilefacenet else {}
    for title, spec in backbones.items():
        exact = open_embedder(spec, engines=[CPU]).embed(crops)
        for name, engine in here.items():
            if engine != CPU:
                try:
                    found = cosines(exact, _opened(spec, dataset, folder, engine).embed(crops))
                except FerkitError as error:
                    print(f"  {title}, {name}: refused, {error}")
                    continue
                print(f"  {title}, {name}: cosine {found.mean():.5f}, the least {found.min():.5f}")


def precision(folder: Path, data: Path, backbones: list[str], layer: str | None, images: int) -> None:
    """Accuracy of a logistic head on the test part, fitted on some of the training part, by each precision."""
    dataset = load_dataset(data)
    random = np.random.default_rng(0)
    parts = [[s for s in dataset.samples if s.split == split] for split in ("train", "test")]
    chosen = {id(part[i]) for part in parts for i in random.permutation(len(part))[:images]}
    some = dataset.subset(tuple(s for s in dataset.samples if id(s) in chosen))
    for spec in backbones:
        for device in (d for d in available_devices() if d in ("cpu", "openvino")):
            engine = Engine("onnxruntime" if device == "cpu" else device)
            for kind in precisions_of(engine):
                options, crop = StoreOptions(root=folder), Cropping.ask("none")
                tap = {"tap": layer} if layer else {}
                embedder = open_for_store(spec, some, crop, options, device=device, precision=kind, **tap)
                store, _ = embed_dataset(some, embedder, crop, options)
                table = store.load()
                train, test = table[table.split == "train"], table[table.split == "test"]
                settings = head_settings("logistic", C=0.01, calibration="none")
                head = fit_head(train.X, train.y, settings)
                said = np.array(head.classes)[head.predict_proba(test.X).argmax(axis=1)]
                right = f"{np.mean(said == test.y):.2%} of {len(test)} right"
                print(f"  {spec}, {replace(engine, precision=kind)}: {right}, {len(train)} to train on")


def _table_of(data: Path, n: int, folder: Path) -> Path:
    """A table of the first n images of a data set."""
    dataset, table = load_dataset(data), folder / f"first{n}.csv"
    some = dataset.samples[:n]
    if len(some) < n:
        raise SystemExit(f"expected {n} images in {data}, found {len(some)}")
    rows = [f"{(dataset.root / sample.path).resolve()},{sample.label}" for sample in some]
    table.write_text("path,label\n" + "\n".join(rows), encoding="utf-8")
    return table


def memory(folder: Path, data: Path, backbone: str, sizes: tuple[int, ...]) -> None:
    """Peak resident memory of a ``fer embed`` process over more and more images."""
    print(f"peak memory of 'fer embed --backbone {Path(backbone).name}'")
    for n in sizes:
        table = _table_of(data, n, folder)
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


WORKERS = {
    "fer embed": [[[]]],
    "--on processes:1": [[["--on", "processes:1"]]],
    "--on processes:2": [[["--on", "processes:2"]]],
    "--plan, --part 1/1, --finish": [[["--plan"]], [["--part", "1/1"]], [["--finish"]]],
    "--plan, two parts at once, --finish": [
        [["--plan"]], [["--part", "1/2"], ["--part", "2/2"]], [["--finish"]],
    ],
}  # fmt: skip
"""Ways to embed: steps one after the other, of commands at the same time."""


def workers(folder: Path, data: Path, backbone: str, images: int, rounds: int) -> None:
    """Seconds of whole commands against ``fer embed`` in the same round, by turns: of the clock and of processors.

    Two sizes, of which one is four times the other, tell what a command takes before its first image from the rate.
    """
    sizes = images // 4, images
    tables = [_table_of(data, n, folder) for n in sizes]
    took: dict[str, list[np.ndarray]] = {name: [] for name in WORKERS}
    for i in range(rounds):
        for name, steps in WORKERS.items():
            network = [
                "--backbone",
                backbone,
                "--detector",
                "none",
                "--set",
                f"rows_per_shard={images // 16}",
            ]
            pairs = [_timed(steps, table, network, folder / f"{i}-{name}") for table in tables]
            took[name].append(np.array(pairs))
    print(f"{images:,} images, {backbone}, {os.cpu_count()} cores, median of {rounds} rounds")
    print("| way | seconds | against fer embed | of processors | of them an image | at the start |")
    print("|---|---:|---:|---:|---:|---:|")
    plain = np.array(took["fer embed"])
    for name, values in took.items():
        found = np.array(values)  # (round, size, clock or processors)
        image = (found[:, 1, 1] - found[:, 0, 1]) / (images - images // 4)
        clock, busy = np.median(found[:, 1], axis=0)
        against = np.median(found[:, 1, 0] / plain[:, 1, 0])
        start = np.median(found[:, 1, 1] - images * image)
        print(
            f"| {name} | {clock:.1f} | {against:.2f} | {busy:.1f} | {1000 * np.median(image):.2f} ms | {start:.1f} s |"
        )


def _timed(steps: list[list[list[str]]], table: Path, network: list[str], cache: Path) -> tuple[float, float]:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "ferkit", "embed", str(table), "--cache-dir", str(cache), "-q"]
    for step in steps:
        running = []
        for words in step:
            planned = "--part" in words or "--finish" in words
            words = [*command, *words, *([] if planned else network)]
            running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL))
        if sum(process.wait() for process in running):
            raise SystemExit(f"a command failed: {step}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, sum(after[:2]) - sum(before[:2])


def startup(photo: Path, model: str, models_dir: Path, rounds: int) -> None:
    """Seconds from the start of a command to its end and of the processor, the best of some."""
    fer = [sys.executable, "-m", "ferkit"]
    predict = [*fer, "predict", "--model", model, "--models-dir", str(models_dir), str(photo)]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import numpy, cv2, onnxruntime": [sys.executable, "-c", "import numpy, cv2, onnxruntime"],
        "fer --help": [*fer, "--help"],
        f"fer predict {photo.name}": predict,
        f"fer predict {photo.name} --detector none": [*predict, "--detector", "none"],
    }
    # Where this is set, each start compiles all modules again, which no user's does.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for name, command in commands.items():
        by_clock, by_processor = [], []
        for _ in range(rounds):
            start = time.perf_counter()
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            _, status, used = os.wait4(process.pid, 0)
            by_clock.append(time.perf_counter() - start)
            by_processor.append(used.ru_utime + used.ru_stime)
            if status:
                raise SystemExit(f"{name} ended with {os.waitstatus_to_exitcode(status)}")
        print(f"  {name:40s} {min(by_clock):.2f} s, {min(by_processor):.2f} s of a processor")


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
    sub.add_argument("--photos", type=Path, help="a folder of photos: the loop with detection too")
    sub.add_argument("--yunet", type=Path, help="YuNet's file, for these")
    sub = commands.add_parser("precision")
    sub.add_argument("data", type=Path, help="with a training and a test part")
    sub.add_argument("--backbones", nargs="+", default=list(EDITIONS))
    sub.add_argument("--layer")
    sub.add_argument("--images", type=int, default=4000, help="of each part, at most")
    sub = commands.add_parser("memory")
    sub.add_argument("data", type=Path)
    sub.add_argument("--backbone", default="raw")
    sub.add_argument("--sizes", type=int, nargs="+", default=(2000, 30000))
    sub = commands.add_parser("workers")
    sub.add_argument("data", type=Path)
    sub.add_argument("--backbone", default=EDITIONS[-1])
    sub.add_argument("--images", type=int, default=8192)
    sub.add_argument("--rounds", type=int, default=3)
    sub = commands.add_parser("startup")
    sub.add_argument("photo", type=Path)
    sub.add_argument("--model", default="ferkit2")
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
        elif command == "precision":
            precision(Path(folder), **arguments)
        elif command == "workers":
            workers(Path(folder), **arguments)
        else:
            memory(Path(folder), arguments["data"], arguments["backbone"], tuple(arguments["sizes"]))


if __name__ == "__main__":
    main()
