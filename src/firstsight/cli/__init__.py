"""The command line: one function a command, over the functions of `workspace`."""

import signal

__all__ = ["main"]


def main() -> None:
    """The console script; until its modules are imported, Ctrl-C ends the process without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from firstsight.cli import app

    app.main()
