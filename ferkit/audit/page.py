"""An audit as one HTML page in which a person ticks what should be done, and as files for other programs."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ferkit.audit.checks import cut_face
from ferkit.audit.findings import Action, Audit, Finding, findings_text, text_of
from ferkit.core.files import fingerprint, write_atomically, write_csv, write_json
from ferkit.core.labels import LabelSet
from ferkit.core.texts import LANGUAGES, text_table
from ferkit.evaluation.plots import thumbnails

_MOST_IMAGES = 12
"""Of one finding, shown on the page; all are in the table."""


def audit_values(audit: Audit) -> dict[str, Any]:
    """Everything, as plain JSON values; findings refer to images by path."""
    samples = audit.dataset.samples
    labels = Counter(sample.label for sample in samples if sample.label is not None)
    return {
        "name": audit.dataset.name,
        "root": str(audit.dataset.root),
        "pictures": len(samples),
        "persons": len({sample.group for sample in samples if sample.group is not None}),
        "classes": dict(sorted(labels.items())),
        "splits": dict(sorted(Counter(s.split for s in samples if s.split is not None).items())),
        "imbalance": max(labels.values()) / min(labels.values()) if labels else None,
        "embeddings": audit.embeddings,
        "counts": audit.counts(),
        "notes": [findings_text(note) for note in audit.notes],
        "drift": [asdict(drift) for drift in audit.drift],
        "findings": [_finding(audit, finding) for finding in audit.findings],
    }


_COLUMNS = ("finding", "kind", "severity", "path", "label", "split", "group", "suggestion", "value", "facts")


def finding_rows(audit: Audit) -> Iterator[tuple[object, ...]]:
    """A row of ``findings.csv`` for each image of each finding, in the order of the page."""
    for number, finding in enumerate(audit.findings, 1):
        facts = "; ".join(f"{name} {_short(value)}" for name, value in finding.facts.items())
        for row, action in zip(finding.rows, finding.suggested, strict=True):
            s = audit.dataset.samples[row]
            known = (s.path, s.label, s.split, s.group)
            yield number, finding.kind, f"{finding.severity:.4f}", *known, action.verb, action.value, facts


def page_values(audit: Audit, most: int) -> dict[str, Any]:
    """What the page shows: of each kind the ``most`` gravest findings, and the images in these."""
    values = audit_values(audit)
    shown: list[dict[str, Any]] = []
    rows: dict[int, None] = {}
    for kind in values["counts"]:
        for finding in audit.of(kind)[:most]:
            first = finding.rows[:_MOST_IMAGES]
            rows.update(dict.fromkeys(first))
            shown.append({
                "kind": kind,
                "severity": round(finding.severity, 4),
                "facts": dict(finding.facts),
                "more": len(finding.rows) - len(first),
                "rows": first,
                "suggested": [[a.verb, a.value] for a in finding.suggested[: len(first)]],
            })  # fmt: skip
    samples, seen = audit.dataset.samples, audit.stats
    names = LabelSet.from_names(values["classes"]) if values["classes"] else None
    return {
        **{key: value for key, value in values.items() if key != "findings"},
        "notes": {
            language: [findings_text(note, language) for note in audit.notes] for language in LANGUAGES
        },
        "shown": shown,
        "rows": {
            row: {
                "path": samples[row].path,
                "label": samples[row].label or "",
                "split": samples[row].split or "",
                "group": samples[row].group or "",
                "content": seen.content[row].decode(),
                "size": f"{seen.size_wh[row, 0]}×{seen.size_wh[row, 1]}",
            }
            for row in rows
        },
        "names": {
            language: dict(zip(names.names, names.display(language), strict=True)) if names else {}
            for language in LANGUAGES
        },
    }


def _finding(audit: Audit, finding: Finding) -> dict[str, Any]:
    samples = audit.dataset.samples
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "paths": [samples[row].path for row in finding.rows],
        "suggested": [asdict(action) for action in finding.suggested],
        "facts": dict(finding.facts),
    }


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


MOST = 100
"""Findings of a kind that the page shows: more than a person goes through, and a page that still opens at once."""


def write_audit(audit: Audit, folder: Path, language: str = "en", most: int = MOST) -> list[Path]:
    """Write ``audit.html``, ``findings.csv``, ``audit.json`` and what other programs import, over an earlier audit's.

    Returns:
        The files, the page first.

    Raises:
        FerkitError: the folder cannot be written.
    """
    page, table, values = (folder / name for name in ("audit.html", "findings.csv", "audit.json"))
    write_json(values, audit_values(audit))
    write_csv(table, _COLUMNS, finding_rows(audit), marked=True)
    html = render_page(audit, language, most).encode("utf-8", "replace")
    write_atomically(page, lambda file: file.write(html))
    return [page, table, values, *write_exchange(audit, folder)]


def render_page(audit: Audit, language: str = "en", most: int = MOST) -> str:
    """The page; it needs nothing else, and sends nothing anywhere.

    Args:
        audit: what was found.
        language: it opens in, ``en`` or ``ko``; a button changes it.
        most: findings of each kind that are shown, the gravest.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    values, samples = page_values(audit, most), audit.dataset.samples
    values["images"] = thumbnails(values["rows"], lambda row: cut_face(audit.dataset, samples[row]))
    values["labels"] = sorted(values["classes"])
    values["version"] = metadata.version("ferkit")
    # What was ticked is kept by the browser for this audit alone: another one has other findings.
    values["digest"] = fingerprint([values["root"], values["shown"]])[:16]
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(text_of("audit.html")).render(
        language=language,
        title=f"Audit of {audit.dataset.name}",
        css=Markup(text_of("audit.css")),
        script=Markup(text_of("audit.js")),
        values=Markup(_inlined(values)),
        words=Markup(_inlined(text_table()["audit"])),
    )


def _inlined(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


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
