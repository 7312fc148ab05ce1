"""How often to detect, and how many faces to read a frame, so that the frame rate holds."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Effort:
    """What one frame may cost.

    Attributes:
        detect_every: frames from one detection to the next.
        max_crops: faces that are read in the frame, those read longest ago first; None for all.
    """

    detect_every: int
    max_crops: int | None


@dataclass
class SteadyPace:
    """Always the same effort: for films, where the result must not depend on the machine's load."""

    detect_every: int = 1

    def effort(self, n_faces: int) -> Effort:
        """The effort for a frame with ``n_faces``."""
        return Effort(self.detect_every, None)

    def spent(self, *, detect_s: float | None, n_crops: int, crops_s: float, other_s: float) -> None:
        """Take note of what a frame took."""


@dataclass
class LivePace:
    """As much as fits into the time of a frame, by what the last frames took.

    Attributes:
        fps: frames a second that should hold.
        longest_gap_s: a face must not wait longer than this to be detected.
    """

    fps: float = 30.0
    longest_gap_s: float = 0.25
    _detect_s: float = field(default=0.03, repr=False)
    _crop_s: float = field(default=0.005, repr=False)
    _other_s: float = field(default=0.003, repr=False)

    def effort(self, n_faces: int) -> Effort:
        """The effort for a frame with ``n_faces``."""
        budget_s = 0.85 / self.fps
        most = max(1, round(self.longest_gap_s * self.fps))
        # Detection gets at most four tenths: boxes move on by themselves for a moment, labels do not.
        detect_every = min(most, max(1, -int(-self._detect_s // (0.4 * budget_s))))
        left_s = budget_s - self._detect_s / detect_every - self._other_s
        return Effort(detect_every, max(1, min(n_faces, int(left_s / self._crop_s))))

    def spent(self, *, detect_s: float | None, n_crops: int, crops_s: float, other_s: float) -> None:
        """Take note of what a frame took; ``detect_s`` None if nothing was detected in it."""
        if detect_s is not None:
            self._detect_s += 0.2 * (detect_s - self._detect_s)
        if n_crops:
            self._crop_s += 0.1 * (crops_s / n_crops - self._crop_s)
        self._other_s += 0.1 * (other_s - self._other_s)
