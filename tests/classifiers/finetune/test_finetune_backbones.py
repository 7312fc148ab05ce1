from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from ferkit.classifiers.finetune.networks import (
    BACKBONES,
    block_names,
    build_backbone,
    build_core,
    of_keras_layers,
    set_trainable,
    whole_network,
)
from ferkit.classifiers.finetune.recipe import NetworkSettings, StageSettings
from ferkit.core.errors import TrainingError, WeightsError
from ferkit.core.weights import bundled_folder

PLAIN = NetworkSettings(backbone="plain", input_size_wh=(24, 24))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_row_of_the_table_says_the_truth(name: str) -> None:
    row = BACKBONES[name]
    size = 32 if row.pretrained else 48
    backbone, preprocessing = build_backbone(
        NetworkSettings(backbone=name, input_size_wh=(size, size), color="rgb" if row.pretrained else "gray")
    )
    assert len(backbone.output_shape) == 4
    assert backbone.input_shape[-1] == (3 if row.pretrained else 1)
    assert len(block_names(backbone)) >= 3
    assert np.shape(preprocessing.scale) == np.shape(preprocessing.offset)
    ends = [np.array(preprocessing.scale) * gray + np.array(preprocessing.offset) for gray in (0, 255)]
    assert (ends[0] < -0.99).all()
    assert (ends[1] > 0.99).all()
    if name in ("mobilenet-v3-small", "convnext-tiny"):  # those with sums, products or layers of their own
        copy = of_keras_layers(backbone)
        assert not any(type(one).__name__ == "LayerScale" for one in copy.operations)
        assert all(isinstance(one, keras.layers.Layer) for one in copy.operations)
        images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
        found, expected = (keras.ops.convert_to_numpy(one(images)) for one in (copy, backbone))
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", [name for name, row in BACKBONES.items() if not row.pretrained])
def test_own_networks_have_no_convolution_whose_training_ends_tensorflow(name: str) -> None:
    backbone = BACKBONES[name].build((64, 64, 1), None)
    convolutions = [one for one in backbone.layers if isinstance(one, keras.layers.Conv2D)]
    assert not [one.name for one in convolutions if one.kernel_size == (1, 1) and one.strides != (1, 1)]


def test_efficientnet_is_cut_behind_its_own_scaling_and_given_ours() -> None:
    core = build_core(NetworkSettings(backbone="efficientnet-b0", input_size_wh=(32, 32), color="rgb"), 3)
    kinds = {type(layer).__name__ for layer in core.get_layer("backbone").layers}
    assert not kinds & {"Normalization", "Rescaling"}
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert keras.ops.convert_to_numpy(core.get_layer("scaling")(images)) == pytest.approx(expected, abs=1e-5)


def test_gray_is_the_luminance_and_colour_is_seen() -> None:
    red = np.zeros((1, 24, 24, 3), np.float32)
    red[..., 0] = 200
    same_gray = np.full((1, 24, 24, 3), 0.299 * 200, np.float32)
    for color, equal in (("gray", True), ("rgb", False)):
        settings = replace(PLAIN, color=color)
        network = whole_network(build_core(settings, 3), settings, 3)
        found = np.abs(network.predict_on_batch(red) - network.predict_on_batch(same_gray)).max()
        assert (found < 1e-5) == equal
        assert network.input_shape == (None, 24, 24, 3)


def test_a_sigmoid_network_has_one_column_and_takes_two_classes_only() -> None:
    settings = replace(PLAIN, output="sigmoid", hidden=8)
    network = whole_network(build_core(settings, 2), settings, 2)
    assert network.output_shape == (None, 1)
    with pytest.raises(TrainingError, match="two classes apart, found 3"):
        build_core(settings, 3)
    with pytest.raises(TrainingError, match="at least two classes"):
        build_core(PLAIN, 1)


def learning(backbone: keras.Model) -> list[str]:
    return [layer.name for layer in backbone.layers if layer.trainable_variables]


