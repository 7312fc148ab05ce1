"""The same person keeps the same number from frame to frame.

Boxes are matched to where constant velocity says that each face should be: first by overlap and by whether they look
as a moment ago (so that who walks in front of another does not inherit his number), then by distance for fast or
rarely seen faces, then, where faces can be described, by who they are. All matching is
the Hungarian method's (Kuhn 1955); two levels of confidence as in ByteTrack (Zhang et al., ECCV 2022): a
doubtful detection may carry a face on, but starts none.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from ferkit.core.types import Faces
from ferkit.faces.cropping import square_crop

SIDE = 8
_MARGIN = 0.15
"""Some of the hair is taken in: it tells people apart at once."""


def appearance_of(rgb: np.ndarray, faces: Faces) -> np.ndarray:
    """A tiny colour image of each face, without its mean colour and contrast, so that light matters little.

    Good for telling whether a box still holds whom it held a moment ago; not for recognising anybody later.

    Args:
        rgb: uint8 (H, W, 3).
        faces: n boxes in it, each at least partly inside.

    Returns:
        float32 (n, d), rows of length 1: the product of two is their similarity, -1..1.
    """
    appearance = np.zeros((len(faces), SIDE * SIDE * 3), np.float32)
    for i in range(len(faces)):
        face = square_crop(rgb, faces.xyxy[i], _MARGIN)
        tiny = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(tiny, cv2.COLOR_RGB2LAB).astype(np.float32)
        flat = (lab - lab.mean(axis=(0, 1))).reshape(-1)
        appearance[i] = flat / max(float(np.linalg.norm(flat)), 1e-6)
    return appearance


Identify = Callable[[np.ndarray], np.ndarray]
"""Gives unit vectors (m, d), float, for the faces at m positions: alike for the same person."""


MIN_OVERLAP = 0.2
"""Intersection over union from which two boxes are one face."""

MIN_SIMILARITY, MIN_SIMILARITY_OF_JUMPS = 0.2, 0.4
"""A box that looks less like the face it overlaps, or like the one that jumped there, is somebody else."""

MAX_SPEED, MAX_JUMP = 12.0, 2.0
"""How fast a face may move that no velocity is known of, in sides of its box a second; and how far it may be from
where it was expected even so, in sides."""

MAX_GROWTH = 1.6
"""How much larger or smaller its box may be after a jump."""

KEEP_IDENTIFIED_S = 20.0
"""How long a face that is out of sight keeps its number where faces are recognised anywhere."""

MIN_IDENTITY = 0.45
"""Product of unit vectors from which two faces are one person."""


@dataclass(frozen=True)
class TrackerSettings:
    """How faces are followed.

    Attributes:
        start_confidence: detections below it only carry on faces that are known.
        keep_s: how long a face that is out of sight keeps its number.
    """

    start_confidence: float = 0.6
    keep_s: float = 1.0


@dataclass
class _Track:
    id: int
    xyxy: np.ndarray  # when last seen
    velocity: np.ndarray  # of the centre, pixels a second
    seen_s: float
    confidence: float
    keypoints: np.ndarray | None = None
    look: np.ndarray | None = None
    description: np.ndarray | None = None
    described_s: float = -np.inf
    visible: bool = True

    def moved(self, timestamp_s: float) -> np.ndarray:
        """How far it went since it was seen; for a quarter of a second at most: longer nobody keeps on."""
        return self.velocity * min(max(timestamp_s - self.seen_s, 0.0), 0.25)


@dataclass
class FaceTracker:
    """Numbers faces; times in seconds, never running backwards.

    Args:
        settings: how.
    """

    settings: TrackerSettings = field(default_factory=TrackerSettings)
    _tracks: list[_Track] = field(default_factory=list)
    _next_id: int = 1

    def update(
        self,
        faces: Faces,
        timestamp_s: float,
        appearance: np.ndarray | None = None,
        identify: Identify | None = None,
    ) -> Faces:
        """Take in all faces that were found in a frame.

        Args:
            faces: what a detector found, doubtful ones included, but without doubles.
            timestamp_s: of the frame.
            appearance: float (n, d), see :func:`ferkit.faces.tracking.appearance_of`; None to go by boxes alone.
            identify: tells who faces are, by position; asked only
                for those that motion alone cannot settle, and once a second for the others.

        Returns:
            The faces that are known by now, with ``track_id``. A face that was not found is not among them.
        """
        keep_s = max(self.settings.keep_s, 0.0 if identify is None else KEEP_IDENTIFIED_S)
        self._tracks = [track for track in self._tracks if timestamp_s - track.seen_s <= keep_s]
        for track in self._tracks:
            track.visible = False
        owner: dict[int, _Track] = {}
        recent = [t for t in self._tracks if timestamp_s - t.seen_s <= max(self.settings.keep_s, 0.0)]
        boxes = [track.xyxy + np.tile(track.moved(timestamp_s), 2) for track in recent]
        expected = np.array(boxes, np.float32).reshape(-1, 4)
        gap_s = np.array([timestamp_s - track.seen_s for track in recent])[:, None]
        similarity = self._similarity(recent, appearance, len(faces))
        overlaps = _overlap_cost(expected, faces.xyxy, gap_s, similarity)
        owner |= {i: recent[row] for row, i in cheapest_pairs(overlaps)}
        jumps = _jump_cost(expected, faces.xyxy, gap_s, similarity)
        taken = {track.id for track in owner.values()}
        jumps[np.array([track.id in taken for track in recent], bool)] = np.inf
        jumps[:, list(owner)] = np.inf
        owner |= {i: recent[row] for row, i in cheapest_pairs(jumps)}
        if identify is not None:
            self._recognise(len(faces), identify, owner)
        for i in range(len(faces)):
            if i not in owner and faces.confidence[i] >= self.settings.start_confidence:
                owner[i] = _Track(self._next_id, faces.xyxy[i], np.zeros(2, np.float32), timestamp_s, 0.0)
                self._tracks.append(owner[i])
                self._next_id += 1
        for i, track in owner.items():
            self._see(track, faces, i, timestamp_s, None if appearance is None else appearance[i])
        if identify is not None:
            self._identify_again(timestamp_s, identify, owner)
        kept = sorted(owner)
        known = faces[kept]
        return replace(known, track_id=np.array([owner[i].id for i in kept], np.int64))

    def predict(self, timestamp_s: float) -> Faces:
        """Where the faces of the last update should be at ``timestamp_s``."""
        seen = [track for track in self._tracks if track.visible]
        if not seen:
            return replace(Faces.none(), track_id=np.zeros(0, np.int64))
        shift = np.array([track.moved(timestamp_s) for track in seen], np.float32)
        points = [track.keypoints for track in seen if track.keypoints is not None]
        return Faces(
            np.array([track.xyxy for track in seen], np.float32) + np.tile(shift, 2),
            np.array([track.confidence for track in seen], np.float32),
            np.array(points, np.float32) + shift[:, None] if len(points) == len(seen) else None,
            np.array([track.id for track in seen], np.int64),
        )

    def forget(self) -> None:
        """Follow nobody any further; numbers that were given are not given again."""
        self._tracks.clear()

    def state(self) -> dict[str, Any]:
        """Everything it remembers, as plain values for JSON."""
        tracks = [
            {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in asdict(track).items()}
            for track in self._tracks
        ]
        for track in tracks:
            track["described_s"] = None if track["description"] is None else track["described_s"]
        return {"next_id": self._next_id, "tracks": tracks}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._next_id = state["next_id"]
        self._tracks = []
        for values in state["tracks"]:
            arrays = {
                name: None if values[name] is None else np.array(values[name], np.float32)
                for name in ("xyxy", "velocity", "keypoints", "look", "description")
            }
            described_s = -np.inf if values["described_s"] is None else values["described_s"]
            self._tracks.append(_Track(**{**values, **arrays, "described_s": described_s}))

    def _similarity(self, tracks: list[_Track], appearance: np.ndarray | None, n: int) -> np.ndarray:
        """How each face looks like each track did, (tracks, n), -1..1; 1 where nothing is known."""
        similarity = np.ones((len(tracks), n), np.float32)
        if appearance is not None:
            for row, track in enumerate(tracks):
                if track.look is not None:
                    similarity[row] = appearance @ track.look
        return similarity

    def _recognise(self, n: int, identify: Identify, owner: dict[int, _Track]) -> None:
        new = [i for i in range(n) if i not in owner]
        taken = {track.id for track in owner.values()}
        lost = [t for t in self._tracks if t.id not in taken and t.description is not None]
        if not new or not lost:
            return
        known = [track.description for track in lost if track.description is not None]
        similarity = np.stack(known) @ identify(np.array(new)).T
        pairs = cheapest_pairs(np.where(similarity >= MIN_IDENTITY, 1 - similarity, np.inf))
        owner |= {new[i]: lost[row] for row, i in pairs}

    def _see(self, track: _Track, faces: Faces, i: int, timestamp_s: float, look: np.ndarray | None) -> None:
        gap_s = timestamp_s - track.seen_s
        if 0 < gap_s <= self.settings.keep_s:
            step = (_centre(faces.xyxy[i]) - _centre(track.xyxy)) / gap_s
            # Boxes tremble; over a tenth of a second that evens out, and a rare look is believed at once.
            track.velocity = track.velocity + (1 - np.exp(-gap_s / 0.1)) * (step - track.velocity)
        elif gap_s > 0:
            track.velocity = np.zeros(2, np.float32)
        if look is not None:
            # The memory follows slowly, so that a stranger cannot take it over within a few frames.
            share = 1 - 0.5 ** (gap_s / 0.4) if track.look is not None else 1.0
            mean = look if track.look is None else track.look + share * (look - track.look)
            track.look = (mean / max(float(np.linalg.norm(mean)), 1e-6)).astype(np.float32)
        track.xyxy, track.seen_s, track.visible = faces.xyxy[i], timestamp_s, True
        track.confidence = float(faces.confidence[i])
        track.keypoints = None if faces.keypoints is None else faces.keypoints[i]

    def _identify_again(self, timestamp_s: float, identify: Identify, owner: dict[int, _Track]) -> None:
        due = [i for i, track in owner.items() if timestamp_s - track.described_s >= 1.0]
        if not due:
            return
        for i, description in zip(due, identify(np.array(due)), strict=True):
            track = owner[i]
            mean = description if track.description is None else 0.8 * track.description + 0.2 * description
            track.description = (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)
            track.described_s = timestamp_s


def _overlap_cost(
    expected: np.ndarray, xyxy: np.ndarray, gap_s: np.ndarray, similarity: np.ndarray
) -> np.ndarray:
    overlap = box_overlap(expected, xyxy)
    # A head turns within half a second; only what changes faster is somebody else.
    least = MIN_SIMILARITY * np.clip(1 - gap_s / 0.6, 0, 1) - (gap_s >= 0.6)
    least = np.where(gap_s > 1, MIN_SIMILARITY, least)  # nobody looked; somebody else may have come
    allowed = (overlap >= MIN_OVERLAP) & (similarity >= least)
    return np.where(allowed, 1 - overlap + 0.7 * (1 - similarity), np.inf)


def _jump_cost(
    expected: np.ndarray, xyxy: np.ndarray, gap_s: np.ndarray, similarity: np.ndarray
) -> np.ndarray:
    (here, size), (there, new_size) = _centres_and_sides(expected), _centres_and_sides(xyxy)
    side = np.minimum(size[:, None], new_size[None])
    distance = np.linalg.norm(here[:, None] - there[None], axis=2) / np.maximum(side, 1)
    growth = np.maximum(size[:, None], new_size[None]) / np.maximum(side, 1)
    reach = np.minimum(0.4 + MAX_SPEED * gap_s, MAX_JUMP)
    allowed = (distance <= reach) & (growth <= MAX_GROWTH) & (similarity >= MIN_SIMILARITY_OF_JUMPS)
    return np.where(allowed, distance + np.log(growth) + 0.7 * (1 - similarity), np.inf)


def shared_area(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that each of ``boxes`` (m, 4) has in common with each of ``others`` (n, 4): (m, n)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    side = np.maximum(np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - low, 0)
    return side[..., 0] * side[..., 1]


def box_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of all boxes ``a`` (n, 4) with all boxes ``b`` (m, 4): (n, m), 0..1."""
    common = shared_area(a, b)
    return common / np.maximum(_area(a)[:, None] + _area(b)[None] - common, 1e-9)


