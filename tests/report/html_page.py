"""A parser of the report's pages: what a browser would find in them."""

from __future__ import annotations

from html.parser import HTMLParser

Element = tuple[str, dict[str, str | None]]
"""Tag and attributes."""


class Page(HTMLParser):
    """Elements, visible text, scripts and styles of a page, and those of each <article>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.text = html, ""
        self.elements: list[Element] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.articles: list[list[Element]] = []
        """Elements of each article, itself first."""
        self.article_texts: list[list[str]] = []
        """Texts of each article that are not blank."""
        self._raw: list[str] | None = None
        self._in_article = False
        self.feed(html)
        self.close()

    @property
    def cards(self) -> dict[str, str]:
        """Text of each article by its id."""
        ids = [str(elements[0][1]["id"]) for elements in self.articles]
        return {name: "".join(texts) for name, texts in zip(ids, self.article_texts, strict=True)}

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every element of one kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def count(self, article: int, *, tag: str, css_class: str) -> int:
        """Elements of one kind with a class in an article."""
        classes = [
            (attributes.get("class") or "").split() for name, attributes in self.articles[article] if name == tag
        ]
        return sum(css_class in names for names in classes)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        element = (tag, dict(attrs))
        self.elements.append(element)
        self._raw = {"script": self.scripts, "style": self.styles}.get(tag)
        if self._raw is not None:
            self._raw.append("")
        if tag == "article":
            self._in_article = True
            self.articles.append([])
            self.article_texts.append([])
        if self._in_article:
            self.articles[-1].append(element)

    def handle_endtag(self, tag: str) -> None:
        self._raw = None
        self._in_article = self._in_article and tag != "article"

    def handle_data(self, data: str) -> None:
        if self._raw is not None:
            self._raw[-1] += data
            return
        self.text += data
        if self._in_article:
            self.article_texts[-1].append(data)
