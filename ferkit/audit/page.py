"""An audit as one HTML page with its pictures, in which a person ticks what should be done."""

import functools
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.audit.findings import Audit
from ferkit.audit.values import audit_values, findings_csv, page_values
from ferkit.audit.words import all_words, text_of
from ferkit.core.files import write_atomically, write_json
from ferkit.core.fingerprint import fingerprint
from ferkit.evaluation.gallery import thumbnails
from ferkit.faces.crop import square_crop

MOST = 100
"""Findings of a kind that the page shows: more than a person goes through, and a page that still opens at once."""

_MARGIN = 0.15


def write_audit(audit: Audit, folder: Path, language: str = "en", most: int = MOST) -> list[Path]:
    """Write ``audit.html``, ``findings.csv`` and ``audit.json``, over those of an earlier audit.

    Returns:
        The files, the page first.

    Raises:
        FerkitError: the folder cannot be written.
    """
    page, table, values = (folder / name for name in ("audit.html", "findings.csv", "audit.json"))
    write_json(values, audit_values(audit))
    # The mark tells Korean spreadsheet programs that it is UTF-8.
    content = b"\xef\xbb\xbf" + findings_csv(audit).encode("utf-8", "surrogateescape")
    write_atomically(table, lambda file: file.write(content))
    html = render_page(audit, language, most).encode("utf-8", "replace")
    write_atomically(page, lambda file: file.write(html))
    return [page, table, values]


def render_page(audit: Audit, language: str = "en", most: int = MOST) -> str:
    """The page; it needs nothing else, and sends nothing anywhere.

    Args:
        audit: what was found.
        language: it opens in, ``en`` or ``ko``; a button changes it.
        most: findings of each kind that are shown, the gravest.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    values = page_values(audit, most)
    values["images"] = thumbnails(values["rows"], functools.partial(_face, audit))
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
        words=Markup(_inlined(all_words())),
    )


def _inlined(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _face(audit: Audit, row: int) -> np.ndarray:
    sample = audit.dataset.samples[row]
    rgb = audit.dataset.read(sample)
    return rgb if sample.box is None else square_crop(rgb, np.array(sample.box, np.float32), _MARGIN)
