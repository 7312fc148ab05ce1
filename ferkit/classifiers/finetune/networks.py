"""Build the networks that can be fine-tuned, and freeze their layers.

RGB crops of 0..255 ─> gray? ─> scaling ─> backbone ─> pooling ─> dropout ─> logits ─> softmax or sigmoid
                                └──────────────── core: what is trained ────────┘

The whole network takes 0..255 RGB and gives probabilities, so that no caller needs to know its preprocessing. Only
layers that Keras has itself are used: anybody's Keras can load the file.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from ferkit.classifiers.finetune.recipe import NetworkSettings, StageSettings
from ferkit.core.errors import TrainingError, WeightsError
from ferkit.core.weights import BUNDLED, EDITIONS, NETWORK_KERAS, NETWORK_ONNX, bundled_folder


def baseline_cnn(input_shape: tuple[int, int, int]) -> keras.Model:
    """Maps of (H/8, W/8, 128) from images (H, W, C) of about -2..2; 93 thousand weights."""
    images = x = keras.Input(input_shape)
    for block, width in enumerate((32, 64, 128), start=1):
        x = layers.Conv2D(
            width, 3, padding="same", kernel_initializer="he_normal", name=f"block{block}_conv"
        )(x)
        x = layers.ReLU(name=f"block{block}_relu")(x)
        x = layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(x)
        x = layers.BatchNormalization(momentum=0.95, name=f"block{block}_bn")(x)
    return keras.Model(images, x, name="backbone")


SMALL_RESNET_WIDTH = 48


def small_resnet(input_shape: tuple[int, int, int]) -> keras.Model:
    """Maps of (H/8, W/8, 192) from images (H, W, C) of about -2..2; 0.65 million weights.

    Full 3x3 convolutions on few, small maps: on processors they reach several times the arithmetic rate of depthwise
    ones (measured, see ``docs/finetune.md``), so that for the same time the network may be wider. The stem halves the
    image at once, pooling halves it twice more, and identity shortcuts (He et al. 2016) pass over every second
    convolution.
    """
    images = keras.Input(input_shape)
    x = convolution(images, SMALL_RESNET_WIDTH, "stem", kernel=5, strides=2)
    x = _residual(x, SMALL_RESNET_WIDTH, "stage1")
    for i, width in enumerate((2 * SMALL_RESNET_WIDTH, 4 * SMALL_RESNET_WIDTH), start=2):
        x = layers.MaxPooling2D(2, padding="same", name=f"stage{i}_pool")(x)
        x = convolution(x, width, f"stage{i}_widen")
        x = _residual(x, width, f"stage{i}")
    return keras.Model(images, x, name="backbone")


def _residual(x: Any, width: int, name: str) -> Any:
    y = convolution(x, width, name, relu=False)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


def convolution(
    x: Any, width: int, name: str, kernel: int = 3, strides: int = 1, *, relu: bool = True
) -> Any:
    """Convolution, batch normalisation and, as a rule, ReLU."""
    x = layers.Conv2D(
        width, kernel, strides, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def vgg48(input_shape: tuple[int, int, int]) -> keras.Model:
    """Maps of (H/16, W/16, 512) from images (H, W, C) of about -2..2.

    Four blocks of two 3x3 convolutions, each block half as large and twice as wide as the one before, as in
    the tuned VGG of Khaireddin and Chen (2021), 73.28 % on FER2013; 4.7 million weights.
    """
    images = x = keras.Input(input_shape)
    for block, width in enumerate((64, 128, 256, 512), start=1):
        for i in (1, 2):
            x = convolution(x, width, f"block{block}_{i}")
        x = layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(x)
    return keras.Model(images, x, name="backbone")


def mini_xception(input_shape: tuple[int, int, int]) -> keras.Model:
    """Maps of (H/16, W/16, 128) from images (H, W, C) of about -2..2; 55 thousand weights.

    Four residual blocks of separable convolutions, each half as large and twice as wide as the one before, as in the
    mini-Xception of Arriaga et al. (2017), which PyPI ``fer`` uses too.
    """
    images = keras.Input(input_shape)
    x = convolution(convolution(images, 8, "stem_1"), 8, "stem_2")
    for block, width in enumerate((16, 32, 64, 128), start=1):
        name = f"block{block}"
        # Every other pixel first: TensorFlow 2.21 dies of the gradient of a 1x1 convolution in steps of two.
        shortcut = layers.MaxPooling2D(1, 2, name=f"{name}_half")(x)
        shortcut = convolution(shortcut, width, f"{name}_shortcut", kernel=1, relu=False)
        for i in (1, 2):
            x = layers.SeparableConv2D(width, 3, padding="same", use_bias=False, name=f"{name}_{i}_conv")(x)
            x = layers.BatchNormalization(momentum=0.95, name=f"{name}_{i}_bn")(x)
            x = layers.ReLU(name=f"{name}_relu")(x) if i == 1 else x
        x = layers.MaxPooling2D(3, 2, "same", name=f"{name}_pool")(x)
        x = layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.Model(images, x, name="backbone")


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FILE_SUFFIXES = (".keras", ".h5", ".hdf5")


@dataclass(frozen=True)
class Preprocessing:
    """What turns 0..255 into the range a backbone was made for: ``x * scale + offset``, one number a channel
    or one.
    """

    scale: float | list[float]
    offset: float | list[float]


CENTRED = Preprocessing(1 / 64, -2.0)
PLUS_MINUS_ONE = Preprocessing(1 / 127.5, -1.0)
STANDARDISED = Preprocessing(
    [1 / (255 * s) for s in IMAGENET_STD], [-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
)


@dataclass(frozen=True)
class Backbone:
    """One row of the table.

    Attributes:
        build: from the input shape (H, W, C) and, for networks of Keras, ``imagenet`` or None, to maps (h,
            w, features).
        input_size_wh: what it was made for.
        preprocessing: applied inside our network, so that callers always give 0..255.
        pretrained: whether ImageNet weights exist; such networks always see three channels.
    """

    build: Callable[[tuple[int, int, int], str | None], keras.Model]
    input_size_wh: tuple[int, int]
    preprocessing: Preprocessing
    pretrained: bool = True


def _keras_network(
    name: str, *, after: str | None = None, as_layers: bool = False, **options: Any
) -> Callable[[tuple[int, int, int], str | None], keras.Model]:
    """A network of Keras from its input, or from what is ``after`` its own scaling, to its maps.

    EfficientNet's scaling cannot be switched off, and its Normalization layer does not survive the export to ONNX;
    :class:`Backbone` does the same sum.
    """

    def build(input_shape: tuple[int, int, int], weights: str | None) -> keras.Model:
        builder = getattr(keras.applications, name)
        base = builder(include_top=False, weights=weights, input_shape=input_shape, **options)
        first = base.input if after is None else base.get_layer(after).input
        network = keras.Model(first, base.output, name="backbone")
        return of_keras_layers(network) if as_layers else network

    return build


def of_keras_layers(model: keras.Model) -> keras.Model:
    """A copy of layers alone, which Keras reads from any file: sums, products and scales of channels too."""
    copy = keras.models.clone_model(
        model, clone_function=_known_layer, call_function=_call_layer, recursive=True
    )
    _give_weights(model, copy)
    return copy


def _give_weights(source: keras.Model, copy: keras.Model) -> None:
    """Layer by layer: where branches meet, a copy may have its layers in another order."""
    for layer in copy.layers:
        if isinstance(layer, keras.Model):
            _give_weights(source.get_layer(layer.name), layer)
        elif layer.weights:
            layer.set_weights(source.get_layer(layer.name).get_weights())


def _known_layer(layer: Any) -> Any:
    if type(layer).__name__ == "LayerScale":  # ConvNeXt's own class
        return layers.EinsumDense("nhwc,c->nhwc", layer.output.shape[1:], name=layer.name)
    return layer.__class__.from_config(layer.get_config())


def _call_layer(layer: Any, *inputs: Any, **options: Any) -> Any:
    kind = type(layer).__name__
    if kind == "LayerNormalization" and isinstance(layer.axis, list) and len(layer.axis) > 1:
        # Over all values of an image, which an .h5 file would give back as over channels.
        norm = layers.LayerNormalization(epsilon=layer.epsilon, center=False, scale=False)
        return layers.Reshape(inputs[0].shape[1:])(norm(layers.Flatten()(inputs[0])))
    if isinstance(layer, layers.Layer) or len(inputs) != 2 or kind not in ("Add", "Multiply"):
        return layer(*inputs, **options)
    x, other = inputs
    if isinstance(other, int | float):
        return (layers.Rescaling(1.0, other) if kind == "Add" else layers.Rescaling(other))(x)
    return getattr(layers, kind)()([x, other])


def _own(build: Callable[[tuple[int, int, int]], keras.Model], side: int = 48) -> Backbone:
    return Backbone(lambda input_shape, _: build(input_shape), (side, side), CENTRED, pretrained=False)


_V1: dict[str, Any] = {"after": "stem_conv_pad"}
_V3: dict[str, Any] = {"include_preprocessing": False}
BACKBONES: dict[str, Backbone] = {
    "small_resnet": _own(small_resnet),
    "vgg48": _own(vgg48),
    "baseline_cnn": _own(baseline_cnn),
    "mini_xception": _own(mini_xception, 64),
    "efficientnet-b0": Backbone(_keras_network("EfficientNetB0", **_V1), (224, 224), STANDARDISED),
    "efficientnet-b1": Backbone(_keras_network("EfficientNetB1", **_V1), (240, 240), STANDARDISED),
    "efficientnet-b2": Backbone(_keras_network("EfficientNetB2", **_V1), (260, 260), STANDARDISED),
    "efficientnet-v2-b0": Backbone(_keras_network("EfficientNetV2B0", **_V3), (224, 224), STANDARDISED),
    "convnext-tiny": Backbone(
        _keras_network("ConvNeXtTiny", as_layers=True, **_V3), (224, 224), STANDARDISED
    ),
    "mobilenet-v3-large": Backbone(_keras_network("MobileNetV3Large", **_V3), (224, 224), PLUS_MINUS_ONE),
    "mobilenet-v3-small": Backbone(_keras_network("MobileNetV3Small", **_V3), (224, 224), PLUS_MINUS_ONE),
    "resnet50-v2": Backbone(_keras_network("ResNet50V2"), (224, 224), PLUS_MINUS_ONE),
}


def is_file(name: str) -> bool:
    """Whether a backbone's name is a file, or a network that comes along as one, not a row of :data:`BACKBONES`."""
    return name in EDITIONS or name.endswith(FILE_SUFFIXES)