def test_stages_unfreeze_what_they_say() -> None:
    backbone, _ = build_backbone(PLAIN)
    set_trainable(backbone, StageSettings(unfreeze="none"))
    assert learning(backbone) == []
    set_trainable(backbone, StageSettings(unfreeze="from:block3"))
    assert learning(backbone) == ["block3_conv", "block3_bn"]
    set_trainable(backbone, StageSettings(unfreeze="last:1"))
    assert learning(backbone) == ["block3_bn"]
    set_trainable(backbone, StageSettings(unfreeze="all"))
    assert len(learning(backbone)) == 6
    with pytest.raises(TrainingError, match="no block 'block9'; it has block1, block2, block3"):
        set_trainable(backbone, StageSettings(unfreeze="from:block9"))
    with pytest.raises(TrainingError, match="last:1 to last:13"):
        set_trainable(backbone, StageSettings(unfreeze="last:14"))


def test_batch_norm_policies_differ_in_what_moves() -> None:
    backbone, _ = build_backbone(
        NetworkSettings(backbone="mobilenet-v3-small", input_size_wh=(64, 64), color="rgb")
    )
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]

    def count(policy: str) -> tuple[int, int]:
        set_trainable(backbone, StageSettings(unfreeze="all", batch_norm=policy))
        return sum(layer.trainable for layer in norms), sum(len(layer.trainable_variables) for layer in norms)

    assert count("all") == (0, 0)
    assert count("none") == (len(norms), 2 * len(norms))
    assert count("adaptive") == (len(norms), 0)  # statistics move, scales do not
    late, scales = count("s3")
    assert 0 < late < len(norms)
    assert scales == 2 * late
    assert not norms[0].trainable
    assert norms[-1].trainable
    assert count("none") == (len(norms), 2 * len(norms))  # scales that were kept are freed again


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "network.keras"
    core = build_core(PLAIN, 3)
    whole_network(core, PLAIN, 3).save(path)
    return path


def test_weights_of_an_earlier_run_fill_the_same_backbone(saved: Path) -> None:
    earlier = keras.saving.load_model(saved).get_layer("core").get_layer("backbone").get_weights()
    by_weights, scale = build_backbone(replace(PLAIN, weights=str(saved)))
    by_file, file_scale = build_backbone(NetworkSettings(backbone=str(saved)))
    assert file_scale == scale
    for backbone in (by_weights, by_file):
        for a, b in zip(backbone.get_weights(), earlier, strict=True):
            assert (a == b).all()
    core = build_core(NetworkSettings(backbone=str(saved)), 5)
    assert core.input_shape == (None, 24, 24, 1)
    assert core.output_shape == (None, 5)


def test_the_second_edition_is_rebuilt_exactly() -> None:
    settings = NetworkSettings(backbone="ferkit2")
    core = build_core(settings, 7)
    folder = bundled_folder("ferkit2")
    weights = {
        tensor.name: numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in onnx.load(folder / "network.onnx").graph.initializer
    }
    core.get_layer("logits").set_weights([weights["last.weight/float16"].T, weights["last.bias"]])
    images = np.random.default_rng(0).uniform(0, 255, (6, 48, 48, 3)).astype(np.float32)
    images[1], images[2] = np.linspace(0, 255, 48)[None, :, None], images[2] * 0.2 + 30
    expected = ort.InferenceSession(folder / "network.onnx").run(["probabilities"], {"images": images})[0]
    found = keras.ops.convert_to_numpy(whole_network(core, settings, 7)(images))
    assert found == pytest.approx(expected, abs=1e-4)
    backbone = core.get_layer("backbone")
    assert block_names(backbone) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    set_trainable(backbone, StageSettings(unfreeze="from:stage4"))
    assert all(name.startswith("stage4") for name in learning(backbone))
    with pytest.raises(WeightsError, match=r"ferkit2 takes 1 channels.*network\.color=rgb"):
        build_core(replace(settings, color="rgb"), 7)


