"""How well a few examples teach own classes, how long that takes, and whether the figures shown can be believed.

    python benchmarks/teach.py accuracy fer2013/ --other mobilefacenet.onnx
    python benchmarks/teach.py times [fer2013.zip]
    python benchmarks/teach.py coverage [--draws 300 --first 75 --persons 30]

``accuracy`` learns from 1, 2, 5, 10, 20 and 40 examples a class and measures on images (of drawn faces: persons) that
were not learnt from: drawn expressions, FER2013's PublicTest relabelled to valence, and pairs of FER+ majorities of the
same images; next to logistic regression on raw pixels, on gradients (HOG) and on another network's last layer.
``fer2013/`` holds test/<emotion>/*.png and labels.csv with FER+ votes. ``times`` fits and validates 10, 100 and 2,000
examples, and prints seconds of one core, whatever else runs: of made-up embeddings, or of those of a data set's images,
where one is given. ``coverage`` teaches 75 times in each of four settings, from bursts of drawn persons, and counts how
often the interval that is shown holds the accuracy on further takes; and how often it would if frames were validated
instead.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.labels import LabelSet, meaning_of
from ferkit.datasets.load import load_dataset
from ferkit.datasets.synthetic import EXPRESSIONS, Identity, draw_face, sample_units
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.settings import resize_crops, to_gray
from ferkit.teaching.head import choose_penalty, fit_linear, usual_penalty, validate

SIZES = (1, 2, 5, 10, 20, 40)
FRAMES = 5
EVERY = 4
"""Validating frames takes as long as validating takes: it is done in every fourth draw."""

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], object]


def embed(backbone: str, crops: np.ndarray) -> np.ndarray:
    """Embeddings float32 (n, dim), or the gray pixels themselves."""
    if backbone == "pixels":
        return to_gray(resize_crops(crops, (48, 48))).reshape(len(crops), -1).astype(np.float32)
    embedder = open_embedder(backbone)
    return np.concatenate([embedder.embed(crops[i : i + 64]) for i in range(0, len(crops), 64)])


def drawn(n_persons: int, per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops, expressions and persons."""
    crops, y, persons = [], [], []
    for number in range(n_persons):
        rng = np.random.default_rng([seed, number])
        identity = Identity.random(rng)
        for expression in EXPRESSIONS:
            for _ in range(per_class):
                units = sample_units(expression, rng, intensity=rng.uniform(0.6, 1.1))
                crops.append(draw_face(identity, units, rng, 64))
                y.append(expression)
                persons.append(number)
    return np.stack(crops), np.array(y), np.array(persons)


