"""Fixtures that tests of every part share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The local material (real faces, weights, films); tests that need it skip where it is absent."""
    if not (SHARED / "SOURCES.md").is_file():
        pytest.skip(f"needs the local material in {SHARED.name}/ beside the repository")
    return SHARED
