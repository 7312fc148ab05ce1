"""Find leaks: images and persons that stand on both sides of a split."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ferkit.core.errors import DataError, FerkitError
from ferkit.core.weights import bundled_folder
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.duplicates import Copies, CopySettings, find_copies
from ferkit.datasets.image_stats import ImageStats, image_stats


@dataclass(frozen=True)
class LeakPairs:
    """Rows that leak in one way.

    Attributes:
        test: int64 (m,), test rows that leak.
        partner: int64 (m,), the training row that is most like each.
        score: (m,), how like, 0..1.
        train: int64, the training rows that leak.
    """

    test: np.ndarray
    partner: np.ndarray
    score: np.ndarray
    train: np.ndarray


def exact_overlap(test: np.ndarray, first: np.ndarray) -> LeakPairs:
    """Rows of which the other side has the same bytes or pixels."""
    train_of = _least_row(first, ~test)
    leaks = test & (train_of[first] >= 0)
    given_away = ~test & (_least_row(first, test)[first] >= 0)
    rows = np.flatnonzero(leaks)
    return LeakPairs(rows, train_of[first[rows]], np.ones(len(rows)), np.flatnonzero(given_away))


def near_overlap(test: np.ndarray, copies: Copies) -> LeakPairs:
    """Rows that are near-duplicates of the other side, and no exact copies of it."""
    n, first = len(test), copies.first
    train_of, test_of = _least_row(first, ~test), _least_row(first, test)
    best, partner, given_away = np.zeros(n), np.full(n, -1), np.zeros(n, bool)
    for (a, b), similarity in zip(copies.near, copies.similarity, strict=True):
        for here, there in ((a, b), (b, a)):
            if test_of[here] >= 0 and train_of[there] >= 0:
                given_away[there] = True
                if similarity > best[here]:
                    best[here], partner[here] = similarity, train_of[there]
    # What was found for the first of each set of exact copies holds for all of them.
    exact = train_of[first] >= 0
    rows = np.flatnonzero(test & (partner[first] >= 0) & ~exact)
    train = np.flatnonzero(~test & given_away[first] & (test_of[first] < 0))
    return LeakPairs(rows, partner[first[rows]], best[first[rows]], train)


def person_overlap(test: np.ndarray, person: list[str | None]) -> LeakPairs:
    """Rows whose person is on the other side too."""
    first: dict[str, int] = {}
    same = [row if who is None else first.setdefault(who, row) for row, who in enumerate(person)]
    return exact_overlap(test, np.array(same, np.int64))


def _least_row(first: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(n,): for each first row the lowest row among those that are its exact copies; -1 if there is none."""
    least = np.full(len(first), -1)
    rows = np.flatnonzero(among)[::-1]
    least[first[rows]] = rows
    return least


