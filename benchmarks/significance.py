"""Whether the statistics of a comparison keep their promises, on answers whose truth is known.

Two candidates that are equal must be called different in 5 % of comparisons at most, a difference must be found, and
95 % intervals must hold the truth in 95 % of cases: with single images, with persons of unequal numbers of
images, with several repeats, and with many candidates at once. One core, some minutes:

    python benchmarks/significance.py                    # a table
    python benchmarks/significance.py --repeats 2000     # to half a percent
"""

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np

from ferkit.core.labels import LabelSet
from ferkit.evaluation.metrics import evaluate
from ferkit.evaluation.significance import compare_pairs, holm, paired_bootstrap, retraining_p, sign_flip_p

LABELS = LabelSet(("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"))
SHARES = np.array([0.137, 0.015, 0.147, 0.245, 0.165, 0.117, 0.174])
"""Of FER2013's PrivateTest, which has 3,589 images."""


@dataclass(frozen=True)
class Scene:
    """Answers to draw.

    Attributes:
        n: images; with persons about so many.
        persons: 0 for none.
        unequal: of the logarithm of a person's number of images, the standard deviation.
        alike: correlation of right answers to images of one person, 0..1.
        agree: share of images on which candidates give the same answer because the image decides.
        accuracy: of each candidate.
        trainings: of each candidate.
        training_sd: standard deviation of accuracy between trainings.
    """

    n: int = 3_589
    persons: int = 0
    unequal: float = 0.0
    alike: float = 0.0
    agree: float = 0.5
    accuracy: tuple[float, ...] = (0.65, 0.65)
    trainings: int = 1
    training_sd: float = 0.0


@dataclass(frozen=True)
class Answers:
    """``truth`` (n,), ``predicted`` (candidates, n), unit and training of each row (n,)."""

    truth: np.ndarray
    predicted: np.ndarray
    units: np.ndarray
    trainings: np.ndarray


def draw(scene: Scene, rng: np.random.Generator) -> Answers:
    """Answers of candidates that are right in ``scene.accuracy`` of all images, in the long run."""
    if scene.persons:
        weights = np.exp(rng.normal(0, scene.unequal, scene.persons))
        sizes = np.maximum(
            1, np.rint(weights * scene.n / scene.persons / np.exp(scene.unequal**2 / 2)).astype(int)
        )
    else:
        sizes = np.ones(scene.n, int)
    unit = np.repeat(np.arange(len(sizes)), sizes)
    truth = rng.choice(len(SHARES), len(unit), p=SHARES)
    shared = rng.random(len(unit))
    follows = rng.random(len(unit)) < scene.agree
    predicted, trainings = [], []
    for accuracy in scene.accuracy:
        skill = _skills(accuracy, scene.alike, len(sizes), rng)[unit]
        rows = []
        for _ in range(scene.trainings):
            level = skill + rng.normal(0, scene.training_sd)
            right = np.where(follows, shared, rng.random(len(unit))) < level
            rows.append(np.where(right, truth, (truth + rng.integers(1, 7, len(unit))) % 7))
        predicted.append(np.concatenate(rows))
    trainings = np.repeat(np.arange(scene.trainings), len(unit))
    return Answers(
        np.tile(truth, scene.trainings), np.array(predicted), np.tile(unit, scene.trainings), trainings
    )


