"""What an audit found as files that other annotation programs import: Label Studio and FiftyOne."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from ferkit.audit.findings import Action, Audit, Finding
from ferkit.core.files import write_json

LABEL_STUDIO, FIFTYONE = "label-studio.json", "fiftyone-labels.json"


def write_exchange(audit: Audit, folder: Path) -> list[Path]:
    """Write ``label-studio.json`` and ``fiftyone-labels.json``; the images stay where they are.

    Raises:
        FerkitError: the folder cannot be written.
    """
    written = folder / LABEL_STUDIO, folder / FIFTYONE
    write_json(written[0], label_studio_tasks(audit))
    write_json(written[1], fiftyone_labels(audit))
    return list(written)


def label_studio_tasks(audit: Audit) -> list[dict[str, Any]]:
    """A task for each image with a finding, the gravest of its findings first in ``data``.

    The suggested label is a prediction of the choice ``label``. Images are addressed below the data set's root, which
    Label Studio serves as local files.
    """
    tasks = []
    for row, found in _by_image(audit).items():
        sample, (finding, action) = audit.dataset.samples[row], found[0]
        data = {
            "image": f"/data/local-files/?d={quote(sample.path, errors='surrogateescape')}",
            "path": sample.path,
            "label": sample.label,
            "finding": finding.kind,
            "findings": ", ".join(dict.fromkeys(one.kind for one, _ in found)),
            "suggestion": action.verb,
        }
        choice = action.value if action.verb == "relabel" else sample.label
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
        predictions = [{"model_version": "ferkit audit", "score": finding.severity, "result": [result]}]
        tasks.append({"data": data, "predictions": predictions if choice is not None else []})
    return tasks


def fiftyone_labels(audit: Audit) -> dict[str, Any]:
    """The labels of a ``FiftyOneImageClassificationDataset``: image without suffix to the gravest finding."""
    labels = {}
    for row, found in _by_image(audit).items():
        sample, (finding, action) = audit.dataset.samples[row], found[0]
        attributes = {"label": sample.label or "", "suggestion": action.verb, "value": action.value}
        name = sample.path.removesuffix(Path(sample.path).suffix)
        labels[name] = {"label": finding.kind, "confidence": finding.severity, "attributes": attributes}
    return {"labels": labels}


def _by_image(audit: Audit) -> dict[int, list[tuple[Finding, Action]]]:
    """Row to its findings; they are in order, the gravest first."""
    found: dict[int, list[tuple[Finding, Action]]] = {}
    for finding in audit.findings:
        for row, action in zip(finding.rows, finding.suggested, strict=True):
            found.setdefault(row, []).append((finding, action))
    return found
