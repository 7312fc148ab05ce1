"""Whether planted leaks are found, and how often images that are none are called so.

    python benchmarks/leaks.py fer2013/train --out leaks/

Copies of ``--planted`` random images a kind are put into a test part, among as many images that are left as they
are; the training part is the whole folder, but for these. Prints a Markdown table; writes every pair of duplicates
among the images of the folder itself (duplicates.csv), and contact sheets for the eye: the least sure
pairs above and below the threshold, and a random sample.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from ferkit.datasets.dataset import Dataset
from ferkit.datasets.duplicates import Copies, CopySettings, find_copies
from ferkit.datasets.image_stats import ImageStats, image_stats
from ferkit.datasets.leakage import Leaks, find_leaks
from ferkit.datasets.load import load_dataset

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def coded(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def cropped(image: np.ndarray, rng: np.random.Generator, low: float = 0.05, high: float = 0.15) -> np.ndarray:
    height, width = image.shape[:2]
    share = 1 - rng.uniform(low, high)
    h, w = round(height * share), round(width * share)
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    return cv2.resize(image[top : top + h, left : left + w], (width, height))


def brightened(image: np.ndarray, by: float) -> np.ndarray:
    return np.clip(np.rint(image * (1 + by)), 0, 255).astype(np.uint8)


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


def everything(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    bright = brightened(cropped(image, rng)[:, ::-1], rng.uniform(-0.3, 0.3))
    return coded(bright, int(rng.integers(30, 91)))


CHANGES: Mapping[str, Change] = {
    "same bytes": lambda p, rng: p,
    "JPEG, quality 90": lambda p, rng: coded(p, 90),
    "JPEG, quality 30": lambda p, rng: coded(p, 30),
    "cropped by 5 %": lambda p, rng: cropped(p, rng, 0.05, 0.05),
    "cropped by 15 %": lambda p, rng: cropped(p, rng, 0.15, 0.15),
    "mirrored": lambda p, rng: p[:, ::-1],
    "30 % brighter": lambda p, rng: brightened(p, 0.3),
    "30 % darker": lambda p, rng: brightened(p, -0.3),
    "turned by 5 degrees": lambda p, rng: turned(p, 5 * rng.choice((-1, 1))),
    "half the size": lambda p, rng: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "cropped, mirrored, brightness and JPEG at once": everything,
}
"""What is done to a planted copy; the last is beyond what was promised."""


def plant(folder: Path, clean: list[Path], n: int, rng: np.random.Generator, root: Path) -> Dataset:
    """A data set with ``train/`` of links to the images and ``test/`` of planted copies, persons and the rest."""
    order = rng.permutation(len(clean))
    sources, controls = order[: n * len(CHANGES)], order[n * len(CHANGES) : n * (len(CHANGES) + 2)]
    in_test = set(controls.tolist())
    train, test = folder / "train" / "face", folder / "test" / "face"
    train.mkdir(parents=True)
    test.mkdir(parents=True)
    person = {int(i): f"p{k:05d}" for k, i in enumerate(controls)}
    for i, path in enumerate(clean):
        if i not in in_test:
            (train / path.name).symlink_to((root / path).resolve())
    for k, i in enumerate(controls):
        # The second half of the controls are persons who are in training too, in another image.
        name = clean[i].name
        if k >= n:
            other = int(order[-1 - k])
            (train / clean[other].name).unlink()
            (train / f"{person[int(i)]}_{clean[other].name}").symlink_to((root / clean[other]).resolve())
        (test / f"{person[int(i)]}_{name}").symlink_to((root / clean[i]).resolve())
    for number, i in enumerate(sources):
        kind = list(CHANGES)[number // n]
        image = cv2.imread(str(root / clean[i]))
        target = test / f"c{number // n:02d}x{number:05d}.png"
        if kind == "same bytes":
            target.write_bytes((root / clean[i]).read_bytes())
        else:
            cv2.imwrite(str(target), np.ascontiguousarray(CHANGES[kind](image, rng)))
    return load_dataset(folder, person_pattern=r"^(p\d+)_")


def report(dataset: Dataset, leaks: Leaks, n: int) -> None:
    """The table: how many of each kind were found."""
    found = {dataset.samples[i].path for i in np.union1d(leaks.test_rows["exact"], leaks.test_rows["near"])}
    persons = {dataset.samples[i].path for i in leaks.test_rows["person"]}
    names = [s.path for s in dataset.samples if s.split == "test"]
    print("| planted | images | found |\n|---|---|---|")
    for k, kind in enumerate(CHANGES):
        mine = [name for name in names if name.startswith(f"test/face/c{k:02d}x")]
        print(f"| {kind} | {len(mine)} | {np.mean([name in found for name in mine]):.1%} |")
    controls = sorted(name for name in names if name.startswith("test/face/p"))
    same, alone = controls[n:], controls[:n]
    print(f"| the same person, by name | {len(same)} | {np.mean([name in persons for name in same]):.1%} |")
    print(f"| nothing (persons of their own) | {len(alone)} | {np.mean([c in persons for c in alone]):.1%} |")
    wrong = [c for c in controls if c in found]
    print(f"| nothing (images without a copy) | {len(controls)} | {len(wrong) / len(controls):.1%} |")


def sheet(seen: ImageStats, pairs: np.ndarray, scores: np.ndarray, file: Path) -> None:
    """Pairs side by side, their similarity above each."""
    tiles = []
    for (a, b), score in zip(pairs, scores, strict=True):
        tile = cv2.resize(np.hstack([seen.thumbs[a], seen.thumbs[b]]), None, fx=1.6, fy=1.6)
        tile = cv2.copyMakeBorder(tile, 14, 3, 3, 3, cv2.BORDER_CONSTANT, value=255)
        cv2.putText(tile, f"{score:.3f}", (4, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 0, 1, cv2.LINE_AA)
        tiles.append(tile)
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % 10)
    rows = [np.hstack(tiles[i : i + 10]) for i in range(0, len(tiles), 10)]
    cv2.imwrite(str(file), np.vstack(rows))


def write_duplicates(dataset: Dataset, copies: Copies, file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["kind", "first", "second", "likeness", "first_label", "second_label"])
        later = np.flatnonzero(copies.first < np.arange(len(copies.first)))
        exact = [("exact", copies.first[row], row, 1.0) for row in later]
        near = [("near", a, b, s) for (a, b), s in zip(copies.near, copies.similarity, strict=True)]
        for kind, a, b, score in exact + near:
            x, y = dataset.samples[a], dataset.samples[b]
            writer.writerow([kind, x.path, y.path, f"{score:.3f}", x.label, y.label])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="images, a folder a class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--planted", type=int, default=300, help="copies a kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(arguments.seed)

    dataset = load_dataset(arguments.folder)
    start = time.monotonic()
    seen = image_stats(dataset, workers=arguments.workers)
    read = time.monotonic()
    wide = CopySettings(threshold=0.75)
    copies = find_copies(seen, wide, workers=arguments.workers)
    done = time.monotonic()
    threshold = CopySettings().threshold
    called = copies.similarity >= threshold
    own = Copies(copies.first, copies.near[called], copies.similarity[called])
    sizes = np.unique(own.groups(), return_counts=True)[1]
    print(
        f"{len(dataset):,} images: read in {read - start:.0f} s, compared in {done - read:.0f} s. "
        f"{(own.first < np.arange(len(own.first))).sum():,} exact copies, {len(own.near):,} near pairs; "
        f"{(sizes[sizes > 1]).sum():,} images in {(sizes > 1).sum():,} groups of copies.\n"
    )
    write_duplicates(dataset, own, arguments.out / "duplicates.csv")
    order = np.argsort(copies.similarity)
    above, below = order[called[order]][:100], order[~called[order]][-100:]
    chosen = rng.choice(np.flatnonzero(called), min(200, int(called.sum())), replace=False)
    for name, rows in (("least-sure", above), ("below", below), ("sample", chosen)):
        if len(rows):
            sheet(seen, copies.near[rows], copies.similarity[rows], arguments.out / f"{name}.png")

    # Plant only images that have no copy already: whatever is found then was planted, or is a false alarm.
    sizes = dict(zip(*np.unique(copies.groups(), return_counts=True), strict=True))
    alone = [group for group, size in sizes.items() if size == 1 and seen.contrast[group] > 4]
    clean = [Path(dataset.samples[i].path) for i in alone]
    with tempfile.TemporaryDirectory() as folder:
        planted = plant(Path(folder), clean, arguments.planted, rng, arguments.folder)
        sides = np.array([sample.split == "test" for sample in planted.samples])
        rows = np.flatnonzero(~sides), np.flatnonzero(sides)
        cache = Path(folder) / "cache"
        times = []
        for _ in range(2):
            start = time.monotonic()
            leaks = find_leaks(planted, *rows, cache_dir=cache, workers=arguments.workers)
            times.append(time.monotonic() - start)
        report(planted, leaks, arguments.planted)
        print(f"\n{leaks.sentence()}; {times[0]:.0f} s, again {times[1]:.1f} s")


if __name__ == "__main__":
    main()
