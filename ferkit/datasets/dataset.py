"""Hold a data set, its samples and where their bytes come from, and list a folder of images."""

import contextlib
import errno
import functools
import itertools
import logging
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote

import numpy as np

from ferkit.core.console import map_ahead, progress
from ferkit.core.errors import DataError, ImageError, checked
from ferkit.core.files import is_local, read_regular
from ferkit.core.labels import LabelTables, meaning_of
from ferkit.datasets.images import HEAD_BYTES, SUFFIXES, decode_image, why_no_image

Made = TypeVar("Made")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are the first column and row outside."""

_NOTHING: dict[str, str] = {}
"""Of all samples of which nothing else is known: a dictionary each would be a fifth of a large listing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        path: its name within the data set: a POSIX path below the root, or ``train/000123`` for array data.
        label: class name, or None if unknown.
        split: ``train``, ``val`` or ``test``, or None if the data set makes no difference.
        group: who is shown, so that one person never lies on both sides of a split; None if unknown.
        box: the face as left, top, right, bottom in pixels of the image; None if unknown, or a crop.
        attributes: what else is known, by column name: ``sex``, ``age``, ``place``, ``source`` …
    """

    path: str
    label: str | None = None
    split: str | None = None
    group: str | None = None
    box: Box | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False)

    @property
    def area(self) -> float:
        """Square pixels of the box; 0 without one."""
        return 0.0 if self.box is None else (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells cheaply whether content may have changed.

    Attributes:
        size: in bytes.
        changed_ns: when it last changed, nanoseconds since 1970.
        tag: what an object store calls this content (its ETag); None for files.
    """

    size: int
    changed_ns: int
    tag: str | None = None


class ImageSource(Protocol):
    """Where the pixels of samples come from."""

    def stamp(self, path: str) -> Stamp:
        """Size and time of the last change. Raises OSError if the content is gone."""
        ...

    def read(self, path: str) -> bytes:
        """The content, for hashing and decoding. Raises OSError if it cannot be read."""
        ...

    def decode(self, content: bytes) -> np.ndarray:
        """uint8 RGB (H, W, 3) of what :meth:`read` gave. Raises ImageError if it is no image."""
        return decode_image(content)


@dataclass(frozen=True)
class Dataset:
    """Samples sorted by path, and their pixels.

    Attributes:
        name: short name for folders and tables.
        root: the folder or file it was read from.
        samples: sorted by path, paths distinct.
        source: gives the pixels.
        left_out: path and reason of each file or row that was found and not taken; what follows a colon in a reason
            is detail.

    Raises:
        DataError: no samples, or two of one path.

    >>> import ferkit, tempfile
    >>> from ferkit.datasets.synthetic import write_dataset
    >>> write_dataset(folder := tempfile.mkdtemp(), n_per_class=2, n_persons=4)
    >>> data = ferkit.load_dataset(folder)
    >>> len(data.paths) == len(data.labels) == len(data)
    True
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    source: ImageSource
    left_out: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.samples:
            why = f" but {': '.join(self.left_out[0])}" if self.left_out else ""
            raise DataError(
                f"expected images in {self.root}, found none{why}; see 'fer embed --help' for the layouts"
            )
        if any(a.path > b.path for a, b in itertools.pairwise(self.samples)):
            object.__setattr__(self, "samples", tuple(sorted(self.samples, key=lambda sample: sample.path)))
        for a, b in itertools.pairwise(self.samples):
            if a.path == b.path:
                raise DataError(
                    f"expected distinct images in {self.root}, found {a.path} twice; remove one entry"
                )

    def __len__(self) -> int:
        return len(self.samples)

    @functools.cached_property
    def paths(self) -> np.ndarray:
        """Paths of all samples, (n,) of str."""
        return self._column("path")

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Classes of all samples, (n,) of str or None."""
        return self._column("label")

    @functools.cached_property
    def splits(self) -> np.ndarray:
        """Parts of all samples, (n,) of ``train``, ``val``, ``test`` or None."""
        return self._column("split")

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """Persons of all samples, (n,) of str or None."""
        return self._column("group")

    def _column(self, name: str) -> np.ndarray:
        column = np.empty(len(self.samples), object)
        column[:] = [getattr(sample, name) for sample in self.samples]
        return column

    @checked
    def read(self, sample: Sample) -> np.ndarray:
        """uint8 RGB (H, W, 3).

        Raises:
            ImageError: it is no image.
            OSError: it cannot be read.
        """
        return self.source.decode(self.source.read(sample.path))

    def class_counts(self) -> dict[str, int]:
        """Number of samples of each class, classes sorted by name; samples without label are not counted."""
        return dict(sorted(Counter(s.label for s in self.samples if s.label is not None).items()))

    @checked
    def subset(self, keep: Sequence[Sample]) -> "Dataset":
        """The same data set with only these samples."""
        return Dataset(self.name, self.root, tuple(keep), self.source)