def _file(name: str) -> Path:
    if name not in EDITIONS:
        return Path(name)
    return bundled_folder(name) / (NETWORK_KERAS if name == BUNDLED else NETWORK_ONNX)


def input_shape(settings: NetworkSettings) -> tuple[int, int, int]:
    """(H, W, C) of what the backbone of ``settings`` is given.

    Raises:
        TrainingError: no backbone has that name.
        WeightsError: the backbone's file cannot be used, or not with these settings.
    """
    channels = 1 if settings.color == "gray" else 3
    if is_file(settings.backbone):
        return _file_input_shape(load_backbone_file(_file(settings.backbone)), settings)
    row = _row(settings.backbone)
    width, height = settings.input_size_wh if settings.input_size_wh[0] else row.input_size_wh
    return height, width, 3 if row.pretrained else channels


def build_backbone(settings: NetworkSettings) -> tuple[keras.Model, Preprocessing]:
    """The backbone with its weights, and the range it wants.

    Raises:
        TrainingError: no backbone has that name.
        WeightsError: weights cannot be had, or are of another shape.
    """
    if is_file(settings.backbone):
        base = load_backbone_file(_file(settings.backbone))
        _file_input_shape(base, settings)
        return base, _file_preprocessing(_file(settings.backbone))
    row = _row(settings.backbone)
    wanted = settings.weights
    if wanted == "imagenet" and not row.pretrained:
        raise WeightsError(
            f"there are no ImageNet weights for {settings.backbone}; use --weights none, or a .keras "
            "file of an earlier run"
        )
    base = _fetched(row, settings) if wanted == "imagenet" else row.build(input_shape(settings), None)
    if wanted not in ("imagenet", "none"):
        _copy_weights(load_backbone_file(_file(wanted)), base, wanted)
    return base, row.preprocessing


