"""What runs ONNX networks: engines, precisions, and the one place that opens sessions.

An :class:`Engine` is ONNX Runtime on the processor (the default, which every result of 0.1 was made with), ONNX
Runtime on an accelerator, or OpenVINO. :func:`open_session` opens a network with it; everything in ferkit that runs
a network goes through there. What a user asked for on the command line holds for the whole process, see
:func:`requested_engine`. Graphs as an engine wants them are kept, see :mod:`ferkit.embedder.onnx_graph`.
"""

import contextlib
import functools
import importlib
import importlib.util
import json
import logging
import math
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ferkit.core.console import n_cores
from ferkit.core.errors import DependencyError, FerkitError, WeightsError
from ferkit.embedder.onnx_graph import kept, kept_file, processor, quantize, quantized_tensors, split_prelu

logger = logging.getLogger(__name__)

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
"""The accelerators, by what ONNX Runtime calls them."""

DEVICES = ("auto", "cpu", *PROVIDERS, "openvino")
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
LEAST_COSINE = 0.999
"""Between embeddings of float32 and of another floating-point precision; less is refused."""

WORKS_COSINE = 0.99
"""Between what an engine and ONNX Runtime on the processor make of noise; with less, it does not run a network."""

INT8_COSINE = 0.9
"""The same for int8, in which engines round differently."""

Ranges = tuple[tuple[str, float, float], ...]
"""The least and the largest value of tensors, by name: what int8 is calibrated by."""

_OPENVINO_PROVIDER = "OpenVINOExecutionProvider"
REMEDIES = {
    "cuda": "pip uninstall onnxruntime, then pip install onnxruntime-gpu",
    "tensorrt": "pip uninstall onnxruntime, then pip install onnxruntime-gpu, and install TensorRT",
    "coreml": "macOS only: pip install --force-reinstall onnxruntime",
    "directml": "Windows only: pip uninstall onnxruntime, then pip install onnxruntime-directml",
    "openvino": "pip install 'ferkit[openvino]'",
}
"""What brings a device that is not here."""

_PRECISION_REMEDIES = {
    "bfloat16": "it needs OpenVINO (pip install 'ferkit[openvino]') and a processor with AVX512-BF16 or AMX; take "
    "float32",
    "float16": "it is for accelerators; take float32 or bfloat16",
}


@dataclass(frozen=True)
class Engine:
    """What runs a network.

    Attributes:
        name: ``onnxruntime`` is the processor, ``openvino``, or a key of :data:`PROVIDERS`.
        precision: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        index: which of several accelerators.
    """

    name: str = "onnxruntime"
    precision: str = "float32"
    index: int = 0

    def __str__(self) -> str:
        number = f":{self.index}" if self.index else ""
        names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
        return f"{names.get(self.name, f'ONNX Runtime on {self.name}')}{number}, {self.precision}"


CPU = Engine()
"""ONNX Runtime on the processor in float32: exact, and everywhere."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a network; a size that is free is None."""

    name: str
    shape: tuple[int | None, ...]


class Session(Protocol):
    """An open network. May be used from many threads at once.

    Attributes:
        engine: what really runs it.
        at_once: how many batches it runs at a time, each for a thread of its own.
        inputs, outputs: its tensors.
    """

    engine: Engine
    at_once: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The named outputs, all if None, of the inputs ``feeds`` by their names."""
        ...


def available_devices() -> list[str]:
    """The devices that the installed packages offer, best first; whether one runs a network shows when it is opened."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    found = [device for device, provider in PROVIDERS.items() if provider in providers]
    if importlib.util.find_spec("openvino") is not None or _OPENVINO_PROVIDER in providers:
        found.append("openvino")
    return [*found, "cpu"]