def test_maps_may_be_flattened_and_dropout_differ_before_the_hidden_layer() -> None:
    core = build_core(replace(PLAIN, pooling="flatten", hidden=8, hidden_dropout=0.0, dropout=0.25), 3)
    assert core.get_layer("features").output.shape == (None, 3 * 3 * 128)
    assert [core.get_layer(name).rate for name in ("dropout", "hidden_dropout")] == [0.0, 0.25]


def test_foreign_networks_are_taken_up_to_their_last_maps(tmp_path: Path) -> None:
    foreign = keras.Sequential(
        [keras.Input((20, 24, 3)), keras.layers.Conv2D(5, 3), keras.layers.Flatten(), keras.layers.Dense(7)]
    )
    foreign.save(tmp_path / "foreign.h5")
    settings = NetworkSettings(backbone=str(tmp_path / "foreign.h5"), color="rgb")
    core = build_core(settings, 2)
    assert core.input_shape == (None, 20, 24, 3)
    assert core.get_layer("backbone").output_shape[-1] == 5
    assert core.get_layer("scaling").scale == 1.0  # a foreign network is given 0..255


def test_a_file_of_keras_2_with_depthwise_convolutions_is_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    images = keras.Input((24, 24, 3))
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(images)
    path = tmp_path / "old.h5"
    keras.Model(images, keras.layers.Conv2D(4, 3, name="conv")(x)).save(path)
    with h5py.File(path, "r+") as file:  # Keras 2 wrote a number of groups
        written = file.attrs["model_config"]
        text = written if isinstance(written, str) else written.decode()
        file.attrs["model_config"] = text.replace('"depth_multiplier"', '"groups": 1, "depth_multiplier"')
    assert "groups" in h5py.File(path).attrs["model_config"]
    core = build_core(NetworkSettings(backbone=str(path), input_size_wh=(24, 24), color="rgb"), 3)
    assert core.output_shape == (None, 3)


def test_files_that_do_not_fit_are_refused_by_name(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"expected .* of shape \(3, 3, 1, 32\), found \(3, 3, 3, 32\)|does not fit"
    ):
        build_backbone(replace(PLAIN, color="rgb", weights=str(saved)))
    with pytest.raises(WeightsError, match="does not fit"):
        build_backbone(NetworkSettings(backbone="compact", weights=str(saved)))
    with pytest.raises(WeightsError, match="takes images of 24x24, but the settings say 48x48"):
        build_core(NetworkSettings(backbone=str(saved), input_size_wh=(48, 48)), 3)
    with pytest.raises(WeightsError, match="takes 1 channels"):
        build_core(NetworkSettings(backbone=str(saved), color="rgb"), 3)
    with pytest.raises(WeightsError, match="found none"):
        build_core(NetworkSettings(backbone=str(tmp_path / "absent.keras")), 3)
    (tmp_path / "text.keras").write_text("no network")
    with pytest.raises(WeightsError, match="cannot be read as a Keras network"):
        build_core(NetworkSettings(backbone=str(tmp_path / "text.keras")), 3)
    with pytest.raises(TrainingError, match="known: ferkit, ferkit2, small_resnet"):
        build_core(NetworkSettings(backbone="vgg19"), 3)
    with pytest.raises(WeightsError, match="no ImageNet weights for baseline_cnn"):
        build_core(replace(PLAIN, weights="imagenet"), 3)


def test_imagenet_weights_that_cannot_be_fetched_name_file_place_and_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = "https://storage.example/keras/weights_small.h5"

    def unreachable(**options: object) -> keras.Model:
        raise Exception(f"URL fetch failure on {address}: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", unreachable)
    settings = NetworkSettings(backbone="mobilenet-v3-small", weights="imagenet", color="rgb")
    with pytest.raises(
        WeightsError, match=r"put weights_small.h5 into .*models, from https://storage.example"
    ) as error:
        build_backbone(settings)
    assert "--weights none" in str(error.value)