def why_unread(error: Exception) -> str:
    """What a list of failures says of an image that could not be read or is none."""
    return f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def map_images(
    work: Callable[[Sample], Made],
    samples: Sequence[Sample],
    failures: list[tuple[str, str]],
    doing: str,
    workers: int = 4,
) -> Iterator[tuple[Sample, Made]]:
    """Each sample with what ``work`` makes of it, by threads a few hundred images ahead.

    Args:
        work: may raise ImageError or OSError.
        samples: are taken in their order.
        failures: get path and reason of the images that cannot be read.
        doing: what is done, for the progress that is shown.
        workers: threads.
    """

    def attempt(sample: Sample) -> tuple[Sample, Made | None, str]:
        try:
            return sample, work(sample), ""
        except (ImageError, OSError) as error:
            return sample, None, why_unread(error)

    with progress(doing, len(samples)) as shown:
        for sample, made, reason in map_ahead(attempt, samples, workers=workers, ahead=512):
            shown.update(1, failures=bool(reason))
            if made is None:
                failures.append((sample.path, reason))
            else:
                yield sample, made


NO_MEDIA = ".nomedia"
"""Name of an empty file that says that a folder's images are not data."""

_SYSTEM_NAMES = frozenset(
    {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found",
     "ehthumbs.db", "picasa.ini", "icon\r"}
)  # fmt: skip

LeftOut = tuple[tuple[str, str], ...]
"""Path and reason of each file or row that was found and not taken; what follows a colon in a reason is detail."""