def load_backbone_file(path: Path) -> keras.Model:
    """The backbone of a network saved by a run, or a foreign network up to its last maps or features.

    Raises:
        WeightsError: no such file, not a Keras network, or one without a usable layer.
    """
    if not path.is_file():
        raise WeightsError(f"expected a .keras or .h5 file at {path}, found none")
    if path.suffix == ".onnx":
        return read_onnx_backbone(path)
    try:
        model = _load_file(path)
    except Exception as error:  # anything that Keras and h5py raise for foreign content
        raise WeightsError(
            f"{path} cannot be read as a Keras network ({type(error).__name__}: {str(error)[:200]})"
        ) from None
    ours = _inner(model, "backbone")
    if ours is not None:
        return ours
    for layer in reversed(model.layers):
        shape = getattr(getattr(layer, "output", None), "shape", ())
        if len(shape) == 4:
            return keras.Model(model.inputs, layer.output, name="backbone")
    raise WeightsError(
        f"{path} has no layer that gives maps (h, w, channels); expected a convolutional network"
    )


def _row(name: str) -> Backbone:
    if name not in BACKBONES:
        raise TrainingError(
            f"no backbone is called {name!r}; known: {', '.join([*EDITIONS, *BACKBONES])}, or a .keras or .h5 file"
        )
    return BACKBONES[name]


