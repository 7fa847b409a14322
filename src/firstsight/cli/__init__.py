"""The command line: one function a command, over the functions of `workspace`."""

from firstsight.cli.app import command, main

__all__ = ["command", "main"]
