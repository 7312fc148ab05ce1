"""An audit as plain values: for the JSON file, the CSV table and the page."""

import csv
import io
from collections import Counter
from dataclasses import asdict
from typing import Any

from ferkit.audit.findings import Audit, Finding
from ferkit.audit.words import sentence
from ferkit.core.files import csv_cell
from ferkit.core.labels import LabelSet

_MOST_PICTURES = 12
"""Of one finding, shown on the page; all are in the table."""


def audit_values(audit: Audit) -> dict[str, Any]:
    """Everything, as plain JSON values; findings refer to pictures by path."""
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
        "notes": [sentence(note) for note in audit.notes],
        "drift": [asdict(drift) for drift in audit.drift],
        "findings": [_finding(audit, finding) for finding in audit.findings],
    }


def findings_csv(audit: Audit) -> str:
    """A row for each picture of each finding, in the order of the page."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ("finding", "kind", "severity", "path", "label", "split", "group", "suggestion", "value", "facts")
    )
    for number, finding in enumerate(audit.findings, 1):
        facts = "; ".join(f"{name} {_short(value)}" for name, value in finding.facts.items())
        for row, action in zip(finding.rows, finding.suggested, strict=True):
            s = audit.dataset.samples[row]
            known = map(csv_cell, (s.path, s.label, s.split, s.group))
            said = map(csv_cell, (action.value, facts))
            writer.writerow((number, finding.kind, f"{finding.severity:.4f}", *known, action.verb, *said))
    return buffer.getvalue()


def page_values(audit: Audit, most: int) -> dict[str, Any]:
    """What the page shows: of each kind the ``most`` gravest findings, and the pictures in these."""
    values = audit_values(audit)
    shown: list[dict[str, Any]] = []
    rows: dict[int, None] = {}
    for kind in values["counts"]:
        for finding in audit.of(kind)[:most]:
            first = finding.rows[:_MOST_PICTURES]
            rows.update(dict.fromkeys(first))
            shown.append({
                "kind": kind,
                "severity": round(finding.severity, 4),
                "facts": dict(finding.facts),
                "more": len(finding.rows) - len(first),
                "rows": first,
                "suggested": [[a.verb, a.value] for a in finding.suggested[: len(first)]],
            })  # fmt: skip
    samples, seen = audit.dataset.samples, audit.survey
    names = LabelSet.of(values["classes"]) if values["classes"] else None
    return {
        **{key: value for key, value in values.items() if key != "findings"},
        "notes": {language: [sentence(note, language) for note in audit.notes] for language in ("en", "ko")},
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
            for language in ("en", "ko")
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
