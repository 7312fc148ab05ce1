"""Times a newcomer's path: from ``pip install`` to the first own model, on photos that are drawn.

``python benchmarks/newcomer.py [what pip installs, else this repository]``. Everything happens in a new folder and
environment, by the commands of README, as a user types them.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRAW = (
    "from ferkit.datasets.synthetic import write_dataset; write_dataset('data', n_per_class=24, n_persons=24)"
)
PERSONS = r"^(p\d+)_"


def main(target: str) -> None:
    """Run each step and print how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        programs = work / "env" / ("Scripts" if os.name == "nt" else "bin")
        pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        steps: list[tuple[str, list[str | Path]]] = [
            ("python -m venv", [sys.executable, "-m", "venv", "env"]),
            ("pip install", [*pip, "-c", ROOT / "constraints.txt", target]),
            ("fer --version", [programs / "fer", "--version"]),
            ("drawing 168 photos of 24 people", [programs / "python", "-c", DRAW]),
            ("fer predict data", [programs / "fer", "predict", "data/test", "--csv"]),
            ("fer embed data", [programs / "fer", "embed", "data", "--person-pattern", PERSONS]),
            ("fer fit --head logistic", [programs / "fer", "fit", "--head", "logistic"]),
            ("fer predict logistic", [programs / "fer", "predict", "logistic", "data/test", "--csv"]),
        ]
        environment = {**os.environ, "FER_OFFLINE": "1", "PYTHONPATH": ""}
        began = time.monotonic()
        for name, words in steps:
            start, used = time.monotonic(), processor_s()
            done = subprocess.run(
                words, cwd=work, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"{name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
            print(
                f"{time.monotonic() - start:7.1f} s, {processor_s() - used:6.1f} s of a processor: {name}",
                flush=True,
            )
            if "fit" in name:
                print("\n".join(f"           {line}" for line in done.stdout.splitlines()[:4]))
        print(f"{time.monotonic() - began:7.1f} s, {processor_s():6.1f} s of a processor: in all")


def processor_s() -> float:
    """Seconds that processors worked for the commands so far: what a busy machine does not change."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT))
