"""The command ``fer``; click lives only here."""

from ferkit.cli.main import main

__all__ = ["main"]