def _fetched(row: Backbone, settings: NetworkSettings) -> keras.Model:
    try:
        return row.build(input_shape(settings), "imagenet")
    except Exception as error:  # urllib, ssl, socket and Keras' own, by the state of the network
        if "URL fetch failure" not in str(error) and not isinstance(error, OSError):
            raise
        address = re.search(r"https?://\S+", str(error))
        name = address[0].rsplit("/", 1)[-1].rstrip(":") if address else "the weights file"
        folder = Path.home() / ".keras" / "models"
        raise WeightsError(
            f"the ImageNet weights of {settings.backbone} could not be fetched; put {name} into {folder}"
            f"{f', from {address[0].rstrip(chr(58))}' if address else ''}, or use --weights none or a "
            "file of an earlier run"
        ) from None


def _copy_weights(source: keras.Model, target: keras.Model, name: str) -> None:
    given, wanted = source.weights, target.weights
    for a, b in zip(given, wanted, strict=False):
        if a.shape != b.shape:
            raise WeightsError(
                f"{name} does not fit: expected {b.path} of shape {tuple(b.shape)}, found {tuple(a.shape)}; "
                "use the backbone, colour and width it was trained with"
            )
    if len(given) != len(wanted):
        raise WeightsError(
            f"{name} does not fit: expected {len(wanted)} arrays of weights, found {len(given)}"
        )
    target.set_weights(source.get_weights())


def _inner(model: keras.Model, name: str) -> keras.Model | None:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            if layer.name == name:
                return layer
            if (found := _inner(layer, name)) is not None:
                return found
    return None