def _skills(accuracy: float, alike: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Share of right answers with each person: Beta, so that ``alike`` is the correlation within one."""
    if not alike:
        return np.full(n, accuracy)
    strength = 1 / alike - 1
    return rng.beta(accuracy * strength, (1 - accuracy) * strength, n)


@dataclass(frozen=True)
class Rejections:
    """In which share of comparisons the first two candidates were called different.

    Attributes:
        verdict: as ``fer compare`` says it.
        over_units: by the sign-flip test alone, which takes the trained models as they are.
        over_images: by the same as if all images were independent.
        bootstrap, macro_f1: by the paired bootstrap of accuracy and of macro-F1.
    """

    verdict: float
    over_units: float
    over_images: float
    bootstrap: float
    macro_f1: float


def rejections(scene: Scene, repeats: int, n_resamples: int = 400) -> Rejections:
    """Draw ``scene`` again and again and test its first two candidates at 0.05."""
    p = np.empty((repeats, 5))
    for i in range(repeats):
        drawn = draw(scene, np.random.default_rng([7, i]))
        gain = (drawn.predicted[0] == drawn.truth).astype(int) - (drawn.predicted[1] == drawn.truth)
        found = paired_bootstrap(drawn.truth, drawn.predicted[:2], len(SHARES), drawn.units, i, n_resamples)
        rows = np.stack([drawn.units, drawn.trainings])
        gains, images = np.zeros((2, drawn.units.max() + 1, scene.trainings))
        np.add.at(gains, tuple(rows), gain)
        np.add.at(images, tuple(rows), 1)
        over_units = sign_flip_p(np.rint(gains.sum(axis=1)))
        verdict = np.fmax(over_units, retraining_p(gains, images, 0.0))
        p[i] = verdict, over_units, sign_flip_p(gain), found.p[0, 1], found.f1_p[0, 1]
    return Rejections(*(p < 0.05).mean(axis=0).tolist())


def trained(n: int, splits: int, repeats: int, test_share: float = 0.2) -> tuple[float, float]:
    """How often two equal *methods*, trained for real on drawn parts, are called different.

    Both assign an image to the nearest class mean. Each sees features of its own, drawn alike, so that neither
    is better in the long run, though on one data set one of the two models is.

    Returns:
        By the sign-flip test alone, and as ``fer compare`` says it.
    """
    alarms = np.zeros(2)
    for i in range(repeats):
        rng = np.random.default_rng([6, i])
        means = rng.normal(0, 0.5, (7, 12))
        y = rng.integers(0, 7, n)
        features = [means[y] + rng.normal(size=(n, 12)) for _ in range(2)]
        gains, images = np.zeros((2, n, splits))
        for r in range(splits):
            test, train = np.split(rng.permutation(n), [int(test_share * n)])
            right = []
            for X in features:
                centres = np.stack([X[train][y[train] == c].mean(axis=0) for c in range(7)])
                right.append(((X[test][:, None] - centres) ** 2).sum(axis=2).argmin(axis=1) == y[test])
            gains[test, r], images[test, r] = right[0].astype(int) - right[1], 1
        tested = images.any(axis=1)
        over_units = sign_flip_p(gains[tested].sum(axis=1).astype(int))
        retrained = retraining_p(gains[tested], images[tested], test_share / (1 - test_share))
        alarms += [over_units < 0.05, np.fmax(over_units, retrained) < 0.05]
    return float(alarms[0] / repeats), float(alarms[1] / repeats)


def any_false_alarm(candidates: int, repeats: int, corrected: bool) -> float:
    """In which share of comparisons of equal candidates at least one pair is called different."""
    scene = replace(Scene(), accuracy=(0.65,) * candidates, n=1_000)
    alarms = 0
    for i in range(repeats):
        drawn = draw(scene, np.random.default_rng([8, i]))
        right = (drawn.predicted == drawn.truth).astype(int)
        p = np.array(
            [sign_flip_p(right[a] - right[b]) for a in range(candidates) for b in range(a + 1, candidates)]
        )
        alarms += bool((holm(p) if corrected else p).min() < 0.05)
    return alarms / repeats


def coverage(scene: Scene, repeats: int, n_resamples: int = 400) -> tuple[float, float]:
    """In which share of draws the interval holds the true accuracy, and its mean width."""
    held, width = 0, 0.0
    names = np.array(LABELS.names)
    for i in range(repeats):
        drawn = draw(scene, np.random.default_rng([9, i]))
        persons = np.array([f"p{unit}" for unit in drawn.units], object) if scene.persons else None
        proba = np.eye(len(names))[drawn.predicted[0]]
        found = evaluate(names[drawn.truth], proba, LABELS, persons, i, n_resamples).figures["accuracy"]
        held += found.low <= scene.accuracy[0] <= found.high
        width += (found.high - found.low) / repeats
    return held / repeats, width


IMAGES = Scene()
PERSONS = replace(IMAGES, persons=150, unequal=0.8, alike=0.1)
EQUAL = {
    "3,589 images": IMAGES,
    "100 images": replace(IMAGES, n=100),
    "150 persons of 24 images": replace(PERSONS, unequal=0.0),
    "150 persons, unequal": PERSONS,
    "30 persons, unequal": replace(PERSONS, persons=30),
    "10 persons, unequal": replace(PERSONS, persons=10, n=300),
    "3,589 images, 5 repeats": replace(IMAGES, trainings=5),
    "150 persons, unequal, 5 repeats": replace(PERSONS, trainings=5),
    "3,589 images, trainings differ by 0.7 points": replace(IMAGES, training_sd=0.007),
    "the same, 3 repeats": replace(IMAGES, training_sd=0.007, trainings=3),
    "the same, 5 repeats": replace(IMAGES, training_sd=0.007, trainings=5),
    "the same, 10 repeats": replace(IMAGES, training_sd=0.007, trainings=10),
    "the same, 150 persons, unequal, 5 repeats": replace(PERSONS, training_sd=0.007, trainings=5),
}
DIFFERENT = {
    "3 points, 3,589 images": replace(IMAGES, accuracy=(0.65, 0.62)),
    "3 points, 3,589 images, answers independent": replace(IMAGES, accuracy=(0.65, 0.62), agree=0.0),
    "3 points, 150 persons, unequal": replace(PERSONS, accuracy=(0.65, 0.62)),
    "3 points, 3,589 images, 5 repeats": replace(IMAGES, accuracy=(0.65, 0.62), trainings=5),
    "the same, trainings differ by 0.7 points": replace(
        IMAGES, accuracy=(0.65, 0.62), trainings=5, training_sd=0.007
    ),
    "1 point, 3,589 images": replace(IMAGES, accuracy=(0.65, 0.64)),
    "3 points, 300 images": replace(IMAGES, accuracy=(0.65, 0.62), n=300),
}
COVERED = {
    "3,589 images, 65 %": IMAGES,
    "200 images, 65 %": replace(IMAGES, n=200),
    "50 images, 98 %": replace(IMAGES, n=50, accuracy=(0.98,)),
    "150 persons, unequal": PERSONS,
    "60 persons, unequal": replace(PERSONS, persons=60),
    "30 persons, unequal": replace(PERSONS, persons=30),
    "30 persons, unequal, 95 %": replace(PERSONS, persons=30, accuracy=(0.95,)),
    "12 persons, unequal": replace(PERSONS, persons=12, n=300),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=500)
    repeats = parser.parse_args().repeats
    began = time.perf_counter()
    for title, scenes in (("called different though equal", EQUAL), ("found different", DIFFERENT)):
        print(f"\n{title:<50}{'verdict':>9}{'as is':>9}{'images':>9}{'bootstrap':>11}{'macro-F1':>10}")
        for name, scene in scenes.items():
            one = rejections(scene, repeats)
            print(
                f"{name:<50}{one.verdict:>9.1%}{one.over_units:>9.1%}{one.over_images:>9.1%}{one.bootstrap:>11.1%}"
                f"{one.macro_f1:>10.1%}",
                flush=True,
            )
    print(f"\n{'equal methods, trained on drawn parts':<50}{'verdict':>9}{'as is':>9}")
    for n, splits in ((200, 1), (200, 5), (600, 5), (2_000, 5)):
        alone, verdict = trained(n, splits, repeats)
        print(f"{f'{n:,} images, {splits} splits':<50}{verdict:>9.1%}{alone:>9.1%}", flush=True)
    print(f"\n{'any of 45 pairs of 10 equal candidates':<50}{'Holm':>9}{'none':>9}")
    alarms = [any_false_alarm(10, min(repeats, 500), corrected) for corrected in (True, False)]
    print(f"{'1,000 images':<50}{alarms[0]:>9.1%}{alarms[1]:>9.1%}", flush=True)
    print(f"\n{'95 % interval of accuracy':<50}{'covers':>9}{'width':>9}")
    for name, scene in COVERED.items():
        held, width = coverage(scene, repeats)
        print(f"{name:<50}{held:>9.1%}{width:>9.1%}", flush=True)
    drawn = draw(DIFFERENT["3 points, 3,589 images"], np.random.default_rng(0))
    names = np.array(LABELS.names)
    answers = {name: np.eye(7)[one] for name, one in zip(("A", "B"), drawn.predicted, strict=True)}
    print(f"\n{compare_pairs(names[drawn.truth], answers, LABELS)[0].sentence}")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
