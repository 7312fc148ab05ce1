import cv2
import numpy as np

from ferkit.core.types import Faces
from ferkit.datasets.synthetic import Identity, render_face
from ferkit.faces.tracking import FaceTracker, appearance_of

SIDE = 60


def people() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [render_face(Identity.random(rng), "neutral", rng, size=SIDE) for _ in range(4)]


def box_at(*xs: int) -> Faces:
    return Faces(
        np.array([(x, 40, x + SIDE, 40 + SIDE) for x in xs], np.float32), np.full(len(xs), 0.9, np.float32)
    )


def scene(*faces: tuple[int, np.ndarray]) -> np.ndarray:
    rgb = np.full((140, 400, 3), 90, np.uint8)
    for x, face in faces:
        rgb[40 : 40 + SIDE, x : x + SIDE] = face
    return rgb


def test_the_same_face_looks_alike_in_other_light_and_others_do_not() -> None:
    a, b, c, d = people()
    rgb = scene((10, a), (100, b), (190, c), (280, d))
    darker = np.clip(cv2.GaussianBlur(rgb, (0, 0), 1) * 0.6 + 10, 0, 255).astype(np.uint8)
    faces = box_at(10, 100, 190, 280)
    similarity = appearance_of(rgb, faces) @ appearance_of(darker, faces).T
    assert np.diag(similarity).min() > 0.9
    assert (similarity.argmax(axis=1) == np.arange(4)).all()
    assert np.diag(appearance_of(rgb, faces) @ appearance_of(rgb, faces).T).min() > 0.999


def test_who_walks_in_front_does_not_inherit_the_number() -> None:
    stays, passes = people()[:2]
    tracker, numbers = FaceTracker(), []
    for frame in range(61):
        x = 20 + 5 * frame
        # The one who passes hides the other while they overlap, and only one face is found then.
        rgb = scene((150, stays), (x, passes))
        faces = box_at(x) if abs(x - 150) < SIDE - 10 else box_at(x, 150)
        found = tracker.update(faces, frame / 25, appearance_of(rgb, faces))
        assert found.track_id is not None
        numbers.append(
            dict(zip(found.xyxy[:, 0].round().astype(int).tolist(), found.track_id.tolist(), strict=True))
        )
    assert [numbers[0][20], numbers[0][150]] == [numbers[-1][320], numbers[-1][150]]
    assert all(number.get(20 + 5 * i) == numbers[0][20] for i, number in enumerate(numbers))
