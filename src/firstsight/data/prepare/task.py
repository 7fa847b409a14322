"""What is to be prepared: a source, where it lies, and with which tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from firstsight.data import sources, tokenizer
from firstsight.data.index import FORMAT
from firstsight.recipe import canon
from firstsight.recipe.mix import Captions, Dialogues, Form, Named, Recaptioned, Source, Texts
from firstsight.recipe.stages import Prepare
from firstsight.site import Location, Site


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """All that a process needs to prepare any shard of a source."""

    source: Source
    location: Location
    form: Form
    tokenizer: Path
    parts: Path
    """Where finished shards are kept until all are there."""
    words: str
    """The tokenizer's digest."""
    special: tokenizer.Special
    vocabulary: int
    key: str
    """Equal for two tasks whose parts may stand side by side: digest of source, location, tokenizer and format."""


def form_of(source: Source) -> Form:
    """In which form a source comes."""
    match source:
        case Texts():
            return "text"
        case Captions() | Recaptioned():
            return "captions"
        case Dialogues():
            return "dialogues"
        case Named():
            return source.form


def task_of(spec: Prepare, *, inputs: Mapping[str, Path], out: Path, site: Site) -> Task:
    """The task of a step; RequestError where the site does not know the source."""
    location = sources.locate(spec.source, inputs.get("source"), site)
    words = tokenizer.load(inputs["tokenizer"])
    return Task(
        source=spec.source,
        location=location,
        form=form_of(spec.source),
        tokenizer=inputs["tokenizer"],
        parts=out / "parts",
        words=words.digest,
        special=words.special,
        vocabulary=words.size,
        key=_key(spec.source, location, words.digest),
    )


def _key(source: Source, location: Location, words: str) -> str:
    """`most_bad` judges parts and does not change them, so it is left out."""
    layout = [location.path, location.pictures, location.captions, dict(location.columns), location.split]
    told = json.dumps([FORMAT, canon.encode(source), layout, words], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()
