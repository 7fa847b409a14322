"""The command as a process of its own: with its output in pipes, in a terminal, or in a file that cannot be written."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMAND = (sys.executable, "-m", "firstsight")
MANY = """
import json, os, sys
from firstsight.cli import app, terminal
terminal.prepare_streams()
codes = []
for words in json.load(sys.stdin):
    codes.append(app.command([os.fsdecode(bytes.fromhex(word)) for word in words]))
with open(sys.argv[1], "w") as file:
    json.dump(codes, file)
"""
SOURCE = {"PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))}
"""So that a process elsewhere has the modules of this one."""
STYLES = re.compile(rb"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r")
"""What the display itself writes to a terminal: colours, the cursor, and its bars."""


def run_process(
    *words: object, cwd: Path, environment: Mapping[str, str] | None = None, timeout: float = 100
) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of the command; environment variables are added to those of the test."""
    env = {**os.environ, **SOURCE, **(environment or {})}
    process = subprocess.run(
        [*COMMAND, *map(os.fsencode, map(str, words))], cwd=cwd, env=env, capture_output=True, timeout=timeout
    )
    return process.returncode, process.stdout, process.stderr


def run_many(commands: Sequence[Sequence[str]], folder: Path) -> tuple[list[int], bytes]:
    """Exit codes and the whole output of several commands in one process, so that it starts only once."""
    lines = json.dumps([[os.fsencode(word).hex() for word in words] for words in commands])
    process = subprocess.run(
        [sys.executable, "-c", MANY, str(folder / "codes.json")],
        input=lines.encode(),
        cwd=folder,
        capture_output=True,
        env={**os.environ, **SOURCE},
    )
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "codes.json").read_text()), process.stdout + process.stderr


def run_in_terminal(
    *words: object, cwd: Path, environment: Mapping[str, str] | None = None, interrupt_at: bytes | None = None
) -> tuple[int, bytes]:
    """Exit code and output of the command in a terminal, without what its own display writes.

    When `interrupt_at` was shown, Ctrl-C is typed.
    """
    main, child = pty.openpty()
    env = {**os.environ, **SOURCE, "TERM": "xterm-256color", "COLUMNS": "200", **(environment or {})}
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *COMMAND, *map(os.fsencode, map(str, words))],
        cwd=cwd,
        env=env,
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    output = b""
    while True:
        try:
            output += (data := os.read(main, 65536))
        except OSError:  # Linux, when the last writer has closed it
            break
        if not data:
            break
        if interrupt_at is not None and interrupt_at in output:
            os.write(main, b"\x03")
            interrupt_at = None
    os.close(main)
    return process.wait(), STYLES.sub(b"", output)
