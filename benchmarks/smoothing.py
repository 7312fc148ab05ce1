"""Label flips a minute and delay of every smoothing method, on a video whose expressions are known.

    python benchmarks/smoothing.py                      # drawn faces, needs nothing
    python benchmarks/smoothing.py --model models/mlp --crops fer2013/test

Without options a head is fitted on drawn faces and watches a video of faces that it never saw: expressions change every
1.5 to 4 seconds, the drawing with its pose and light ten times a second, camera noise every frame. With a model
and a folder of labelled crops the video shows a new crop ten times a second instead: nothing holds from one
look to the next but the label, so that is the hardest video there can be.

Flips are changes of the label shown; delay is from a change to the first frame with the right label, and a change
that is never shown counts as infinitely late. Seeds are fixed.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from ferkit.classifiers.model import load_model
from ferkit.core.console import table
from ferkit.core.labels import LabelSet, meaning_of
from ferkit.core.types import ExpressionClassifier
from ferkit.datasets.dataset import read_folder
from ferkit.datasets.synthetic import EXPRESSIONS, Identity, render_face
from ferkit.faces.cropping import fit_to
from ferkit.inference.sinks import VideoWriter
from ferkit.inference.smoothing import UNSURE, LabelSmoother, SmoothingSettings
from ferkit.inference.sources import VideoSource

FPS = 30.0
LOOKS_PER_S = 10.0
SIDE = 96

METHODS = {
    "raw labels": SmoothingSettings("none", hysteresis=0, min_dwell_s=0, min_confidence=0),
    "hmm (default)": SmoothingSettings(),
    "ema": SmoothingSettings("ema"),
    "majority": SmoothingSettings("majority"),
    "repeat 2, as the earlier project": SmoothingSettings(
        "repeat", hysteresis=0, min_dwell_s=0, min_confidence=0
    ),
    "repeat 2, hysteresis and dwell": SmoothingSettings("repeat"),
    "repeat 6, hysteresis and dwell": SmoothingSettings("repeat", repeats=6),
}


def script(n_changes: int, n_classes: int, rng: np.random.Generator) -> np.ndarray:
    """The class in every frame, (n,)."""
    labels: list[int] = []
    label = int(rng.integers(n_classes))
    for _ in range(n_changes + 1):
        labels += [label] * round(rng.uniform(1.5, 4.0) * FPS)
        label = int(rng.choice([k for k in range(n_classes) if k != label]))
    return np.array(labels)


def video_of(
    truth: np.ndarray, draw: Callable[[int], np.ndarray], rng: np.random.Generator, path: Path
) -> None:
    """Write the video."""
    look, last = np.zeros((SIDE, SIDE, 3), np.uint8), -1
    with VideoWriter(path, FPS) as writer:
        for i, label in enumerate(truth.tolist()):
            if label != last or i % round(FPS / LOOKS_PER_S) == 0:
                look, last = draw(label), label
            noise = rng.normal(0, 4, look.shape)
            writer.write(np.clip(look + noise, 0, 255).astype(np.uint8), i / FPS)


def drawn_faces(rng: np.random.Generator) -> tuple[ExpressionClassifier, Callable[[int], np.ndarray]]:
    """A classifier fitted on drawings of twenty people, and drawings of another one."""
    from ferkit.classifiers.heads import LogisticSettings, fit_head
    from ferkit.classifiers.kinds import EmbeddingClassifier
    from ferkit.embedder.embedders import open_embedder

    embedder = open_embedder("raw")
    people = [Identity.random(rng) for _ in range(20)]
    y = np.tile(np.array(EXPRESSIONS), 60)
    crops = [render_face(people[i % 20], name, rng, size=SIDE, intensity=0.6) for i, name in enumerate(y)]
    X = embedder.embed(np.stack([fit_to(crop, embedder.input_size_wh) for crop in crops]))
    head = fit_head(X, y, LogisticSettings())
    labels = LabelSet.from_names(head.classes)
    classifier = EmbeddingClassifier(embedder, head, head.dim, labels)
    person = Identity.random(rng)
    return classifier, lambda k: render_face(person, labels.names[k], rng, size=SIDE, intensity=0.6)


def real_crops(
    folder: Path, classifier: ExpressionClassifier, rng: np.random.Generator
) -> Callable[[int], np.ndarray]:
    """Crops of each class, drawn at random."""
    dataset = read_folder(folder)
    by_class: dict[str, list] = {}
    for sample in dataset.samples:
        by_class.setdefault(meaning_of(sample.label or ""), []).append(sample)
    names = [meaning_of(name) for name in classifier.labels.names]

    def draw(k: int) -> np.ndarray:
        samples = by_class[names[k]]
        return fit_to(dataset.read(samples[int(rng.integers(len(samples)))]), (SIDE, SIDE))

    return draw


def probabilities(video: Path, classifier: ExpressionClassifier) -> Iterator[tuple[float, np.ndarray]]:
    """Time and (1, k) of every frame."""
    for frame in VideoSource(video):
        yield frame.timestamp_s, classifier.predict_proba(fit_to(frame.rgb, classifier.input_size_wh)[None])


def delays_ms(shown: np.ndarray, truth: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """How late each change is shown, infinite if it never is."""
    starts = [0, *(np.flatnonzero(np.diff(truth)) + 1).tolist(), len(truth)]
    delays = []
    for first, end in pairwise(starts[1:]):
        right = np.flatnonzero(shown[first:end] == truth[first])
        delays.append(1000 * (times_s[first + right[0]] - times_s[first]) if len(right) else np.inf)
    return np.array(delays)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="model folder")
    parser.add_argument("--crops", type=Path, help="folder <class>/*.png of labelled crops")
    parser.add_argument("--changes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if (options.model is None) != (options.crops is None):
        parser.error("--model and --crops go together")
    rng = np.random.default_rng(options.seed)
    if options.model:
        classifier = load_model(options.model)
        draw = real_crops(options.crops, classifier, rng)
    else:
        classifier, draw = drawn_faces(rng)
    truth = script(options.changes, len(classifier.labels), rng)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "film.mp4"
        video_of(truth, draw, rng, video)
        assert VideoSource(video).n_frames == len(truth)
        readings = list(probabilities(video, classifier))
    report(truth, readings)


def report(truth: np.ndarray, readings: list[tuple[float, np.ndarray]]) -> None:
    """Print the table."""
    times_s = np.array([time_s for time_s, _ in readings])
    minutes = times_s[-1] / 60
    n_changes = int((np.diff(truth) != 0).sum())
    print(f"{len(truth)} frames, {minutes:.1f} minutes, {n_changes / minutes:.0f} true changes a minute\n")
    rows, raw_flips = [], 0.0
    for name, settings in METHODS.items():
        smoother = LabelSmoother(settings, readings[0][1].shape[1])
        me = np.zeros(1, np.int64)
        shown = np.array([smoother.update(me, proba, time_s).label[0] for time_s, proba in readings])
        flips = (np.diff(shown) != 0).sum() / minutes
        raw_flips = raw_flips or flips
        delays = delays_ms(shown, truth, times_s)
        rows.append((
            name, f"{flips:.0f}", f"{1 - flips / raw_flips:.0%}", f"{np.median(delays):.0f}",
            f"{np.percentile(delays, 90):.0f}", f"{np.isinf(delays).mean():.0%}", f"{(shown == truth).mean():.1%}",
            f"{(shown == UNSURE).mean():.1%}",
        ))  # fmt: skip
    header = ("method", "flips/min", "fewer", "median ms", "90 % ms", "missed", "frames right", "unsure")
    print(table(header, rows, right=range(1, len(header))))


if __name__ == "__main__":
    main()
