"""How time and memory of listing, resuming, loading and fitting grow with the number of rows.

    python benchmarks/scale.py --rows 10000 100000 1000000 --out scale.json

Every step runs in a process of its own, whose peak of anonymous memory (what cannot be dropped and read again) and
resident memory is taken. The images are made up by a source without files, and their names go through what lists a
folder; the embeddings are drawn: 192 numbers of float16, seven classes whose means differ. Ten million rows take 7 GB
of disk in ``--folder``. Needs Linux.
"""

import argparse
import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.datasets.dataset import Dataset, Listing, Stamp, labelled_by_folders
from ferkit.embedder.extract import compare
from ferkit.embedder.settings import EmbedderSettings, StoreSettings
from ferkit.embedder.shards import Row
from ferkit.embedder.store import EmbeddingStore, Snapshot
from ferkit.faces.cropping import CropSettings

DIM, PER_SHARD, SIZE = 192, 1024, 2_304
CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
STEPS = ("list", "resume", "load", "fit")
SETTINGS = StoreSettings(EmbedderSettings("raw", None, (48, 48)), CropSettings.whole(), "float16")


def path_of(i: int, n: int) -> str:
    """Of the i-th of n images, sorted; twenty in a row show one person."""
    return f"{CLASSES[i * len(CLASSES) // n]}/{i:09d}_p{i // 20 % 100_000}.jpg"


class MadeUp:
    """Images that are nowhere; an :class:`ferkit.datasets.dataset.ImageSource`."""

    def stamp(self, path: str) -> Stamp:
        """The same for all."""
        return Stamp(SIZE, 0)

    def read(self, path: str) -> bytes:
        """Nothing."""
        return b""

    def decode(self, content: bytes) -> np.ndarray:
        """Black."""
        return np.zeros((48, 48, 3), np.uint8)


def dataset(n: int) -> Dataset:
    """The images, as those of a folder are listed."""
    listing = Listing([path_of(i, n) for i in range(n)], (), MadeUp())
    return labelled_by_folders(Path("/made-up"), listing, r"_(p\d+)\.")


def make(folder: Path, n: int) -> None:
    """A store of n rows."""
    store = EmbeddingStore.create(
        folder, "made-up", SETTINGS, dim=DIM, rows_per_shard=PER_SHARD, batch_size=32
    )
    rng = np.random.default_rng(0)
    means = rng.normal(0, 0.25, (len(CLASSES), DIM)).astype(np.float32)
    for number, first in enumerate(range(0, n, PER_SHARD)):
        numbers = range(first, min(first + PER_SHARD, n))
        y = [i * len(CLASSES) // n for i in numbers]
        rows = [
            Row(
                path_of(i, n), CLASSES[label], None, f"p{i // 20 % 100_000}", SIZE, f"{i + 1:016x}{'ab' * 24}"
            )
            for i, label in zip(numbers, y, strict=True)
        ]
        X = means[y] + rng.standard_normal((len(y), DIM), np.float32)
        store.shard(number).write(rows, X.astype(np.float16), time.time_ns())
    store.write_view(Snapshot("/made-up", n))


def step(name: str, folder: Path, n: int) -> dict[str, Any]:
    """Run one step; what it found shows that it did something."""
    if name == "list":
        return {"images": len(dataset(n))}
    (path,) = folder.glob("made-up--*")
    store = EmbeddingStore.open(path)
    if name == "resume":
        changes = compare(dataset(n), store)
        return {"kept": changes.n_kept, "todo": len(changes.todo)}
    if name == "load":
        table = store.load(mapped=True)
        return {"rows": len(table), "first": float(np.asarray(table.X[:1])[0, 0])}
    from ferkit.classifiers.heads import head_settings
    from ferkit.datasets.split import SplitSettings
    from ferkit.evaluation.evaluate_model import fit_held_out, fit_request, load_labelled, save_fit

    table, head, split = load_labelled(store, memory_gb=0.0), head_settings("logistic"), SplitSettings()
    request = fit_request(table, store, head, split)  # all that "fer fit" does
    fitted = fit_held_out(table, head, split, store=store)
    save_fit(folder / "models" / "logistic", fitted, store, table, request=request, overwrite=True)
    return {"accuracy": fitted.evaluation.to_dict()["accuracy"], "notes": fitted.head.notes}


def measured(name: str, folder: Path, n: int) -> dict[str, Any]:
    """Run a step here, and watch this process."""
    peak = {"anonymous_gb": 0.0, "resident_gb": 0.0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            for key, field in (("anonymous_gb", "RssAnon"), ("resident_gb", "VmRSS")):
                peak[key] = max(peak[key], int(lines[field].split()[0]) * 1024 / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, used = time.perf_counter(), time.process_time()
    found = step(name, folder, n)
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    ended.set()
    watcher.join()
    return {"seconds": seconds, "processor_s": processor, **peak, **found}


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--folder", type=Path, default=Path("scale"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(measured(args.run, args.folder, args.rows[0])))
        return
    results: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in args.steps}
    for n in args.rows:
        folder = args.folder / str(n)
        if not list(folder.glob("made-up--*/view.json")):
            began = time.perf_counter()
            make(folder, n)
            print(f"{n:,} rows written in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        for name in args.steps:
            command = [sys.executable, __file__, "--run", name, "--folder", str(folder), "--rows", str(n)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            results[name][n] = json.loads(done.stdout.splitlines()[-1])
            print(n, name, results[name][n], file=sys.stderr)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1))
    print(report(results))


def report(results: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Tables of what was measured, the growth, and what a hundred million rows would take by it.

    The processor's time counts, which other work on the machine does not lengthen. Memory is taken to grow by so many
    bytes a row as between the two largest numbers of rows.
    """
    lines = [
        "| step | rows | seconds | of the processor | anonymous GB | resident GB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, by_rows in results.items():
        for n, one in by_rows.items():
            cells = (one[key] for key in ("seconds", "processor_s", "anonymous_gb", "resident_gb"))
            lines.append(f"| {name} | {n:,} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    lines += [
        "",
        "| step | exponent of time | 100 million: hours | exponent of memory | bytes a row | 100 million: GB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, by_rows in results.items():
        if len(by_rows) > 1:
            a, b = sorted(by_rows)[-2:]
            time_exponent = _exponent(by_rows, a, b, "processor_s")
            memory_exponent = _exponent(by_rows, a, b, "anonymous_gb")
            hours = by_rows[b]["processor_s"] * (1e8 / b) ** max(1.0, time_exponent) / 3600
            by_row = 1e9 * (by_rows[b]["anonymous_gb"] - by_rows[a]["anonymous_gb"]) / (b - a)
            memory = by_rows[b]["anonymous_gb"] + (1e8 - b) * by_row / 1e9
            lines.append(
                f"| {name} | {time_exponent:.2f} | {hours:.1f} | {memory_exponent:.2f} | {by_row:.0f} | {memory:.0f} |"
            )
    return "\n".join(lines)


def _exponent(by_rows: dict[int, dict[str, Any]], a: int, b: int, key: str) -> float:
    return math.log(by_rows[b][key] / by_rows[a][key]) / math.log(b / a)


if __name__ == "__main__":
    main()
