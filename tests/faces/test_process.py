import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import FerkitError, WeightsError
from ferkit.datasets.images import decode_image
from ferkit.faces.detectors import HaarDetector, ProcessDetector


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)


@pytest.mark.shared
def test_it_finds_what_the_detector_finds_here(shared: Path) -> None:
    rgb = decode_image((shared / "media" / "couple.jpg").read_bytes())[::3, ::3]
    with contextlib.closing(ProcessDetector("haar")) as elsewhere:
        found = elsewhere.detect(rgb)
    assert len(found) > 0
    assert (found.xyxy == HaarDetector().detect(rgb).xyxy).all()


def test_a_killed_process_costs_one_frame_and_is_started_again(noise: np.ndarray) -> None:
    with contextlib.closing(ProcessDetector("haar")) as detector:
        first = detector.pid
        os.kill(first, signal.SIGKILL)
        assert len(detector.detect(noise)) == 0
        assert detector.n_restarts == 1
        assert detector.pid != first
        detector.detect(noise)
        assert detector.n_restarts == 1


def test_one_that_hangs_is_started_again(noise: np.ndarray) -> None:
    with contextlib.closing(ProcessDetector("haar", timeout_s=0.5)) as detector:
        os.kill(detector.pid, signal.SIGSTOP)
        assert len(detector.detect(noise)) == 0
        assert detector.n_restarts == 1


def test_one_that_grows_is_started_again(noise: np.ndarray) -> None:
    with contextlib.closing(ProcessDetector("haar", max_growth_mb=-1.0)) as detector:
        for _ in range(21):
            detector.detect(noise)
        assert detector.n_restarts == 1


def test_it_is_given_up_when_it_fails_again_and_again(noise: np.ndarray) -> None:
    with contextlib.closing(ProcessDetector("haar", patience=1)) as detector:
        os.kill(detector.pid, signal.SIGKILL)
        detector.detect(noise)
        os.kill(detector.pid, signal.SIGKILL)
        with pytest.raises(FerkitError, match="2 times in a row"):
            detector.detect(noise)


def test_what_is_wrong_over_there_is_said_here(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_text("no network")
    with pytest.raises(WeightsError, match=r"broken\.onnx is not a YuNet network"):
        ProcessDetector("yunet", broken)
