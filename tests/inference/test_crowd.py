"""A crowd stays legible: one box a head, and no label over another."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ferkit.classifiers.model import read_model
from ferkit.core.weights import bundled_folder
from ferkit.faces.drawing import TextPainter, shared_area
from ferkit.inference.engine import EngineOptions, build_engine
from ferkit.inference.live import for_view
from ferkit.inference.overlay import Overlay, Status
from ferkit.inference.sources import VideoSource


@pytest.mark.parametrize("size_wh", [(640, 360), (1920, 1080)])
def test_one_box_a_head_and_no_label_over_another(
    shared: Path, size_wh: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = shared / "models" / "face_detection_yunet_640.onnx"
    model = read_model(bundled_folder("ferkit"), threads=1)
    engine, _ = build_engine(model, EngineOptions("yunet", weights))
    overlays = [Overlay(model.labels, language, bars=False, history=False) for language in ("en", "ko")]
    written: list[tuple[int, int, int, int]] = []

    def note(self: TextPainter, rgb: np.ndarray, text: str, xy: tuple[int, int], color: object) -> None:
        written.append((*xy, xy[0] + self.width(text), xy[1] + self.height))

    monkeypatch.setattr(TextPainter, "draw", note)
    n_faces = []
    for frame in VideoSource(shared / "media" / "group_1080p.mp4", 0.4):
        rgb = cv2.resize(frame.rgb, size_wh, interpolation=cv2.INTER_AREA)
        result = engine.process(rgb, frame.timestamp_s)
        boxes = result.faces.xyxy
        n_faces.append(len(boxes))
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = (centres[:, None] > boxes[None, :, :2]) & (centres[:, None] < boxes[None, :, 2:])
        assert (inside.all(axis=2).sum(axis=1) == 1).all(), "a box in another one"
        for overlay in overlays:
            written.clear()
            overlay.draw(*for_view(rgb.copy(), result, mirror=False), Status())
            labels = np.array(written)
            assert len(labels) > len(boxes) / 2
            assert shared_area(labels, labels).sum() == (labels[:, 2:] - labels[:, :2]).prod(axis=1).sum()
    assert np.median(n_faces) >= 6
