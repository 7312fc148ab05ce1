"""AI Hub's "Korean emotion recognition" data set in miniature: its folders, names and JSON, with drawn people.

For practice and tests: who has the real photos, which nobody may pass on, has exactly this on the disk.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import write_atomically
from ferkit.core.labels import LabelSet
from ferkit.datasets.synthetic import ActionUnits, Identity, paint_face, sample_unclear_units, sample_units

EMOTIONS = LabelSet(LabelSet.named("aihub7").display("ko"), "aihub7").names
"""기쁨 당황 분노 불안 상처 슬픔 중립."""

PLACES = (
    "가정",
    "도심 환경",
    "공공시설&종교&의료시설",
    "상업시설&점포&시장",
    "스포츠관람&레저시설",
    "자연환경",
)

_DRAWN_AS = dict(
    zip(EMOTIONS, ("happy", "surprise", "angry", "fear", "disgust", "sad", "neutral"), strict=True)
)
"""AI Hub's emotions that no textbook assigns movements to look like the one they are most often taken for."""

_CONFUSED_WITH = {
    "기쁨": "중립",
    "당황": "불안",
    "분노": "상처",
    "불안": "당황",
    "상처": "슬픔",
    "슬픔": "상처",
    "중립": "슬픔",
}


def write_aihub_layout(
    root: Path,
    n_persons: int,
    *,
    per_emotion: int = 1,
    size_wh: tuple[int, int] = (640, 480),
    validation: float = 0.2,
    disagreement: float = 0.15,
    jitter: float = 0.04,
    encoding: str = "euc-kr",
    seed: int = 0,
) -> None:
    """Write ``root/Training`` and ``root/Validation``, each with a folder of images and one of JSON an emotion.

    Equal arguments and library versions give equal bytes. Each person is in one of the two parts, as in AI Hub's, and
    shows every emotion.

    Args:
        root: a folder that is empty or does not exist yet.
        n_persons: 2 or more.
        per_emotion: images of each person and emotion.
        size_wh: of the images, in pixels, 160 or more each; a face takes about two fifths of the height.
        validation: share of the persons in ``Validation``, 0..1.
        disagreement: share of the annotators' emotions that are the one it is easily confused with, 0..1.
        jitter: standard deviation of the annotators' corners, as a share of the face's height.
        encoding: of the JSON files: ``euc-kr``, as AI Hub's were, ``utf-8`` or ``utf-8-sig``.
        seed: 0 or more.

    Raises:
        DataError: an argument out of range, or a folder in use.
    """
    if n_persons < 2 or per_emotion < 1 or min(size_wh) < 160:
        raise DataError(
            "expected 2 persons or more, 1 image or more of each emotion and images of 160 pixels or more, "
            f"found {n_persons}, {per_emotion} and {size_wh[0]}x{size_wh[1]}"
        )
    if root.exists() and any(root.iterdir()):
        raise DataError(
            f"expected an empty or new folder, found files in {root}; choose another one or clear it"
        )
    n_validation = min(max(round(n_persons * validation), 0), n_persons - 1)
    for part, word, numbers in (
        ("Training", "TRAIN", range(n_validation, n_persons)),
        ("Validation", "VALID", range(n_validation)),
    ):
        records: dict[str, list[dict[str, Any]]] = {emotion: [] for emotion in EMOTIONS}
        for number in numbers:
            person = _Person(seed, number)
            for emotion in EMOTIONS:
                folder = root / part / f"[원천]EMOIMG_{emotion}_{word}"
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(per_emotion):
                    rgb, box = person.photograph(emotion, size_wh)
                    record = person.record(emotion, i, box, disagreement, jitter)
                    _, content = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
                    (folder / record["filename"]).write_bytes(content.tobytes())
                    records[emotion].append(record)
        for emotion, of_emotion in records.items():
            if of_emotion:
                name = f"img_emotion_{word.lower()}_data({emotion}).json"
                _write_json(root / part / f"[라벨]EMOIMG_{emotion}_{word}" / name, of_emotion, encoding)


