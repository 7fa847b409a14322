"""A headless Chromium that tests drive over its debugging pipe: pages as a reader's browser shows them.

The DevTools protocol over two pipes needs no package: messages are JSON that ends with a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from firstsight.report.pdf import find_browser

TIMEOUT_SECONDS = 120.0
needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium on this machine")

OVERFLOWS = """
(() => {
  const outside = [];
  const width = document.documentElement.clientWidth;
  const scrolls = (node) => {
    for (let part = node; part && part !== document.body; part = part.parentElement)
      if (["auto", "scroll", "hidden"].includes(getComputedStyle(part).overflowX)) return true;
    return false;
  };
  for (const node of document.querySelectorAll("body *")) {
    const box = node.getBoundingClientRect();
    if (!box.width || !box.height || node.closest("svg, details:not([open]), [hidden]")) continue;
    if ((box.right > width + 1 || box.left < -1) && !scrolls(node))
      outside.push(`${node.tagName} ${node.className} ${node.textContent.slice(0, 40)}: ${box.left} to ${box.right}`);
  }
  for (const figure of document.querySelectorAll(".chart > svg, .chart-wrapper svg, .vega-embed svg.marks")) {
    const frame = figure.getBoundingClientRect();
    for (const text of figure.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (text.textContent && (box.right > frame.right + 1.5 || box.left < frame.left - 1.5 || box.top < frame.top - 1.5
          || box.bottom > frame.bottom + 1.5))
        outside.push(`${figure.closest(".chart")?.id}: ${text.textContent}`);
    }
  }
  if (document.documentElement.scrollWidth > width) outside.push(`page: ${document.documentElement.scrollWidth}`);
  return outside;
})()
"""
"""The elements and the texts of figures that are cut off, or that lie outside the page."""


class Browser:
    """One tab of a browser, with what its pages wrote to the console and what they asked the network for."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._buffer, self._number = send, receive, b"", 0
        self._session: str | None = None
        self.messages: list[str] = []
        """Errors and console output of the page."""
        self.requests: list[str] = []
        """Addresses that the page requested."""
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: Path, *, width: int = 1280, height: int = 900) -> None:
        """Open a file at a window size and wait until its charts are drawn."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.messages.clear()
        self.requests.clear()
        self._loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not self._loaded:
            assert time.monotonic() < deadline, "the page did not load"
            self._read()
        self.wait("[...document.querySelectorAll('[data-chart]')].every((node) => node.querySelector('svg.marks'))")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not self.value(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def hover(self, selector: str, result: str) -> str:
        """The value of an expression, once it is not empty, with the mouse on the last element that a selector finds.

        The last one is drawn over the others. The mouse first leaves the page, so that nothing is left from before.
        """
        deadline, text = time.monotonic() + TIMEOUT_SECONDS / 2, None
        self._move_mouse(0, 0)
        self.wait(f"!({result})")
        while not text:  # a figure that is still being laid out moves away from the mouse
            assert time.monotonic() < deadline, f"nothing appears at {selector}"
            self._move_to(selector)
            time.sleep(0.1)
            text = self.value(result)
        return text

    def _move_to(self, selector: str) -> None:
        found = f"[...document.querySelectorAll({json.dumps(selector)})].at(-1)"
        self.value(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.value(
            f"(() => {{ const b = {found}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()"
        )
        x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
        for step in (3, 0):
            self._move_mouse(x + step, y)

    def _move_mouse(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], TIMEOUT_SECONDS)
            assert ready, "the browser does not answer"
            part = os.read(self._receive, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(params["exceptionDetails"])[:400])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(json.dumps(params["args"])[:400])
        elif method == "Log.entryAdded":
            self.messages.append(json.dumps(params["entry"])[:400])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser without a window, ended afterwards."""
    program = find_browser()
    assert program is not None
    to_browser, from_browser = os.pipe(), os.pipe()

    def connect() -> None:
        os.dup2(to_browser[0], 3)
        os.dup2(from_browser[1], 4)

    with TemporaryDirectory() as profile:
        flags = ["--headless", "--disable-gpu", "--no-sandbox", "--hide-scrollbars", "--remote-debugging-pipe"]
        command = [program, *flags, f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            command, preexec_fn=connect, pass_fds=(3, 4), stdin=quiet, stdout=quiet, stderr=quiet
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Browser(to_browser[1], from_browser[0])
        finally:
            os.close(to_browser[1])
            os.close(from_browser[0])
            process.kill()
            process.wait()
