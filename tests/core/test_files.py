import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ferkit.core.errors import FerkitError, StoreLockedError
from ferkit.core.files import (
    exclusive_lock,
    parse_json,
    parse_toml,
    read_regular,
    remove_leftovers,
    temporary_folder,
    write_atomically,
    write_json,
)


def test_a_file_and_its_folders_are_made_and_replaced_whole(tmp_path: Path):
    path = tmp_path / "a" / "b" / "한글.bin"
    for content in (b"old", b"newer"):
        write_atomically(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "result"
    path.write_bytes(b"old")

    def half(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"result": b"old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(FerkitError, match=r"the disk is full.*run the same command again"):
        write_atomically(tmp_path / "result", lambda file: file.write(b"x"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_folder_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FerkitError, match=r"file/result could not be written: "):
        write_atomically(tmp_path / "file" / "result", lambda file: file.write(b"x"))


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
def test_what_is_no_regular_file_is_written_to_and_not_replaced(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        write_atomically(pipe, lambda file: file.write(b"rows"))
        assert read.result(10) == b"rows"
    write_atomically(Path(os.devnull), lambda file: file.write(b"rows"))
    assert pipe.is_fifo()
    assert Path(os.devnull).is_char_device()
    with pytest.raises(FerkitError):
        write_atomically(tmp_path, lambda file: file.write(b"rows"))


def test_written_files_have_the_rights_of_any_other_file(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "result", lambda file: file.write(b"x"))
        (tmp_path / "other").write_bytes(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "result").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_json_keeps_hangul_and_names_that_are_not_utf8(tmp_path: Path):
    write_json(tmp_path / "x.json", {"기쁨": os.fsdecode(b"\xff.jpg")})
    content = (tmp_path / "x.json").read_bytes()
    assert "기쁨".encode() in content
    assert b'"\xff.jpg"' in content


def test_nan_is_not_written_as_json(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"accuracy": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_second_holder_of_a_lock_is_refused_until_the_first_has_gone(tmp_path: Path):
    path = tmp_path / "new" / ".lock"
    refused = pytest.raises(StoreLockedError, match=r"another process is writing to .*new; wait")
    with exclusive_lock(path, "writing to"), refused:
        exclusive_lock(path, "writing to").__enter__()
    with exclusive_lock(path, "writing to"):
        pass


def test_the_system_frees_the_lock_of_a_killed_process(tmp_path: Path):
    path = tmp_path / ".lock"
    code = (
        "import sys, time; from pathlib import Path; from ferkit.core.files import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1]), 'writing to'):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreLockedError):
            exclusive_lock(path, "writing to").__enter__()
        holder.kill()
        holder.wait()
        with exclusive_lock(path, "writing to"):
            pass


def test_a_lock_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FerkitError, match="could not be written"):
        exclusive_lock(tmp_path / "file" / ".lock", "writing to").__enter__()


def test_what_a_killed_writer_left_is_taken_over(tmp_path: Path):
    code = (
        "import os, signal; from pathlib import Path; from ferkit.core.files import write_atomically\n"
        "def half(file):\n file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_atomically(Path({str(tmp_path / 'result')!r}), half)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=False)
        assert [path.name for path in tmp_path.iterdir()] == [".result.tmp"]
    write_atomically(tmp_path / "result", lambda file: file.write(b"whole"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"result": b"whole"}


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path: Path):
    contents = [bytes([i]) * 50_000 for i in range(64)]

    def write(content: bytes) -> None:
        write_atomically(tmp_path / "result", lambda file: [file.write(content[:9]), file.write(content[9:])])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, contents))
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (tmp_path / "result").read_bytes() in contents


def test_leftovers_go_but_not_what_is_being_written(tmp_path: Path):
    (tmp_path / ".old.tmp").write_bytes(b"half")

    def meanwhile(file) -> None:
        remove_leftovers(tmp_path)
        file.write(b"whole")

    write_atomically(tmp_path / "result", meanwhile)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"result": b"whole"}


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str):
    path = {"fifo": tmp_path / "fifo", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(path)
    (tmp_path / "x").write_bytes(b"abc")
    assert (read_regular(tmp_path / "x"), read_regular(tmp_path / "x", 2)) == (b"abc", b"ab")


@pytest.mark.parametrize("parse", [parse_json, parse_toml])
@pytest.mark.parametrize("deep", ["[", '{"a":', "a = [", "a = {b = "])
def test_text_of_any_depth_is_no_more_than_a_value_error(parse, deep: str):
    for content in (deep * 100_000, (deep * 100_000).encode(), b"\xff\xfe"):
        with pytest.raises(ValueError, match=r"."):
            parse(content)
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
    assert parse_toml(b"\xef\xbb\xbfa = 1") == {"a": 1}


def test_a_folder_that_a_killed_process_left_goes_but_none_in_use(tmp_path: Path):
    in_use, lock = temporary_folder(tmp_path / "model")
    left, other = temporary_folder(tmp_path / "model")
    other.close()  # as when the process ends
    made, third = temporary_folder(tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {in_use.name, made.name}
    assert not left.exists()
    for file in (lock, third):
        file.close()


def test_a_file_system_that_flushes_no_folders_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a", lambda file: file.write(b"a"))
    assert (tmp_path / "a").read_bytes() == b"a"