def resolve_engines(device: str = "auto", precision: str = "float32") -> list[Engine]:
    """The engines to try for what a user asked for, the best first.

    Args:
        device: of :data:`DEVICES`, ``cuda:1`` for the second; ``auto`` takes an accelerator where there is one.
        precision: of :data:`PRECISIONS`; ``auto`` takes bfloat16 where the processor has it, float16 on accelerators.

    Raises:
        DependencyError: a device that the installed packages do not offer, or that cannot run in this precision.
    """
    name, _, number = device.partition(":")
    if name not in DEVICES or (number and not number.isdigit()):
        raise DependencyError(
            f"expected a device of {', '.join(DEVICES)} (cuda:1 the second), found {device}"
        )
    if precision not in PRECISIONS:
        raise DependencyError(f"expected a precision of {', '.join(PRECISIONS)}, found {precision}")
    here = available_devices()
    if name != "auto":
        if name not in here:
            raise DependencyError(
                f"device {name} is not offered here, only {', '.join(here)}; {REMEDIES.get(name, '')}"
            )
        here = [name]
    engines = [Engine("onnxruntime" if one == "cpu" else one, index=int(number or 0)) for one in here]
    if precision != "float32":  # which all run; for the others OpenVINO has to be imported
        fitting = [(one, [p for p in precisions_of(one) if precision in ("auto", p)]) for one in engines]
        engines = [replace(one, precision=found[0]) for one, found in fitting if found]
    if not engines:
        remedy = _PRECISION_REMEDIES.get(precision, "take another device")
        raise DependencyError(f"{precision} cannot be run by {', '.join(here)} here; {remedy}")
    return engines


def resolve_stored(made_by: Engine, device: str | None, precision: str | None) -> list[Engine] | None:
    """What to go on with where ``made_by`` has made embeddings already; None where the user wants another.

    Raises:
        DependencyError: it is not here.
    """
    own = _device(made_by)
    wanted = (device or "auto").partition(":")[0], precision or "auto"
    if wanted[0] not in ("auto", own) or wanted[1] not in ("auto", made_by.precision):
        return None
    return resolve_engines(own if device in (None, "auto") else device, made_by.precision)


def precisions_of(engine: Engine) -> tuple[str, ...]:
    """The precisions that an engine runs here, the fastest that costs next to nothing first."""
    if engine.name == "openvino":
        fast = ("bfloat16",) if has_bfloat16() else ()
        return (*fast, "float32", "int8")
    return ("float32", "int8") if engine.name == "onnxruntime" else ("float16", "float32")


@functools.cache
def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16, as far as OpenVINO or the system says."""
    if importlib.util.find_spec("openvino") is not None:
        return "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


_requested: tuple[str | None, str | None] = None, None


@contextlib.contextmanager
def requested_engine(device: str | None = None, precision: str | None = None) -> Iterator[None]:
    """Let networks be run so in the whole process; None leaves what is asked for already.

    Raises:
        DependencyError: see :func:`resolve_engines`.
    """
    global _requested
    before, now = _requested, requested()
    _requested = device or now[0], precision or now[1]
    try:
        resolve_engines(_requested[0] or "auto", _requested[1] or "float32")
        yield
    finally:
        _requested = before


def requested() -> tuple[str | None, str | None]:
    """Device and precision that are asked for: by :func:`requested_engine`, else ``$FER_DEVICE`` and
    ``$FER_PRECISION``; None where nothing is."""
    return (
        _requested[0] or os.environ.get("FER_DEVICE") or None,
        _requested[1] or os.environ.get("FER_PRECISION") or None,
    )


def requested_engines(own: Engine | None = None) -> list[Engine]:
    """The engines that are asked for now, the best first.

    Where nothing is asked for, that is ``own``; without one, accelerators, then ONNX Runtime on the processor: opening
    OpenVINO takes longer than a photo.
    """
    device, precision = requested()
    if device is not None or precision is not None:
        return resolve_engines(device or "auto", precision or "float32")
    if own is not None:
        return [own]
    return [engine for engine in resolve_engines() if engine.name != "openvino"]


def open_session(
    model: Path | bytes,
    name: str,
    engines: Engine | Sequence[Engine] = CPU,
    *,
    threads: int | None = None,
    ranges: Ranges | None = None,
    error: type[FerkitError] = WeightsError,
) -> Session:
    """Open a network with the first of some engines that runs it.

    Args:
        model: a file, or its content.
        name: what messages call it.
        engines: to try; that one is passed over is said in one sentence.
        threads: how many work within one run, and as many runs go on at a time as there are cores for; None takes
            every core for one run.
        ranges: what int8 was calibrated by.
        error: what to raise for a network that is not usable.

    Raises:
        FerkitError: of the type ``error``: none of the engines can run it.
    """
    engines = [engines] if isinstance(engines, Engine) else list(engines)
    for engine, following in zip(engines, [*engines[1:], None], strict=True):
        try:
            return _open(model, engine, threads, ranges)
        # Engines raise families of their own for unsupported and damaged networks.
        except Exception as problem:
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]
            if following is None:
                by = "" if engine == CPU else f" by {engine}"
                raise error(f"expected an ONNX network, but {name} cannot be loaded{by}: {reason}") from None
            logger.info("%s is run by %s: %s cannot (%s)", name, following, engine, reason)
    raise ValueError("expected at least one engine")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of ``a`` (n, …) with that of ``b``; 1 where both are zero."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = np.all(a == b, axis=1)
    return np.where(same, 1.0, (a * b).sum(axis=1) / np.where(lengths > 0, lengths, np.inf))


def fold(model: Path | bytes) -> bytes:
    """The network with its constants computed and its batch normalisations in the convolutions, by ONNX Runtime."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "folded.onnx"
        _onnxruntime(
            model, ["CPUExecutionProvider"], onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC, target
        )
        return target.read_bytes()


