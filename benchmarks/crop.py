"""Crops a second out of 12-megapixel photos: fer crop against the loop that everybody writes first.

The naive loop reads each photo whole, asks the same detector at full size, cuts out the largest face and resizes it,
one photo after the other. Photos are photographs scaled up to fill most of 4000x3000, or drawn people.
Beside the time on the clock stands that of the processors, which other programs on the machine do not lengthen.

    python benchmarks/crop.py WORK --photos DIR --yunet FILE
"""

import argparse
import functools
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.console import table
from ferkit.core.types import FaceDetector
from ferkit.datasets.formats.annotated import Annotated
from ferkit.datasets.formats.load import read_annotated
from ferkit.datasets.images import decode_image
from ferkit.faces.crop_dataset import crop_dataset
from ferkit.faces.crop_image import CropRunSettings
from ferkit.faces.cropping import CropSettings
from ferkit.faces.detectors import HaarDetector, YuNetDetector

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from synthetic_aihub import write_aihub_layout

SIZE_WH = (4000, 3000)


Largest = Callable[[np.ndarray], tuple[int, int, int, int] | None]
"""Left, top, width and height of the largest face in a BGR image; None without any."""


def plain_haar() -> Largest:
    """The cascade as it is called in tutorials: without a smallest size."""
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")

    def largest(bgr: np.ndarray) -> tuple[int, int, int, int] | None:
        found = cascade.detectMultiScale(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), 1.1, 5)
        return max((tuple(map(int, box)) for box in found), key=lambda box: box[2], default=None)

    return largest


def largest_of(detector: FaceDetector) -> Largest:
    def largest(bgr: np.ndarray) -> tuple[int, int, int, int] | None:
        faces = detector.detect(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)).largest_first()
        if len(faces) == 0:
            return None
        x0, y0, x1, y1 = (int(value) for value in faces.xyxy[0])
        return x0, y0, x1 - x0, y1 - y0

    return largest


def make_photos(folder: Path, n: int, sources: list[Path]) -> list[Path]:
    """``n`` JPEGs of 12 megapixels with one or more faces."""
    folder.mkdir(parents=True, exist_ok=True)
    if not sources:
        write_aihub_layout(folder / "drawn", 2, size_wh=(800, 600))
        sources = sorted((folder / "drawn").rglob("*.jpg"))
    rng = np.random.default_rng(0)
    photos = []
    for i in range(n):
        path = folder / f"{i:04d}.jpg"
        photos.append(path)
        if path.exists():
            continue
        rgb = decode_image(sources[i % len(sources)].read_bytes())
        scale = min(rng.uniform(0.5, 1.0) * SIZE_WH[0] / rgb.shape[1], SIZE_WH[1] / rgb.shape[0])
        scaled = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        left, top = (
            int(rng.integers(0, s - p + 1)) for s, p in zip(SIZE_WH, scaled.shape[1::-1], strict=True)
        )
        below, right = SIZE_WH[1] - top - scaled.shape[0], SIZE_WH[0] - left - scaled.shape[1]
        scene = cv2.copyMakeBorder(
            scaled, top, below, left, right, cv2.BORDER_REFLECT_101 if scale < 0 else cv2.BORDER_REPLICATE
        )
        grain = cv2.resize(rng.normal(0, 4, (750, 1000)).astype(np.float32), SIZE_WH)[..., None] + rng.normal(
            0, 2, (1, SIZE_WH[0], 1)
        )
        bgr = cv2.cvtColor(np.clip(scene + grain, 0, 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
        path.write_bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return photos


@dataclass(frozen=True)
class Cost:
    """Of a photo, in seconds, and how many photos gave a crop."""

    clock_s: float
    processor_s: float
    found: str


def measured(work: Callable[[], int], n: int) -> Cost:
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    return Cost((time.perf_counter() - clock) / n, (time.process_time() - processor) / n, f"{found}/{n}")


def naive(photos: list[Path], out: Path, largest: Largest) -> int:
    out.mkdir(parents=True)
    n = 0
    for path in photos:
        bgr = cv2.imread(str(path))
        box = largest(bgr)
        if box is None:
            continue
        x, y, width, height = box
        face = cv2.resize(bgr[max(0, y) : y + height, max(0, x) : x + width], (224, 224))
        cv2.imwrite(str(out / path.name), face)
        n += 1
    return n


def ours(annotated: Annotated, out: Path, detector: str, weights: Path | None, workers: int | None) -> int:
    settings = CropRunSettings(faces=CropSettings(detector, None, align=False, margin=0.0, no_face="skip"))
    return crop_dataset(annotated, out, settings, weights=weights, workers=workers).n_crops


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder for the photos and crops")
    parser.add_argument("--photos", type=Path, help="folder of photographs to scale up")
    parser.add_argument("--yunet", type=Path, help="YuNet's weights; without, only Haar is measured")
    parser.add_argument("-n", type=int, default=24, help="photos")
    parser.add_argument("--naive", type=int, default=8, help="photos of the naive loop")
    arguments = parser.parse_args()
    sources = sorted(arguments.photos.glob("*.jpg")) if arguments.photos else []
    photos = make_photos(arguments.work / "photos", arguments.n, sources)
    annotated = read_annotated(arguments.work / "photos", "none")
    for path in photos:
        path.read_bytes()  # all are measured with the files in memory
    candidates: list[tuple[str, Path | None, str, Largest]] = [
        ("haar", None, "haar, as in tutorials", plain_haar()),
        ("haar", None, "haar, with our smallest size", largest_of(HaarDetector())),
    ]
    if arguments.yunet:
        full = YuNetDetector(arguments.yunet, max_side=max(SIZE_WH))
        candidates.append(("yunet", arguments.yunet, "yunet", largest_of(full)))
    rows = []
    out = arguments.work / "out"

    def clean(work: Callable[[], int], n: int) -> Cost:
        shutil.rmtree(out, ignore_errors=True)
        return measured(work, n)

    for detector, weights, name, largest in candidates:
        few = photos[: arguments.naive]
        before = clean(functools.partial(naive, few, out, largest), len(few))
        costs = {f"naive loop, {name}": before}
        for workers, threads in ((1, "1 thread"), (None, "a thread a core")):
            work = functools.partial(ours, annotated, out, detector, weights, workers)
            costs[f"  fer crop, {detector}, {threads}"] = clean(work, len(photos))
        rows += [
            (
                who, f"{1 / cost.clock_s:.2f}", f"{cost.processor_s * 1e3:.0f}",
                f"{before.clock_s / cost.clock_s:.1f}", f"{before.processor_s / cost.processor_s:.1f}", cost.found,
            )
            for who, cost in costs.items()
        ]  # fmt: skip
    header = ("12-megapixel JPEGs", "photos/s", "processor ms", "times as fast", "by processor", "found")
    print(table(header, rows, right=[1, 2, 3, 4, 5]))
    print(f"OpenCV {cv2.__version__}, {cv2.getNumThreads()} threads; Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
