"""A page as PDF, printed by a Chromium that is installed: no package can lay out a page with its figures as it does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from firstsight.errors import RequestError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
DRAWING_MILLISECONDS = 30_000
"""Time of the page's own clock until it is printed, in which it draws its figures; it passes as fast as they allow."""
TIMEOUT_SECONDS = 300


def find_browser() -> str | None:
    """The path of an installed browser that prints without a window; None without one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def print_pdf(page: Path) -> Path:
    """Print an HTML page as PDF beside it; the path. RequestError where no browser is installed or it fails."""
    program = find_browser()
    if program is None:
        raise RequestError(
            f"--pdf: wanted one of {', '.join(BROWSERS)} on this machine. Got none. "
            f"Install one (Debian: apt install chromium), or print {page} from a browser."
        )
    pdf = page.with_suffix(".pdf")
    with TemporaryDirectory() as folder:
        result = Path(folder) / pdf.name
        flags = ["--headless", "--disable-gpu", f"--user-data-dir={folder}/profile", "--no-pdf-header-footer"]
        flags += ["--no-sandbox"] * (os.geteuid() == 0)  # which root cannot use; the page is our own file
        flags += [f"--virtual-time-budget={DRAWING_MILLISECONDS}", f"--print-to-pdf={result}"]
        command = [program, *flags, page.resolve().as_uri()]
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
            reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        except subprocess.TimeoutExpired:
            reason = f"no answer in {TIMEOUT_SECONDS} s"
        if not result.is_file():
            raise RequestError(f"--pdf: {program} did not print {page}: {reason}. Print it from a browser.")
        shutil.move(result, pdf)
    return pdf
