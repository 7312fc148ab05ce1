"""Frames a second of the live path, share of time a stage, memory over time, beside PyPI fer and DeepFace.analyze.

    python benchmarks/live.py woman.mp4 group.mp4 --model models/mlp
    python benchmarks/live.py woman.mp4 --model models/mlp --memory 20000
    python benchmarks/live.py film_1080p.mp4 --reader
    pip install --no-deps --target /somewhere fer
    python benchmarks/live.py woman.mp4 --model models/mlp --fer /somewhere --deepface

Frames are 640x360 and in memory for all, so that decoding counts for none; ours includes tracking, smoothing and
drawing the overlay. PyPI fer runs as it does by default (Haar, its TFLite network); DeepFace.analyze with
actions=["emotion"], the detector opencv, and a network of the same layers with random weights, which is as fast as the
real one. Each runs in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ferkit.classifiers.model import load_model
from ferkit.core.console import n_cores, table
from ferkit.faces.detectors import memory_mb
from ferkit.inference.engine import EngineOptions, build_engine
from ferkit.inference.live import for_view
from ferkit.inference.overlay import Overlay, Status
from ferkit.inference.sources import VideoSource

SIZE_WH = (640, 360)
FPS = 30.0


def frames_of(video: Path, most: int = 300) -> list[np.ndarray]:
    """RGB frames of 640x360."""
    frames = []
    for frame in VideoSource(video):
        frames.append(cv2.resize(frame.rgb, SIZE_WH, interpolation=cv2.INTER_AREA))
        if len(frames) == most:
            break
    return frames


def ours(
    videos: list[Path], model: Path, weights: Path | None, seconds: float, detect_every: int | None
) -> None:
    """A row for each video."""
    rows = []
    for video in videos:
        frames = frames_of(video)
        opened = load_model(model)
        engine, faces = build_engine(
            opened, EngineOptions(detector_weights=weights, detect_every=detect_every, fps=FPS)
        )
        overlay = Overlay(opened.labels)
        drawing_s, n, n_faces = 0.0, 0, 0
        began, began_cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            result = engine.process(frames[n % len(frames)], n / FPS)
            start = time.perf_counter()
            overlay.draw(*for_view(frames[n % len(frames)], result, mirror=True), Status(fps=30))
            drawing_s += time.perf_counter() - start
            n += 1
            n_faces += len(result)
        total_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        spent = {**engine.seconds, "draw": drawing_s}
        shares = [f"{value / total_s:.0%}" for value in spent.values()]
        rows.append(
            (video.name, f"{n_faces / n:.1f}", f"{n / total_s:.1f}", f"{1000 * cpu_s / n:.1f}", *shares)
        )
    print(
        f"\nferkit, {model.name}, {faces.settings.detector}, {n_cores()} cores, load {os.getloadavg()[0]:.1f}"
    )
    header = ("film", "faces", "frames/s", "processor ms a frame", *(f"{stage}" for stage in spent))
    print(table(header, rows, right=range(1, len(header))))


def reader(videos: list[Path], every_s: float = 0.5) -> None:
    """Frames of a video that are behind in a second, and processor time, of ours and of OpenCV's reader."""

    def by_opencv(video: Path) -> int:
        capture, n, next_s = cv2.VideoCapture(str(video)), 0, 0.0
        while capture.grab():
            if capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 >= next_s:
                cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
                next_s += every_s
            n += 1
        return n

    def by_ours(video: Path) -> int:
        source = VideoSource(video, every_s)
        return sum(1 for _ in source) and source.n_frames

    rows = []
    for video in videos:
        for name, read in (("ferkit", by_ours), ("OpenCV", by_opencv)):
            began, began_cpu = time.perf_counter(), time.process_time()
            n = read(video)
            cpu_s = time.process_time() - began_cpu
            rows.append((video.name, name, f"{n / (time.perf_counter() - began):.0f}", f"{n / cpu_s:.0f}"))
    print(table(("video", "reader", "frames/s", "frames a processor second"), rows, right=(2, 3)))


def memory(video: Path, model: Path, weights: Path | None, n_frames: int) -> None:
    """Megabytes after 1,000 frames and after all."""
    frames = frames_of(video)
    opened = load_model(model)
    engine, _ = build_engine(opened, EngineOptions(detector_weights=weights, detect_every=5))
    overlay = Overlay(opened.labels)
    for n in range(1, n_frames + 1):
        result = engine.process(frames[n % len(frames)], n / FPS)
        overlay.draw(*for_view(frames[n % len(frames)], result, mirror=True), Status(fps=float(n % 60)))
        if n == 1000:
            first = memory_mb()
            print(f"after {n} frames {first:.0f} MB")
    print(f"after {n_frames} frames {memory_mb():.0f} MB: {memory_mb() - first:+.1f} MB")


