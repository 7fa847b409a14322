"""The key of a job: what the bytes of a part depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from firstsight.site import Location, Site
from firstsight.units import Share
from tests.data.conftest import Workshop, prepare_spec


def test_key_depends_on_what_changes_a_part(workshop: Workshop, source: Path) -> None:
    from firstsight.data.prepare.job import prepare_job

    def key(**changes: object) -> str:
        site = Site(sources={"s": replace(Location(path=str(source)), **changes)})
        spec, inputs = prepare_spec("text"), {"tokenizer": workshop.words()}
        return prepare_job(spec, inputs=inputs, out=workshop.root, site=site).key

    assert key() == key(most_bad=Share(1, 2))
    assert len({key(), key(columns={"text": "content"}), key(split="train"), key(path="/elsewhere")}) == 4
