"""Tell files from addresses, write them so that an interrupt leaves the old or the new one, and digest them."""

import contextlib
import csv
import dataclasses
import errno
import glob
import hashlib
import io
import itertools
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar

from ferkit.core.errors import DataError, DependencyError, FerkitError, StoreLockedError, mask_credentials

if TYPE_CHECKING:
    import numpy as np

_IN_USE = ".in-use"
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""What a lock says that somebody else holds."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems of clusters say that know no locks."""
_LOCKED_BYTES = 1 << 30


def as_path(given: str | os.PathLike[str]) -> Path:
    """The path of a file or folder, or of an address that fsspec knows, such as ``s3://bucket/faces``.

    What is at an address has the methods of a path, but is no :class:`pathlib.Path`; :func:`is_local` tells.

    Raises:
        DataError: it is empty, or something else.
        DependencyError: the packages that read such addresses are not installed.
    """
    if not (hasattr(given, "joinpath") or (isinstance(given, str) and given)):
        raise DataError(f"expected a path or an address, found {given!r}")
    text = os.fspath(given) if isinstance(given, (str, PurePath)) else ""
    if not is_stored(text):
        return Path(given) if text or isinstance(given, PurePath) else given  # type: ignore[return-value]
    try:
        from upath import UPath

        address: Any = UPath(text)
        _ = address.fs  # the package of this kind of address is imported here
    except (ImportError, ValueError) as error:
        shown = mask_credentials(text)
        raise DependencyError(
            f"{shown} cannot be opened ({mask_credentials(str(error))}); install: pip install 'ferkit[remote]'"
        ) from None
    return address


def is_local(path: Path) -> bool:
    """Whether a path is one of this machine's, and not an address."""
    return isinstance(path, PurePath)


def fresh(path: Path) -> Path:
    """The same path; what was remembered of an address is forgotten, since other machines write there too."""
    if not is_local(path):
        address: Any = path
        address.fs.invalidate_cache()
    return path


def spelled(path: Path) -> str:
    """A path from the root of its disk, or an address, in full: what :func:`as_path` opens from any folder."""
    return str(path.resolve()) if is_local(path) else str(path)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Create or replace ``path`` with what ``write`` puts into the open binary file it is given.

    The content goes to a temporary file next to ``path``, is flushed to the disk and moved into place, so that
    a crash, a full disk or ``kill -9`` leaves the old file or the new one, never a part. What a killed process left is
    taken over by the next one. What is no regular file, such as ``/dev/stdout`` or a pipe, is written to, not replaced.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    if not is_local(path):
        _put(path, write)
        return
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as target:
                write(target)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        file, temporary = _open_temporary(path)
        try:
            with file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                if os.name == "nt":  # pragma: no cover - what is open cannot be moved there
                    file.close()
                os.replace(temporary, path)
            sync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise FerkitError(why_not_written(path, error)) from error


