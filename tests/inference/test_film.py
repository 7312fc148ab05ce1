import json
import os
from pathlib import Path

import av
import cv2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.inference import video as video_module
from ferkit.inference.engine import Engine, FrameResult
from ferkit.inference.overlay import Overlay
from ferkit.inference.sinks import VideoWriter, annotate_video
from ferkit.inference.sources import VideoSource
from ferkit.inference.video import (
    FIXED,
    FaceRow,
    Timeline,
    analyse_video,
    frames_of,
    negative_labels,
    plot_timeline,
    read_rows,
    save_images,
    summarise,
)
from tests.inference.brightness import LABELS
from tests.inference.squares import frame_with, moving_squares, new_engine, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", moving_squares(60))


def test_every_face_of_every_frame_is_a_row(video: Path, tmp_path: Path) -> None:
    run = analyse_video(video, tmp_path, new_engine(), {})
    rows = list(read_rows(run.table))
    assert (run.n_frames, run.n_faces, len(rows)) == (60, 120, 120)
    assert {row.face for row in rows} == {1, 2}
    assert [len(frame) for frame in frames_of(rows)] == [2] * 60
    last = {row.face: row.label for row in rows[-2:]}
    assert set(last.values()) == {"happy"}
    assert all(abs(sum(row.proba) - 1) < 0.001 for row in rows)


class PulledPlugError(Exception):
    pass


def test_an_interrupted_run_goes_on_to_the_same_table(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse_video(video, tmp_path / "whole", new_engine(), {})
    monkeypatch.setattr(video_module, "_CHECKPOINT_S", 0.0)
    process = Engine.process
    for n_frames in (17, 13):
        engine = new_engine()

        def fail_later(self: Engine, rgb: object, t: float, n: int = n_frames) -> FrameResult:
            if self.n_frames == n:
                raise PulledPlugError
            return process(self, rgb, t)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "process", fail_later)
            with pytest.raises(PulledPlugError):
                analyse_video(video, tmp_path / "cut", engine, {})
        with (tmp_path / "cut" / "faces.csv").open("ab") as table:
            table.write(b"99,half a li")  # what was written after the last note of it
    run = analyse_video(video, tmp_path / "cut", new_engine(), {})
    assert run.resumed_at_s == pytest.approx(29 / 25, abs=0.01)
    assert (run.n_frames, run.n_faces) == (60, 120)
    assert run.table.read_bytes() == (tmp_path / "whole" / "faces.csv").read_bytes()
    again = analyse_video(video, tmp_path / "cut", new_engine(), {})
    assert again.resumed_at_s is None
    assert again.n_faces == 120


def test_other_settings_begin_anew(video: Path, tmp_path: Path) -> None:
    analyse_video(video, tmp_path, new_engine(), {"smooth": "ema"})
    run = analyse_video(video, tmp_path, new_engine(), {"smooth": "hmm"}, every_s=0.4)
    assert run.resumed_at_s == 0
    assert run.n_frames == 6


def test_another_video_of_the_same_name_and_size_begins_anew(tmp_path: Path) -> None:
    """Raw videos of one length have one size, and copies keep their dates."""
    video = tmp_path / "film.avi"
    for x in (20, 200):
        with av.open(str(video), "w") as out:
            stream = out.add_stream("rawvideo", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            frame = av.VideoFrame.from_ndarray(frame_with((x, 30, 225)), format="rgb24")
            out.mux(stream.encode(frame))
        os.utime(video, (1, 1))
        (row,) = read_rows(analyse_video(video, tmp_path, new_engine(), {}).table)
        assert row.xyxy[0] == pytest.approx(x, abs=2)


@given(st.sampled_from([0.3, 1.0, 1.7, 4.0]), st.sets(st.integers(1, 5), max_size=2), st.booleans())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_people_keep_their_numbers_however_seldom_they_are_looked_at(
    tmp_path: Path, every_s: float, missed: set[int], every_frame: bool
) -> None:
    missed -= {i + 1 for i in missed}  # one look at a time
    there = [() if i in missed else ((20 + i, 30, 225), (220, 150, 40)) for i in range(7)]
    video = write_video(tmp_path / "film.mp4", [frame_with(*squares) for squares in there], 1 / every_s)
    rows = list(
        read_rows(
            analyse_video(video, tmp_path, new_engine(), {}, every_s=0 if every_frame else every_s).table
        )
    )
    assert len(rows) == 2 * (7 - len(missed))
    assert {row.face for row in rows if row.xyxy[0] < 100} == {1}
    assert {row.face for row in rows if row.xyxy[0] > 100} == {2}


def test_a_foreign_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "faces.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="other columns"):
        list(read_rows(tmp_path / "faces.csv"))
    (tmp_path / "faces.csv").write_text(",".join(FIXED) + "\n1," + "9" * 200_000 + "\n")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_rows(tmp_path / "faces.csv"))