def _area(xyxy: np.ndarray) -> np.ndarray:
    return np.clip(xyxy[:, 2:] - xyxy[:, :2], 0, None).prod(axis=1)


def without_doubles(faces: Faces) -> Faces:
    """Drop the less certain one of two boxes that share most of the smaller one's area: forehead and face."""
    area = _area(faces.xyxy)
    shared = shared_area(faces.xyxy, faces.xyxy) / np.maximum(np.minimum(area[:, None], area[None]), 1e-9)
    kept: list[int] = []
    for i in np.argsort(-faces.confidence, kind="stable").tolist():
        if not kept or shared[i, kept].max() <= 0.35:
            kept.append(i)
    return faces[sorted(kept)]


def cheapest_pairs(cost: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) that cost least together; infinite ones are left out."""
    if cost.size == 0 or not np.isfinite(cost).any():
        return []
    if cost.shape == (1, 1):
        return [(0, 0)]
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(np.where(np.isfinite(cost), cost, 1e6))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if np.isfinite(cost[r, c])]


def _centres_and_sides(xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = xyxy[:, 2:] - xyxy[:, :2]
    return xyxy[:, :2] + size / 2, np.sqrt(np.clip(size, 0, None).prod(axis=1))


def _centre(xyxy: np.ndarray) -> np.ndarray:
    return (xyxy[:2] + xyxy[2:]) / 2
