"""The built documentation in a browser: nothing leaves the page at 390 and 1,280 pixels, and text can be read in both
colour schemes. Links between pages and files are checked without a browser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import OVERFLOWS, Browser, needs_browser, open_browser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^(`{3,})(?!\{include|\{toctree).*?^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
DOC_ROLE = re.compile(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`")
MIN_CONTRAST = 3.0
"""WCAG 2.2's ratio for large text and graphics; code is coloured by Pygments' styles, whose comments are near it."""

WIDE_CODE = """
[...document.querySelectorAll("article pre")].filter((pre) => pre.scrollWidth > pre.clientWidth + 1)
  .map((pre) => pre.textContent.split("\\n").sort((a, b) => b.length - a.length)[0])
"""
"""The longest line of each block of code that does not fit its column."""

FAINT_TEXT = """
(() => {
  const parse = (color) => [...(color.match(/[\\d.]+/g) || []).map(Number), 1].slice(0, 4);
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (let part = node; part; part = part.parentElement) {
      const color = parse(getComputedStyle(part).backgroundColor);
      if (color[3] > 0.9) return color;
    }
    return [255, 255, 255, 1];
  };
  const faint = {};
  for (const node of document.querySelectorAll("article *")) {
    const text = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join("");
    const style = getComputedStyle(node);
    if (!text || style.visibility === "hidden" || !node.getClientRects().length) continue;
    if (node.closest(".headerlink")) continue;
    const [a, b] = [luminance(parse(style.color)), luminance(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const kind = `${node.tagName}.${node.className} ${style.color}`;
    if (ratio < MIN) faint[kind] = `${text.slice(0, 40)}: ${ratio.toFixed(2)}`;
  }
  return faint;
})()
""".replace("MIN", str(MIN_CONTRAST))
"""Kinds of text whose colour is too near to that of the ground, with an example."""


def relative_links(path: Path) -> Iterator[str]:
    """Targets of a page that are files: those of Markdown links and images, and of `{doc}`."""
    text = FENCE.sub("", path.read_text())
    for target in LINK.findall(text):
        if not re.match(r"[a-z]+:|#", target):
            yield target.partition("#")[0]
    for target in DOC_ROLE.findall(text):
        yield f"{target}.md"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path: Path) -> None:
    base = DOCS if path.name == "CHANGELOG.md" else path.parent  # a page of the documentation includes it
    missing = [target for target in relative_links(path) if not (base / target).exists()]
    assert not missing


def test_links_are_found() -> None:
    """The patterns above find what they are meant to find."""
    assert {"docs/figures/when-hour.png", "docs/why/how-it-compares.md"} <= set(relative_links(ROOT / "README.md"))
    assert "tutorial/first-study.md" in set(relative_links(DOCS / "index.md"))


HIDE_DRAWERS = """
for (const drawer of document.querySelectorAll("aside")) drawer.hidden = getComputedStyle(drawer).position === "fixed";
"""
"""Navigation that a narrow window shows on demand lies outside of it until then."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every page of the documentation, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "trees")]
    done = subprocess.run(
        [*command, str(DOCS), str(folder / "pages")], capture_output=True, text=True, timeout=850, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted((folder / "pages").rglob("*.html"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as tab:
        yield tab


@needs_browser
def test_what_does_not_fit_or_cannot_be_read_is_found(browser: Browser, tmp_path: Path) -> None:
    """The checks of the pages on a page that has each fault once."""
    page = tmp_path / "page.html"
    page.write_text(
        "<body style='background: #fff'><article><p style='color: #ddd'>faint</p><p style='color: #555'>dark</p>"
        f"<pre style='overflow-x: auto'>{'wide ' * 100}</pre><div style='width: 2000px'>outside</div></article>"
    )
    browser.open(page)
    assert [line.strip() for line in browser.value(WIDE_CODE)] == [("wide " * 100).strip()]
    assert any("outside" in line for line in browser.value(OVERFLOWS))
    assert [text.partition(":")[0] for text in browser.value(FAINT_TEXT).values()] == ["faint"]


@needs_browser
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pages_fit_their_widths_and_can_be_read(pages: list[Path], browser: Browser) -> None:
    assert len(pages) > 60
    problems = dict[str, object]()
    for page in pages:
        name = f"{page.parent.name}/{page.name}"
        for width in (1280, 390):
            browser.open(page, width=width)
            browser.value(HIDE_DRAWERS)
            problems[f"{name} outside at {width}"] = browser.value(OVERFLOWS)
            if width == 1280:
                problems[f"{name} code"] = browser.value(WIDE_CODE)
        for scheme in ("light", "dark"):
            browser.value(f"document.body.dataset.theme = '{scheme}'")
            problems[f"{name} {scheme}"] = browser.value(FAINT_TEXT)
    assert not {name: found for name, found in problems.items() if found}
