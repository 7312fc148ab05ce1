"""Which layers of a backbone learn in a stage, and which batch normalisations stay as they came."""

import re

import keras

from ferkit.classifiers.finetune.settings import StageSettings
from ferkit.core.errors import TrainingError

S3_STAGES = 3  # resolutions whose statistics are of edges and skin, and not of the data set

# What the built-in and the Keras networks call their blocks: block6a_expand_conv, expanded_conv_12/depthwise,
# conv4_block2_1_bn, stage2_conv.
_BLOCK = re.compile(
    r"^(block\d+[a-z]?|expanded_conv(?:_\d+)?|conv\d_block\d+|stage\d+|stem|top|Conv_\d|conv_\d)"
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
