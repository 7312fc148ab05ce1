"""Fixtures that tests of every part share."""

import gc
import math
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Shells let what they start in the background ignore Ctrl-C, and its children after it; tests send it to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Take what collecting made out of the garbage collector's rounds: looking at a gigabyte takes it seconds, in
    which a server in the same process stands still."""
    gc.collect()
    gc.freeze()


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The local material (real faces, weights, videos); tests that need it skip where it is absent."""
    if not (SHARED / "SOURCES.md").is_file():
        pytest.skip(f"needs the local material in {SHARED.name}/ beside the repository")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def unhurried() -> Iterator[None]:
    """Lines that say how far long work is come after ten seconds: on a slow machine, among what tests compare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ferkit.core.console._SECONDS_BETWEEN_LINES", math.inf)
        yield


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of this test's own, in which the rights of files count even if root runs the tests."""
    if os.name != "posix":
        pytest.skip("needs the rights of POSIX")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        user = os.geteuid()
        os.seteuid(user or 65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


@pytest.fixture(scope="session")
def display() -> Iterator[str]:
    """The name of a screen without a monitor."""
    for program in ("Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} (Debian: xvfb, xdotool)")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x800x24"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as answer:
        number = answer.readline().strip()
    try:
        yield f":{number}"
    finally:
        server.terminate()
        server.wait()