Kind = Literal["exact", "near", "person"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class LeakSettings:
    """What is looked for.

    Attributes:
        near: look for near-duplicates too, and not for exact copies alone.
        persons: count a person who is on both sides as a leak.
        copies: what counts as a near-duplicate.
        max_pairs: pairs that are kept as examples; counts and rows are always whole.
    """

    near: bool = True
    persons: bool = True
    copies: CopySettings = field(default_factory=CopySettings)
    max_pairs: int = 1000

    @property
    def wanted(self) -> CopySettings | None:
        """What near-duplicates are looked for; None for none."""
        return self.copies if self.near else None


@dataclass(frozen=True)
class LeakPair:
    """A test image, and the training image that gives it away.

    Attributes:
        train, test: paths within their data sets.
        kind: ``exact``: same bytes or pixels; ``near``: the same image re-encoded, cropped, mirrored, brightened …;
            ``person``: the same person in another image.
        score: 1 for exact copies and known persons; the similarity, 0..1, of near-duplicates.
        person: who it is, for pairs of that kind.
    """

    train: str
    test: str
    kind: Kind
    score: float
    person: str | None = None


@dataclass(frozen=True)
class Leaks:
    """What a test part shares with the training part.

    Attributes:
        pairs: examples, the gravest kind first, then by score: for each leaking test image the training
            image that is most like it; for each shared person one pair.
        test_rows: for each kind, int64 positions in the test data set's samples of all that leak, ascending.
        train_rows: the same on the side of training.
        n_train, n_test: rows compared.
        n_persons: persons on both sides.
        persons_known: share of the compared rows whose person is known, 0..1.
        unreadable: path and reason of images that could not be compared.
        settings: what was looked for.
    """

    pairs: tuple[LeakPair, ...]
    test_rows: Mapping[Kind, np.ndarray]
    train_rows: Mapping[Kind, np.ndarray]
    n_train: int
    n_test: int
    n_persons: int
    persons_known: float
    unreadable: tuple[tuple[str, str], ...]
    settings: LeakSettings

    @property
    def leaking(self) -> np.ndarray:
        """Positions of the test rows that leak in any way, ascending."""
        return np.unique(np.concatenate([self.test_rows[kind] for kind in KINDS]))

    def __bool__(self) -> bool:
        """Whether anything leaks."""
        return bool(len(self.leaking))

    def sentence(self) -> str:
        """What was found, in one line."""
        if not self:
            return f"no leaks among {self.n_test:,} test and {self.n_train:,} training images"
        said: dict[Kind, str] = {
            "exact": "exact copies",
            "near": "near-duplicates",
            "person": f"images of {self.n_persons:,} persons who are in both",
        }
        counts = {said[kind]: len(self.test_rows[kind]) for kind in KINDS}
        found = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
        return f"{len(self.leaking):,} of {self.n_test:,} test images leak from training: {found}"

    def describe(self) -> dict[str, Any]:
        """Plain JSON values: counts, shares and the example pairs."""
        return {
            "train_rows": self.n_train,
            "test_rows": self.n_test,
            "leaking_test_rows": len(self.leaking),
            "leaking_share": len(self.leaking) / max(1, self.n_test),
            "test_rows_by_kind": {kind: len(self.test_rows[kind]) for kind in KINDS},
            "train_rows_by_kind": {kind: len(self.train_rows[kind]) for kind in KINDS},
            "persons_on_both_sides": self.n_persons,
            "persons_known": self.persons_known,
            "unreadable": len(self.unreadable),
            "settings": dataclasses.asdict(self.settings),
            "pairs": [
                {key: value for key, value in dataclasses.asdict(pair).items() if value is not None}
                for pair in self.pairs
            ],
            "pairs_are_all": len(self.pairs) < self.settings.max_pairs,
        }


def find_leaks(
    dataset: Dataset,
    train: np.ndarray,
    test: np.ndarray,
    settings: LeakSettings | None = None,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
) -> Leaks:
    """What the test rows of a data set share with its training rows.

    All copies among both parts are found at once and kept in the cache, so that further splits of the same
    images cost next to nothing.

    Args:
        dataset: the images.
        train, test: int positions in ``dataset.samples``; no row is in both.
        settings: what is looked for.
        cache_dir: folder of all caches; None keeps nothing.
        workers: threads that read images; one a core if None.

    Raises:
        DataError: positions that are not of the data set, or rows on both sides.
        FerkitError: the cache cannot be written.
    """
    settings = settings or LeakSettings()
    train, test = _positions(train, len(dataset), "train"), _positions(test, len(dataset), "test")
    both = np.intersect1d(train, test)
    if len(both):
        raise DataError(
            f"expected training and test rows apart, found {len(both)} in both, the first "
            f"{dataset.samples[both[0]].path}; draw the split again"
        )
    rows = np.union1d(train, test)
    used = dataset if len(rows) == len(dataset) else dataset.subset([dataset.samples[i] for i in rows])
    seen = image_stats(used, cache_dir, workers=workers)
    copies = find_copies(seen, settings.wanted, cache_dir=cache_dir, workers=workers)
    return _assemble(np.isin(rows, test), rows, used.samples, copies, seen, settings)


def find_leaks_between(
    train: Dataset, test: Dataset, settings: LeakSettings | None = None, *, cache_dir: Path | None = None
) -> Leaks:
    """What a test data set shares with another one that is trained on; persons are compared by name.

    Positions in the result are those of each data set's own samples; see :func:`find_leaks`.
    """
    settings = settings or LeakSettings()
    parts = [image_stats(part, cache_dir) for part in (train, test)]
    seen = parts[0].joined(parts[1])
    side = np.arange(len(seen)) >= len(train)
    copies = find_copies(seen, settings.wanted, side=side, cache_dir=cache_dir)
    samples = (*train.samples, *test.samples)
    own = np.concatenate([np.arange(len(train)), np.arange(len(test))])
    return _assemble(side, own, samples, copies, seen, settings)


def _assemble(
    side: np.ndarray,
    position: np.ndarray,
    samples: Sequence[Sample],
    copies: Copies,
    seen: ImageStats,
    settings: LeakSettings,
) -> Leaks:
    """What rows of both sides share; each has its position in its data set and its sample."""
    who = [sample.group for sample in samples]
    found: dict[Kind, LeakPairs] = {
        "exact": exact_overlap(side, copies.first),
        "near": near_overlap(side, copies),
        "person": person_overlap(side, who if settings.persons else [None] * len(side)),
    }
    pairs: list[LeakPair] = []
    for kind, overlap in found.items():
        shown: set[str | None] = set()
        for i in np.argsort(-overlap.score, kind="stable"):
            t, r = overlap.test[i], overlap.partner[i]
            person = who[t] if kind == "person" else None
            if len(pairs) == settings.max_pairs or (person is not None and person in shown):
                continue
            shown.add(person)
            pairs.append(LeakPair(samples[r].path, samples[t].path, kind, float(overlap.score[i]), person))
    return Leaks(
        tuple(pairs),
        {kind: np.sort(position[overlap.test]) for kind, overlap in found.items()},
        {kind: np.sort(position[overlap.train]) for kind, overlap in found.items()},
        int((~side).sum()),
        int(side.sum()),
        len({who[row] for row in found["person"].test}),
        sum(person is not None for person in who) / max(1, len(who)),
        tuple((samples[row].path, reason) for row, reason in sorted(seen.errors.items())),
        settings,
    )


def _positions(rows: np.ndarray, n: int, name: str) -> np.ndarray:
    rows = np.unique(np.asarray(rows))
    if rows.dtype.kind not in "iu" or not len(rows) or rows[0] < 0 or rows[-1] >= n:
        raise DataError(f"expected {name} rows as positions 0..{n - 1} of the data set, found {rows}")
    return rows.astype(np.int64)


NEAR_AT_MOST = 50_000
"""Images among which near copies of training images are looked for; of more only exact ones are."""


@dataclass(frozen=True)
class TrainingCopies:
    """How many measured images are copies of training images.

    Attributes:
        n: measured images.
        exact: with the same bytes as a training image; None where the training images are not known.
        near: the same image re-encoded, cropped, mirrored …; None where that was not checked.
        reason: why it was not.
        bundled: that the bundled network, as the backbone or the model itself, was trained on.
    """

    n: int
    exact: int | None
    near: int | None = None
    reason: str = ""
    bundled: int = 0

    def sentence(self) -> str:
        """What was found, in one line."""
        exact = "not known" if self.exact is None else f"{self.exact:,} of {self.n:,} measured images"
        near = f"not checked ({self.reason})" if self.near is None else f"{self.near:,}"
        text = f"exact copies of training images: {exact}; near copies: {near}"
        if self.bundled:
            text += f"; the network that comes with ferkit was trained on {self.bundled:,} of them"
        return text


def image_keys(sha256: Iterable[str | None]) -> np.ndarray:
    """What exact copies are known by: the beginning of each image's SHA-256, uint64 (n,); 0 where there is none."""
    return np.array([image_key(digest) for digest in sha256], np.uint64)


def image_key(sha256: str | None) -> int:
    """One of :func:`image_keys`."""
    return 0 if sha256 is None else int(sha256[:16], 16)


def training_copies(
    trained: np.ndarray | None,
    measured: np.ndarray,
    train: Dataset | None,
    test: Dataset | None,
    *,
    bundled: bool = False,
    cache_dir: Path | None = None,
) -> TrainingCopies:
    """Count the measured images that are copies of training images.

    Args:
        trained: :func:`image_keys` of the training images; None where unknown.
        measured: the same of the measured ones, (n,).
        train, test: both with their images; None where these are not at hand.
        bundled: whether the bundled network takes part.
        cache_dir: folder of all caches; None keeps nothing.
    """
    n = len(measured)
    exact = None if trained is None else int((np.isin(measured, trained) & (measured > 0)).sum())
    if n + (0 if trained is None else len(trained)) > NEAR_AT_MOST:
        return TrainingCopies(n, exact, reason=f"more than {NEAR_AT_MOST:,} images")
    near, reason, seen = None, "the images are not at hand", 0
    try:
        if test is not None and bundled:
            seen = _of_fer2013(image_stats(test, cache_dir))
        if test is not None and train is not None:
            leaks = find_leaks_between(train, test, LeakSettings(persons=False), cache_dir=cache_dir)
            if len(leaks.unreadable) < n:
                near, reason = len(leaks.test_rows["near"]), ""
    except FerkitError as error:
        reason = str(error)
    return TrainingCopies(n, exact, near, reason, seen)


def pixel_keys(stats: ImageStats) -> np.ndarray:
    """Digests of images of 48x48 by their gray levels, in any kind of file, uint32 (n,)."""
    digests = [hashlib.blake2b(thumb.tobytes(), digest_size=4).digest() for thumb in stats.thumbs]
    return np.frombuffer(b"".join(digests), np.uint32)


def _of_fer2013(stats: ImageStats) -> int:
    """How many are of FER2013's training part, which the bundled network learnt from."""
    known = np.load(bundled_folder().parent / "fer2013-train.npy", allow_pickle=False)
    readable = np.array([row not in stats.errors for row in range(len(stats))], bool)
    return int((np.isin(pixel_keys(stats), known) & readable).sum())
