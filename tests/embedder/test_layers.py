"""Finding the stages of a network, cutting it there, and ranking them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import GraphBuilder, arcface_resnet34, small_network

from ferkit.core.errors import DataError
from ferkit.embedder.embedders import find_best_layer, load_embedder, open_embedder
from ferkit.embedder.onnx_graph import cut, load_graph, split_prelu
from ferkit.embedder.onnx_network import find_layer, list_layers, pool_features

MOBILEFACENET = "arcface_mobilefacenet_112_rgb255_128d.onnx"


def prelu_network(path: Path, *, in_parts: bool) -> Path:
    """Two convolutions with PReLU, in one node or as tf2onnx writes it, and a residual sum between them."""
    g = GraphBuilder()
    x = g.conv("input", 3, 8, stride=2)
    for _ in range(2):
        slope = g.constant(g.random.uniform(0.1, 0.4, (8, 1, 1)))
        if in_parts:
            zero = g.constant(np.zeros(()))
            y = g.add("Add", g.add("Max", zero, x), g.add("Mul", g.add("Min", zero, x), slope))
        else:
            y = g.add("PRelu", x, slope)
        x = g.conv(y, 8, 8)
    x = g.add("Add", x, y, name="sum")
    x = g.add("Flatten", g.add("GlobalAveragePool", g.add("Relu", g.conv(x, 8, 16))))
    return g.save(path, x, 16, ["n", 3, 20, 20])


@pytest.fixture
def shared_network(shared: Path) -> Path:
    return shared / "models" / MOBILEFACENET


def test_stages_of_the_arcface_resnet(tmp_path: Path) -> None:
    model = load_graph(arcface_resnet34(tmp_path / "net.onnx"))
    layers = {layer.name: layer for layer in list_layers(model, (112, 112))}
    assert list(layers) == ["stage1", "stage2", "stage3", "stage4", "stage5", "last"]
    shapes = [layers[f"stage{k}"].shape for k in (2, 3, 4, 5)]
    assert shapes == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    sums = [node.output[0] for node in model.graph.node if node.op_type == "Add"]
    assert [layers[f"stage{k}"].tensor for k in (2, 3, 4, 5)] == [sums[2], sums[6], sums[12], sums[15]]
    assert layers["last"].shape == (512,)


@pytest.mark.shared
def test_stages_of_the_mobilefacenet(shared_network: Path) -> None:
    layers = {layer.name: layer for layer in list_layers(load_graph(shared_network), (112, 112))}
    assert (layers["stage4"].tensor, layers["stage4"].shape) == ("add_35", (128, 14, 14))
    assert (layers["stage5"].tensor, layers["stage5"].shape) == ("add_43", (128, 7, 7))
    assert layers["stage4"].default_pool_hw == (7, 7)


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_prelu_in_parts_is_no_residual_sum(tmp_path: Path, in_parts: bool) -> None:
    model = load_graph(prelu_network(tmp_path / "net.onnx", in_parts=in_parts))
    assert find_layer(model, (20, 20), "stage2").tensor == "sum"


@pytest.mark.parametrize("in_parts", [False, True])
def test_splitting_prelus_changes_no_number(tmp_path: Path, in_parts: bool) -> None:
    path = prelu_network(tmp_path / "net.onnx", in_parts=in_parts)
    model = load_graph(path)
    assert split_prelu(model) in (2, 0)  # none on other processors than x86
    onnx.checker.check_model(model)
    values = np.random.default_rng(0).normal(0, 1, (3, 3, 20, 20)).astype(np.float32)
    before, after = (
        onnxruntime.InferenceSession(content).run(None, {"input": values})[0]
        for content in (path.read_bytes(), model.SerializeToString())
    )
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_a_cut_graph_computes_the_layer_and_nothing_behind_it(tmp_path: Path) -> None:
    path = small_network(tmp_path / "net.onnx")
    crops = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)
    whole = load_graph(path)
    layer = find_layer(whole, (32, 24), "stage2")
    whole.graph.output.append(onnx.helper.make_tensor_value_info(layer.tensor, onnx.TensorProto.FLOAT, None))
    maps = onnxruntime.InferenceSession(whole.SerializeToString()).run(
        [layer.tensor], {"input": crops.astype(np.float32)}
    )[0]
    assert maps.shape[1:] == layer.shape == (8, 12, 16)
    embedder = open_embedder(f"onnx:{path}", layer="stage2", pool_hw=(3, 4))
    np.testing.assert_allclose(embedder.embed(crops), pool_features(maps, (3, 4)), rtol=1e-4, atol=1e-4)
    assert (embedder.settings.layer, embedder.settings.pool_hw) == (layer.tensor, (3, 4))

    model = load_graph(path)
    cut(model, [layer.tensor])
    assert {node.op_type for node in model.graph.node} == {
        "Transpose",
        "Conv",
        "Relu",
        "BatchNormalization",
        "Add",
    }
    assert len(model.graph.initializer) < len(load_graph(path).graph.initializer)


def test_any_tensor_by_name_also_one_with_channels_last(tmp_path: Path) -> None:
    g = GraphBuilder()
    x = g.add("Mul", "input", g.constant(np.array(2.0)), name="doubled")
    x = g.conv(g.add("Transpose", x, perm=[0, 3, 1, 2]), 3, 4)
    g.save(tmp_path / "net.onnx", g.add("Flatten", x), 4 * 64, ["n", 8, 8, 3])
    embedder = open_embedder(f"onnx:{tmp_path / 'net.onnx'}", layer="doubled", pool_hw=(8, 8))
    crops = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(embedder.embed(crops).reshape(2, 3, 8, 8), crops.transpose(0, 3, 1, 2) * 2.0)
    last = open_embedder(f"onnx:{tmp_path / 'net.onnx'}", layer="last")
    assert last.fingerprint == open_embedder(f"onnx:{tmp_path / 'net.onnx'}").fingerprint


def striped(n_per_class: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Crops whose class is the direction of their stripes: local texture, which averages away."""
    random = np.random.default_rng(seed)
    wave = np.sin(np.arange(32) * 1.5)
    images, labels = [], []
    for label, pattern in (("rows", wave[:24, None]), ("columns", wave[None, :])):
        for _ in range(n_per_class):
            noisy = 128 + 60 * pattern + random.normal(0, 40, (24, 32))
            images.append(np.repeat(noisy.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))
            labels.append(label)
    return np.stack(images), labels


