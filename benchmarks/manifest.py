"""How long the steps of ``fer dataset`` take on 350,000 records, and how much memory.

    python benchmarks/manifest.py --records 350000 --persons 20000

Records are made up in AI Hub's form (64-digit persons, Korean names, boxes, six attributes); no image is touched.
Each step runs in a process of its own, as the command line runs it: reading what the step before wrote, its own work,
and writing. Seconds are those of the processor, of which all steps use one core: others at work do not count.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ferkit.core.console import table
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.edit import SplitSettings, draw, merge, relabel, split_dataset
from ferkit.datasets.export import write_manifest
from ferkit.datasets.load import load_dataset

EMOTIONS = ("기쁨", "당황", "분노", "불안", "상처", "슬픔", "중립")
PLACES = ("가정", "도심 환경", "스포츠관람&레저시설", "자연환경")


def make(folder: Path, name: str, n: int, persons: int) -> Path:
    """A manifest of ``n`` made-up records."""
    rng = np.random.default_rng(0)
    person = rng.integers(0, persons, n).tolist()
    emotion = rng.integers(0, len(EMOTIONS), n).tolist()
    samples = []
    for i in range(n):
        who, label = f"{person[i]:064x}", EMOTIONS[emotion[i]]
        sex, age, place = "여남"[person[i] % 2], str(20 + person[i] % 40), PLACES[i % 4]
        attributes = {"sex": sex, "age": age, "place": place, "uploader": label, "votes": f"{label}:3"}
        path = f"{name}/{label}/{who}_{sex}_{age}_{label}_{place}_{i:014d}-001-001.jpg"
        samples.append(Sample(path, label, None, who, (10.5, 20, 400 + i % 100, 500.5), attributes))
    write_manifest(folder / f"{name}.csv", Dataset(name, folder, tuple(samples), FileSource(folder)))
    return folder / f"{name}.csv"


def step(name: str, folder: Path) -> dict[str, float]:
    """Do one step, and say how long its parts took, in seconds of the processor, and the peak of the memory, in MB."""
    start = time.process_time()
    inputs = {"merge": ["a", "b"], "split": ["sample"], "sample": ["map"], "map": ["merge"]}.get(name, ["a"])
    datasets = [load_dataset(folder / f"{source}.csv") for source in inputs]
    read = time.process_time()
    if name == "merge":
        result = merge(datasets, folder).dataset
    elif name == "map":
        result = relabel(datasets[0], "aihub5").dataset
    elif name == "sample":
        # Nearly all: what has to be sorted and written is at its largest.
        result = draw(datasets[0], 50_000, ["source"]).dataset
    elif name == "split":
        result = split_dataset(datasets[0], SplitSettings(val=0.1, test=0.1, by=("source",))).dataset
    else:
        result = datasets[0]
    worked = time.process_time()
    write_manifest(folder / f"{name}.csv", result)
    done = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "records": len(result), "read_s": read - start, "work_s": worked - read, "write_s": done - worked,
        "peak_mb": peak, "file_mb": (folder / f"{name}.csv").stat().st_size / 1e6,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=350_000, help="of the two data sets together")
    parser.add_argument("--persons", type=int, default=20_000, help="in each of the two")
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(options.step[0], Path(options.step[1]))))
        return
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for name in ("a", "b"):
            make(folder, name, options.records // 2, options.persons)
        rows = []
        for name in ("copy", "merge", "map", "sample", "split"):
            command = [sys.executable, __file__, "--step", name, str(folder)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            seconds = [found[key] for key in ("read_s", "work_s", "write_s")]
            rows.append(
                [name, f"{found['records']:,}", *(f"{value:.1f}" for value in (*seconds, sum(seconds))),
                 f"{found['peak_mb']:,.0f}", f"{found['file_mb']:.0f}"]
            )  # fmt: skip
    header = ("step", "records", "read s", "work s", "write s", "together s", "peak MB", "file MB")
    print(table(header, rows, right=range(1, len(header))))


if __name__ == "__main__":
    main()
