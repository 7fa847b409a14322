"""The commands; the only room that knows everyone."""

from firstsight.cli.app import command, main

__all__ = ["command", "main"]
