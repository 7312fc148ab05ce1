"""Contenders that are networks: finished models, and ones that are trained within the comparison."""

import csv
import dataclasses
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.artifact import RECORD, open_classifier, read_model
from ferkit.classifiers.finetune.settings import recipe_values
from ferkit.classifiers.record import ModelArtifact
from ferkit.core.errors import ModelError
from ferkit.core.fingerprint import file_sha256, fingerprint
from ferkit.datasets.split import SplitSettings
from ferkit.evaluation.comparison import Kind
from ferkit.evaluation.contenders.contender import Outcome, Task
from ferkit.evaluation.contenders.overlap import trained_on
from ferkit.evaluation.contenders.workbench import Workbench


@dataclass(frozen=True)
class ModelContender:
    """A finished model folder of any kind; nothing of it is trained here."""

    name: str
    folder: Path
    kind: Kind = "network"

    def settings(self, bench: Workbench) -> Mapping[str, Any] | None:
        """The model's record, which has the digests of all its files."""
        record = self._found(bench) / RECORD
        return {"kind": "model", "record": file_sha256(record), "faces": bench.faces()}

    def run(self, task: Task, bench: Workbench) -> Outcome:
        """Score the test rows, and say which of them it was trained on."""
        artifact = read_model(self._found(bench))
        classifier = open_classifier(artifact)
        proba = bench.classify_rows(task.test, classifier, artifact.faces)
        seen, notes = trained_on(artifact, task)
        return Outcome(
            classifier.labels,
            proba,
            predict=classifier.predict_proba,
            size_wh=classifier.input_size_wh,
            size_mb=size_mb_of(artifact),
            history=history_of(artifact),
            seen=seen,
            notes=notes,
        )

    def _found(self, bench: Workbench) -> Path:
        for folder in (self.folder, bench.options.models_dir / self.folder):
            if (folder / RECORD).is_file():
                return folder
        raise ModelError(f"no model is at {self.folder} or in {bench.options.models_dir}; correct the name")


@dataclass(frozen=True)
class FinetuneContender:
    """A network that is trained on the training rows by a recipe; stopped, it goes on from its checkpoint."""

    name: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "network"

    def settings(self, bench: Workbench) -> Mapping[str, Any] | None:
        """The whole recipe."""
        return {"kind": "finetune", "recipe": recipe_values(self._recipe(0)), "faces": bench.faces()}

    def run(self, task: Task, bench: Workbench) -> Outcome:
        """Train, choosing the epoch on some of the training rows, and score the test rows."""
        from ferkit.classifiers.finetune.options import RunOptions
        from ferkit.classifiers.finetune.run import finetune

        pictures = task.pictures
        recipe = self._recipe(task.seed)
        key = fingerprint([recipe_values(recipe), pictures.digest(task.train), bench.faces()])[:12]
        folder = bench.options.out / "networks" / key
        started = time.monotonic()
        if not (folder / RECORD).is_file():
            samples = [pictures.dataset.samples[row] for row in task.train]
            training = [
                dataclasses.replace(
                    s, split="val" if task.origin != "drawn" and s.split == "val" else "train"
                )
                for s in samples
            ]
            finetune(
                pictures.dataset.subset(training),
                recipe,
                bench.crop_options(int(pictures.source[task.train[0]])),
                RunOptions(
                    model=folder,
                    work=bench.options.out / "networks" / f"{key}-work",
                    labels=pictures.labels,
                    holdout=SplitSettings(test_size=0.1, seed=task.seed),
                    quiet=bench.options.quiet,
                ),
                say=bench.say,
                say_epoch=(lambda line: None) if bench.options.quiet else None,
            )
        artifact = read_model(folder)
        history = history_of(artifact)
        classifier = open_classifier(artifact)
        trained_s = sum(epoch.get("seconds", 0.0) for epoch in history)
        return Outcome(
            classifier.labels,
            bench.classify_rows(task.test, classifier, artifact.faces),
            # Of a run that was interrupted, the epochs' own seconds are all that is known.
            train_s=trained_s or time.monotonic() - started,
            predict=classifier.predict_proba,
            size_wh=classifier.input_size_wh,
            size_mb=size_mb_of(artifact),
            history=history,
            notes=(f"best of {len(history)} epochs, chosen on a tenth of the training rows",),
        )

    def _recipe(self, seed: int) -> Any:
        from ferkit.classifiers.finetune.recipes import load_recipe

        return load_recipe(self.recipe, {**self.changes, "seed": seed})


@dataclass(frozen=True)
class EnsembleContender:
    """The mean of what other contenders of the comparison say."""

    name: str
    members: tuple[str, ...]
    kind: Kind = "ensemble"

    def settings(self, bench: Workbench) -> Mapping[str, Any] | None:
        """Not kept: its members are."""
        return None

    def run(self, task: Task, bench: Workbench) -> Outcome:
        """The mean of the members' probabilities, and the sum of their costs."""
        missing = [name for name in self.members if name not in task.earlier]
        if missing:
            raise ModelError(f"members that failed: {', '.join(missing)}; mend or leave them out")
        cells = [task.earlier[name] for name in self.members]
        costs = {}
        for one in dataclasses.fields(cells[0].costs):
            values = [getattr(cell.costs, one.name) for cell in cells]
            known = [value for value in values if value is not None]
            # What one member does not say makes the sum unknown, but members trained elsewhere train for nothing.
            costs[one.name] = (
                sum(known) if known and (len(known) == len(values) or one.name == "train_s") else None
            )
        proba = np.mean([cell.proba for cell in cells], axis=0)
        return Outcome(task.pictures.labels, proba, costs=dataclasses.replace(cells[0].costs, **costs))


def size_mb_of(artifact: ModelArtifact) -> float:
    """Of the files that predicting needs: the graphs, and the backbone's weights."""
    needed = [artifact.folder / name for name in artifact.files if name.endswith((".onnx", ".skops"))]
    if any(path.name == "head.onnx" for path in needed):
        needed = [path for path in needed if path.name != "head.skops"]
    embedder = artifact.record.parts.get("embedder")
    if embedder and embedder.get("weights"):
        needed.append(Path(embedder["weights"]))
    return sum(path.stat().st_size for path in needed if path.is_file()) / 1e6


def history_of(artifact: ModelArtifact) -> tuple[dict[str, float], ...]:
    """The learning curve that training left in the folder."""
    if "history.csv" not in artifact.files:
        return ()
    text = artifact.file("history.csv").read_text(encoding="utf-8")
    rows = [
        {name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(io.StringIO(text))
    ]
    return tuple({name: value for name, value in row.items() if np.isfinite(value)} for row in rows)
