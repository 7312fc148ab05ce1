import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import DependencyError, WeightsError
from ferkit.datasets.images import decode_image
from ferkit.faces.detectors import ProcessDetector, _in_image_order, open_detector

needs_deepface = pytest.mark.skipif(
    importlib.util.find_spec("deepface") is None, reason="needs deepface (pip install 'ferkit[deepface]')"
)


@needs_deepface
@pytest.mark.shared
def test_a_detector_of_deepface_runs_in_a_process_of_its_own(shared: Path) -> None:
    rgb = decode_image((shared / "media" / "couple.jpg").read_bytes())[::3, ::3]
    with contextlib.closing(ProcessDetector("deepface:opencv")) as detector:
        faces = detector.detect(rgb)
        assert len(detector.detect(np.zeros((90, 120, 3), np.uint8))) == 0
    assert len(faces) == 2
    assert (faces.confidence > 0.6).all()
    assert sorted((faces.xyxy[:, 0] > rgb.shape[1] / 2).tolist()) == [False, True]


@needs_deepface
def test_what_deepface_has_not_is_a_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises((WeightsError, DependencyError), match="deepface:nonsense cannot be used"):
        open_detector("deepface:nonsense")
    with pytest.raises(WeightsError, match="leave --detector-weights out"):
        open_detector("mtcnn", tmp_path / "weights")


@needs_deepface
def test_keras_stays_usable_beside_deepface() -> None:
    """DeepFace asks for Keras 2 in the environment, which breaks Keras 3, and MTCNN with it."""
    program = (
        "import os; from ferkit.faces.detectors import open_detector; open_detector('deepface:opencv');"
        "print('deepface' in __import__('sys').modules, os.environ.get('TF_USE_LEGACY_KERAS'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "None"]


def test_left_is_left_in_the_image() -> None:
    # As DeepFace gives them: the person's left eye, which is on the right.
    points = np.array([[[70, 40], [30, 41], [50, 60], [65, 80], [35, 81]]], np.float32)
    assert _in_image_order(points)[0].tolist() == [[30, 41], [70, 40], [50, 60], [35, 81], [65, 80]]
    assert (_in_image_order(_in_image_order(points)) == _in_image_order(points)).all()
