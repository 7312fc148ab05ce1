"""What ``pip install ferkit`` puts on a disk, measured in a fresh environment.

    python benchmarks/install_size.py              # the core
    python benchmarks/install_size.py all          # an extra, or several with commas

The packages come from wherever pip is set up to take them from; the versions are those of constraints.txt.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SHOWN = 12


def size_mb(folder: Path) -> float:
    """Bytes of all files below ``folder``, in MB, those that pip compiles included."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("extras", nargs="?", default="", help="such as openvino or plots,serve")
    parser.add_argument("--keep", type=Path, help="make the environment here, and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = arguments.keep or Path(folder) / "environment"
        venv.create(environment, with_pip=True, clear=True)
        python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        (packages,) = (
            environment.glob("lib/python*/site-packages")
            if sys.platform != "win32"
            else [environment / "Lib" / "site-packages"]
        )
        before = {path.name for path in packages.iterdir()}
        started = time.perf_counter()
        what = f"{ROOT}[{arguments.extras}]" if arguments.extras else str(ROOT)
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-cache-dir",
        ]
        subprocess.run([*command, "-c", str(ROOT / "constraints.txt"), what], check=True)
        seconds = time.perf_counter() - started
        added = {path.name: size_mb(path) if path.is_dir() else path.stat().st_size / 1e6
                 for path in packages.iterdir() if path.name not in before}  # fmt: skip
        listed = subprocess.run([str(python), "-m", "pip", "list", "--format", "freeze"], check=True,
                                capture_output=True, text=True).stdout.splitlines()  # fmt: skip
        n = len([line for line in listed if line.split("==")[0] not in ("pip", "setuptools")])
        print(f"{what}: {sum(added.values()):.0f} MB in {n} packages, installed in {seconds:.0f} s")
        for name, mb in sorted(added.items(), key=lambda item: -item[1])[:_SHOWN]:
            print(f"  {mb:7.1f} MB  {name}")


if __name__ == "__main__":
    main()