def test_the_search_ranks_every_stage_and_is_repeatable(tmp_path: Path) -> None:
    embedder = open_embedder(f"onnx:{small_network(tmp_path / 'net.onnx')}")
    crops, labels = striped(30)
    scores = find_best_layer(embedder, crops, labels, seed=1)
    assert {score.layer.name for score in scores} >= {"stage2", "stage3", "last"}
    accuracies = [score.accuracy for score in scores]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > 0.9
    assert all(score.images_per_s > 0 for score in scores)
    assert [s.accuracy for s in find_best_layer(embedder, crops, labels, seed=1)] == accuracies


def test_the_search_joins_layers_that_help_each_other(tmp_path: Path) -> None:
    """Fine stripes are lost in the last layer, brightness at the border in what is left of the first."""
    path = small_network(tmp_path / "net.onnx")
    embedder = open_embedder(f"onnx:{path}")
    fine, _ = striped(60, seed=2)
    scores = find_best_layer(
        embedder, fine, ["a", "b", "c", "d"] * 30
    )  # nothing to be learnt, so joins are tried
    joins = [score for score in scores if "+" in score.layer.name]
    assert joins
    for score in joins:
        opened = open_embedder(f"onnx:{path}", layer=score.layer.name)
        assert opened.dim == score.dim
        assert opened.settings.layer == score.layer.tensor


def test_joined_layers_lie_one_behind_the_other(tmp_path: Path) -> None:
    spec = f"onnx:{small_network(tmp_path / 'net.onnx')}"
    crops = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)
    joined = open_embedder(spec, layer="stage2 + stage3+last", pool_hw=(3, 2))
    parts = [
        open_embedder(spec, layer="stage2", pool_hw=(3, 2)),
        open_embedder(spec, layer="stage3", pool_hw=(3, 2)),
        open_embedder(spec),
    ]
    np.testing.assert_allclose(
        joined.embed(crops), np.hstack([part.embed(crops) for part in parts]), rtol=1e-5
    )
    again = load_embedder(joined.settings, weights=tmp_path / "net.onnx")
    assert again.fingerprint == joined.fingerprint
    np.testing.assert_array_equal(again.embed(crops), joined.embed(crops))
    assert (
        open_embedder(spec, layer="stage2+last").dim
        == parts[2].dim + 16 * open_embedder(spec, layer="stage2", pool_hw=(1, 1)).dim
    )
    with pytest.raises(DataError, match="expected different layers joined by"):
        open_embedder(spec, layer="stage2+stage2")
    with pytest.raises(DataError, match="expected a layer or tensor of the network, found 'stage9'"):
        open_embedder(spec, layer="stage2+stage9")


def test_the_search_keeps_persons_whole(tmp_path: Path) -> None:
    """Labels that only follow the person cannot be learnt when nobody is on both sides of a fold."""
    embedder = open_embedder(f"onnx:{small_network(tmp_path / 'net.onnx')}")
    random = np.random.default_rng(0)
    faces = random.integers(0, 256, (12, 24, 32, 3))
    persons = np.repeat(np.arange(12), 8)
    crops = (faces[persons] + random.normal(0, 3, (96, 24, 32, 3))).clip(0, 255).astype(np.uint8)
    labels = [("a", "b")[person % 2] for person in persons]
    mixed = max(score.accuracy for score in find_best_layer(embedder, crops, labels))
    apart = min(
        score.accuracy for score in find_best_layer(embedder, crops, labels, persons.astype(str).tolist())
    )
    assert mixed > 0.95
    assert apart < 0.8


def test_the_search_says_what_it_needs(tmp_path: Path) -> None:
    crops, labels = striped(2)
    embedder = open_embedder(f"onnx:{small_network(tmp_path / 'net.onnx')}")
    with pytest.raises(DataError, match="expected at least two classes with 3 images each"):
        find_best_layer(embedder, crops, labels)
    with pytest.raises(DataError, match="raw is no network to look into"):
        find_best_layer(open_embedder("raw"), crops, labels)
    with pytest.raises(DataError, match="raw is no network to look into"):
        open_embedder("raw", layer="stage4")
