"""Rebuild the convolutions of an ONNX network as a Keras backbone, so that it can be fine-tuned.

Made for the second edition of the network that comes along, of which there is no other file: its weights are those of
the ONNX file, widened to float32, and so it computes the same.
"""

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from ferkit.core.errors import WeightsError

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
            tensors[output] = _layer(kind, node.input, given, tensors, constants, _name(output), path)
        elif kind == "Add":
            epsilon = float(constants[node.input[1]])
        elif kind == "Div":
            spread = layers.LayerNormalization(
                (1, 2, 3), epsilon=epsilon, center=False, scale=False, name="spread"
            )
            tensors[output] = spread(images)
    raise WeightsError(f"{path} is not the network that ferkit made; install ferkit again")


def _layer(
    kind: str,
    inputs: Any,
    given: dict[str, Any],
    tensors: dict[str, Any],
    constants: dict[str, np.ndarray],
    name: str,
    path: Path,
) -> Any:
    values = [tensors[one] for one in inputs if one in tensors]
    if kind == "Conv":
        kernel, bias = (constants[one] for one in inputs[1:])
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