def _put(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write an object of a store, which keeps the old one until the new one is whole."""
    content = io.BytesIO()
    write(content)
    address: Any = path
    try:
        address.fs.pipe_file(address.path, content.getvalue())
    except Exception as error:  # every package of a store has errors of its own
        known = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
        raise FerkitError(why_not_written(path, known)) from error


_FORMULA = (*"=+-@\t\r\n＝＋－＠",)
"""Signs that make a formula of a cell; East Asian spreadsheets take the wide ones, too."""


def csv_cell(text: str | None) -> str | None:
    """Text of others for a cell of a table, marked with an apostrophe where a spreadsheet would run it."""
    return f"'{text}" if text and text.lstrip("'").startswith(_FORMULA) else text


def csv_text(cell: str) -> str:
    """What :func:`csv_cell` was given; also without the sign that a number is a text for Excel, ``="01"``."""
    if cell[:1] not in ("'", "="):  # of millions of cells
        return cell
    if cell.startswith('="'):
        return cell[2:].removesuffix('"')
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that killed processes left in ``folder``; those that are being written stay."""
    for leftover in folder.glob(".*.tmp") if is_local(folder) else ():
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            _lock(file)
            leftover.unlink()


def temporary_folder(path: Path) -> tuple[Path, IO[bytes]]:
    """Make a folder next to ``path``, and delete those that killed processes left of it.

    Returns:
        The folder, and a file that says that it is in use until it is closed.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), (leftover / _IN_USE).open("rb") as file:
            _lock(file)
            shutil.rmtree(leftover)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    lock = (folder / _IN_USE).open("wb")
    _lock(lock)
    return folder, lock


def _open_temporary(path: Path) -> tuple[IO[bytes], Path]:
    """A temporary file next to ``path``, locked while it is open: always of one name, but if somebody writes there."""
    shared = path.with_name(f".{path.name}.tmp")
    node = f"{os.uname().nodename}-" if os.name == "posix" else ""
    own = path.with_name(f".{path.name}.{node}{os.getpid()}-{threading.get_ident()}.tmp")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    for temporary in itertools.chain([shared] if os.name == "posix" else [], itertools.repeat(own)):
        try:
            file = os.fdopen(os.open(temporary, flags, 0o666), "w+b")
        except OSError:
            if temporary is own:
                raise
            continue
        try:
            _lock(file)
        except OSError:
            # Held by another; or there are no locks, and another may well write to it.
            if temporary is not own:
                file.close()
                continue
        # Who held the lock before may have moved the file into place meanwhile, or deleted it.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(temporary)):
                file.truncate(0)
                return file, temporary
        file.close()
    raise AssertionError("the names never end")


def read_regular(path: str | os.PathLike[str], most: int = -1) -> bytes:
    """Read a file, or its first ``most`` bytes.

    Raises:
        OSError: it cannot be read, or is a pipe, device or socket: reading one may never end.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("not a regular file")
    with open(path, "rb") as file:
        return file.read(most)


def parse_json(content: str | bytes) -> Any:
    """Parse JSON; bytes are UTF-8, file names that are not pass through. Raises ValueError, however deep it is."""
    text = content.decode("utf-8-sig", "surrogateescape") if isinstance(content, bytes) else content
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_toml(content: str | bytes) -> dict[str, Any]:
    """Parse TOML; bytes are UTF-8. Raises ValueError, however deep it is."""
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = text.splitlines()[int(found[1]) - 1].strip() if found else ""
        key = re.match(r"[^\s=\"'\[{#.]+", line.strip("[]"))
        if key is None or key[0].isascii():
            raise
        quoted = line.replace(key[0], f'"{key[0]}"', 1)
        raise ValueError(
            f"{error}; line {found[1]}: put names in quotes that are not plain letters: {quoted}"  # type: ignore[index]
        ) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a user's TOML file. Raises DataError: it cannot be read, or is none."""
    return _read_parsed(path, parse_toml, "TOML")


def read_json(path: Path) -> Any:
    """The values of a user's JSON file. Raises DataError: it cannot be read, or is none."""
    return _read_parsed(path, parse_json, "JSON")


def _read_parsed(path: Path, parse: Callable[[bytes], Any], form: str) -> Any:
    try:
        return parse(read_regular(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; correct the path") from None
    except ValueError as error:
        raise DataError(f"{path} is no {form} file: {error}") from None


def json_values(value: Any) -> Any:
    """What JSON can hold of dataclasses, arrays and mappings; NaN becomes None.

    Fields that a dataclass leaves out of its ``repr`` are left out here too: arrays of one row an image.
    """
    if dataclasses.is_dataclass(value):
        return {f.name: json_values(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
    if isinstance(value, Mapping):
        return {name: json_values(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(one) for one in value]
    if hasattr(value, "tolist"):  # an array or a number of NumPy, which this module does not import
        return json_values(value.tolist())
    return None if value != value else value


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; file names that are not UTF-8 stay the bytes they are.

    Raises:
        FerkitError: see :func:`write_atomically`.
    """
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


@contextlib.contextmanager
def exclusive_lock(path: Path, doing: str, *, shared: bool = False, optional: bool = False) -> Iterator[None]:
    """Hold ``path`` as a lock that the operating system frees when the process ends, however it ends.

    Object stores have no locks: there nothing is held.

    Args:
        path: an empty file, made where it is not there.
        doing: what others are told to be done meanwhile, before the name of the folder.
        shared: others may hold it too who say so.
        optional: go on where the file system knows no locks.

    Raises:
        StoreLockedError: another process holds it.
        FerkitError: the folder cannot be written, or its file system knows no locks.
    """
    if not is_local(path):
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise FerkitError(why_not_written(path, error)) from error
    with file:
        try:
            _lock(file, shared)
        except OSError as error:
            if optional and error.errno in _NO_LOCKS:
                yield
                return
            if error.errno not in _HELD:
                raise FerkitError(why_not_written(path, error)) from error
            raise StoreLockedError(
                f"another process is {doing} {path.parent}; wait until it has finished, or stop it"
            ) from error
        yield


def _lock(file: IO[bytes], shared: bool = False) -> None:
    if os.name == "nt":  # pragma: no cover
        import msvcrt

        # There are no shared locks: who shares takes one byte of many, and who does not all of them.
        first, n_bytes = (secrets.randbelow(_LOCKED_BYTES), 1) if shared else (0, _LOCKED_BYTES)
        file.seek(first)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, n_bytes)  # type: ignore[attr-defined]
        file.seek(0)
    else:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def sync_folder(folder: Path) -> None:
    """Flush all that was written into a folder to the disk: it must be there before the folder is moved into place."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_directory(path)
        else:
            with path.open("r+b" if os.name == "nt" else "rb") as file:  # some are read-only
                os.fsync(file.fileno())


def sync_directory(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    if os.name == "posix":  # the rename itself must reach the disk too
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBADF):  # what file systems say that cannot
                raise
        finally:
            os.close(descriptor)


def why_not_written(path: Path, error: OSError) -> str:
    """A sentence for users about a file that could not be written, and the remedy."""
    where = mask_credentials(str(path))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {where} could not be written; make room and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{where} cannot be written ({error.strerror}); choose another place or correct the permissions"
        )
    return f"{where} could not be written: {error.strerror or error}; choose another place"


Settings = TypeVar("Settings")

LATER = {"later": True}
"""Metadata of a settings field that came after 0.1: at its default it is left out, so that digests stay."""


def canonical_json(settings: Any) -> str:
    """JSON of a settings dataclass or of plain containers, the same text for the same values."""
    return json.dumps(settings_dict(settings), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def fingerprint(settings: Any) -> str:
    """SHA-256 in hexadecimal of a settings dataclass or of plain containers."""
    # A file name that is not UTF-8 counts as the bytes it is.
    return hashlib.sha256(canonical_json(settings).encode("utf-8", "surrogateescape")).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 in hexadecimal of a file's content.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing_keys(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Dotted names of the values in which two settings differ, sorted."""
    a, b = settings_dict(a), settings_dict(b)
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [prefix.rstrip(".")]
    return sorted(
        name
        for key in a.keys() | b.keys()
        for name in differing_keys(a.get(key), b.get(key), f"{prefix}{key}.")
    )


def settings_dict(value: Any) -> Any:
    """Settings as the plain values that are hashed and kept on disk: dataclasses become dictionaries, tuples lists.

    A field with ``key`` in its metadata has that name there, so that renaming it changes no digest; see also
    :data:`LATER`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.metadata.get("key", field.name): settings_dict(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.metadata.get("later") or getattr(value, field.name) not in (field.default, {})
        }
    if isinstance(value, dict):
        return {str(key): settings_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [settings_dict(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    return value


def settings_from(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """The settings that :func:`settings_dict` made ``values`` from, one level deep.

    Raises:
        TypeError: a value is missing or unknown, as in files of a newer ferkit.
    """
    names = {field.metadata.get("key", field.name): field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{names.get(key, key): value for key, value in values.items()})


Arrays: TypeAlias = "Mapping[str, np.ndarray]"


def cached_arrays(
    file: Path | None, make: Callable[[], Arrays], fits: Callable[[Arrays], bool]
) -> tuple[Arrays, bool]:
    """What ``file`` holds, or else what ``make`` gives, which is then written there.

    Args:
        file: ``.npz``; its name says what the arrays depend on. None keeps nothing.
        make: makes the arrays.
        fits: whether arrays that were read are what they should be.

    Returns:
        The arrays, and whether they were there.

    Raises:
        FerkitError: the file cannot be written.
    """
    import numpy as np  # the command line reads files of options without it

    if file is not None:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            if fits(arrays):
                return arrays, True
        except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile):
            pass  # it is not there, or cannot be read: it is made again
    made = make()
    if file is not None:
        content = io.BytesIO()
        np.savez(content, **made)  # type: ignore[arg-type]
        write_atomically(file, lambda out: out.write(content.getvalue()))
    return made, False


_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_address(spec: str) -> bool:
    """Whether ``spec`` is an address such as ``rtsp://…`` or ``http://…``."""
    return bool(_ADDRESS.match(spec))


def is_stored(spec: str) -> bool:
    """Whether ``spec`` is an address at which fsspec lists files, such as ``s3://…``: no page and no stream."""
    if not is_address(spec):
        return False
    import fsspec

    kind = re.split("://|::", spec, maxsplit=1)[0].lower()
    return kind not in ("http", "https", "file", "local") and kind in fsspec.available_protocols()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table for people; what a spreadsheet would run is marked, names that are not UTF-8 stay their bytes.

    Where it holds more than ASCII, the mark of UTF-8 comes first, which Korean spreadsheet programs need.

    Args:
        path: the file; an older one is replaced.
        header: of the columns.
        rows: texts, numbers and None.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, header))
    writer.writerows([csv_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    content = ("" if text.getvalue().isascii() else "\ufeff") + text.getvalue()
    write_atomically(path, lambda file: file.write(content.encode("utf-8", "surrogateescape")))