def _file_input_shape(base: keras.Model, settings: NetworkSettings) -> tuple[int, int, int]:
    height, width, channels = base.input_shape[1:]
    if settings.input_size_wh[0]:
        height, width = height or settings.input_size_wh[1], width or settings.input_size_wh[0]
        if (width, height) != settings.input_size_wh:
            raise WeightsError(
                f"{settings.backbone} takes images of {width}x{height}, but the settings say "
                f"{settings.input_size_wh[0]}x{settings.input_size_wh[1]}; leave network.input_size_wh out"
            )
    if not height or not width:
        raise WeightsError(
            f"{settings.backbone} leaves its input size open; say --set network.input_size_wh=64x64"
        )
    if channels not in (1, 3) or (channels == 1 and settings.color == "rgb"):
        wanted = 1 if settings.color == "gray" else 3
        raise WeightsError(
            f"{settings.backbone} takes {channels} channels, expected {wanted} for network.color={settings.color}"
        )
    return height, width, channels


class _DepthwiseConv2D(layers.DepthwiseConv2D):
    """Reads the layer as Keras 2 wrote it, with a ``groups`` that Keras 3 does not know and that is always 1."""

    def __init__(self, *args: Any, groups: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def _load_file(path: Path) -> keras.Model:
    own = {"DepthwiseConv2D": _DepthwiseConv2D} if path.suffix in (".h5", ".hdf5") else None
    return keras.saving.load_model(path, custom_objects=own, compile=False)


def _file_preprocessing(path: Path) -> Preprocessing:
    """A network of ours says its range in its own scaling layer; another one is given 0..255 as it is."""
    core = None if path.suffix == ".onnx" else _inner(_load_file(path), "core")
    if core is None:
        return Preprocessing(1.0, 0.0)
    scaling = core.get_layer("scaling")
    return Preprocessing(scaling.scale, scaling.offset)


LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what JPEG, Pillow and OpenCV call gray


def output_units(settings: NetworkSettings, n_classes: int) -> int:
    """Columns of the logits: one for a sigmoid.

    Raises:
        TrainingError: fewer than two classes, or a sigmoid for more.
    """
    if n_classes < 2:
        raise TrainingError(f"expected at least two classes to tell apart, found {n_classes}")
    if settings.output == "sigmoid" and n_classes != 2:
        raise TrainingError(
            f"a sigmoid output tells two classes apart, found {n_classes}; use output = softmax"
        )
    return 1 if settings.output == "sigmoid" else n_classes


def build_core(settings: NetworkSettings, n_classes: int, precision: str = "float32") -> keras.Model:
    """The part that is trained: (n, H, W, 1 or 3) of 0..255 to float32 logits (n, k), or (n, 1) for a
    sigmoid.

    Raises:
        TrainingError: an unknown backbone, or an output that does not fit the classes.
        WeightsError: see :func:`ferkit.classifiers.finetune.networks.build_backbone`.
    """
    units = output_units(settings, n_classes)
    shape = input_shape(settings)
    with _dtype_policy(precision):
        backbone, preprocessing = build_backbone(settings)
        images = x = keras.Input((*shape[:2], 1 if settings.color == "gray" else 3), name="images")
        if shape[2] == 3 != images.shape[-1]:
            x = layers.Concatenate(name="three_channels")([images] * 3)
        x = layers.Rescaling(preprocessing.scale, preprocessing.offset, name="scaling")(x)
        maps = backbone(x)
        if len(maps.shape) != 4 or 0 in maps.shape[1:3]:
            raise WeightsError(
                f"{settings.backbone} gives {maps.shape} for images of {shape[:2]}; make network.input_size_wh larger"
            )
        pool = layers.Flatten if settings.pooling == "flatten" else layers.GlobalAveragePooling2D
        x = pool(name="features")(maps)
        first = settings.hidden_dropout if settings.hidden else None
        x = layers.Dropout(settings.dropout if first is None else first, name="dropout")(x)
        if settings.hidden:
            x = layers.Dense(settings.hidden, "relu", name="hidden")(x)
            x = layers.Dropout(settings.dropout, name="hidden_dropout")(x)
        logits = layers.Dense(units, dtype="float32", name="logits")(x)
        return keras.Model(images, logits, name="core")


def whole_network(core: keras.Model, settings: NetworkSettings, n_classes: int) -> keras.Model:
    """float32 (n, H, W, 3) RGB 0..255 to probabilities (n, k), or (n, 1) for a sigmoid; always in float32.

    The weights are those of ``core``, copied.
    """
    # Weights trained in mixed precision are kept in float32; only the arithmetic has to be declared again.
    plain = build_core(replace(settings, weights="none"), n_classes)
    plain.set_weights(core.get_weights())
    height, width, channels = plain.input_shape[1:]
    images = x = keras.Input((height, width, 3), name="images")
    if channels == 1:
        gray = layers.Dense(1, use_bias=False, trainable=False, name="gray")
        x = gray(x)
        gray.set_weights([np.array(LUMA, np.float32)[:, None]])
    activation = "sigmoid" if settings.output == "sigmoid" else "softmax"
    return keras.Model(images, layers.Activation(activation, name="probabilities")(plain(x)), name="network")


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


S3_STAGES = 3  # resolutions whose statistics are of edges and skin, and not of the data set

# What the built-in and the Keras networks call their blocks: block6a_expand_conv, expanded_conv_12/depthwise,
# conv4_block2_1_bn, stage2_conv.
_BLOCK = re.compile(
    r"^(block\d+[a-z]?|expanded_conv(?:_\d+)?|conv\d_block\d+|stage\d+|stem|top|Conv_\d|conv_\d"
    r"|convnext_tiny_stage_\d)"
)


def block_names(base: keras.Model) -> list[str]:
    """The blocks of a backbone, input first, as ``from:BLOCK`` takes them."""
    return list(dict.fromkeys(match[0] for layer in base.layers if (match := _BLOCK.match(layer.name))))


def set_trainable(base: keras.Model, stage: StageSettings) -> None:
    """Make the layers learn that ``stage`` says, and its batch normalisations move as it says.

    Raises:
        TrainingError: the backbone has no block of that name, or fewer layers.
    """
    base.trainable = True
    learning = {id(layer) for layer in _learning_layers(base, stage.unfreeze)}
    early = {id(layer) for layer in _up_to_resolution(base, S3_STAGES)}
    for layer in base.layers:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        kept = is_norm and (stage.batch_norm == "all" or (stage.batch_norm == "s3" and id(layer) in early))
        layer.trainable = id(layer) in learning and not kept
        if is_norm:
            for scale in (layer.gamma, layer.beta):
                if scale is not None:
                    scale.trainable = layer.trainable and stage.batch_norm != "adaptive"


def _learning_layers(base: keras.Model, unfreeze: str) -> list[keras.layers.Layer]:
    kind, _, value = unfreeze.partition(":")
    if kind == "none":
        return []
    if kind == "last":
        if not 0 < int(value) <= len(base.layers):
            raise TrainingError(
                f"expected unfreeze last:1 to last:{len(base.layers)} for this backbone, found {unfreeze}"
            )
        return base.layers[-int(value) :]
    if kind == "from":
        first = next((i for i, layer in enumerate(base.layers) if layer.name.startswith(value)), None)
        if first is None:
            raise TrainingError(
                f"this backbone has no block {value!r}; it has {', '.join(block_names(base))}"
            )
        return base.layers[first:]
    return base.layers


def _up_to_resolution(base: keras.Model, stages: int) -> list[keras.layers.Layer]:
    """Layers whose maps have one of the first ``stages`` sizes below the input's."""
    sizes: list[int] = []
    found = []
    for layer in base.layers:
        shape: tuple[int | None, ...] = getattr(layer.output, "shape", ())
        if len(shape) == 4 and shape[1] is not None:
            # Padding layers enlarge a map by a pixel or two and squeeze-and-excite ones work on 1x1: neither
            # is a stage.
            if shape[1] > 1 and (not sizes or shape[1] < 0.75 * sizes[-1]):
                sizes.append(shape[1])
            if len(sizes) <= stages + 1:
                found.append(layer)
    return found


_FOLDED: dict[str, Any] = {"Cast": lambda x: x.astype(np.float32), "Mul": np.multiply}


def read_onnx_backbone(path: Path) -> keras.Model:
    """The part of a network from gray images (n, H, W, 1) of 0..255 to its last maps (n, h, w, features).

    Each image is brought to mean 0 and deviation 1 first, as the network does itself.

    Raises:
        WeightsError: the network has a part that has no counterpart here.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    height, width = (size.dim_value for size in graph.input[0].type.tensor_type.shape.dim[1:3])
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    images = keras.Input((height, width, 1))
    tensors: dict[str, Any] = {}
    epsilon = 0.0
    for node in graph.node:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        kind, (output,) = node.op_type, node.output
        if kind == "Constant":
            constants[output] = numpy_helper.to_array(given["value"])
        elif kind in _FOLDED and all(name in constants for name in node.input):
            constants[output] = _FOLDED[kind](*(constants[name] for name in node.input))
        elif tensors:
            if kind == "ReduceMean" and not given["keepdims"]:  # the features: what follows is the old head
                return keras.Model(images, tensors[node.input[0]], name="backbone")
            tensors[output] = _layer(node, given, tensors, constants, path)
        elif kind == "Add":
            epsilon = float(constants[node.input[1]])
        elif kind == "Div":
            spread = layers.LayerNormalization(
                (1, 2, 3), epsilon=epsilon, center=False, scale=False, name="spread"
            )
            tensors[output] = spread(images)
    raise WeightsError(f"{path} is not the network that ferkit made; install ferkit again")


def _layer(
    node: Any, given: dict[str, Any], tensors: dict[str, Any], constants: dict[str, np.ndarray], path: Path
) -> Any:
    kind, name = node.op_type, _name(node.output[0])
    values = [tensors[one] for one in node.input if one in tensors]
    if kind == "Conv":
        kernel, bias = (constants[one] for one in node.input[1:])
        (x,) = values
        if pad := given["pads"][0]:
            x = layers.ZeroPadding2D(pad, name=f"{name}_pad")(x)
        convolution = layers.Conv2D(len(kernel), kernel.shape[2:], given["strides"], name=name)
        x = convolution(x)
        convolution.set_weights([kernel.transpose(2, 3, 1, 0), bias])
        return x
    if kind in ("Add", "Mul"):
        return (layers.Add if kind == "Add" else layers.Multiply)(name=name)(values)
    known = {
        "Relu": lambda: layers.ReLU(name=name),
        "Sigmoid": lambda: layers.Activation("sigmoid", name=name),
        "ReduceMean": lambda: layers.GlobalAveragePooling2D(keepdims=True, name=name),
        "AveragePool": lambda: layers.AveragePooling2D(given["kernel_shape"], given["strides"], name=name),
    }
    if kind not in known:
        raise WeightsError(f"{path} has a {kind}, which cannot be fine-tuned")
    return known[kind]()(*values)


def _name(output: str) -> str:
    """``stage1_block2_a`` for ``/stages.0/stages.0.1/a/a.0/Conv_output_0``, so that ``from:stage2`` finds it."""
    found = re.match(r"/stages\.\d+/stages\.(\d+)\.(\d+)/(.*)_output_0", output)
    rest = found[3] if found else output.strip("/").removesuffix("_output_0")
    place = f"stage{int(found[1]) + 1}_block{int(found[2]) + 1}_" if found else "stem_"
    return place + re.sub(r"\W+", "_", rest)
