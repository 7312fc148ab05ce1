"""What containers say about their videos: each kind is made by FFmpeg, in PyAV or beside it, and read back."""

import http.server
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ferkit.core.errors import DataError
from ferkit.inference.live import LiveSource
from ferkit.inference.overlay import Overlay
from ferkit.inference.sinks import annotate_video
from ferkit.inference.sources import Frame, OpenVideo, VideoSource
from ferkit.inference.video import analyse_video, read_rows
from tests.inference.brightness import LABELS
from tests.inference.squares import new_engine

FFmpeg = Callable[..., Path]


@pytest.fixture(scope="module")
def ffmpeg(tmp_path_factory: pytest.TempPathFactory) -> FFmpeg:
    """Runs ffmpeg in one folder; the last argument names the file that it makes."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    folder = tmp_path_factory.mktemp("videos")

    def run(*arguments: object) -> Path:
        command = ["ffmpeg", "-y", "-loglevel", "error", *map(str, arguments)]
        subprocess.run(command, cwd=folder, check=True)
        return folder / str(arguments[-1])

    return run


def moving_image(size: str = "320x240", seconds: float = 2, fps: int = 25) -> tuple[str, ...]:
    return "-f", "lavfi", "-i", f"testsrc=s={size}:r={fps}:d={seconds}"


def corner_video(size: str = "320x240", corner: str = "0:0") -> tuple[str, ...]:
    """Black, with a white square of a quarter of the sides in one corner."""
    x, y = corner.split(":")
    draw = f"drawbox=x={x}:y={y}:w=iw/4:h=ih/4:c=white:t=fill"
    return "-f", "lavfi", "-i", f"color=black:s={size}:r=10:d=0.5,{draw}"


FLASH = "color=black:s=320x240:r=25:d=3,drawbox=c=white:t=fill:enable='between(t,1,1.2)'"
BEEP = "aevalsrc='if(between(t,3,3.2),sin(2*PI*1000*t),0)':d=5"


@pytest.fixture(scope="module")
def flash(ffmpeg: FFmpeg) -> Path:
    """A flash at 1 s and a beep at 3 s."""
    return ffmpeg(
        "-f", "lavfi", "-i", FLASH, "-f", "lavfi", "-i", BEEP, "-c:v", "libx264", "-c:a", "aac", "flash.mp4"
    )


def flash_and_beep_s(video: Path) -> tuple[float, float]:
    """When a player shows the flash and plays the beep."""
    with av.open(str(video)) as container:
        start_s = (container.start_time or 0) / 1e6
        flash_s = next(
            f.time - start_s for f in container.decode(video=0) if f.to_ndarray(format="gray").mean() > 128
        )
    with av.open(str(video)) as container:
        resample = av.AudioResampler("flt", "mono", 48000)
        for frame in container.decode(audio=0):
            at_s = frame.time - start_s
            for sound in resample.resample(frame):
                loud = np.flatnonzero(np.abs(sound.to_ndarray()[0]) > 0.2)
                if loud.size:
                    return flash_s, at_s + loud[0] / 48000
    raise AssertionError("no beep")


def annotated(video: Path | str, out: Path, every_s: float = 0.0) -> Path:
    run = analyse_video(video, out.parent / f"{out.stem}-table", new_engine(), {}, every_s=every_s)
    annotate_video(video, run.table, out, Overlay(LABELS), LABELS, every_s=every_s)
    return out


def times_of(video: Path) -> list[float]:
    return [frame.timestamp_s for frame in VideoSource(video)]


@pytest.mark.parametrize(("aspect", "width"), [("2/1", 640), ("16/15", 341), ("8/9", 284), ("1/1", 320)])
def test_pixels_are_square(ffmpeg: FFmpeg, aspect: str, width: int) -> None:
    video = ffmpeg(*corner_video(), "-vf", f"setsar={aspect}", "-c:v", "libx264", "aspect.mp4")
    source = VideoSource(video)
    rgb = next(iter(source)).rgb
    assert source.size_wh == (width, 240)
    assert rgb.shape == (240, width, 3)
    plain = ffmpeg("-i", video, "-c", "copy", "aspect.ts")
    with OpenVideo(str(plain), 5.0) as opened:
        frames = [frame for _, frame in opened.play()]
        while frames:  # live, some are forgotten before others are shown
            del frames[0]
            assert {opened.to_rgb(frame).shape for frame in frames} <= {(240, width, 3)}
    assert (rgb[:50, : width // 4 - 8] > 200).all()
    assert (rgb[:50, width // 4 + 8 :] < 50).all()


@pytest.mark.parametrize("mirror", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("turn", [0, 90, 180, -90, 20, -40])
def test_what_was_filmed_on_its_side_or_in_a_mirror_stands_upright(
    ffmpeg: FFmpeg, tmp_path: Path, turn: int, mirror: tuple[bool, bool]
) -> None:
    """Pixels are wide, too: they are as wide in what the camera saw, before it is turned."""
    plain = ffmpeg(*corner_video("160x240"), "-vf", "setsar=2/1", "-c:v", "libx264", "plain.mp4")
    video = tmp_path / "turned.mp4"
    with av.open(str(plain)) as source, av.open(str(video), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(turn, hflip=mirror[0], vflip=mirror[1])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    source = VideoSource(video)
    rgb = next(iter(source)).rgb
    assert source.size_wh == (rgb.shape[1], rgb.shape[0])
    expected = np.rot90(next(iter(VideoSource(plain))).rgb, round(turn / 90) % 4)
    expected = expected[:: -1 if mirror[1] else 1, :: -1 if mirror[0] else 1]
    assert (rgb == expected).all()
    if turn == 90 and not any(mirror):  # as ffmpeg itself turns it
        upright = next(iter(VideoSource(ffmpeg("-i", video, "-c:v", "libx264", "upright.mp4")))).rgb
        upright = cv2.resize(upright, source.size_wh)
        assert np.abs(upright.astype(int) - rgb).mean() < 5


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_cameras_that_write_exif_into_each_frame_are_read_upright(
    ffmpeg: FFmpeg, tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.open(ffmpeg(*corner_video(), "-frames:v", "1", "corner.png"))
    image.convert("RGB").save(tmp_path / "frame.jpg", exif=exif)
    video = ffmpeg("-loop", "1", "-i", tmp_path / "frame.jpg", "-t", "0.5", "-c:v", "copy", "exif.avi")
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "frame.jpg")))
    source = VideoSource(video)
    rgb = next(iter(source)).rgb
    assert source.size_wh == upright.shape[1::-1]
    assert np.abs(rgb.astype(int) - upright).mean() < 3


def test_variable_frame_rate_keeps_its_own_times(ffmpeg: FFmpeg) -> None:
    keep = "select='lt(n,10)+gte(n,40)'"  # more than a second is missing in the middle
    video = ffmpeg(*moving_image(), "-vf", keep, "-fps_mode", "vfr", "-c:v", "libx264", "variable.mp4")
    source = VideoSource(video)
    times = [frame.timestamp_s for frame in source]
    assert times == pytest.approx([i / 25 for i in (*range(10), *range(40, 50))], abs=0.002)
    assert source.broken_at_s is None


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "mov", "flv", "webm", "avi", "gif", "mpg", "frag.mp4"])
def test_every_kind_of_file_is_read_to_its_end(ffmpeg: FFmpeg, kind: str) -> None:
    codec = {
        "webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"),
        "avi": ("-c:v", "mpeg4", "-bf", "2"), "gif": (), "mpg": ("-c:v", "mpeg2video"),
        "frag.mp4": ("-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov"),
    }.get(kind, ("-c:v", "libx264"))  # fmt: skip
    source = VideoSource(ffmpeg(*moving_image(), *codec, f"whole.{kind}"))
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(50))
    assert [frame.timestamp_s for frame in frames] == pytest.approx([i / 25 for i in range(50)], abs=0.011)
    assert source.broken_at_s is None
    assert source.n_frames == pytest.approx(50, abs=3)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi", "ts", "gif", "flv", "frag.mp4"])
def test_what_is_cut_off_gives_what_it_has_and_says_so(ffmpeg: FFmpeg, tmp_path: Path, kind: str) -> None:
    codec = (
        ("-c:v", "libvpx", "-b:v", "1M", "-deadline", "realtime", "-cpu-used", "8")
        if kind == "webm"
        else ("-c:v", "libx264")
    )
    more = {
        "mp4": ("-movflags", "+faststart"), "gif": (),
        "frag.mp4": ("-g", "25", "-movflags", "frag_every_frame+empty_moov"),
    }  # fmt: skip
    whole = ffmpeg(*moving_image(), *([] if kind == "gif" else codec), *more.get(kind, ()), f"to_cut.{kind}")
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.8) | 1])
    source = VideoSource(cut)
    n = len(list(source))
    assert 5 < n < 49
    assert source.broken_at_s == pytest.approx((n - 1) / 25, abs=0.25)
    assert list(VideoSource(cut, 0.5))[-1].timestamp_s < 2


RECORDED = ("-f", "lavfi", "-i", "sine=d=1", "-c:a")


@pytest.mark.parametrize(
    ("kind", "how"),
    [("ogv", ("-c:v", "libtheora", "-g", "5")), ("ogv", (*RECORDED, "libvorbis", "-c:v", "libtheora", "-g", "5")),
     ("flv", ("-c:v", "flv")), ("wmv", ("-c:v", "wmv2")), ("apng", ("-plays", "0", "-f", "apng")),
     ("mjpeg", ("-c:v", "mjpeg")), ("webm", ("-c:v", "libvpx", "-deadline", "realtime", "-live", "1")),
     ("m2ts", (*RECORDED, "mp2", "-c:v", "mpeg2video", "-mpegts_m2ts_mode", "1"))],
)  # fmt: skip
def test_whatever_says_its_end_is_missed_where_it_is_cut_anywhere(
    ffmpeg: FFmpeg, tmp_path: Path, kind: str, how: tuple[str, ...]
) -> None:
    whole = ffmpeg(*moving_image("128x96", 1), *how, f"anywhere.{kind}")
    source = VideoSource(whole)
    n_frames = len(list(source))
    assert source.broken_at_s is None
    data, cut = whole.read_bytes(), tmp_path / f"cut.{kind}"
    for share in (0.55, 0.71, 0.83, 0.94):
        cut.write_bytes(data[: int(len(data) * share) | 1])
        source = VideoSource(cut)
        assert len(list(source)) <= n_frames
        assert source.broken_at_s is not None, share


def test_a_cut_between_two_packets_shows_where_the_container_tells(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    """The pages of Ogg do, and pieces of sound in transport streams, and frames that cannot be decoded."""
    theora = ffmpeg(
        *moving_image("64x48", 1), "-c:v", "libtheora", "-g", "1", "-page_duration", "1", "pages.ogv"
    )
    data = theora.read_bytes()
    cut = tmp_path / "cut.ogv"
    cut.write_bytes(data[: data.rindex(b"OggS")])
    noisy = (*RECORDED, "aac", "-b:a", "256k", "-vf", "noise=alls=60:allf=t:all_seed=3", "-c:v", "libx264")
    stream = ffmpeg(*moving_image("128x96", 1), *noisy, "sound.ts").read_bytes()
    sound = [i for i in range(0, len(stream), 188) if stream[i + 1 : i + 3] == b"\x01\x01"]  # goes on there
    cuts = [cut]
    for end in sound[len(sound) // 2 :: 12]:
        cuts.append(tmp_path / f"{end}.ts")
        cuts[-1].write_bytes(stream[:end])
    assert len(cuts) > 3
    cuts.append(tmp_path / "frame.ts")
    alone = ffmpeg(
        *moving_image("128x96", 1), "-vf", "noise=alls=60:allf=t:all_seed=3", "-c:v", "libx264", "alone.ts"
    )
    cuts[-1].write_bytes(alone.read_bytes()[: 188 * (alone.stat().st_size // 376)])
    for every_s in (0.0, 0.7):
        for each in cuts:
            source = VideoSource(each, every_s)
            list(source)
            assert source.broken_at_s is not None, each.name


def test_whole_videos_are_not_called_broken(ffmpeg: FFmpeg, flash: Path) -> None:
    """Sound that goes on longer, a start cut off without encoding again, and a header that counts too many frames."""
    long_sound = ffmpeg(
        *moving_image(), "-f", "lavfi", "-i", "sine=d=6", "-c:v", "libx264", "-c:a", "aac", "long.mkv"
    )
    trimmed = ffmpeg("-ss", "0.7", "-i", flash, "-c", "copy", "trimmed.mp4")
    for video in (long_sound, trimmed, ffmpeg("-ss", "0.7", "-i", flash, "-c", "copy", "trimmed.mkv")):
        source = VideoSource(video)
        assert sum(1 for _ in source) > 40
        assert source.broken_at_s is None, video.name


def test_pixels_that_change_their_shape_stay_square(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    video = tmp_path / "shapes.ts"
    how = ("-c:v", "libx264", "-bf", 0, "-output_ts_offset")
    parts = [
        ffmpeg(*corner_video(), "-vf", f"setsar={aspect}", *how, i / 2, f"{i}.ts")
        for i, aspect in enumerate(("1/1", "2/1", "1/1"))
    ]
    video.write_bytes(b"".join(part.read_bytes() for part in parts))
    widths = [frame.rgb.shape[1] for frame in VideoSource(video)]
    assert widths == [320] * 5 + [640] * 5 + [320] * 5
    assert [frame.rgb.shape[1] for frame in VideoSource(video, 0.5)] == [320, 640, 320]
    copy = list(VideoSource(annotated(video, tmp_path / "drawn.mp4")))  # of one size: what is wide has bars
    assert {frame.rgb.shape for frame in copy} == {(240, 320, 3)}
    assert [int(frame.rgb[:50].max()) > 128 for frame in copy] == [True] * 5 + [False] * 5 + [True] * 5
    assert copy[7].rgb[64:86, :70].min() > 128


def test_what_does_not_say_its_start_begins_at_zero(ffmpeg: FFmpeg) -> None:
    assert times_of(ffmpeg(*moving_image(), "-frames:v", 1, "-c:v", "libx264", "single.ts")) == [0.0]


def test_a_image_that_starts_late_has_the_players_times(ffmpeg: FFmpeg, flash: Path) -> None:
    late = ffmpeg(
        "-i", flash, "-itsoffset", "2", "-i", flash, "-map", "1:v", "-map", "0:a", "-c", "copy", "late.mp4"
    )
    times = times_of(late)
    assert times[0] == pytest.approx(2.0, abs=0.001)
    assert len(times) == 75
    bright = next(f.timestamp_s for f in VideoSource(late) if f.rgb.mean() > 128)
    assert bright == pytest.approx(3.0, abs=0.001)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("late.mp4", ".mp4"), ("late.ts", ".mp4"), ("opus.mkv", ".mkv"), ("mp2.ts", ".mkv"), ("pcm.avi", ".mov"),
     ("flash.mp4", ".mp4")],
)  # fmt: skip
def test_annotated_copies_are_in_step_with_their_sound(
    ffmpeg: FFmpeg, flash: Path, tmp_path: Path, name: str, suffix: str
) -> None:
    late = ffmpeg(
        "-i", flash, "-itsoffset", "2", "-i", flash, "-map", "1:v", "-map", "0:a", "-c", "copy", "late.mp4"
    )
    how = {
        "late.ts": ("-c", "copy"), "opus.mkv": ("-c:v", "copy", "-c:a", "libopus"),
        "mp2.ts": ("-c:v", "mpeg2video", "-c:a", "mp2"), "pcm.avi": ("-c:v", "mpeg4", "-c:a", "pcm_s16le"),
    }  # fmt: skip
    video = flash if name == "flash.mp4" else ffmpeg("-i", late, *how[name], name) if name in how else late
    out = annotated(video, tmp_path / f"drawn{suffix}", every_s=0.5)
    flash_s, beep_s = flash_and_beep_s(out)
    before = flash_and_beep_s(video)
    assert flash_s - beep_s == pytest.approx(before[0] - before[1], abs=0.03)
    assert flash_s - beep_s == pytest.approx(-2.0 if video == flash else 0.0, abs=0.04)
    assert len(times_of(out)) == len(times_of(video))


def test_sound_of_any_rate_and_sound_with_holes_are_kept(ffmpeg: FFmpeg, flash: Path, tmp_path: Path) -> None:
    how = ("-c:v", "copy", "-c:a")
    fast = ffmpeg("-i", flash, *how, "pcm_s16le", "-ar", 192_000, "fast.mkv")
    holes = ffmpeg("-i", flash, *how, "flac", "holes.mkv")
    data = bytearray(holes.read_bytes())
    with av.open(str(holes)) as container:
        sound = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    for at, size in sound[5:9]:
        data[at + 8 : at + size // 2] = b"?" * (size // 2 - 8)
    holes.write_bytes(data)
    for video in (fast, holes):
        flash_s, beep_s = flash_and_beep_s(annotated(video, tmp_path / f"{video.stem}.mp4", every_s=1.0))
        assert (flash_s, beep_s) == pytest.approx((1.0, 3.0), abs=0.04)


def test_what_was_trimmed_away_does_not_come_back(ffmpeg: FFmpeg, flash: Path, tmp_path: Path) -> None:
    trimmed = ffmpeg("-ss", "0.7", "-i", flash, "-c", "copy", "trimmed_by_list.mp4")
    for kind in ("mp4", "mkv"):
        out = annotated(trimmed, tmp_path / f"drawn.{kind}", every_s=1.0)
        assert times_of(out) == pytest.approx(times_of(trimmed), abs=0.03)


def test_sound_goes_on_after_the_image_and_odd_sizes_are_kept(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    video = ffmpeg(
        *moving_image("321x241", 1),
        "-f",
        "lavfi",
        "-i",
        "sine=d=3",
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv444p",
        "odd.mkv",
    )
    out = annotated(video, tmp_path / "drawn.mp4")
    assert VideoSource(out).size_wh == (322, 242)
    with av.open(str(out)) as container:
        assert container.duration == pytest.approx(3e6, abs=1e5)
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]


def test_copies_of_videos_with_wide_pixels_are_not_squeezed(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    video = ffmpeg(*moving_image("160x240", 1), "-vf", "setsar=2/1", "-c:v", "libx264", "wide.mp4")
    assert VideoSource(annotated(video, tmp_path / "drawn.mp4")).size_wh == (320, 240)


@pytest.fixture(scope="module")
def jump(ffmpeg: FFmpeg) -> Path:
    """A transport stream whose time stamps jump by 100 s in the middle, as after a gap in a recording."""
    sound = ("-f", "lavfi", "-i", "sine=d=1.2", "-c:v", "libx264", "-c:a", "aac", "-shortest")
    first = ffmpeg(*moving_image(seconds=1.2), *sound, "first.ts")
    second = ffmpeg(*moving_image(seconds=1.2), *sound, "-output_ts_offset", "100", "second.ts")
    both = first.with_name("jump.ts")
    both.write_bytes(first.read_bytes() + second.read_bytes())
    return both


def test_no_frames_are_made_up_across_a_jump_in_the_time_stamps(jump: Path, tmp_path: Path) -> None:
    assert len(times_of(jump)) == 60
    out = annotated(jump, tmp_path / "drawn.mp4")
    assert len(times_of(out)) == 60
    assert times_of(out) == pytest.approx(times_of(jump), abs=0.01)


def test_nobody_waits_for_a_jump_in_a_file_played_live(jump: Path) -> None:
    began = time.monotonic()
    assert [frame.timestamp_s for frame in LiveSource(str(jump))][-1] > 100
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("step_s", [-0.4, 80_000])
def test_copies_are_made_of_joined_recordings_whatever_their_stamps(
    ffmpeg: FFmpeg, tmp_path: Path, step_s: float
) -> None:
    how = (*RECORDED, "aac", "-c:v", "libx264", "-bf", 0, "-output_ts_offset")
    parts = [ffmpeg(*moving_image("64x48", 1, 10), *how, at, f"{at}.ts") for at in (1, 2 + step_s)]
    both = tmp_path / "joined.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    times = times_of(both)
    assert len(times) == 20
    assert times_of(annotated(both, tmp_path / "drawn.mp4", every_s=0.5)) == pytest.approx(times, abs=0.01)


def test_time_goes_on_where_the_stamps_begin_again(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    once = ffmpeg(
        *moving_image(seconds=2), "-f", "lavfi", "-i", "sine=d=2", "-c:v", "libx264", "-c:a", "aac", "once.ts"
    )
    twice = tmp_path / "twice.ts"
    twice.write_bytes(once.read_bytes() * 2)
    frames = list(VideoSource(twice))
    assert [frame.timestamp_s for frame in frames] == pytest.approx([i / 25 for i in range(100)], abs=0.05)
    assert [frame.index for frame in frames if frame.cut] == [50]
    out = annotated(twice, tmp_path / "drawn.mp4")
    assert len(times_of(out)) == 100
    with av.open(str(out)) as container:
        assert container.duration == pytest.approx(4e6, abs=2e5)


@pytest.mark.parametrize(
    ("name", "how"),
    [("bt709", ("-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709")),
     ("bt601", ("-vf", "scale=out_color_matrix=bt601", "-colorspace", "smpte170m")),
     ("full", ("-vf", "scale=out_range=full:out_color_matrix=bt709", "-colorspace", "bt709", "-color_range", "pc")),
     ("unsaid", ()), ("ten_bits", ("-pix_fmt", "yuv420p10le")), ("yuv444p", ("-pix_fmt", "yuv444p"))],
)  # fmt: skip
def test_colours_are_as_they_were(ffmpeg: FFmpeg, name: str, how: tuple[str, ...]) -> None:
    color = "-f", "lavfi", "-i", "color=c=0xC86432:s=64x64:r=5:d=0.4"
    video = ffmpeg(*color, *how, "-c:v", "libx264", "-qp", "0", f"{name}.mp4")
    assert next(iter(VideoSource(video))).rgb[32, 32].astype(int) == pytest.approx([200, 100, 50], abs=6)


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_brought_into_the_usual_range_and_said(ffmpeg: FFmpeg, transfer: str) -> None:
    white = {"smpte2084": 0.58, "arib-std-b67": 0.75}[transfer]  # the signals of paper, by ITU-R BT.2408
    level = round(64 + white * 876)
    gray = f"color=black:s=64x64:r=5:d=0.4,format=gray10le,geq=lum={level},format=yuv420p10le"
    tags = f"log-level=error:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    source = VideoSource(
        ffmpeg("-f", "lavfi", "-i", gray, "-c:v", "libx265", "-x265-params", tags, "hdr.mp4")
    )
    rgb = next(iter(source)).rgb
    assert len(source.remarks) == 1
    assert "HDR" in source.remarks[0]
    assert rgb.dtype == np.uint8
    assert 215 < rgb.mean() < 250  # bright, and room left for what is brighter
    assert rgb.std() < 3


def test_interlaced_videos_lose_their_combs(ffmpeg: FFmpeg) -> None:
    bar = "color=black:s=320x240:r=50:d=1,drawbox=x=mod(t*300\\,300):y=0:w=20:h=ih:c=white:t=fill"
    interlaced = (
        "-vf",
        "interlace=scan=tff:lowpass=0",
        "-flags",
        "+ilme+ildct",
        "-c:v",
        "mpeg2video",
        "-q:v",
        "2",
    )
    plain = VideoSource(ffmpeg("-f", "lavfi", "-i", bar, "-c:v", "mpeg2video", "-q:v", "2", "progressive.ts"))
    source = VideoSource(ffmpeg("-f", "lavfi", "-i", bar, *interlaced, "combs.ts"))

    def combs(video: VideoSource) -> float:
        gray = [frame.rgb[..., 1].astype(int) for frame in video]
        return float(np.mean([np.abs(g[:-1] - g[1:]).mean() for g in gray]))

    assert combs(source) < 1.5 * combs(plain) + 0.2
    assert any("interlaced" in remark for remark in source.remarks)
    assert not plain.remarks


@pytest.mark.parametrize(
    "name", ["12:30 in Köln.mp4", "면접 영상 (1).mp4", "-y.mp4", "100%d.mp4", "a?b#c.mp4"]
)
def test_any_name_will_do(ffmpeg: FFmpeg, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.name == "nt":
        pytest.skip("Windows does not take such names")
    shutil.copy(ffmpeg(*moving_image(seconds=0.4), "-c:v", "libx264", "plain.mp4"), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoSource(name))) == 10
    annotated(name, tmp_path / f"drawn {name}")
    assert len(list(VideoSource(f"drawn {name}"))) == 10


def test_sound_alone_is_called_so(ffmpeg: FFmpeg) -> None:
    song = ffmpeg("-f", "lavfi", "-i", "sine=d=1", "song.mp3")
    cover = ffmpeg(*moving_image(seconds=0.04), "-frames:v", "1", "cover.png")
    with_cover = ffmpeg(
        "-i",
        song,
        "-i",
        cover,
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "png",
        "-disposition:v:0",
        "attached_pic",
        "cover.mp3",
    )
    for audio in (song, with_cover, ffmpeg("-i", song, "-c:a", "aac", "song.mp4")):
        with pytest.raises(DataError, match="only sound"):
            VideoSource(audio)


def test_a_video_that_changes_its_size_is_followed_afresh(ffmpeg: FFmpeg, tmp_path: Path) -> None:
    small = ffmpeg(*corner_video("160x120", "20:20"), "-c:v", "libx264", "small.ts")
    large = ffmpeg(
        *corner_video("320x240", "200:100"), "-c:v", "libx264", "-output_ts_offset", "0.5", "large.ts"
    )
    both = tmp_path / "sizes.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    assert {frame.rgb.shape for frame in VideoSource(both)} == {(120, 160, 3), (240, 320, 3)}
    rows = list(read_rows(analyse_video(both, tmp_path, new_engine(), {}).table))
    assert {(row.face, row.xyxy[0] > 100) for row in rows} == {(1, False), (2, True)}


def assert_is_part(found: list[Frame], everything: list[Frame], every_s: float, start: int) -> None:
    """That ``found`` are the frames every so often, from number ``start`` on, with the same pixels."""
    wanted, next_s = [], 0.0
    for frame in everything:
        if frame.timestamp_s >= next_s - 1e-6:
            wanted.append(frame)
            next_s += every_s * max(1, int((frame.timestamp_s - next_s) / every_s + 1))
    assert [frame.index for frame in found] == [frame.index for frame in wanted if frame.index >= start]
    for frame in found:
        assert frame.timestamp_s == everything[frame.index].timestamp_s
        assert (frame.rgb == everything[frame.index].rgb).all()


CODECS = {  # of each kind, with groups of many frames where the codec has them
    "x264.mkv": "-c:v libx264 -g 30 -bf 2",
    "x265.mp4": "-c:v libx265 -x265-params log-level=none:keyint=30",
    "vp8.webm": "-c:v libvpx -g 30",
    "vp9.webm": "-c:v libvpx-vp9 -g 30",
    "av1.mp4": "-c:v libsvtav1 -preset 12 -g 33",
    "mpeg4.avi": "-c:v mpeg4 -bf 2",
    "moving.apng": "-c:v apng -plays 1",
    "moving.gif": "",
    "raw.m2v": "-c:v mpeg2video -bf 2",
}


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_gives_the_same_now_and_then_and_when_resumed(ffmpeg: FFmpeg, name: str) -> None:
    try:
        video = ffmpeg(*moving_image("96x64", 2.5, 30), *CODECS[name].split(), name)
    except subprocess.CalledProcessError:
        pytest.skip("this ffmpeg lacks the encoder")
    everything = list(VideoSource(video))
    assert len(everything) == 75 or name == "moving.gif"
    assert everything[-1].timestamp_s == pytest.approx(74 / 30, abs=0.05)
    for every_s, start in ((0.4, 0), (0.4, 1), (0.1, 40)):
        source = VideoSource(video, every_s, start)
        found = list(source)
        assert_is_part(found, everything, every_s, start)
        assert (source.broken_at_s, source.n_damaged) == (None, 0)


def test_raw_streams_have_the_rate_that_is_in_them_and_damage_is_counted(
    ffmpeg: FFmpeg, tmp_path: Path
) -> None:
    source = VideoSource(ffmpeg(*moving_image("96x64", 1, 50), "-c:v", "libx264", "fifty.h264"))
    assert source.remarks == ("fifty.h264: there are no times in it: taken as 50 frames a second",)
    assert [frame.timestamp_s for frame in source] == pytest.approx([i / 50 for i in range(50)])
    whole = ffmpeg(*moving_image(), "-c:v", "mjpeg", "whole.mov").read_bytes()
    holed = tmp_path / "holed.mov"
    begin = len(whole) // 2
    holed.write_bytes(whole[:begin] + bytes(20_000) + whole[begin + 20_000 :])
    run = analyse_video(holed, tmp_path, new_engine(), {})
    assert run.n_damaged > 0
    assert analyse_video(holed, tmp_path, new_engine(), {}).n_damaged == run.n_damaged


@given(
    every_s=st.floats(0.03, 3),
    start=st.integers(0, 60),
    gop=st.sampled_from([1, 7, 25, 250]),
    bf=st.integers(0, 3),
)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_not_decoded_was_not_needed(
    tmp_path_factory: pytest.TempPathFactory, every_s: float, start: int, gop: int, bf: int
) -> None:
    """Looking at a frame now and then gives the same pixels as looking at all."""
    video = tmp_path_factory.getbasetemp() / f"gop-{gop}-{bf}.mkv"
    if not video.exists():
        rng = np.random.default_rng(gop)
        with av.open(str(video), "w") as out:
            stream = out.add_stream(
                "libx264", rate=25, options={"g": str(gop), "bf": str(bf), "sc_threshold": "0"}
            )
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            base = rng.integers(0, 255, (64, 200, 3), np.uint8)
            for i in range(75):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(base[:, i : i + 64]), format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    everything = list(VideoSource(video))
    assert [frame.index for frame in everything] == list(range(75))
    assert_is_part(list(VideoSource(video, every_s, start)), everything, every_s, start)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on loopback, of the files in ``tmp_path``."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("kind", ["mp4", "ts", "mkv"])
def test_a_video_at_an_address_plays_in_time_and_ends(
    ffmpeg: FFmpeg, tmp_path: Path, web: str, kind: str
) -> None:
    shutil.copy(ffmpeg(*moving_image(seconds=1), "-c:v", "libx264", f"short.{kind}"), tmp_path)
    address = f"{web}/short.{kind}"
    assert len(list(VideoSource(address))) == 25
    began = time.monotonic()
    seen = [frame.timestamp_s for frame in LiveSource(address)]
    assert time.monotonic() - began == pytest.approx(1.0, abs=0.7)
    assert 5 < len(seen) <= 25
    assert seen[-1] < 1.0


def test_an_index_at_the_end_of_what_comes_in_one_piece_has_a_remedy(
    ffmpeg: FFmpeg, tmp_path: Path, web: str
) -> None:
    noise = ("-vf", "noise=alls=100:all_seed=3", "-c:v", "mpeg4", "-q:v", "1")
    video = ffmpeg(*moving_image("640x480", 1), *noise, "index_last.mp4")
    assert video.stat().st_size > 1_000_000
    shutil.copy(video, tmp_path)
    with pytest.raises(DataError, match=r"index lies at its end .*; download it, and give the file"):
        VideoSource(f"{web}/index_last.mp4")


def test_passwords_do_not_come_back(tmp_path: Path, web: str) -> None:
    for address in (f"{web}/nothing.mp4", "rtsp://user:secret@127.0.0.1:9/stream"):
        assert "secret" not in LiveSource(address).name
        for attempt in (partial(VideoSource, address), partial(next, iter(LiveSource(address, timeout_s=2)))):
            with pytest.raises(DataError, match=r"no video from .*user:…@127") as caught:
                attempt()
            assert "secret" not in str(caught.value)


def test_a_video_that_is_moved_while_it_is_read_is_read_to_its_end(flash: Path, tmp_path: Path) -> None:
    video = shutil.copy(flash, tmp_path / "here.mp4")
    frames = iter(VideoSource(video))
    next(frames)
    video.rename(tmp_path / "there.mp4")
    assert len(list(frames)) == 74
