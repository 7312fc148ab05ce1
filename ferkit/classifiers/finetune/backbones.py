"""The backbones: who builds them, the size and range they were made for, and which layers learn."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from ferkit.classifiers.finetune import compact, plain, vgg
from ferkit.classifiers.finetune.settings import NetworkSettings
from ferkit.core.errors import TrainingError, WeightsError
from ferkit.zoo.shipped import NETWORK_KERAS, SHIPPED, shipped_folder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FILE_SUFFIXES = (".keras", ".h5", ".hdf5")


@dataclass(frozen=True)
class Preprocessing:
    """What turns 0..255 into the range a backbone was made for: ``x * scale + offset``, one number a channel
    or one.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]


CENTRED = Preprocessing((1 / 64,), (-2.0,))
PLUS_MINUS_ONE = Preprocessing((1 / 127.5,), (-1.0,))
STANDARDISED = Preprocessing(
    tuple(1 / (255 * s) for s in IMAGENET_STD),
    tuple(-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)),
)


@dataclass(frozen=True)
class Backbone:
    """One row of the table.

    Attributes:
        build: from the input shape (H, W, C) and, for networks of Keras, ``imagenet`` or None, to maps (h,
            w, features).
        input_size_wh: what it was made for.
        features: channels of the maps.
        preprocessing: applied inside our network, so that callers always give 0..255.
        pretrained: whether ImageNet weights exist; such networks always see three channels.
    """

    build: Callable[[tuple[int, int, int], str | None], keras.Model]
    input_size_wh: tuple[int, int]
    features: int
    preprocessing: Preprocessing
    pretrained: bool = True


def _keras_network(name: str, **options: Any) -> Callable[[tuple[int, int, int], str | None], keras.Model]:
    def build(input_shape: tuple[int, int, int], weights: str | None) -> keras.Model:
        builder = getattr(keras.applications, name)
        base = builder(include_top=False, weights=weights, input_shape=input_shape, **options)
        return keras.Model(base.input, base.output, name="backbone")

    return build


def _efficientnet(name: str) -> Callable[[tuple[int, int, int], str | None], keras.Model]:
    def build(input_shape: tuple[int, int, int], weights: str | None) -> keras.Model:
        base = getattr(keras.applications, name)(include_top=False, weights=weights, input_shape=input_shape)
        # Its own scaling cannot be switched off, and its Normalization layer does not survive the export to
        # ONNX: begin after it. `Backbone.preprocessing` does the same sum.
        return keras.Model(base.get_layer("stem_conv_pad").input, base.output, name="backbone")

    return build


def _own(build: Callable[[tuple[int, int, int]], keras.Model]) -> Callable[..., keras.Model]:
    return lambda input_shape, weights: build(input_shape)


_V3 = {"include_preprocessing": False}
BACKBONES: dict[str, Backbone] = {
    "small_resnet": Backbone(_own(compact.compact), (48, 48), compact.FEATURES, CENTRED, pretrained=False),
    "vgg48": Backbone(_own(vgg.vgg48), (48, 48), vgg.FEATURES, CENTRED, pretrained=False),
    "baseline_cnn": Backbone(_own(plain.plain), (48, 48), plain.FEATURES, CENTRED, pretrained=False),
    "efficientnet-b0": Backbone(_efficientnet("EfficientNetB0"), (224, 224), 1280, STANDARDISED),
    "efficientnet-b1": Backbone(_efficientnet("EfficientNetB1"), (240, 240), 1280, STANDARDISED),
    "efficientnet-b2": Backbone(_efficientnet("EfficientNetB2"), (260, 260), 1408, STANDARDISED),
    "efficientnet-v2-b0": Backbone(_keras_network("EfficientNetV2B0", **_V3), (224, 224), 1280, STANDARDISED),
    "mobilenet-v3-large": Backbone(
        _keras_network("MobileNetV3Large", **_V3), (224, 224), 960, PLUS_MINUS_ONE
    ),
    "mobilenet-v3-small": Backbone(
        _keras_network("MobileNetV3Small", **_V3), (224, 224), 576, PLUS_MINUS_ONE
    ),
    "resnet50-v2": Backbone(_keras_network("ResNet50V2"), (224, 224), 2048, PLUS_MINUS_ONE),
}


def is_file(name: str) -> bool:
    """Whether a backbone's name is a file, the shipped network's for ``ferkit``, not a row of :data:`BACKBONES`."""
    return name == SHIPPED or name.endswith(FILE_SUFFIXES)


def _file(name: str) -> Path:
    return shipped_folder() / NETWORK_KERAS if name == SHIPPED else Path(name)


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
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # whatever Keras and h5py raise for foreign content
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
            f"no backbone is called {name!r}; known: {', '.join([SHIPPED, *BACKBONES])}, or a .keras or .h5 file"
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
                f"{settings.input_size_wh[0]}x{settings.input_size_wh[1]}; leave --input-size out"
            )
    if not height or not width:
        raise WeightsError(f"{settings.backbone} leaves its input size open; say --input-size")
    if channels not in (1, 3) or (channels == 1 and settings.color == "rgb"):
        wanted = 1 if settings.color == "gray" else 3
        raise WeightsError(
            f"{settings.backbone} takes {channels} channels, expected {wanted} for --color {settings.color}"
        )
    return height, width, channels


def _file_preprocessing(path: Path) -> Preprocessing:
    """A network of ours says its range in its own scaling layer; a foreign one is given 0..255 as it is."""
    model = keras.saving.load_model(path, compile=False)
    core = _inner(model, "core")
    if core is None:
        return Preprocessing((1.0,), (0.0,))
    scaling = core.get_layer("scaling")
    return Preprocessing(_as_tuple(scaling.scale), _as_tuple(scaling.offset))


def _as_tuple(value: Any) -> tuple[float, ...]:
    return tuple(float(item) for item in (value if isinstance(value, (list, tuple)) else [value]))
