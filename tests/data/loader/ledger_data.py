"""Streams with a ledger, and ledgers of runs that were killed and resumed."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np

from firstsight.data.loader import BatchStream, LoaderMixture, LoaderSource, PrecomputedFeatures
from firstsight.data.loader.achieved_mix import AchievedMix
from firstsight.data.loader.sample_ledger import SampleLedgerWriter
from firstsight.data.packing import pack
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.stages import RowShape
from firstsight.resume_folder import ResumeFolder
from tests.data.reference import RawRecord, build_index

T, B = 16, 4

ROWS = RowShape(batch_size=B, length=T)

HALF = Fraction(1, 2)


def text_source(name: str, documents: int) -> LoaderSource:
    """Documents of 16 targets: each is one row."""
    index = build_index("text", [RawRecord([0, *range(7, 7 + T)], [1] * (T + 1), []) for _ in range(documents)])
    rows = pack(index, length=T, image_tokens=0, packing="best_fit")
    assert rows.row_count == documents
    return LoaderSource(name=name, index=index, packed_rows=rows, images=None, answers_only=False)


def image_source(count: int) -> LoaderSource:
    index = build_index("captions", [RawRecord([7, 8, 0], [1] * 3, [(0, n)]) for n in range(count)], images=count)
    rows = pack(index, length=T, image_tokens=4, packing="one_image_per_row")
    features = PrecomputedFeatures(arrays=(np.zeros((count, 4, 2), dtype=np.float16),))
    return LoaderSource(name="captions", index=index, packed_rows=rows, images=features, answers_only=False)


def make_ledger_mixture(*sources: LoaderSource, epochs: int = 3, counted_in: ShareUnit = "rows") -> LoaderMixture:
    shares = (Fraction(1, len(sources)),) * len(sources)
    return LoaderMixture(sources=sources, shares=shares, epochs=(epochs,) * len(sources), counted_in=counted_in)


def make_ledger_stream(
    texts: LoaderMixture,
    *,
    steps: int,
    text_row_offset: int = 0,
    share: Fraction = HALF,
    counted_in: ShareUnit = "rows",
) -> BatchStream:
    return BatchStream(
        text_mixture=texts,
        image_mixture=make_ledger_mixture(image_source(13), epochs=9) if share else None,
        spans=((steps * B, share),),
        counted_in=counted_in,
        row_shape=ROWS,
        seed=1,
        text_seed=1,
        text_row_offset=text_row_offset,
        steps=steps,
    )


def write_ledger(out: Path, stream: BatchStream, *, first: int = 0, kills: tuple[int, ...] = ()) -> Path:
    """The ledger of a run that was killed at some steps and each time resumed from the step before."""
    out.mkdir(parents=True, exist_ok=True)
    trained_steps = first
    for stop in (*kills, stream.steps):
        resume = ResumeFolder(out, on_damage=print)
        state = resume.restore()
        file = resume.open_appended("ledger.npy")
        writer = SampleLedgerWriter(file, stream, first_step=first, state=state)
        for step in range(trained_steps + 1, stop + 1):
            writer.mark_trained(step)
            if step == stop - 1:
                resume.save(writer.state_dict())
                trained_steps = step
        if stop == stream.steps:
            writer.close(out / "ledger.json")
            resume.finish()
        else:
            writer._write()  # rows that are in the file but not in the saved state
    (out / "achieved.json").write_text(json.dumps(AchievedMix(stream, stream.steps).to_dict()))
    return out
