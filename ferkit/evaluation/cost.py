"""What it costs to train and to predict: time, memory, energy."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

from ferkit.faces.detectors import memory_mb

TIMING_S = 1.5
"""How long each batch size is timed."""

_FEWEST, _MOST = 5, 300
_POWERCAP = Path("/sys/class/powercap")


class ResourceMonitor:
    """Watches the process while it works.

    Attributes:
        memory_mb: by how much its memory, and that of processes it started, rose at most; None where the system does
            not say.
        energy_j: joules of all processor packages, other programs' included; None where they are not counted, or
            may not be read.
    """

    memory_mb: float | None = None
    energy_j: float | None = None

    def __enter__(self) -> "ResourceMonitor":
        self._first = self._most = _with_children_mb()
        self._counters = energy_counters()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="memory")
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._watcher.join()
        if self._first:
            self.memory_mb = max(self._most, _with_children_mb()) - self._first
        now = energy_counters()
        if self._counters and now.keys() == self._counters.keys():
            # A counter that reached its end began again at 0.
            spent = [
                (end - self._counters[path][0]) % (most + 1) for path, (end, most) in sorted(now.items())
            ]
            self.energy_j = sum(spent) / 1e6

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self._most = max(self._most, _with_children_mb())


def energy_counters(root: Path = _POWERCAP) -> dict[str, tuple[int, int]]:
    """Microjoules counted, and where the counter ends, of each processor package (RAPL); empty without any."""
    found = {}
    for zone in root.glob("intel-rapl:*"):
        if zone.name.count(":") > 1:  # a part of a package, counted there already
            continue
        try:
            values = [int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj")]
        except (OSError, ValueError):
            continue
        found[zone.name] = (values[0], values[1])
    return found


def milliseconds(
    predict: Callable[[np.ndarray], np.ndarray], crops: np.ndarray, seconds: float = TIMING_S
) -> float:
    """Time by image of the fastest call on ``crops`` (n, h, w, 3), of those within ``seconds``, five at least.

    The fastest: all else that the machine does makes calls slower, never faster.
    """
    predict(crops)  # the first call prepares what later ones find
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < _FEWEST or (time.perf_counter() - began < seconds and len(times) < _MOST):
        start = time.perf_counter()
        predict(crops)
        times.append(time.perf_counter() - start)
    return min(times) / len(crops) * 1000


def _with_children_mb() -> float:
    """Memory of this process and of those it started, 10^6 bytes; 0 where the system does not say."""
    own = memory_mb()
    for file in Path("/proc/self/task").glob("*/children"):
        try:
            for child in file.read_text().split():
                pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
                own += pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        except (OSError, ValueError, IndexError):  # it has just ended
            continue
    return own
