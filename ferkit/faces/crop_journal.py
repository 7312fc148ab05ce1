"""What a cropping run has done: a line an image, written after its crops, so that a killed run can be gone on with."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ferkit.core.errors import DataError, FerkitError, SettingsMismatchError
from ferkit.core.files import (
    differing_keys,
    exclusive_lock,
    settings_dict,
    why_not_written,
    write_atomically,
    write_json,
)
from ferkit.faces.crop_image import CropOutcome, CropRunSettings, Status

FOLDER = ".crop"
"""Within the output folder; readers of folders pass over names that begin with a dot."""

VERSION = 1


@dataclass(frozen=True, slots=True)
class FaceRecord:
    """One face: what became of it, and the file of its crop with its size in bytes, if there is one."""

    outcome: CropOutcome
    output: str | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image.

    Attributes:
        path: of its sample.
        key: changes with the image's content, its boxes and its crops' names; empty if it could not be read, so
            that it is tried again.
        faces: one or more.
    """

    path: str
    key: str
    faces: tuple[FaceRecord, ...]

    def line(self) -> bytes:
        faces = [[*asdict(face.outcome).values(), face.output, face.size] for face in self.faces]
        text = json.dumps([self.path, self.key, faces], ensure_ascii=False, separators=(",", ":"))
        return (
            text.encode("utf-8", "surrogateescape") + b"\n"
        )  # names that are not UTF-8 stay the bytes they are

    @staticmethod
    def of(line: bytes) -> "ImageRecord":
        path, key, faces = json.loads(line.decode("utf-8", "surrogateescape"))
        return ImageRecord(path, key, tuple(_face(*values) for values in faces))


def _face(
    status: str, reason: str, mark: int | None, box: list[float] | None, score: float | None,
    sharpness: float | None, output: str | None, size: int,
) -> FaceRecord:  # fmt: skip
    corners = None if box is None else (box[0], box[1], box[2], box[3])
    return FaceRecord(CropOutcome(Status(status), reason, mark, corners, score, sharpness), output, size)


@dataclass
class Journal:
    """The records of one output folder; made by :func:`open_journal`.

    Attributes:
        out: the output folder.
        records: by the images' paths, the latest of each.
        outputs: every crop that was ever written and not removed.
    """

    out: Path
    records: dict[str, ImageRecord] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)

    def is_current(self, path: str, key: str) -> bool:
        """Whether an image's crops are there, as this key would make them."""
        record = self.records.get(path)
        return record is not None and record.key == key and all(self._is_whole(f) for f in record.faces)

    def write_crop(self, output: str, content: bytes) -> None:
        """Put a crop in its place, whole or not at all.

        Raises:
            FerkitError: the disk is full, or the folder cannot be written.
        """
        path, temporary = self.out / output, self.out / FOLDER / "unfinished"
        try:
            temporary.write_bytes(content)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without waiting for the disk: after a power cut the file's size tells, and it is made again.
            os.replace(temporary, path)
        except OSError as error:
            raise FerkitError(why_not_written(path, error)) from error

    def add(self, record: ImageRecord) -> None:
        """Remember an image, whose crops are written.

        Raises:
            FerkitError: the disk is full, or the folder cannot be written.
        """
        try:
            with (self.out / FOLDER / "journal").open("ab") as file:
                file.write(record.line())
        except OSError as error:
            raise FerkitError(why_not_written(self.out / FOLDER / "journal", error)) from error
        self._take(record)

    def keep_only(self, paths: Iterable[str]) -> int:
        """Forget all images but these, and remove crops that none of these has; gives how many were removed.

        Raises:
            FerkitError: the disk is full, or the folder cannot be written.
        """
        wanted = set(paths)
        kept = {path: record for path, record in self.records.items() if path in wanted}
        valid = {face.output for record in kept.values() for face in record.faces if face.output}
        stale = [self.out / output for output in sorted(self.outputs - valid)]
        for file in stale:
            file.unlink(missing_ok=True)
        if stale or len(kept) < len(self.records):
            lines = b"".join(record.line() for record in kept.values())
            write_atomically(self.out / FOLDER / "journal", lambda file: file.write(lines))
        self.records, self.outputs = kept, valid
        return len(stale)

    def _is_whole(self, face: FaceRecord) -> bool:
        if face.output is None:
            return True
        try:
            return (self.out / face.output).stat().st_size == face.size
        except OSError:
            return False

    def _take(self, record: ImageRecord) -> None:
        self.records[record.path] = record
        self.outputs.update(face.output for face in record.faces if face.output)

    def _load(self) -> None:
        file = self.out / FOLDER / "journal"
        content = file.read_bytes() if file.is_file() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # a line that a kill tore
            os.truncate(file, whole)
        for line in content[:whole].splitlines():
            with contextlib.suppress(ValueError, TypeError, IndexError):  # a power cut may leave zeros
                self._take(ImageRecord.of(line))


@contextlib.contextmanager
def open_journal(
    out: Path, settings: CropRunSettings, source: Path, *, redo: bool = False
) -> Iterator[Journal]:
    """The journal of ``out``, which nobody else writes to meanwhile.

    Args:
        out: an output folder; new, empty, or one that was made by cropping.
        settings: what it was, or will be, made with.
        source: what it is made from.
        redo: where it was made with other settings or from something else, begin anew.

    Raises:
        DataError: the folder holds something else.
        SettingsMismatchError: it was made with other settings or from something else.
        FerkitError: it cannot be written.
    """
    folder = out / FOLDER
    if out.exists() and not folder.is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"expected a new or empty folder, or one that 'fer crop' made, found other files in {out}; choose another"
        )
    with exclusive_lock(folder / "lock", "cropping into"):
        described = {"version": VERSION, "source": str(source.resolve()), **settings_dict(settings)}
        journal = Journal(out)
        try:
            journal._load()
            if redo:
                journal.keep_only(())
            elif (differing := _differences(folder / "settings.json", described)) and journal.records:
                raise SettingsMismatchError(
                    f"the crops in {out} were made with another {', '.join(differing)}; choose another folder, or add "
                    "--redo to make all of them anew"
                )
        except OSError as error:
            raise FerkitError(why_not_written(Path(error.filename or folder), error)) from error
        write_json(folder / "settings.json", described)
        yield journal


def _differences(file: Path, described: dict[str, Any]) -> list[str]:
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError:
        return ["version"]
    return differing_keys(before, json.loads(json.dumps(described)))
