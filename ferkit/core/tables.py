"""Tables for the terminal, in which Hangul counts as the two columns that it takes."""

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Columns that a terminal gives to ``text``."""
    columns = (
        2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text if not unicodedata.combining(c)
    )
    return sum(columns)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Aligned columns under a header; the columns numbered in ``right`` end flush.

    >>> print(table(["class", "n"], [["happy", "12"], ["슬픔", "7"]], right=[1]))
    class   n
    happy  12
    슬픔    7
    """
    widths = [max(width(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = []
        for i, cell in enumerate(row):
            space = " " * (widths[i] - width(cell))
            cells.append(space + cell if i in right else cell + space)
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in (header, *rows))
