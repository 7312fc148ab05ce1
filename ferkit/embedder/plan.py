"""A plan: which shards a store is to get, so that several machines can make them without asking each other.

``plan.json`` next to the shards says what was asked for and where each range is listed; ``plan-00000.jsonl`` has a line
a range, and every later planning adds one such file. A range is a shard to be made: its number and its images.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ferkit.core.errors import DataError, StoreDamagedError
from ferkit.core.files import parse_json, write_atomically, write_json
from ferkit.datasets.dataset import Sample
from ferkit.faces.cropping import CropKind

_AGAIN = "delete it and run 'fer embed' with --plan again; the shards that are there stay"


@dataclass(frozen=True)
class Range:
    """A shard that is to be made.

    Attributes:
        number: of the shard.
        samples: its images, sorted by path.
    """

    number: int
    samples: Sequence[Sample]


def new_ranges(todo: Sequence[Sample], numbers: Iterator[int], rows_per_shard: int) -> Iterator[Range]:
    """Divide samples among new shards with these numbers."""
    for first in range(0, len(todo), rows_per_shard):
        yield Range(next(numbers), todo[first : first + rows_per_shard])


@dataclass(frozen=True)
class Request:
    """What was asked for when a store was planned; what became of it is in the manifest.

    Attributes:
        backbone, layer, detector: as asked for.
        weights, detector_weights: files that were named.
    """

    backbone: str
    layer: str | None = None
    detector: str = "auto"
    weights: str | None = None
    detector_weights: str | None = None

    def differing(self, asked: Mapping[str, str]) -> list[str]:
        """Which of the values in ``asked`` are others."""
        return [f"{key} {value}" for key, value in asked.items() if value != getattr(self, key)]


@dataclass(frozen=True)
class Plan:
    """What stands in ``plan.json``.

    Attributes:
        request: what was asked for.
        crops: see :data:`ferkit.faces.cropping.CropKind`.
        weights, licence, cosine: see :class:`ferkit.embedder.store.Snapshot`.
        witnesses: SHA-256 of some of the images, by which other machines see that they have the same data.
        ranges: number of the shard, file that lists its images, place in that file, and how many they are.
    """

    request: Request
    crops: CropKind
    weights: str | None
    licence: str
    cosine: float | None
    witnesses: Mapping[str, str]
    ranges: Sequence[Sequence[int]]

    @property
    def numbers(self) -> list[int]:
        """Of the shards, in order."""
        return [number for number, *_ in self.ranges]

    @staticmethod
    def read(folder: Path) -> "Plan | None":
        """The plan of the store in ``folder``; None if it has none. Raises StoreDamagedError if it cannot be read."""
        path = folder / "plan.json"
        if not path.exists():
            return None
        try:
            values = parse_json(path.read_bytes())
            return Plan(Request(**values.pop("request")), **values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreDamagedError(f"{path} cannot be read ({error}); {_AGAIN}") from None

    def extended(self, folder: Path, ranges: Iterable[Range]) -> "Plan":
        """Write the plan with further ranges; they are listed first, the plan itself is the commit mark.

        Raises:
            FerkitError: it cannot be written.
        """
        number = 1 + max((file for _, file, *_ in self.ranges), default=-1)
        known = list(self.ranges)

        def write(file: Any) -> None:
            for one in ranges:
                known.append([one.number, number, file.tell(), len(one.samples)])
                rows = [[s.path, s.label, s.split, s.group, s.box] for s in one.samples]
                line = json.dumps({"shard": one.number, "rows": rows}, ensure_ascii=False)
                file.write(f"{line}\n".encode("utf-8", "surrogateescape"))

        write_atomically(_listing(folder, number), write)
        plan = replace(self, ranges=known)
        write_json(folder / "plan.json", vars(plan) | {"request": vars(plan.request)})
        return plan

    def load(self, folder: Path, numbers: Iterable[int]) -> Iterator[Range]:
        """The ranges of these shards, one after the other.

        Raises:
            StoreDamagedError: the listing is not what was written.
        """
        places = {number: (file, offset, n) for number, file, offset, n in self.ranges}
        for number in numbers:
            file, offset, n = places[number]
            path = _listing(folder, file)
            try:
                with path.open("rb") as listing:
                    listing.seek(offset)
                    line = parse_json(listing.readline())
                rows = [
                    Sample(path, label, split, group, tuple(box) if box else None)
                    for path, label, split, group, box in line["rows"]
                ]
                whole = line["shard"] == number and len(rows) == n
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreDamagedError(f"{path} cannot be read ({error}); {_AGAIN}") from None
            if not whole:
                raise StoreDamagedError(f"{path} is not what was written; {_AGAIN}")
            yield Range(number, rows)


def _listing(folder: Path, number: int) -> Path:
    return folder / f"plan-{number:05d}.jsonl"


@dataclass(frozen=True)
class Part:
    """The ``index``-th of ``n`` parts, counted from 1."""

    index: int
    n: int

    def of(self, numbers: Sequence[int]) -> Sequence[int]:
        """The shards of this part: successive ones, so that what lies together is read together."""
        return numbers[(self.index - 1) * len(numbers) // self.n : self.index * len(numbers) // self.n]


def parse_part(text: str, environment: Mapping[str, str] | None = None) -> Part:
    """Read ``3/64``, or ``auto`` or ``auto/64``, which take the index that Slurm or Kubernetes gives to a process.

    Args:
        text: what a user wrote.
        environment: variables; None for those of this process.

    Raises:
        DataError: it is none of these, or the variables are not there.
    """
    known = os.environ if environment is None else environment
    match = re.fullmatch(r"(auto|\d+)(?:/(\d+))?", text.strip())
    if match is None or (match[1] != "auto" and match[2] is None):
        raise DataError(f"expected a part such as 3/64, auto or auto/64, found {text!r}")
    index, n = match[1], int(match[2] or 0)
    part = Part(int(index), n) if index != "auto" else _given_part(known, n)
    if not 1 <= part.index <= part.n:
        raise DataError(f"expected a part from 1 to {part.n}, found {part.index}")
    return part


def _given_part(known: Mapping[str, str], n: int) -> Part:
    slurm = {key: known.get(f"SLURM_ARRAY_TASK_{key}", "") for key in ("ID", "MIN", "MAX", "STEP", "COUNT")}
    if slurm["ID"].isdigit():
        number = {key: int(value) for key, value in slurm.items() if value.isdigit()}
        least, step = number.get("MIN", 0), max(1, number.get("STEP", 1))
        count = number.get("COUNT", 0)
        if not n and (number.get("MAX", -1) - least) // step + 1 != count:
            raise DataError(
                "expected a Slurm array without gaps, such as --array=1-64, to tell the part by; give --part auto/64, "
                "where 64 is how many there are in all"
            )
        return Part((number["ID"] - least) // step + 1, n or count)
    index = known.get("JOB_COMPLETION_INDEX", "")
    if index.isdigit():
        if not n:
            raise DataError(
                "Kubernetes does not tell a pod how many there are; give --part auto/64 for a job with completions: 64"
            )
        return Part(int(index) + 1, n)
    raise DataError(
        "expected SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX in the environment for --part auto, found neither; give "
        "--part 3/64"
    )