def fer2013(folder: Path, most: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """PublicTest's images, and their classes by task; empty where an image has none."""
    dataset = load_dataset(folder)
    samples = [sample for sample in dataset.samples if sample.split == "test"]
    samples = [samples[i] for i in np.random.default_rng(0).permutation(len(samples))[:most]]
    crops = np.stack([dataset.read(sample) for sample in samples])
    seven = [str(sample.label) for sample in samples]
    to_valence = LabelSet.named("fer2013").map_to(LabelSet.named("valence3"))
    votes = {}
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            counts = {name[8:]: float(row[name] or 0) for name in row if name.startswith("ferplus_")}
            best = max(counts, key=lambda name: counts[name])
            if 2 * counts[best] > sum(counts.values()) >= 5:
                votes[row["path"]] = meaning_of(best)
    majority = np.array([votes.get(sample.path, "") for sample in samples])
    known = to_valence.labels(sorted(set(seven)))
    valence = dict(zip(sorted(set(seven)), known, strict=True))
    tasks = {"FER2013 as valence": np.array([valence[name] or "" for name in seven])}
    for pair in (("happy", "neutral"), ("sad", "neutral")):
        tasks[f"FER+ {pair[0]} / {pair[1]}"] = np.where(np.isin(majority, pair), majority, "")
    return crops, tasks


def taught(X: np.ndarray, y: np.ndarray, units: np.ndarray) -> object:
    """The head that a teacher fits."""
    return fit_linear(X, y, choose_penalty(X, y, units))


def plain_logistic(X: np.ndarray, y: np.ndarray, units: np.ndarray) -> object:
    """Logistic regression as scikit-learn has it, on scaled numbers."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(X, y)


def classes_of(head: object) -> np.ndarray:
    return np.array(getattr(head, "classes", None) or head.classes_)  # type: ignore[attr-defined]


def accuracies(
    X: np.ndarray, y: np.ndarray, fit: Fit, draws: int, persons: np.ndarray | None, n: int
) -> list[float]:
    """On what was not learnt from, one for each draw of ``n`` examples a class."""
    found = []
    for seed in range(draws):
        rng = np.random.default_rng([n, seed])
        labelled = y != ""
        if persons is None:
            held = rng.random(len(y)) < 0.5
        else:
            held = np.isin(persons, rng.permutation(np.unique(persons))[: len(np.unique(persons)) // 2])
        rows = np.concatenate([
            rng.permutation(np.flatnonzero(labelled & ~held & (y == name)))[:n] for name in np.unique(y[labelled])
        ])  # fmt: skip
        units = rows.astype(object) if persons is None else persons[rows].astype(object)
        head = fit(X[rows], y[rows], units)
        test = np.flatnonzero(labelled & held)
        answers = classes_of(head)[head.predict_proba(X[test]).argmax(axis=1)]  # type: ignore[attr-defined]
        # Mean recall: PublicTest's classes are of very different size.
        found.append(float(np.mean([(answers[y[test] == c] == c).mean() for c in np.unique(y[test])])))
    return found


def accuracy(folder: Path, other: Path | None, draws: int, most: int) -> None:
    """Print a Markdown table for each task."""
    crops, tasks = fer2013(folder, most)
    faces, expressions, persons = drawn(24, 8, seed=1)
    everything = [("drawn persons, seven expressions", faces, expressions, persons)]
    everything += [(name, crops, y, None) for name, y in tasks.items()]
    contestants: dict[str, tuple[str, Fit]] = {
        "Teacher": ("ferkit2", taught),
        "logistic, ferkit2": ("ferkit2", plain_logistic),
        "logistic, HOG": ("raw", plain_logistic),
        "logistic, raw pixels": ("pixels", plain_logistic),
    }
    if other is not None:
        contestants["logistic, MobileFaceNet's last layer"] = (f"onnx:{other}", plain_logistic)
    known: dict[tuple[str, int], np.ndarray] = {}
    for task, images, y, who in everything:
        print(f"\n{task}, mean recall in % over {draws} draws\n\n| | {' | '.join(map(str, SIZES))} |")
        print("|---" * (len(SIZES) + 1) + "|")
        for name, (backbone, fit) in contestants.items():
            key = backbone, id(images)
            if key not in known:
                known[key] = embed(backbone, images)
            row = [100 * np.mean(accuracies(known[key], y, fit, draws, who, n)) for n in SIZES]
            print(f"| {name} | {' | '.join(f'{value:.1f}' for value in row)} |", flush=True)


def embedded(data: Path, most: int) -> dict[str, np.ndarray]:
    """Embeddings of a data set's images by class, up to ``most`` of each."""
    dataset = load_dataset(data)
    order = np.random.default_rng(0).permutation(len(dataset.samples))
    found = {}
    for name in dataset.class_counts():
        mine = [dataset.samples[i] for i in order if dataset.samples[i].label == name][:most]
        found[name] = embed("ferkit2", np.stack([dataset.read(sample) for sample in mine]))
    return found


def times(data: Path | None) -> None:
    """Print how long a fit with the last penalty and a validation take."""
    embed("ferkit2", np.zeros((1, 48, 48, 3), np.uint8))
    known = None if data is None else embedded(data, 700)
    print("| examples | classes | takes | fit, ms | validation, s |\n|---|---|---|---|---|")
    for n, k in ((10, 2), (100, 3), (2_000, 3), (2_000, 7)):
        rng = np.random.default_rng(n)
        takes = np.array([f"{i % k}.{i // k % (8 if n >= 100 else 3)}" for i in range(n)], object)
        if known is None:
            dim = open_embedder("ferkit2").dim
            y = np.array([f"class {i % k}" for i in range(n)], object)
            centres = {name: rng.normal(size=dim) for name in [*np.unique(y), *np.unique(takes)]}
            X = np.stack([0.3 * centres[a] + 0.5 * centres[b] for a, b in zip(y, takes, strict=True)])
            X = (X + rng.normal(size=X.shape) * 0.5).astype(np.float32)
        else:
            names = sorted(known, key=lambda name: -len(known[name]))[:k]
            y = np.array([names[i % k] for i in range(n)], object)
            X = np.stack([known[name][i // k % len(known[name])] for i, name in enumerate(y)])
        fit_linear(X[:20], y[:20], 0.01)
        began = time.process_time()
        fit_linear(X, y, usual_penalty(y))
        fitted = time.process_time()
        validate(X, y, takes, np.array([None] * n, object))
        print(
            f"| {n:,} | {k} | {len(set(takes))} | {1000 * (fitted - began):.0f} | {time.process_time() - fitted:.1f} |"
        )


def burst(identity: Identity, expression: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """Frames of one take: one form of the expression, one light, small movements; uint8 RGB (n, 48, 48, 3)."""
    units = sample_units(expression, rng, intensity=rng.uniform(0.25, 0.9))
    face = draw_face(identity, units, rng, 64)
    frames = []
    for _ in range(n):
        turn = cv2.getRotationMatrix2D((32, 32), rng.normal(0, 1.0), 0.75 * rng.normal(1, 0.01))
        turn[:, 2] += rng.normal(0, 0.5, 2)
        moved = cv2.warpAffine(face, turn, (64, 64), borderMode=cv2.BORDER_REPLICATE)[8:56, 8:56]
        frames.append(np.clip(moved + rng.normal(0, 3, moved.shape), 0, 255).astype(np.uint8))
    return np.stack(frames)


def coverage(draws: int, pool: int, only: int | None, first: int, persons: int) -> None:
    """Print how often intervals hold the accuracy on further takes, by takes and by frames.

    Takes are drawn and embedded once for each person, and dealt anew for each draw. ``first`` is the number of the
    first draw, and person: those below 75 were looked at while the interval was made.
    """
    print(
        "| classes | takes a class | draws | held by takes | held by frames | mean width | accuracy | shown |"
    )
    print("|---|---|---|---|---|---|---|---|")
    people = [Identity.random(np.random.default_rng([7, first + i])) for i in range(persons)]
    kinds = ("neutral", "sad", "fear")
    banks: list[dict[str, np.ndarray]] = []
    for number, person in enumerate(people):
        rng = np.random.default_rng([11, first + number])
        bank = {}
        for kind in kinds:
            frames = np.concatenate([burst(person, kind, rng, FRAMES) for _ in range(pool)])
            bank[kind] = embed("ferkit2", frames).reshape(pool, FRAMES, -1)
        banks.append(bank)
    everything = np.zeros(2)
    settings = ((2, 3), (2, 6), (3, 4), (3, 6))
    settings = settings if only is None else (settings[only],)
    for k, n_takes in settings:
        held, by_frame, widths, truths, shown = 0, 0, [], [], []
        for draw in range(draws):
            rng = np.random.default_rng([k, n_takes, first + draw])
            bank, names = banks[draw % len(banks)], kinds[:k]
            order = {name: rng.permutation(pool) for name in names}
            X = np.concatenate(
                [bank[name][order[name][:n_takes]].reshape(-1, bank[name].shape[-1]) for name in names]
            )
            y = np.repeat(np.array(names, object), n_takes * FRAMES)
            takes = np.repeat(np.arange(k * n_takes), FRAMES).astype(str).astype(object)
            nobody = np.array([None] * len(y), object)
            report = validate(X, y, takes, nobody)
            frames = (
                validate(X, y, np.arange(len(y)).astype(str).astype(object), nobody)
                if draw % EVERY == 0
                else report
            )
            assert report.head is not None
            assert report.evaluation is not None
            assert frames.evaluation is not None
            right = [
                (np.array(report.head.classes)[report.head.predict_proba(bank[name][take]).argmax(axis=1)] == name)
                for name in names for take in order[name][n_takes:]
            ]  # fmt: skip
            truth = float(np.mean(right))
            figure, other = report.evaluation.figures["accuracy"], frames.evaluation.figures["accuracy"]
            held += figure.low <= truth <= figure.high
            by_frame += EVERY * (draw % EVERY == 0 and other.low <= truth <= other.high)
            widths.append(figure.high - figure.low)
            truths.append(truth)
            shown.append(figure.value)
        everything += held, by_frame
        print(
            f"| {k} | {n_takes} | {draws} | {held / draws:.1%} | {by_frame / draws:.1%} | {np.mean(widths):.2f} | "
            f"{np.mean(truths):.1%} | {np.mean(shown):.1%} |", flush=True,
        )  # fmt: skip
    n = draws * len(settings)
    print(f"| all | | {n} | {everything[0] / n:.1%} | {everything[1] / n:.1%} | | | |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["accuracy", "times", "coverage"])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--draws", type=int, default=None)
    parser.add_argument("--images", type=int, default=1_500, help="of PublicTest, at random, for accuracy")
    parser.add_argument("--only", type=int, help="one of the settings of coverage, 0 to 3")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first draw and person, for coverage"
    )
    parser.add_argument("--persons", type=int, default=3, help="drawn persons, for coverage")
    parser.add_argument("--pool", type=int, default=30, help="takes of each class and person, for coverage")
    args = parser.parse_args()
    if args.what == "accuracy":
        accuracy(args.data, args.other, args.draws or 5, args.images)
    elif args.what == "times":
        times(args.data)
    else:
        coverage(args.draws or 75, args.pool, args.only, args.first, args.persons)


if __name__ == "__main__":
    main()