def row(face: int, time_s: float, label: str) -> FaceRow:
    return FaceRow(round(time_s * 10), time_s, face, (0, 0, 9, 9), 0.9, 1.0, label, label, (0.2, 0.3, 0.5))


def test_totals_count_labels_changes_and_negatives() -> None:
    labels = ["happy", "happy", "sad", "unsure", "sad", "sad"]
    rows = [row(1, i * 10.0, label) for i, label in enumerate(labels)] + [row(2, 60.0, "neutral")]
    summary = summarise(rows, LABELS)
    first, second = summary.people
    assert (first.face, first.n, first.labels["sad"], first.n_negative, first.score) == (1, 6, 3, 3, 97)
    assert first.changes_per_minute == pytest.approx(3 / 50 * 60)
    assert (second.n, second.score) == (1, 100)
    assert summary.labels["happy"] == 2
    assert json.loads(json.dumps(summary.as_dict()))["people"][0]["score"] == 97
    assert negative_labels(LABELS) == {"sad"}


def test_the_score_ends_at_zero() -> None:
    assert summarise([row(1, i / 10, "sad") for i in range(300)], LABELS).people[0].score == 0


def test_a_timeline_has_each_moment_in_its_column(tmp_path: Path) -> None:
    rows = [row(1, i / 10, "sad" if i < 500 else "happy") for i in range(1000)]
    timeline = Timeline(summarise(rows, LABELS), LABELS).add(rows)
    assert timeline.counts.sum() == 1000
    assert timeline.shown[0, 0] == 0
    assert timeline.shown[0, -1] == 2
    plot_timeline(timeline, tmp_path / "timeline.png", "film", "ko")
    assert (tmp_path / "timeline.png").stat().st_size > 5000


def test_a_timeline_of_one_person_is_as_high_as_the_list_of_classes(tmp_path: Path) -> None:
    labels = LabelSet(tuple(f"c{i}" for i in range(30)))
    rows = [FaceRow(0, 0.0, 1, (0, 0, 9, 9), 0.9, 1.0, "c3", "c3", (1 / 30,) * 30)]
    plot_timeline(Timeline(summarise(rows, labels), labels).add(rows), tmp_path / "t.png", "film")
    image = cv2.imread(str(tmp_path / "t.png"))
    below = image[-8:, -int(image.shape[1] * 0.1) :]
    assert (below == 255).all()  # nothing is cut off


def test_nobody_to_be_seen_is_a_timeline_too(tmp_path: Path) -> None:
    plot_timeline(Timeline(summarise([], LABELS), LABELS), tmp_path / "empty.png", "nobody")
    assert (tmp_path / "empty.png").is_file()


def test_the_annotated_video_is_as_long_and_boxes_move_between_readings(video: Path, tmp_path: Path) -> None:
    run = analyse_video(video, tmp_path / "out", new_engine(), {}, every_s=0.4)
    out = tmp_path / "annotated.mp4"
    annotate_video(video, run.table, out, Overlay(LABELS, bars=False, history=False), LABELS)
    frames = [frame.rgb for frame in VideoSource(out)]
    assert len(frames) == 60
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".mp4"] == ["annotated.mp4"]
    # In frame 5, between two readings, the box's left edge is around the square at 30.
    assert frames[5][45:65, 26:34].max() > 100
    assert frames[5][45:65, 8:20].max() < 60


def test_a_recording_has_each_frame_when_it_happened(tmp_path: Path) -> None:
    path = tmp_path / "in" / "recording.mp4"
    times = [5.0, 5.1, 5.9, 5.92, 5.94, 6.0]
    with VideoWriter(path, fps=20, begin_s=5.0) as writer:
        for t in times:
            writer.write(frame_with((10, 10, 200), size_wh=(121, 81)), t)
    frames = list(VideoSource(path))
    assert [frame.timestamp_s for frame in frames] == pytest.approx([t - 5 for t in times], abs=0.002)
    assert frames[0].rgb.shape == (82, 122, 3)
    head = path.read_bytes()[:400]
    assert head.index(b"moov") < 100  # players on the web can begin before all of it is there


def test_frames_and_faces_are_saved_where_asked_for(video: Path, tmp_path: Path) -> None:
    run = analyse_video(video, tmp_path / "out", new_engine(), {}, every_s=1.0)
    counts = save_images(video, run.table, 1.0, tmp_path / "frames", tmp_path / "faces")
    assert counts == (3, 6)
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [
        "000000-0.000s.jpg", "000025-1.000s.jpg", "000050-2.000s.jpg",
    ]  # fmt: skip
    face = cv2.imread(str(tmp_path / "faces" / "000025-1.000s-face1.jpg"))
    assert face.shape == (56, 56, 3)
    assert face[28, 28].mean() > 180
