"""Folders of images: ``<class>/…``, with splits and persons above where there are such, and one folder too many."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.core.label_tables import LabelTables
from ferkit.core.labels import meaning_of
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import Listing, class_name, composed, list_folder

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

_ENDINGS = (
    "dataset",
    "images",
    "data",
    "imgs",
    "set",
    "용데이터",
    "데이터셋",
    "데이터",
    "세트",
    "셋",
    "용",
    "集",
)

AIHUB_PERSON = r"^([0-9a-f]{64})_"
"""AI Hub's file names begin with who is shown."""


def split_named(name: str) -> str | None:
    """``train``, ``val`` or ``test`` where a name says so, in many languages and forms; else None."""
    folded = composed(name).strip().casefold()
    if folded in SPLIT_NAMES:
        return SPLIT_NAMES[folded]
    words = [word for word in re.findall(r"[^\W\d_]+", folded) if word not in _NO_SPLIT_WORDS]
    if len(words) != 1:
        return None
    word = words[0]
    stems = [word, *(word.removesuffix(ending) for ending in _ENDINGS if word.endswith(ending))]
    return next((SPLIT_NAMES[stem] for stem in stems if stem in SPLIT_NAMES), None)


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


def is_missing(text: str) -> bool:
    """Whether a cell says that something is not known: empty, or what programs write for that."""
    return text.strip().casefold() in ("", "nan", "<na>", "n/a", "#n/a", "null")


def is_known_expression(name: str) -> bool:
    """Whether a name is one of the expressions that label sets know, in any spelling and language."""
    return meaning_of(composed(name)) in LabelTables.built_in().display


def read_folder(root: Path, person_pattern: str = AIHUB_PERSON) -> Dataset:
    """Read ``root/<class>/…`` or ``root/<split>/<class>/…``; images right in ``root`` have no label.

    One wrapping folder too many is seen through, and ``<person>/<expression>/…`` is recognised by the known names of
    expressions; both is said.

    Args:
        root: the folder.
        person_pattern: regular expression that is searched in each file name; its first group is the person.

    Raises:
        DataError: no folder, no images, unreadable, splits next to classes, a class whose name is in no known
            encoding, or an unusable pattern.
    """
    if not root.is_dir():
        raise DataError(f"expected a folder of pictures, found nothing at {root}; check the path")
    return labelled_by_folders(root, list_folder(root), person_pattern)


def labelled_by_folders(root: Path, listing: Listing, person_pattern: str = AIHUB_PERSON) -> Dataset:
    """Give each image of a listing class, split and person by its folders, see :func:`read_folder`."""
    person = person_regex(person_pattern)
    names: dict[str, list[str]] = {}
    for path in listing.paths:
        folder, slash, name = path.rpartition("/")
        names.setdefault(folder + slash, []).append(name)
    parts = {folder: tuple(map(composed, folder.split("/")[:-1])) for folder in names}
    layout = _Layout.of(root, parts.values())
    samples = []
    for folder, files in names.items():
        label, split, group = layout.describe(parts[folder])
        for name in files:
            found = person.search(composed(name))
            samples.append(
                Sample(folder + name, label, split, class_name(found.group(1)) if found else group)
            )
    return Dataset(root.resolve().name, root, tuple(samples), listing.source, listing.left_out)


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

    @staticmethod
    def of(root: Path, folders: Iterable[tuple[str, ...]]) -> "_Layout":
        """Look at the folders that hold images, by their parts."""
        nested = [parts for parts in folders if parts]
        at = _below_wrapping(nested, 0)
        firsts = {parts[at] for parts in nested if len(parts) > at}
        splits = {name: split for name in sorted(firsts) if (split := split_named(name))}
        if splits and firsts - splits.keys():
            raise DataError(
                f"{root} holds split folders ({', '.join(splits)}) beside other folders with pictures "
                f"({', '.join(sorted(firsts - splits.keys())[:5])}); name the split folder itself, or move the "
                "others away"
            )
        if any(name.lower() not in (split, "valid", "validation") for name, split in splits.items()):
            logger.info("folders are parts: %s", ", ".join(f"{n} is {s}" for n, s in splits.items()))
        split_at = at if splits else None
        if splits:
            at = _below_wrapping(nested, at + 1)
        if not _above_expressions(nested, at):
            return _Layout(split_at, None, at)
        persons = sorted({parts[at] for parts in nested if len(parts) > at})
        shown = ", ".join(persons[:3]) + (", …" if len(persons) > 3 else "")
        logger.info(
            "folders are read as person/expression: %d persons (%s), their folders the classes",
            len(persons),
            shown,
        )
        return _Layout(split_at, at, at + 1)

    def describe(self, parts: tuple[str, ...]) -> tuple[str | None, str | None, str | None]:
        """Label, split and group of the images in a folder."""

        def named(at: int | None) -> str | None:
            return None if at is None or at >= len(parts) else class_name(parts[at])

        return named(self.class_at), split_named(named(self.split_at) or ""), named(self.person_at)


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
