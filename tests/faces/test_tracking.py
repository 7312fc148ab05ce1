import json

import numpy as np
import pytest

from ferkit.core.types import Faces
from ferkit.faces.tracking import FaceTracker, TrackerSettings, box_overlap, without_doubles

FPS = 25.0


def faces_at(*centres: tuple[float, float], side: float = 40, confidence: float = 0.9) -> Faces:
    boxes = [(x - side / 2, y - side / 2, x + side / 2, y + side / 2) for x, y in centres]
    n = len(boxes)
    return Faces(np.array(boxes, np.float32).reshape(n, 4), np.full(n, confidence, np.float32))


def ids(faces: Faces) -> list[int]:
    assert faces.track_id is not None
    return faces.track_id.tolist()


def test_overlap_of_boxes() -> None:
    a = np.array([[0, 0, 2, 2]], np.float32)
    b = np.array([[1, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 2]], np.float32)
    assert box_overlap(a, b) == pytest.approx(np.array([[1 / 3, 0, 1]]), abs=1e-6)
    assert box_overlap(a, b[:0]).shape == (1, 0)


def test_a_forehead_within_a_face_is_no_second_face() -> None:
    boxes = np.array([[110, 100, 140, 130], [100, 100, 160, 180], [150, 100, 210, 180]], np.float32)
    faces = Faces(boxes, np.array([0.5, 0.9, 0.7], np.float32))
    assert without_doubles(faces).xyxy.tolist() == boxes[1:].tolist()
    assert len(without_doubles(Faces.none())) == 0


def test_two_people_who_cross_keep_their_numbers() -> None:
    # Their paths cross at 50 pixels' distance; the detector names them in changing order and with some noise.
    tracker, rng = FaceTracker(), np.random.default_rng(0)
    for frame in range(60):
        left, right = (50 + 6 * frame, 100), (400 - 6 * frame, 150)
        order = [left, right] if frame % 2 else [right, left]
        found = tracker.update(
            faces_at(*[tuple(np.add(p, rng.normal(0, 1.5, 2))) for p in order]), frame / FPS
        )
        by_row = {round(float(box[1] + 20)) > 125: i for box, i in zip(found.xyxy, ids(found), strict=True)}
        if frame == 0:
            first = by_row
        assert by_row == first, frame


def test_a_face_that_left_is_gone_at_once_and_soon_forgotten() -> None:
    tracker = FaceTracker(TrackerSettings(keep_s=1.0))
    tracker.update(faces_at((100, 100), (300, 100)), 0.0)
    assert ids(tracker.update(faces_at((100, 100)), 0.04)) == [1]
    assert ids(tracker.predict(0.06)) == [1]
    assert ids(tracker.update(faces_at((100, 100), (302, 100)), 0.5)) == [1, 2]
    for timestamp_s in (0.6, 1.2, 1.8):
        tracker.update(faces_at((100, 100)), timestamp_s)
    assert ids(tracker.update(faces_at((100, 100), (300, 100)), 2.0)) == [1, 3]


def test_prediction_follows_the_motion() -> None:
    tracker = FaceTracker()
    for frame in range(20):
        tracker.update(faces_at((100 + 5 * frame, 80)), frame / FPS)
    moved = tracker.predict(21 / FPS)
    centre = (moved.xyxy[0, :2] + moved.xyxy[0, 2:]) / 2
    assert centre == pytest.approx([205, 80], abs=2)


def test_seldom_seen_fast_faces_are_matched_by_distance() -> None:
    tracker = FaceTracker()
    assert ids(tracker.update(faces_at((100, 100), (400, 100)), 0.0)) == [1, 2]
    assert ids(tracker.update(faces_at((370, 100), (128, 100)), 0.5)) == [2, 1]


def test_doubtful_faces_carry_on_but_do_not_start() -> None:
    tracker = FaceTracker()
    assert ids(tracker.update(faces_at((100, 100), confidence=0.4), 0.0)) == []
    assert ids(tracker.update(faces_at((100, 100), confidence=0.8), 0.1)) == [1]
    assert ids(tracker.update(faces_at((101, 100), confidence=0.4), 0.2)) == [1]


def test_who_comes_back_elsewhere_is_recognised_by_looks() -> None:
    looks = {100: [1.0, 0.0], 500: [0.0, 1.0], 300: [0.95, 0.3122]}
    asked: list[int] = []

    def update(tracker: FaceTracker, timestamp_s: float, *xs: float) -> list[int]:
        def identify(positions: np.ndarray) -> np.ndarray:
            asked.append(len(positions))
            return np.array([looks[round(xs[i])] for i in positions], np.float32)

        return ids(tracker.update(faces_at(*[(x, 100) for x in xs]), timestamp_s, identify=identify))

    tracker = FaceTracker()
    assert update(tracker, 0.0, 100, 500) == [1, 2]
    assert update(tracker, 0.1, 100, 500) == [1, 2]
    assert asked == [2]  # nobody is described again within a second
    assert update(tracker, 3.0) == []
    assert update(tracker, 6.0, 300) == [1]


def test_a_restored_tracker_goes_on_alike() -> None:
    one, other = FaceTracker(), FaceTracker()
    for frame in range(5):
        one.update(faces_at((100 + 9 * frame, 100), (300, 90)), frame / FPS)
    other.restore(json.loads(json.dumps(one.state())))
    for frame in range(5, 9):
        faces = faces_at((300, 91), (100 + 9 * frame, 100), (500, 50))
        a, b = one.update(faces, frame / FPS), other.update(faces, frame / FPS)
        assert ids(a) == ids(b) == [2, 1, 3]
        assert (one.predict(frame / FPS + 0.1).xyxy == other.predict(frame / FPS + 0.1).xyxy).all()


def test_a_hundred_faces_stay_apart() -> None:
    tracker = FaceTracker()
    grid = [(60.0 * x, 60.0 * y) for x in range(10) for y in range(10)]
    first = ids(tracker.update(faces_at(*grid), 0.0))
    moved = [(x + 4, y - 3) for x, y in reversed(grid)]
    assert ids(tracker.update(faces_at(*moved), 0.04)) == first[::-1]