class _Person:
    """A simulated uploader with a random stream of their own."""

    def __init__(self, seed: int, number: int) -> None:
        self._rng = np.random.default_rng([seed, number])
        self._identity = Identity.random(self._rng)
        self._id = hashlib.sha256(f"{seed}-{number}".encode()).hexdigest()
        self._sex = str(self._rng.choice(["남", "여"]))
        self._age = 10 * int(self._rng.integers(1, 6))
        self._professional = str(self._rng.choice(["전문인", "일반인"]))
        self._place = str(self._rng.choice(PLACES))
        self._time = (
            f"2020{self._rng.integers(11, 13)}{self._rng.integers(1, 29):02d}{self._rng.integers(10**6):06d}"
        )

    def photograph(self, emotion: str, size_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 RGB (height, width, 3), and the face's box (4,) from hairline to chin."""
        rng, (width, height) = self._rng, size_wh
        side = max(size_wh)
        zoom = rng.uniform(0.17, 0.24) * min(size_wh)  # pixels of half a face
        # So low that the clothes, which are painted down to 2.5, reach the lower border.
        lowest = height - 1.5 * zoom
        highest = min(max(1.4 * zoom, height - 2.3 * zoom), lowest)
        centre = np.array([rng.uniform(1.2 * zoom, width - 1.2 * zoom), rng.uniform(highest, lowest)])
        roll = rng.normal(0, 0.07)
        turned = zoom * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        scene = paint_face(
            _room(rng, side), np.column_stack([turned, centre]), self._identity, self._units(emotion), rng, 2 * zoom
        )  # fmt: skip
        half = np.array([self._identity.face_width, 0.92]) * zoom
        noise = rng.normal(0, 2.0, (height, width, 1))
        rgb = np.clip(scene[:height, :width] + noise, 0, 255).astype(np.uint8)
        return rgb, np.concatenate([centre - half, centre + half])

    def record(
        self, emotion: str, number: int, box: np.ndarray, disagreement: float, jitter: float
    ) -> dict[str, Any]:
        """What AI Hub's JSON says of an image."""
        rng = self._rng
        known = f"{self._id}_{self._sex}_{self._age}_{emotion}_{self._place}_{self._time}"
        annotators = {}
        for annotator in ("annot_A", "annot_B", "annot_C"):
            corners = (box + rng.normal(0, jitter * (box[3] - box[1]), 4)).round(2).tolist()
            seen = _CONFUSED_WITH[emotion] if rng.random() < disagreement else emotion
            annotators[annotator] = {
                "boxes": dict(zip(("minX", "minY", "maxX", "maxY"), corners, strict=True)),
                "faceExp": seen,
                "bg": self._place,
            }
        return {
            "filename": f"{known}-{EMOTIONS.index(emotion) + 1:03d}-{number + 1:03d}.jpg",
            "gender": self._sex,
            "age": self._age,
            "isProf": self._professional,
            "faceExp_uploader": emotion,
            "bg_uploader": self._place,
            **annotators,
        }

    def _units(self, emotion: str) -> ActionUnits:
        if self._rng.random() < 0.25:
            return sample_unclear_units(_DRAWN_AS[emotion], self._rng)
        return sample_units(_DRAWN_AS[emotion], self._rng, intensity=self._rng.uniform(0.7, 1.1))


def _room(rng: np.random.Generator, side: int) -> np.ndarray:
    """A wall out of focus with a few things on it, uint8 (side, side, 3)."""
    small = 96
    room = np.full((small, small, 3), rng.uniform(90, 220) + rng.normal(0, 14, 3))
    for _ in range(rng.integers(3, 7)):
        left, top = rng.integers(-10, small, 2).tolist()
        width, height = rng.integers(8, 45, 2).tolist()
        colour = np.clip(room.mean() + rng.normal(0, 45, 3), 0, 255).tolist()
        cv2.rectangle(room, (left, top), (left + width, top + height), colour, cv2.FILLED)
    blurred = cv2.GaussianBlur(np.clip(room, 0, 255).astype(np.uint8), (0, 0), 1.2)
    return cv2.resize(blurred, (side, side), interpolation=cv2.INTER_CUBIC)


def _write_json(path: Path, records: list[dict[str, Any]], encoding: str) -> None:
    content = json.dumps(records, ensure_ascii=False, indent=4).encode(encoding)
    write_atomically(path, lambda file: file.write(content))


if __name__ == "__main__":
    write_aihub_layout(Path(sys.argv[1]), int(sys.argv[2]))