@dataclass(frozen=True)
class FileSource(ImageSource):
    """Images below a folder, each in a file of its own; see :class:`ferkit.datasets.dataset.ImageSource`.

    Names are found however Hangul is composed in them and, where only one fits, in upper or lower case, with escapes
    such as ``%20``, or without the suffix of an image.
    """

    root: Path
    _folders: dict[str, dict[str, list[str]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def stamp(self, path: str) -> Stamp:
        """Give the size and the time of the last change."""
        _, status = self._found(path)
        # The later of the two: copying an old file over a new one sets back the one, but not the other.
        return Stamp(status.st_size, max(status.st_mtime_ns, status.st_ctime_ns))

    def read(self, path: str) -> bytes:
        """Give the content of the file."""
        return read_regular(self.file(path))

    def file(self, path: str) -> Path:
        """Give the file of an image.

        Raises:
            FileNotFoundError: there is none, or several differ from ``path`` only in case.
        """
        return self._found(path)[0]

    def _found(self, path: str) -> tuple[Path, os.stat_result]:
        file = self.root / path
        try:
            return file, os.stat(file)
        except FileNotFoundError:
            file = self.root / self.on_disk(path)
            return file, os.stat(file)

    def on_disk(self, path: str) -> str:
        """Spell ``path`` as the disk does. Raises FileNotFoundError, see :meth:`file`."""
        found, parts = ("/", path[1:].split("/")) if path[:1] == "/" else ("", path.split("/"))
        for part in parts:
            if part not in ("", ".", ".."):
                if found not in self._folders:
                    self._folders[found] = _names_in(self.root / found)
                forms = (composed(part).casefold(), composed(unquote(part)).casefold())
                alike = next(filter(None, map(self._folders[found].get, forms)), [])
                same = [n for n in alike if n == part] or [n for n in alike if composed(n) == composed(part)]
                if len(same or alike) != 1:
                    why = "several files differ from it only in case" if alike else os.strerror(errno.ENOENT)
                    raise FileNotFoundError(errno.ENOENT, why, path)
                part = (same or alike)[0]
            found += f"{part}/"
        return found[:-1]


@dataclass(frozen=True)
class Listing:
    """The images of a place.

    Attributes:
        paths: relative to the place, folder by folder, sorted in each.
        left_out: the other files.
        source: reads them.
    """

    paths: list[str]
    left_out: LeftOut
    source: ImageSource


def list_folder(root: Path) -> Listing:
    """List the images below a folder, by their suffix or, where that tells nothing, by their content.

    Links are followed, but never in a circle. Hidden and system files are passed over silently, as is a folder with a
    file ``.nomedia``, as on Android: its images are not data. Pipes, devices and sockets are left out unopened.

    Raises:
        DataError: ``root`` or a folder below it cannot be listed.
    """
    visited: set[tuple[int, int]] = set()
    paths: list[str] = []
    left_out: list[tuple[str, str]] = []
    pending = [""]
    while pending:
        prefix = pending.pop()
        folder = root / prefix
        try:
            status = os.stat(folder)
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"the folder {folder} cannot be read ({error.strerror}); correct its permissions"
            ) from None
        if (status.st_dev, status.st_ino) in visited or any(entry.name == NO_MEDIA for entry in listed):
            continue
        visited.add((status.st_dev, status.st_ino))
        below = []
        for entry in listed:
            name = entry.name
            if name[0] == "." or name.lower() in _SYSTEM_NAMES:
                continue
            try:
                is_file = entry.is_file()
                if not is_file and entry.is_dir():
                    below.append(f"{prefix}{name}/")
                    continue
            except OSError:
                is_file = False
            reason: str | None
            if not is_file and os.path.exists(entry):
                reason = "not a regular file"
            elif os.path.splitext(name)[1].lower() in SUFFIXES:
                reason = None  # also of a link that leads nowhere: an image that cannot be read
            else:
                reason = why_no_image(name, functools.partial(read_regular, entry.path, HEAD_BYTES))
            if reason is None:
                paths.append(prefix + name)
            else:
                left_out.append((prefix + name, reason))
        pending += reversed(below)
    return Listing(paths, tuple(left_out), FileSource(root))


def is_hidden(path: str) -> bool:
    """Whether a part of a path is the name of a hidden or system file."""
    return any(part[:1] == "." or part.lower() in _SYSTEM_NAMES for part in path.split("/"))


def left_out_counts(left_out: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Count by reason, the most frequent first; without the detail after a colon."""
    return dict(Counter(reason.partition(": ")[0] for _, reason in left_out).most_common())


def left_out_line(left_out: LeftOut, what: str = "files") -> str:
    """Say in one line how many were left out and why: ``3 files not read: .heic 3 (how to mend it)``."""
    counts = left_out_counts(left_out)
    reasons = []
    for reason, n in list(counts.items())[:6]:
        word, bracket, remedy = reason.partition(" (")
        reasons.append(f"{word} {n:,}{bracket}{remedy}")
    more = f" and {len(counts) - 6} other reasons" if len(counts) > 6 else ""
    one = len(left_out) == 1
    example = f", {left_out[0][0]}" if one else f"; the first is {left_out[0][0]}"
    return f"{len(left_out):,} {what.removesuffix('s') if one else what} not read: {', '.join(reasons)}{more}{example}"


def composed(name: str) -> str:
    """Give a name in composed Unicode (NFC); bytes that are not UTF-8 are read as CP949 where that gives Hangul."""
    if not is_unicode(name):
        try:
            text = name.encode("utf-8", "surrogateescape").decode("cp949")
        except UnicodeError:
            return name
        name = text if any("가" <= letter <= "힣" for letter in text) else name
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_unicode(name: str) -> bool:
    """Whether a name holds no bytes that are not UTF-8."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


_UNSEEN = " \t\r\n\xa0\u3000\u200b\u200c\u200d\u2060\ufeff"
"""Blanks, and signs without any width that come along with copied text."""


def class_name(name: str) -> str:
    """Give the name of a class or person, see :func:`composed`; blanks around it are taken off, and several become one.

    Raises:
        DataError: it is in an encoding that nobody knows; no model could be saved with it.
    """
    name = re.sub(r"\s+", " ", composed(name).strip(_UNSEEN)) or name
    if not is_unicode(name) or "\0" in name:
        raise DataError(
            f"expected names in UTF-8 or CP949, found {name!r}; save the table as UTF-8, or rename the files, "
            "for instance with: convmv -r -f ENCODING -t utf-8 --notest FOLDER"
        )
    return name


def _names_in(folder: Path) -> dict[str, list[str]]:
    """The names in a folder by their composed form in lower case, and images also without their suffix."""
    alike: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            alike.setdefault(folded := composed(name).casefold(), []).append(name)
            stem, suffix = os.path.splitext(folded)
            if suffix in SUFFIXES:
                stems.setdefault(stem, []).append(name)
    return stems | alike


logger = logging.getLogger(__name__)

_SPLIT_WORDS = {
    "train": "train training trn 훈련 학습 训练 訓練 学習 entrenamiento entrainement entraînement treino "
    "treinamento addestramento обучение",
    "val": "val valid validation validate dev eval evaluation publictest 검증 验证 驗證 検証 validacion validación "
    "validação validazione validierung проверка",
    "test": "test testing tst privatetest heldout holdout 시험 테스트 평가 测试 測試 テスト prueba teste prova тест",
}
SPLIT_NAMES = {word: split for split, words in _SPLIT_WORDS.items() for word in words.split()}
"""Words that name a split, in lower case; :func:`split_named` also knows ``1.Training``, ``train_set``, ``훈련용`` …"""

_OTHER_WORDS = (
    "set sets data dataset images image imgs img pics photos faces face folder part split crops samples "
    "데이터 데이터셋 세트 셋 용 자료 이미지 사진"
)
_NO_SPLIT_WORDS = frozenset(_OTHER_WORDS.split())
"""What stands next to the word that names a split, and says nothing."""

_ENDINGS = "dataset images data imgs set 용데이터 데이터셋 데이터 세트 셋 용 集"
"""What such a word may end with."""

AIHUB_PERSON = r"^([0-9a-f]{64})_"
"""AI Hub's file names begin with who is shown."""


def split_named(name: str) -> str | None:
    """``train``, ``val`` or ``test`` where a name says so, in many languages and forms; else None."""
    folded = composed(name).strip().casefold()
    # 'Public Test' is one word
    word = "".join(word for word in words(folded) if word not in _NO_SPLIT_WORDS)
    stems = [
        folded,
        word,
        *(word.removesuffix(ending) for ending in _ENDINGS.split() if word.endswith(ending)),
    ]
    return next((SPLIT_NAMES[stem] for stem in stems if stem in SPLIT_NAMES), None)


def words(name: str) -> list[str]:
    """Words of letters, in lower case."""
    return re.findall(r"[^\W\d_]+", composed(name).casefold())


def splits_named(names: Iterable[str]) -> dict[str, str]:
    """The names that are those of splits; also ``fer_train`` next to ``fer_test``, which differ in one word only."""
    names = sorted(names)
    found = {name: split for name in names if (split := split_named(name))}
    if found or len(names) < 2:
        return found
    common = set.intersection(*(set(words(name)) for name in names))
    own = {name: split_named(" ".join(w for w in words(name) if w not in common)) for name in names}
    return {name: split for name, split in own.items() if split} if all(own.values()) else {}


def split_of(name: str, source: Path) -> str | None:
    """``train``, ``val`` or ``test`` for a name that ``source`` uses; None if it is empty.

    Raises:
        DataError: it is no name of a split.
    """
    if is_missing(name):
        return None
    split = split_named(name)
    if split is None:
        raise DataError(f"expected train, val or test as split: found {name!r} in {source}")
    return split


_MISSING_WORDS = "nan <na> n/a #n/a null #ref! #value! #name? #div/0! #null! #num!"
_MISSING = frozenset(_MISSING_WORDS.split())


def is_missing(text: str) -> bool:
    """Whether a cell says that something is not known: empty, or what programs write for that."""
    text = text.strip(_UNSEEN)
    return not text or text == "None" or text.casefold() in _MISSING


def is_known_expression(name: str) -> bool:
    """Whether a name is one of the expressions that label sets know, in any spelling and language."""
    return meaning_of(composed(name)) in LabelTables.built_in().display


def read_folder(root: Path, person_pattern: str = AIHUB_PERSON) -> Dataset:
    """Read ``root/<class>/…`` or ``root/<split>/<class>/…``; images right in ``root`` have no label.

    One wrapping folder too many is seen through, ``<person>/<expression>/…`` is recognised by the known names of
    expressions, and AI Hub's archives by their names; all is said.

    Args:
        root: the folder.
        person_pattern: regular expression that is searched in each file name; its first group is the person.

    Raises:
        DataError: no folder, no images, unreadable, splits next to classes, a class whose name is in no known
            encoding, or an unusable pattern.
    """
    if not root.is_dir():
        raise DataError(f"expected a folder of images, found nothing at {root}; check the path")
    return labelled_by_folders(root, list_folder(root), person_pattern)


def labelled_by_folders(root: Path, listing: Listing, person_pattern: str = AIHUB_PERSON) -> Dataset:
    """Give each image of a listing class, split and person by its folders, see :func:`read_folder`."""
    person_regex(person_pattern)  # refuses what is none
    folders = dict.fromkeys(path.rpartition("/")[0] for path in listing.paths)
    parts = {folder: tuple(map(composed, folder.split("/"))) if folder else () for folder in folders}
    if any(parts.values()) and all(map(_aihub_archive, filter(None, parts.values()))):
        parts = {folder: _aihub_archive(names) for folder, names in parts.items()}
        logger.info(
            "folders are AI Hub's archives: the emotion in their names is the class; boxes and annotators: "
            "fer dataset import aihub %s -o aihub.csv",
            root,
        )
    layout = _Layout.from_folders(root, parts.values())
    known = {folder: layout.describe(parts[folder]) for folder in folders}

    def described(path: str) -> Sample:
        label, split, group = known[path.rpartition("/")[0]]
        return Sample(path, label, split, person_in(path, person_pattern) or group)

    samples = tuple(map(described, listing.paths))
    return Dataset(place_name(root), root, samples, listing.source, listing.left_out)


def _aihub_archive(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The split, if named, and emotion of ``TS/[원천]EMOIMG_기쁨_TRAIN_01`` and what is below; empty for others."""
    for at, name in enumerate(parts):
        if found := re.fullmatch(r"(?:\[\w+\])?EMOIMG_(.+?)(?:_(TRAIN|VALID)\w*)?", name, re.IGNORECASE):
            emotion, split = found.groups()
            return (*([split] if split else parts[:at]), emotion, *parts[at + 1 :])
    return ()


def place_name(root: Path) -> str:
    """The name of a folder, also where it is given as ``.``, or the last part of an address."""
    return root.resolve().name if is_local(root) else str(root).rstrip("/").rpartition("/")[2]


def person_in(path: str, pattern: str) -> str | None:
    """Who is shown, by the first group of a regular expression that is searched in the file's name."""
    found = person_regex(pattern).search(composed(path.rpartition("/")[2]))
    # All samples share the few names that there are.
    return sys.intern(class_name(found[1])) if found and found[1] else None


@functools.lru_cache(maxsize=9)
def person_regex(pattern: str) -> re.Pattern[str]:
    """Compile the regular expression whose first group finds the person in a file name.

    Raises:
        DataError: it is none, or has no group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"expected a regular expression as person pattern, found {pattern!r}: {error}"
        ) from None
    if compiled.groups < 1:
        raise DataError(
            f"expected a group in the person pattern, found {pattern!r}; put the person in parentheses"
        )
    return compiled


@dataclass(frozen=True)
class _Layout:
    """At which depth folders name what; None where none does."""

    split_at: int | None
    person_at: int | None
    class_at: int
    splits: Mapping[str, str]

    @staticmethod
    def from_folders(root: Path, folders: Iterable[tuple[str, ...]]) -> "_Layout":
        """Look at the folders that hold images, by their parts."""
        nested = [parts for parts in folders if parts]
        at = _below_wrapping(nested, 0)
        firsts = {parts[at] for parts in nested if len(parts) > at}
        splits = splits_named(firsts)
        if splits and firsts - splits.keys():
            raise DataError(
                f"{root} holds split folders ({', '.join(splits)}) next to other folders with images "
                f"({', '.join(sorted(firsts - splits.keys())[:5])}); name the split folder itself, or move the "
                "others away"
            )
        if any(name.lower() not in (split, "valid", "validation") for name, split in splits.items()):
            logger.info("folders are parts: %s", ", ".join(f"{n} is {s}" for n, s in splits.items()))
        split_at = at if splits else None
        if splits:
            at = _below_wrapping(nested, at + 1)
        if not _above_expressions(nested, at):
            inner = {parts[at + 1] for parts in nested if len(parts) > at + 1}
            if not splits and len(inner) > 1 and len(within := splits_named(inner)) == len(inner):
                logger.info("folders are read as class/part: %s", ", ".join(sorted(inner)))
                return _Layout(at + 1, None, at, within)
            return _Layout(split_at, None, at, splits)
        persons = sorted({parts[at] for parts in nested if len(parts) > at})
        shown = ", ".join(persons[:3]) + (", …" if len(persons) > 3 else "")
        logger.info(
            "folders are read as person/expression: %d persons (%s), their folders the classes",
            len(persons),
            shown,
        )
        return _Layout(split_at, at, at + 1, splits)

    def describe(self, parts: tuple[str, ...]) -> tuple[str | None, str | None, str | None]:
        """Label, split and group of the images in a folder."""

        def named(at: int | None) -> str | None:
            return None if at is None or at >= len(parts) else class_name(parts[at])

        at = self.split_at
        split = self.splits.get(parts[at]) if at is not None and at < len(parts) else None
        return named(self.class_at), split, named(self.person_at)


def _below_wrapping(folders: list[tuple[str, ...]], at: int) -> int:
    """The depth below folders, from depth ``at`` on, in which all lies and which are neither class nor split."""
    firsts = {parts[at] for parts in folders if len(parts) > at}
    if len(firsts) != 1 or any(len(parts) == at + 1 for parts in folders):
        return at
    (only,) = firsts
    if split_named(only) or is_known_expression(only):
        return at
    inner = {parts[at + 1] for parts in folders if len(parts) > at + 1}
    below = _below_wrapping(folders, at + 1)
    if (
        below == at + 1
        and len(inner) < 2
        and not any(split_named(n) or is_known_expression(n) for n in inner)
    ):
        return at
    logger.info("the folder %s/ holds everything: the folders in it are taken", only)
    return below


def _above_expressions(folders: list[tuple[str, ...]], at: int) -> bool:
    """Whether folders at this depth are no expressions, and most of those in them are."""
    deep = [parts for parts in folders if len(parts) > at]
    if not deep or any(len(parts) == at + 1 or is_known_expression(parts[at]) for parts in deep):
        return False
    inner = {parts[at + 1] for parts in deep}
    known = [name for name in inner if is_known_expression(name)]
    return len(set(map(meaning_of, known))) > 1 and 2 * len(known) >= len(inner)
