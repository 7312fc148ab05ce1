"""Model folders that are broken, hostile or stuck."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ferkit.classifiers.kinds import save_network_model
from ferkit.classifiers.model import ModelRecord, write_model
from ferkit.core.files import file_sha256, fingerprint
from ferkit.core.weights import NETWORK_ONNX

LABELS = ("happy", "neutral", "sad")


def write_record(folder: Path, values: dict[str, Any]) -> None:
    """``model.json`` with a right digest of whatever it says."""
    values = {name: value for name, value in values.items() if name != "sha256"}
    try:
        digest = fingerprint(values)
    except UnicodeEncodeError:  # half of a character, which JSON may hold
        digest = "none"
    text = json.dumps({**values, "sha256": digest})
    (folder / "model.json").write_text(text, encoding="utf-8")


def read_values(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model.json").read_text(encoding="utf-8"))


def seal(folder: Path) -> None:
    """Make the record agree with whatever the files are now."""
    values = read_values(folder)
    for name in values["files"]:
        values["files"][name] = {"sha256": file_sha256(folder / name)}
    write_record(folder, values)


def network(nodes: list[Any], constants: dict[str, np.ndarray], n_classes: int = 3) -> bytes:
    """An ONNX network from ``r``, the mean of each colour (n, 3), to ``y``."""
    first = helper.make_node("ReduceMean", ["x"], ["r"], axes=[1, 2], keepdims=0)
    graph = helper.make_graph(
        [first, *nodes],
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 48, 48, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", n_classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def nan_network() -> bytes:
    return network(
        [helper.make_node("Sub", ["r", "r"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["y"])], {}
    )


def raw_network() -> bytes:
    """Gives the colours themselves, which are no probabilities unless the image is black."""
    return network([helper.make_node("Add", ["r", "third"], ["y"])], {"third": np.float32([[1 / 3] * 3])})


def endless_network(above: float) -> bytes:
    """Loops for ever for images that are brighter than ``above``."""
    scalar = TensorProto.INT64, []
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go"]), helper.make_node("Identity", ["v"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", *scalar),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceMean", ["r"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "above"], ["bright"]),
        helper.make_node("Mul", ["r", "nothing"], ["same"]),
        helper.make_node("Softmax", ["same"], ["p"]),
        helper.make_node("Loop", ["most", "bright", "p"], ["y"], body=body),
    ]
    most = np.array(2**62, np.int64)
    return network(nodes, {"above": np.float32(above), "nothing": np.float32(0), "most": most})


def external_network(elsewhere: str) -> bytes:
    """Takes a constant out of another file."""
    model = onnx.load_from_string(raw_network())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", elsewhere), ("offset", "0"), ("length", "12")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return bytes(model.SerializeToString())


def network_model(folder: Path, content: bytes) -> Path:
    """A model folder around a network."""
    record = ModelRecord(kind="network", labels=LABELS, input_size_wh=(48, 48))
    save_network_model(folder, {NETWORK_ONNX: content}, record)
    return folder


def ensemble_model(folder: Path, members: list[Any]) -> Path:
    """An ensemble that says it has these members, and has none."""
    parts = {"members": members, "weights": [0.5] * len(members), "rule": "mean", "from": []}
    record = ModelRecord(kind="ensemble", labels=LABELS, input_size_wh=(48, 48), parts=parts)
    write_model(folder, record, lambda target: None)
    return folder
