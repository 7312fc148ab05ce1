from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ferkit.classifiers.kinds import NetworkClassifier
from ferkit.core.errors import DataError, ModelError
from ferkit.core.labels import LabelSet
from ferkit.inference.explain import (
    Explanation,
    draw_explanation,
    grad_cam,
    heat,
    map_weights,
    occlusion_map,
    part_of,
    run_part,
)

LABELS = LabelSet(("sad", "happy"))
SIZE = 48


class CornerClassifier:
    """Happy if the left upper quarter is rough; the right lower quarter speaks against it."""

    labels = LABELS
    input_size_wh = (SIZE, SIZE)

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        half = SIZE // 2
        support = crops[:, :half, :half].std(axis=(1, 2, 3)) - 0.4 * crops[:, half:, half:].std(
            axis=(1, 2, 3)
        )
        happy = 1 / (1 + np.exp(-(support - 20) / 10))
        return np.stack([1 - happy, happy], axis=1).astype(np.float32)


def rough() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)


def quarters(importance: np.ndarray) -> dict[str, float]:
    h, w = importance.shape[0] // 2, importance.shape[1] // 2
    return {
        "left upper": float(importance[:h, :w].mean()),
        "right upper": float(importance[:h, w:].mean()),
        "left lower": float(importance[h:, :w].mean()),
        "right lower": float(importance[h:, w:].mean()),
    }


def test_hiding_shows_what_speaks_for_and_against() -> None:
    importance = occlusion_map(CornerClassifier(), rough(), 1)
    assert importance.shape == (SIZE, SIZE)
    mean = quarters(importance)
    assert max(mean, key=lambda name: mean[name]) == "left upper"
    assert min(mean, key=lambda name: mean[name]) == "right lower"
    assert mean["left upper"] > 0 > mean["right lower"]


def test_a_class_that_is_not_there_or_a_crop_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="class from 0 to 1"):
        occlusion_map(CornerClassifier(), rough(), 2)
    with pytest.raises(DataError, match="crops of shape"):
        occlusion_map(CornerClassifier(), rough()[:20], 0)


def network(*, maps: bool = True) -> NetworkClassifier:
    """Happy if there is much red, sad if there is much blue: two maps, averaged, and the difference decides."""
    kernel = np.zeros((2, 3, 3, 3), np.float32)
    kernel[0, 0], kernel[1, 2] = 1 / 9 / 255, 1 / 9 / 255
    constants = [
        numpy_helper.from_array(kernel, "kernel"),
        numpy_helper.from_array(np.array([[-8, 8], [8, -8]], np.float32), "dense"),
        numpy_helper.from_array(np.eye(3 * SIZE * SIZE, 2, dtype=np.float32) / 255, "flat"),
    ]
    steps = [
        helper.make_node("Transpose", ["images"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "kernel"], ["conv"], strides=[4, 4], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["vector"]),
        helper.make_node("MatMul", ["vector", "dense"], ["logits"]),
    ]
    if not maps:
        steps = [
            helper.make_node("Flatten", ["images"], ["vector"]),
            helper.make_node("MatMul", ["vector", "flat"], ["logits"]),
        ]
    steps.append(helper.make_node("Softmax", ["logits"], ["probabilities"]))
    graph = helper.make_graph(
        steps,
        "red or blue",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return NetworkClassifier(model.SerializeToString(), LABELS, threads=1)


def red_and_blue() -> np.ndarray:
    crop = np.zeros((SIZE, SIZE, 3), np.uint8)
    crop[: SIZE // 2, : SIZE // 2, 0] = 200
    crop[SIZE // 2 :, SIZE // 2 :, 2] = 200
    return crop


def test_grad_cam_looks_where_each_class_is() -> None:
    happy, sad = (quarters(grad_cam(network(), red_and_blue(), target)) for target in (1, 0))
    assert happy["left upper"] > 0
    assert happy["right lower"] == pytest.approx(0, abs=1e-6)
    assert sad["right lower"] > 0
    assert sad["left upper"] == pytest.approx(0, abs=1e-6)


def test_grad_cam_equals_the_gradient() -> None:
    # Behind the maps: mean, dense, softmax. d log p_happy / d mean = (1 - p_happy) (w_happy - w_sad).
    classifier, crop = network(), red_and_blue()
    crop[..., 1] = 60
    p = float(classifier.predict_proba(crop[None])[0, 1])
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(classifier.onnx))
    maps = run_part(part_of(model, ["images"], ["maps"]), {"images": crop[None].astype(np.float32)})
    weights = map_weights(part_of(model, ["maps"], ["probabilities"]), {"maps": maps}, 1)
    assert weights == pytest.approx((1 - p) * np.array([16, -16]), rel=0.02)


def test_a_network_without_maps_says_so() -> None:
    with pytest.raises(ModelError, match="no layer of maps"):
        grad_cam(network(maps=False), red_and_blue(), 1)


def test_heat_is_red_for_and_blue_against() -> None:
    importance = np.zeros((8, 8), np.float32)
    importance[:4], importance[4:] = 1, -1
    drawn = heat(np.full((64, 64, 3), 128, np.uint8), importance).astype(int)
    assert drawn[10, 30, 0] > drawn[10, 30, 2] + 50
    assert drawn[54, 30, 2] > drawn[54, 30, 0] + 50
    assert (heat(np.full((8, 8, 3), 99, np.uint8), np.zeros((4, 4))) == 99).all()


@pytest.mark.parametrize("language", ["en", "ko"])
def test_an_explanation_is_drawn_with_every_map(language: str, tmp_path: Path) -> None:
    maps = {"occlusion": np.eye(6), "gradcam": np.eye(4)}
    one = Explanation(red_and_blue(), np.array([0.3, 0.7]), 1, dict(list(maps.items())[:1]))
    two = Explanation(red_and_blue(), np.array([0.3, 0.7]), 1, maps)
    narrow, _ = draw_explanation(one, LABELS, language)
    wide, _ = draw_explanation(two, LABELS, language)
    assert wide.shape[1] > narrow.shape[1] + 300
