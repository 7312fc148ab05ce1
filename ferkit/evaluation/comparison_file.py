"""Comparisons on disk: ``comparison.json`` for readers, ``comparison.npz`` beside it for the arrays."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import parse_json, read_regular, write_atomically, write_json
from ferkit.core.labels import LabelSet
from ferkit.evaluation.comparison import (
    Cell,
    Comparison,
    ContenderResult,
    Costs,
    DataUsed,
    PairTest,
    ProtocolSettings,
    SplitRows,
)

FORMAT = 1
JSON_NAME = "comparison.json"
NPZ_NAME = "comparison.npz"


def save_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write both files into ``folder``; the JSON, written last, says that both are there.

    Returns:
        The JSON file.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    arrays: dict[str, np.ndarray] = {"source": comparison.source}
    for name in ("y", "paths", "groups"):
        arrays[name] = _pack(getattr(comparison, name))
    for column, values in comparison.attributes.items():
        arrays[f"attribute/{column}"] = _pack(values)
    for r, split in enumerate(comparison.splits):
        for name in ("train", "test", "leaking"):
            arrays[f"split/{r}/{name}"] = getattr(split, name)
    for i, one in enumerate(comparison.contenders):
        arrays[f"seen/{i}"] = one.seen
        for cell in one.cells:
            arrays[f"proba/{i}/{cell.repeat}"] = cell.proba.astype(np.float32)
    write_atomically(folder / NPZ_NAME, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
    write_json(folder / JSON_NAME, to_dict(comparison))
    return folder / JSON_NAME


def load_comparison(folder: Path) -> Comparison:
    """What :func:`save_comparison` wrote.

    Raises:
        DataError: there is none, or the files are damaged or of a newer ferkit.
    """
    path = folder / JSON_NAME
    try:
        values = parse_json(read_regular(path))
        if values["format"] > FORMAT:
            raise DataError(
                f"{path} has format {values['format']}, this ferkit reads {FORMAT}; update ferkit"
            )
        with np.load(folder / NPZ_NAME, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _from_parts(values, arrays)
    except FileNotFoundError as error:
        raise DataError(
            f"expected a comparison in {folder}, found no {Path(error.filename).name}; run 'fer compare'"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read ({error}); run 'fer compare' again") from None


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Everything but the single pictures, as JSON values; each contender with its figures."""
    return {
        "format": FORMAT,
        "name": comparison.name,
        "date": comparison.date,
        "labels": {"name": comparison.labels.name, "names": list(comparison.labels.names)},
        "data": [asdict(one) for one in comparison.data],
        "protocol": asdict(comparison.protocol),
        "splits": [
            {
                "seed": split.seed,
                "origin": split.origin,
                "train_rows": len(split.train),
                "test_rows": len(split.test),
                "leaking_rows": len(split.leaking),
            }
            for split in comparison.splits
        ],
        "contenders": [_contender_to_dict(comparison, one) for one in comparison.contenders],
        "pairs": [
            {name: None if value != value else value for name, value in asdict(pair).items()}
            for pair in comparison.pairs
        ],
        "leaks": comparison.leaks,
        "notes": list(comparison.notes),
        "versions": dict(comparison.versions),
        "machine": dict(comparison.machine),
    }


def _contender_to_dict(comparison: Comparison, one: ContenderResult) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": one.name,
        "kind": one.kind,
        "failure": one.failure,
        "unmapped": list(one.unmapped),
        "unreached": list(one.unreached),
        "seen_rows": len(one.seen),
        "notes": list(one.notes),
        "costs": asdict(one.costs),
        "cells": [
            {
                "repeat": cell.repeat,
                "costs": asdict(cell.costs),
                "history": [dict(entry) for entry in cell.history],
                "notes": list(cell.notes),
            }
            for cell in one.cells
        ],
    }
    if one.failure is None:
        values["evaluation"] = comparison.evaluation(one.name).to_dict()
        if comparison.separable:
            clean = comparison.evaluation(one.name, with_leaks=False)
            values["evaluation_without_leaks"] = clean.to_dict()
    return values


def _from_parts(values: dict[str, Any], arrays: dict[str, np.ndarray]) -> Comparison:
    protocol = values["protocol"] | {"by": tuple(values["protocol"]["by"])}
    return Comparison(
        name=values["name"],
        labels=LabelSet(tuple(values["labels"]["names"]), values["labels"]["name"]),
        y=_unpack(arrays["y"]),
        paths=_unpack(arrays["paths"]),
        groups=_unpack(arrays["groups"]),
        source=arrays["source"],
        data=tuple(DataUsed(**one) for one in values["data"]),
        attributes={
            name.removeprefix("attribute/"): _unpack(packed)
            for name, packed in arrays.items()
            if name.startswith("attribute/")
        },
        protocol=ProtocolSettings(**protocol),
        splits=tuple(
            SplitRows(
                one["seed"],
                one["origin"],
                *(arrays[f"split/{r}/{name}"] for name in ("train", "test", "leaking")),
            )
            for r, one in enumerate(values["splits"])
        ),
        contenders=tuple(_contender(i, one, arrays) for i, one in enumerate(values["contenders"])),
        pairs=tuple(_pair(one) for one in values["pairs"]),
        leaks=values["leaks"],
        notes=tuple(values["notes"]),
        versions=values["versions"],
        machine=values["machine"],
        date=values["date"],
    )


def _contender(i: int, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> ContenderResult:
    cells = tuple(
        Cell(
            one["repeat"],
            arrays[f"proba/{i}/{one['repeat']}"],
            Costs(**one["costs"]),
            tuple(one["history"]),
            tuple(one["notes"]),
        )
        for one in values["cells"]
    )
    return ContenderResult(
        values["name"],
        values["kind"],
        cells,
        values["failure"],
        tuple(values["unmapped"]),
        tuple(values["unreached"]),
        arrays[f"seen/{i}"],
        tuple(values["notes"]),
    )


def _pair(values: dict[str, Any]) -> PairTest:
    known: dict[str, Any] = {name: float("nan") if value is None else value for name, value in values.items()}
    return PairTest(**known)


def _pack(strings: np.ndarray | Sequence[str | None]) -> np.ndarray:
    # JSON as bytes keeps None and file names that are not UTF-8, which arrays of text cannot without pickling.
    text = json.dumps([None if value is None else str(value) for value in strings])
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)


def _unpack(packed: np.ndarray) -> np.ndarray:
    return np.array(json.loads(packed.tobytes().decode("utf-8", "surrogateescape")), object)
