"""Small sources in the real formats, written without any code of the package."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from firstsight.data.index import Index
from firstsight.data.loader import LoaderSource
from firstsight.data.prepare import prepare
from firstsight.recipe.mixture import External, ExternalForm
from firstsight.recipe.stages import Prepare
from firstsight.site import Location, Site
from firstsight.units import Tokens

from .streams import make_source

SPECIALS = ("<|endoftext|>", "<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>", "<|pad|>", "<unk>")
END, ANSWER, HUMAN, PAD = 0, 3, 5, 6
WORDS = len(SPECIALS)
"""The id of w0; w1 follows and so on to w199."""


def picture(color: tuple[int, int, int], *, side: int = 8, form: str = "PNG") -> bytes:
    """An image file: a square of a single color."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), color).save(buffer, form)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def prepare_spec(form: ExternalForm) -> Prepare:
    """The step that prepares the site's source `s` with the tokenizer `t`."""
    return Prepare(
        source=External(name="s", form=form, tokens=Tokens(0)),
        tokenizer=External(name="t", form="tokenizer", tokens=Tokens(0)),
    )


@dataclass(frozen=True)
class Workshop:
    """Writes sources to folders below `root` and prepares them."""

    root: Path

    def folder(self, name: str) -> Path:
        folder_path = self.root / name
        folder_path.mkdir(parents=True, exist_ok=True)
        return folder_path

    def words(self) -> Path:
        vocabulary = {text: number for number, text in enumerate([*SPECIALS, *(f"w{i}" for i in range(200))])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens(list(SPECIALS[:7]))
        tokenizer.save(str(self.folder("words") / "tokenizer.json"))
        return self.folder("words")

    def texts(self, rows: Sequence[Mapping[str, object]], name: str = "texts") -> Path:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder(name) / "text-00000.jsonl").write_text(lines)
        return self.folder(name)

    def captions(self, captions: Sequence[str], name: str = "captions") -> Path:
        with tarfile.open(self.folder(name) / "00000.tar", "w") as tar:
            for number, caption in enumerate(captions):
                add(tar, f"{number:05d}.png", picture((number % 256, number // 256, 7)))
                add(tar, f"{number:05d}.txt", caption.encode())
                add(tar, f"{number:05d}.json", b"{}")
        return self.folder(name)

    def dialogues(self, rows: Sequence[Mapping[str, object]], pictures: Sequence[str], name: str = "dialogues") -> Path:
        (self.folder(name) / "dialogues.json").write_text(json.dumps(list(rows)))
        with tarfile.open(self.folder(name) / "images.tar", "w") as tar:
            for number, file in enumerate(pictures):
                add(tar, file, picture((number % 256, number // 256, 9)))
        return self.folder(name)

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def prepare(self, source: Path, form: ExternalForm, name: str | None = None, *, readers: int = 1) -> Index:
        out = self.folder(name or f"{source.name}.index")
        site = Site(sources={"s": Location(path=str(source))}, readers=readers, cache=self.cache)
        prepare(
            prepare_spec(form),
            inputs={"tokenizer": self.words()},
            out=out,
            site=site,
            on_progress=lambda progress: None,
        )
        return Index.open(out)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def words_of(numbers: Sequence[int]) -> str:
    return " ".join(f"w{number}" for number in numbers)


@pytest.fixture
def text(workshop: Workshop) -> LoaderSource:
    """A source of 200 texts of odd lengths, of which every fourth has a first word without loss."""
    rng = random.Random(1)
    texts = [words_of([rng.randrange(200) for _ in range(rng.choice([3, 9, 20, 29, 30, 31, 90]))]) for _ in range(200)]
    rows = [
        {"text": text} | ({"loss": [[0, text.index(" ")]]} if number % 4 == 0 else {})
        for number, text in enumerate(texts)
    ]
    return make_source(workshop.prepare(workshop.texts(rows), "text"), "text")


@pytest.fixture
def captions(workshop: Workshop) -> LoaderSource:
    """A source of 120 captioned images."""
    return make_source(
        workshop.prepare(workshop.captions([words_of(range(1 + n % 9)) for n in range(120)]), "captions"), "captions"
    )


@pytest.fixture
def dialogues(workshop: Workshop) -> LoaderSource:
    """A source of 60 dialogues of two turns over 20 images."""

    def dialogue_row(number: int) -> dict[str, object]:
        values = [
            ("human", f"<image>\n{words_of(range(number % 5 + 1))}"),
            ("gpt", "w9 w8"),
            ("human", "w3"),
            ("gpt", "w7"),
        ]
        return {
            "image": f"{number % 20}.png",
            "conversations": [{"from": role, "value": value} for role, value in values],
        }

    folder = workshop.dialogues(
        [dialogue_row(number) for number in range(60)], [f"{number}.png" for number in range(20)]
    )
    return make_source(workshop.prepare(folder, "dialogues"), "dialogues")