def _open(model: Path | bytes, engine: Engine, threads: int | None, ranges: Ranges | None) -> Session:
    if _device(engine) not in available_devices():
        raise RuntimeError(f"not installed here, {REMEDIES[engine.name]}")
    content = model.read_bytes() if isinstance(model, Path) else model
    if engine.precision == "int8":
        if ranges is None:
            raise RuntimeError("int8 is calibrated on images, which fer embed does")
        content = kept(
            content, ["int8", str(ranges), *_versions("onnxruntime")], lambda: _int8(content, ranges)
        )
    if engine.precision == "float16":
        content = _float16(content)
    if engine.name == "openvino" and importlib.util.find_spec("openvino") is not None:
        return _OpenVinoSession(content, engine, threads)
    return _OnnxRuntimeSession(content, engine, threads)


def _onnxruntime(
    model: Path | bytes,
    providers: list[Any],
    level: Any = None,
    write_to: Path | None = None,
    threads: int = 0,
) -> Any:
    """A session of ONNX Runtime; ``write_to`` is where it leaves the graph that it makes of the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters is raised
    onnxruntime.set_default_logger_severity(4)
    options.intra_op_num_threads = threads
    # Threads that wait must not burn the time of those that read and crop the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if level is not None:
        options.graph_optimization_level = level
    if write_to is not None:
        options.optimized_model_filepath = str(write_to)
    with warnings.catch_warnings():
        # Of a provider that does not start: raised by the caller.
        warnings.simplefilter("ignore", UserWarning)
        return onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers, enable_fallback=0
        )


class _OnnxRuntimeSession:
    def __init__(self, content: bytes, engine: Engine, threads: int | None) -> None:
        providers, wanted = self._providers(engine)
        n = threads or n_cores()
        if engine.name == "onnxruntime":
            self._session = self._optimized(content, providers, n)
        else:
            self._session = _onnxruntime(content, providers, threads=n)
        if wanted not in self._session.get_providers():  # a library of the accelerator is missing
            raise RuntimeError(f"{wanted} does not start")
        self.engine = engine
        # While an accelerator computes, the next batch is made ready.
        self.at_once = 2 if engine.name in PROVIDERS else max(1, n_cores() // threads) if threads else 1
        self.inputs = tuple(_tensor(t.name, t.shape) for t in self._session.get_inputs())
        self.outputs = tuple(_tensor(t.name, t.shape) for t in self._session.get_outputs())
        if engine.name != "onnxruntime":  # it may open and still have an operator that does not run, or errs
            _compare(self, content)

    @staticmethod
    def _optimized(content: bytes, providers: list[Any], n: int) -> Any:
        """A session of the graph that ONNX Runtime made of this one for this processor, if it is kept, or else of the
        graph, which is then kept."""
        import onnxruntime

        with kept_file(content, ["optimized", processor(), *_versions("onnxruntime")]) as file:
            if file.path is not None:
                # If anything is wrong with it, there is the graph itself.
                with contextlib.suppress(Exception):
                    off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
                    return _onnxruntime(file.path, providers, off, threads=n)
            return _onnxruntime(_with_split_prelu(content), providers, None, file.target, threads=n)

    @staticmethod
    def _providers(engine: Engine) -> tuple[list[Any], str]:
        cpu = "CPUExecutionProvider"
        if engine.name == "onnxruntime":
            return [cpu], cpu
        if engine.name != "openvino":
            options = {} if engine.name == "coreml" else {"device_id": str(engine.index)}
            return [(PROVIDERS[engine.name], options), cpu], PROVIDERS[engine.name]
        config = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": _hint(engine)}})
        options = {"device_type": "CPU", "load_config": config}
        return [(_OPENVINO_PROVIDER, options), cpu], _OPENVINO_PROVIDER

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return self._session.run(None if outputs is None else list(outputs), dict(feeds))


class _OpenVinoSession:
    """OpenVINO gets graphs whose constants are folded: of others it has computed wrong numbers for small batches."""

    def __init__(self, content: bytes, engine: Engine, threads: int | None) -> None:
        core = _openvino_core()
        with kept_file(
            content, ["folded", engine.precision, processor(), *_versions("onnxruntime", "openvino")]
        ) as file:
            folded = fold(content) if file.path is None else file.path.read_bytes()
            network = core.read_model(folded)
            self.at_once = max(1, n_cores() // threads) if threads else 1
            settings = {
                "INFERENCE_PRECISION_HINT": _hint(engine),
                "NUM_STREAMS": self.at_once,
                "INFERENCE_NUM_THREADS": self.at_once * threads if threads else n_cores(),
            }
            self._network = core.compile_model(network, "CPU", settings)
            self._local = threading.local()
            self.engine = engine
            self.inputs, self.outputs = (
                tuple(_tensor(t.get_any_name(), _partial(t)) for t in tensors)
                for tensors in (self._network.inputs, self._network.outputs)
            )
            if file.path is None:
                _compare(self, folded)
                if file.target is not None:
                    file.target.write_bytes(folded)

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if not hasattr(self._local, "request"):  # one a thread: a request runs one batch at a time
            self._local.request = self._network.create_infer_request()
        results = self._local.request.infer(dict(feeds), share_inputs=True)
        found = {tensor.get_any_name(): values for tensor, values in results.items()}
        return [found[name] for name in outputs or [t.name for t in self.outputs]]


def _compare(session: Session, content: bytes) -> None:
    """Raise RuntimeError where noise, in one image or in some, does not give what ONNX Runtime makes of it."""
    reference = _onnxruntime(content, ["CPUExecutionProvider"])
    least = INT8_COSINE if session.engine.precision == "int8" else WORKS_COSINE
    for n in (1, 3):
        # Free sizes: so many images, of 64 pixels.
        shapes = {t.name: [t.shape[0] or n, *(side or 64 for side in t.shape[1:])] for t in session.inputs}
        noise = {name: np.random.default_rng(n).random(shape, np.float32) for name, shape in shapes.items()}
        names = [t.name for t in session.outputs]
        found, wanted = session.run(names, noise), reference.run(names, noise)
        for name, a, b in zip(names, found, wanted, strict=True):
            cosine = float(cosines(a, b).min()) if a.ndim and a.shape == b.shape else math.nan
            if not cosine >= least:
                raise RuntimeError(f"its {name} has a cosine of {cosine:.3f} with that of ONNX Runtime")


@functools.cache
def _openvino_core() -> Any:
    import openvino

    return openvino.Core()


def _versions(*modules: str) -> list[str]:
    return [f"{name} {importlib.import_module(name).__version__}" for name in modules]


def _device(engine: Engine) -> str:
    return "cpu" if engine.name == "onnxruntime" else engine.name


def _hint(engine: Engine) -> str:
    return {"bfloat16": "bf16", "float16": "f16"}.get(engine.precision, "f32")


def _partial(tensor: Any) -> list[int | None]:
    return [side.get_length() if side.is_static else None for side in tensor.get_partial_shape()]


def _tensor(name: str, shape: Sequence[Any]) -> Tensor:
    return Tensor(name, tuple(side if isinstance(side, int) and side > 0 else None for side in shape))


def _with_split_prelu(content: bytes) -> bytes:
    """Split what ONNX Runtime is slow with, where the package onnx is there, which predicting does not need."""
    if importlib.util.find_spec("onnx") is None or not any(name in content for name in (b"PRelu", b"Min")):
        return content
    import onnx

    graph = onnx.load_from_string(content)
    return graph.SerializeToString() if split_prelu(graph) else content


def _int8(content: bytes, ranges: Ranges) -> bytes:
    import onnx

    graph = onnx.load_from_string(fold(content))
    known = {name: (low, high) for name, low, high in ranges}
    if missing := set(quantized_tensors(graph)) - known.keys():
        raise RuntimeError(
            f"it was calibrated by another version: no range of {sorted(missing)[0]}; embed again"
        )
    return quantize(graph, known).SerializeToString()


def _float16(content: bytes) -> bytes:
    """The network with weights and sums in float16, inputs and outputs in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = onnx.load_from_string(content)
    return convert_float_to_float16(graph, keep_io_types=True).SerializeToString()
