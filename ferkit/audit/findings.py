"""What an audit finds: the vocabulary of its checks, its page and its files."""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

from ferkit.core.texts import Translations
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.image_stats import ImageStats

Kind = Literal[
    "unreadable",
    "label_conflict",
    "split_copy",
    "split_person",
    "wrong_label",
    "blank",
    "not_a_face",
    "exact_copy",
    "near_copy",
    "outlier",
    "blurred",
    "tiny",
]
KINDS: tuple[Kind, ...] = (
    "unreadable", "label_conflict", "split_copy", "split_person", "wrong_label", "blank", "not_a_face",
    "exact_copy", "near_copy", "outlier", "blurred", "tiny",
)  # fmt: skip
"""All kinds, the gravest first: what falsifies a score, then what spoils training, then what is merely poor."""

Verb = Literal["keep", "drop", "relabel", "same-person"]
VERBS: tuple[Verb, ...] = ("keep", "drop", "relabel", "same-person")


@dataclass(frozen=True, slots=True)
class Action:
    """What may be done to one image.

    Attributes:
        verb: ``keep`` leaves it as it is; ``drop`` leaves it out of the manifest, the file stays; ``relabel``
            gives it the label ``value``; ``same-person`` gives it the group ``value``.
        value: label or group.
    """

    verb: Verb
    value: str = ""


KEEP = Action("keep")
DROP = Action("drop")


@dataclass(frozen=True)
class Finding:
    """One thing to decide, about one image or several that belong together.

    Attributes:
        kind: what is wrong.
        rows: positions in the data set's samples.
        severity: 0..1, comparable within a kind.
        suggested: what to do about each row.
        facts: what a person needs to know to decide: numbers and names.
    """

    kind: Kind
    rows: tuple[int, ...]
    severity: float
    suggested: tuple[Action, ...]
    facts: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """How far two parts of the data differ in one respect.

    Attributes:
        what: ``pictures`` (can a classifier tell the parts apart from the embeddings?), ``label``, ``width``,
            ``height``, ``brightness``, ``contrast``, ``sharpness``, or the name of an attribute.
        measure: ``AUC``, ``KS`` (Kolmogorov-Smirnov) or ``TV`` (total variation).
        value: 0.5..1 for AUC, 0..1 for the others.
        p: of a test that there is no difference; no correction for the number of tests.
        detail: what differs most, in words.
    """

    what: str
    measure: Literal["AUC", "KS", "TV"]
    value: float
    p: float
    detail: str = ""


@dataclass(frozen=True)
class Drift:
    """How two parts, or two data sets, differ; what tells most comes first."""

    first: str
    second: str
    n_first: int
    n_second: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Note:
    """What a reader must know to judge the findings; :func:`ferkit.audit.findings.findings_text` puts it into words.

    Attributes:
        key: of the words.
        fields: what is filled in.
    """

    key: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """Everything that was found.

    Attributes:
        dataset: what was looked at.
        stats: its images.
        findings: by kind, the gravest first, and by severity within a kind.
        drift: between parts of the data set, or to another one.
        notes: what was not looked at, and why; what the findings rest on.
        embeddings: what they were computed with; None without any.
    """

    dataset: Dataset
    stats: ImageStats
    findings: tuple[Finding, ...]
    drift: tuple[Drift, ...] = ()
    notes: tuple[Note, ...] = ()
    embeddings: str | None = None

    def of(self, kind: Kind) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def counts(self) -> dict[Kind, int]:
        """Number of findings of each kind, the gravest kind first."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS}


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """By kind, severity and first image."""
    place = {kind: i for i, kind in enumerate(KINDS)}
    return tuple(sorted(findings, key=lambda f: (place[f.kind], -f.severity, f.rows)))


def findings_text(note: Note, language: str = "en") -> str:
    """A note as a reader of ``language`` (``en`` or ``ko``) reads it."""
    return Translations(language, "audit")(f"note.{note.key}", **note.fields)


@functools.cache
def text_of(name: str) -> str:
    """One of the files that the page is made of."""
    return resources.files("ferkit.audit.templates").joinpath(name).read_text(encoding="utf-8")
