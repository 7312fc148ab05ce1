"""Small data sets of drawn faces, and comparisons of them."""

import shutil
from pathlib import Path

from ferkit.datasets.load import load_dataset
from ferkit.evaluation.candidate_names import parse_candidates
from ferkit.evaluation.compare import compare
from ferkit.evaluation.comparison import Comparison, ProtocolSettings
from ferkit.evaluation.shared_inputs import CompareOptions, ReadDataset, build_evaluation_data, read_labelled
from ferkit.faces.cropping import Cropping
from tests.heard import heard

PERSON = r"^(p\d+)_"


def bench(folder: Path) -> CompareOptions:
    """Everything below one folder, images taken whole."""
    return CompareOptions(
        folder / "cache", folder / "out", folder / "models", Cropping.ask("none"), timing_s=0
    )


def read(root: Path, folder: Path, person: str = PERSON) -> ReadDataset:
    return read_labelled(load_dataset(root, person), folder / "cache")


def compared(
    root: Path,
    folder: Path,
    *names: str,
    said: list[str] | None = None,
    person: str = PERSON,
    **protocol: object,
) -> Comparison:
    """The comparison of ``names`` on the images in ``root``; drawn faces may look like copies of each other."""
    settings = ProtocolSettings(**{"allow_leaks": True, **protocol})  # type: ignore[arg-type]
    images = build_evaluation_data([read(root, folder, person)])
    with heard() as lines:
        found = compare(images, parse_candidates(names), settings, bench(folder))
    if said is not None:
        said += lines
    return found


def keep(root: Path, target: Path, renamed: dict[str, str], split: str | None = None) -> Path:
    """A copy with only these classes, under other names; ``split`` takes one part, and puts it at the top."""
    for old, new in renamed.items():
        parts = [root / split / old] if split else sorted(root.glob(f"*/{old}"))
        for part in parts:
            place = target / new if split else target / part.parent.name / new
            shutil.copytree(part, place, dirs_exist_ok=True)
    return target