def peer(name: str, video: Path, site: Path | None, seconds: float) -> None:
    """Run a peer in a process of its own and print what it says."""
    command = [sys.executable, __file__, str(video), "--seconds", str(seconds), "--peer", name]
    environment = dict(os.environ)
    if site is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(site), environment.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    words = done.stdout.strip().splitlines()
    if done.returncode or not words:
        print(f"{name}: failed: {(done.stderr.strip().splitlines() or ['no words'])[-1]}")
        return
    values = json.loads(words[-1])
    print(
        f"{name:18s} {video.name:24s} {values['fps']:6.1f} frames/s, {values['cpu_ms']:.1f} processor ms a frame, "
        f"{values['faces']:.1f} faces a frame"
    )


def run_peer(name: str, video: Path, seconds: float) -> None:
    """In the other process: one line of JSON."""
    bgr = [cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR) for rgb in frames_of(video, 100)]
    read = _pypi_fer() if name == "fer" else _deepface()
    read(bgr[0])
    began, began_cpu, n, n_faces = time.perf_counter(), time.process_time(), 0, 0
    while time.perf_counter() - began < seconds:
        n_faces += read(bgr[n % len(bgr)])
        n += 1
    values = {"fps": n / (time.perf_counter() - began), "faces": n_faces / n}
    print(json.dumps(values | {"cpu_ms": 1000 * (time.process_time() - began_cpu) / n}))


def _pypi_fer() -> Callable[[np.ndarray], int]:
    from fer.fer import FER

    reader = FER()
    return lambda bgr: len(reader.detect_emotions(bgr))


def _deepface() -> Callable[[np.ndarray], int]:
    home = Path(tempfile.mkdtemp())
    _emotion_network(home / ".deepface" / "weights" / "facial_expression_model_weights.onnx")
    os.environ |= {"DEEPFACE_HOME": str(home), "DEEPFACE_BACKEND_ENGINE": "onnx"}
    from deepface import DeepFace

    def read(bgr: np.ndarray) -> int:
        found = DeepFace.analyze(bgr, actions=["emotion"], enforce_detection=False, silent=True)
        return sum(face["face_confidence"] > 0 for face in found)

    return read


def _emotion_network(path: Path) -> None:
    """The layers of DeepFace's emotion network, random weights: 5x5x64, 2 of 3x3x64, 2 of 3x3x128, 1024, 1024, 7."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng, nodes, constants = np.random.default_rng(0), [], []

    def constant(*shape: int) -> str:
        constants.append(
            numpy_helper.from_array(rng.normal(0, 0.05, shape).astype(np.float32), f"w{len(constants)}")
        )
        return constants[-1].name

    def add(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    x, n_in = add("Transpose", "input", perm=[0, 3, 1, 2]), 1
    for n_out, side, pool in (
        (64, 5, "MaxPool"),
        (64, 3, None),
        (64, 3, "AveragePool"),
        (128, 3, None),
        (128, 3, "AveragePool"),
    ):
        x = add("Relu", add("Conv", x, constant(n_out, n_in, side, side)))
        if pool:
            x = add(pool, x, kernel_shape=[5, 5] if pool == "MaxPool" else [3, 3], strides=[2, 2])
        n_in = n_out
    x = add("Flatten", x)
    for n_out in (1024, 1024):
        x = add("Relu", add("MatMul", x, constant(n_in, n_out)))
        n_in = n_out
    x = add("Softmax", add("MatMul", x, constant(n_in, 7)))
    graph = helper.make_graph(
        nodes, "emotion",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 48, 48, 1])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n", 7])], constants,
    )  # fmt: skip
    path.parent.mkdir(parents=True)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, help="model folder")
    parser.add_argument("--detector-weights", type=Path)
    parser.add_argument("--detect-every", type=int, help="frames; as the frame rate allows if not given")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument(
        "--memory", type=int, metavar="FRAMES", help="measure memory over so many frames instead"
    )
    parser.add_argument(
        "--fer", type=Path, metavar="FOLDER", help="where PyPI fer was installed with pip --target"
    )
    parser.add_argument(
        "--reader",
        action="store_true",
        help="measure reading a frame every half second instead, next to OpenCV's",
    )
    parser.add_argument("--deepface", action="store_true")
    parser.add_argument("--peer", choices=["fer", "deepface"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        run_peer(options.peer, options.videos[0], options.seconds)
        return
    if options.reader:
        reader(options.videos)
        return
    if options.model is None:
        parser.error("--model is needed")
    if options.memory:
        memory(options.videos[0], options.model, options.detector_weights, options.memory)
        return
    weights = options.detector_weights
    ours(options.videos, options.model, weights, options.seconds, options.detect_every)
    for video in options.videos:
        if options.fer:
            peer("fer", video, options.fer, options.seconds)
        if options.deepface:
            peer("deepface", video, None, options.seconds)


if __name__ == "__main__":
    main()
