"""The arguments of preparing a source: its location and form, and the tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from firstsight.data import readers, tokenizer
from firstsight.data.index import INDEX_FORMAT
from firstsight.recipe import serialize
from firstsight.recipe.mixture import (
    DataSource,
    External,
    ExternalForm,
    Recaptioned,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticTexts,
)
from firstsight.recipe.stages import Prepare
from firstsight.site import Location, Site


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareJob:
    """All that a process needs to prepare any shard of a source."""

    source: DataSource
    location: Location
    form: ExternalForm
    tokenizer_path: Path
    parts_path: Path
    """The folder of finished shards until all are finished."""
    tokenizer_digest: str
    special_tokens: tokenizer.SpecialTokenIds
    vocab_size: int
    key: str
    """Equal for two jobs whose parts can be merged: digest of source, location, tokenizer and format."""


def _source_form(source: DataSource) -> ExternalForm:
    """The form of a source's records."""
    match source:
        case SyntheticTexts():
            return "text"
        case SyntheticCaptions() | Recaptioned():
            return "captions"
        case SyntheticDialogues():
            return "dialogues"
        case External():
            return source.form


def prepare_job(spec: Prepare, *, inputs: Mapping[str, Path], out: Path, site: Site) -> PrepareJob:
    """The job of a step; RequestError if the site does not have the source."""
    location = readers.locate_source(spec.source, inputs.get("source"), site)
    text_tokenizer = tokenizer.load_tokenizer(inputs["tokenizer"])
    return PrepareJob(
        source=spec.source,
        location=location,
        form=_source_form(spec.source),
        tokenizer_path=inputs["tokenizer"],
        parts_path=out / "parts",
        tokenizer_digest=text_tokenizer.digest,
        special_tokens=text_tokenizer.special_ids,
        vocab_size=text_tokenizer.vocab_size,
        key=_job_key(spec.source, location, text_tokenizer.digest),
    )


def _job_key(source: DataSource, location: Location, tokenizer_digest: str) -> str:
    """`most_bad` is left out: it decides whether a source is accepted and does not change its parts."""
    location_fields = [location.path, location.pictures, location.captions, dict(location.columns), location.split]
    identity = json.dumps([INDEX_FORMAT, serialize.to_json(source), location_fields, tokenizer_digest], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()
