"""Mixes through the training handlers: staged, counted in tokens, of several texts, in rows of other lengths."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from firstsight.cli.app import command
from firstsight.data.index import Index
from firstsight.data.packing import pack
from firstsight.data.prepare import prepare
from firstsight.data.verify_ledger import verify_ledgers
from firstsight.errors import MixError
from firstsight.recipe.mixture import Mixture, ShareSpan, ShareUnit, SyntheticTexts, WeightedSource
from firstsight.recipe.stages import Midtrain, Prepare, RowShape, TrunkSegment
from firstsight.site import Site
from firstsight.train.handlers import finetune, midtrain, pretrain
from firstsight.units import Share, Tokens
from tests.train import tiny_study

Inputs = dict[str, Path]
MORE = SyntheticTexts(world=tiny_study.WORLD, documents=300, loss_mask="all")


@pytest.fixture(scope="module")
def reads(inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """With a second text."""
    root = tmp_path_factory.mktemp("more")
    needs = {"source": tiny_study.write_texts(root, np.random.default_rng(7)), "tokenizer": inputs["tokenizer"]}
    spec = Prepare(source=MORE, tokenizer=tiny_study.VOCABULARY)
    return {**inputs, "text1": tiny_study.ran(prepare, spec, needs, root / "text1-index", site)}


def texts(counted_in: ShareUnit) -> Mixture:
    parts = (tiny_study.TEXTS, Share(3, 4)), (MORE, Share(1, 4))
    return Mixture(
        components=tuple(WeightedSource(source=source, share=share, max_epochs=1) for source, share in parts),
        share_unit=counted_in,
    )


def mixed(spec: Midtrain, **changes: object) -> Midtrain:
    return replace(spec, mix=replace(spec.mix, **changes))


def note(folder: Path) -> dict[str, object]:
    return json.loads((folder / "achieved.json").read_text())


def records(folder: Path) -> np.ndarray:
    return np.load(folder / "ledger.npy")


@pytest.mark.parametrize("counted_in", ["rows", "tokens"])
def test_two_texts_go_on_across_segments_and_branch(
    reads: Inputs, site: Site, tmp_path: Path, counted_in: ShareUnit, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = replace(tiny_study.trunk(10), text=texts(counted_in))
    cuts = [Share(0), Share(1, 5), Share(2, 5)]
    first = tiny_study.ran(
        pretrain, TrunkSegment(pretrain=trunk, start=cuts[0], end=cuts[1]), reads, tmp_path / "1", site
    )
    later = TrunkSegment(pretrain=trunk, start=cuts[1], end=cuts[2])
    second = tiny_study.ran(pretrain, later, {**reads, "previous": first}, tmp_path / "2", site)
    spec = mixed(tiny_study.midtraining(tiny_study.SEES, 8, "1/2"), text=texts(counted_in))
    branch = tiny_study.ran(midtrain, spec, {**reads, "trunk": second}, tmp_path / "3", site)
    whole = replace(trunk, tokens=tiny_study.ROWS.tokens_per_step * 10)
    unbroken = tiny_study.ran(
        pretrain, TrunkSegment(pretrain=whole, start=Share(0), end=Share(1)), reads, tmp_path / "4", site
    )
    held = [records(place) for place in (first, second, branch)]
    text = np.concatenate([each[each["source"] < 2] for each in held])
    most = min(len(text), 40)
    assert (text[:most] == records(unbroken)[:most]).all()
    assert note(branch)["text_rows_seen"] == len(text)
    assert command(["data", "verify", str(first), str(second), str(branch)]) == 0
    assert "proved" in capsys.readouterr().out
    assert command(["data", "verify", str(branch), str(first)]) == 1
    assert "an overlap" in capsys.readouterr().out
    assert command(["data", "verify", str(tmp_path)]) == 2


def test_shares_are_staged(reads: Inputs, site: Site, tmp_path: Path) -> None:
    spans = ShareSpan(end=Share(1, 4), share=Share(0)), ShareSpan(end=Share(1), share=Share(3, 4))
    spec = mixed(tiny_study.midtraining(tiny_study.SEES, 8, "1/2"), image_share=spans)
    done = tiny_study.ran(midtrain, spec, reads, tmp_path / "m", site)
    pictured = records(done)["source"] > 0
    assert not pictured[:8].any()
    assert [int(pictured[8 : 8 + n].sum()) for n in range(25)] == [n * 3 // 4 for n in range(25)]
    assert [(one["rows"], one["asked"], one["achieved"]["rows"]) for one in note(done)["spans"]] == [  # type: ignore[index, attr-defined]
        (8, "0", 0.0),
        (24, "3/4", 0.75),
    ]


@pytest.mark.parametrize("counted_in", ["tokens", "loss_tokens"])
def test_shares_of_tokens_are_those_that_the_log_saw(
    reads: Inputs, site: Site, tmp_path: Path, counted_in: str
) -> None:
    spec = mixed(tiny_study.midtraining(tiny_study.SEES, 12, "1/5"), share_unit=counted_in)
    done = tiny_study.ran(midtrain, spec, reads, tmp_path / "m", site)
    told = note(done)
    units = told[counted_in]
    assert isinstance(units, dict)
    assert abs(units["captions-rich"] - Fraction(1, 5) * sum(units.values())) < 2 * tiny_study.ROWS.length
    lines = [json.loads(line) for line in (done / "log.jsonl").read_text().splitlines()]
    assert sum(line["loss_tokens"] for line in lines) == sum(told["loss_tokens"].values())  # type: ignore[attr-defined]
    assert not verify_ledgers([done]).problems


def test_shorter_rows_go_on_in_the_trunks_own(reads: Inputs, site: Site, tmp_path: Path) -> None:
    """The branch's text is what the trunk's rows hold from where it stopped, in rows half as long."""
    trunk = tiny_study.ran(pretrain, tiny_study.segment(10, "0", "2/5"), reads, tmp_path / "t", site)
    spec = tiny_study.midtraining(tiny_study.SEES, 8, "1/2")
    short = replace(spec, row_shape=RowShape(batch_size=8, length=8), tokens=Tokens(8 * 64))
    branch = tiny_study.ran(midtrain, short, {**reads, "trunk": trunk}, tmp_path / "b", site)
    told = note(branch)
    assert (told["text_row_length"], told["text_cut"], told["text_rows_seen"]) == (8, 2, 32 + 32)
    assert not verify_ledgers([trunk, branch]).problems
    index = Index.open(reads["text0"])
    long = pack(index, length=16, image_tokens=0, packing="best_fit")
    everything = tiny_study.ran(pretrain, tiny_study.segment(10, "0", "1"), reads, tmp_path / "all", site)
    wanted = [row * 2 + half for row in records(everything)["row"][16:32].tolist() for half in range(2)]
    held = records(branch)
    assert held["row"][held["source"] == 0].tolist() == wanted
    assert long.split_rows(2).filled[wanted].sum() == long.filled[records(everything)["row"][16:32]].sum()
    last = tiny_study.ran(midtrain, spec, {**reads, "trunk": branch}, tmp_path / "c", site)
    assert (note(last)["text_cut"], note(last)["text_rows_seen"]) == (1, 32 + 16), "and back to rows of 16"
    assert not verify_ledgers([trunk, branch, last]).problems


def test_lengths_that_cannot_go_on_are_refused(reads: Inputs, site: Site, tmp_path: Path) -> None:
    trunk = {
        **reads,
        "trunk": tiny_study.ran(pretrain, tiny_study.segment(10, "0", "2/5"), reads, tmp_path / "t", site),
    }
    spec = tiny_study.midtraining(tiny_study.SEES, 8, "1/2")
    for length in (12, 32):
        other = replace(spec, row_shape=RowShape(batch_size=4, length=length))
        with pytest.raises(MixError, match=rf"divide the 16 tokens .* Got rows of {length}"):
            tiny_study.ran(midtrain, other, trunk, tmp_path / str(length), site)


def test_a_branch_with_a_seed_of_its_own_keeps_the_order_of_the_text(reads: Inputs, site: Site, tmp_path: Path) -> None:
    trunk = tiny_study.ran(pretrain, tiny_study.segment(10, "0", "2/5"), reads, tmp_path / "t", site)
    spec = tiny_study.midtraining(tiny_study.SEES, 8, "1/2")
    held = {}
    for seed in (1, 5):
        branch = tiny_study.ran(
            midtrain, replace(spec, seed=seed), {**reads, "trunk": trunk}, tmp_path / str(seed), site
        )
        held[seed] = records(branch)
        assert note(branch)["text_seed"] == 1
        assert not verify_ledgers([trunk, branch]).problems
    texts, pictures = ([held[seed]["row"][held[seed]["source"] == kind].tolist() for seed in held] for kind in (0, 1))
    assert texts[0] == texts[1] and pictures[0] != pictures[1]


def test_a_stage_without_text_leaves_the_place_in_the_text_alone(reads: Inputs, site: Site, tmp_path: Path) -> None:
    trunk = tiny_study.ran(pretrain, tiny_study.segment(10, "0", "2/5"), reads, tmp_path / "t", site)
    tuning = replace(tiny_study.finetuning(tiny_study.SEES, 4), seed=9, row_shape=RowShape(batch_size=2, length=32))
    tuned = tiny_study.ran(finetune, tuning, {**reads, "previous": trunk}, tmp_path / "f", site)
    for name in ("text_rows_seen", "text_row_length", "text_cut", "text_seed"):
        assert note(tuned)[name] == note(trunk)[name]
    branch = tiny_study.ran(
        midtrain, tiny_study.midtraining(tiny_study.SEES, 8, "1/2"), {**reads, "trunk": tuned}, tmp_path / "b", site
    )
    assert note(branch)["text_rows_seen"] == 16 + 16
    assert not verify_ledgers([trunk, tuned, branch]).problems


def test_epochs_are_those_of_each_source_times_the_stages_own(reads: Inputs, site: Site, tmp_path: Path) -> None:
    """160 captions, two a row: 80 rows a pass; 40 steps of 4 rows are two passes."""
    tuning = tiny_study.finetuning(tiny_study.SEES, 40)
    with pytest.raises(MixError, match="captions-rich: wants 160 rows"):
        tiny_study.ran(finetune, tuning, reads, tmp_path / "1", site)
    twice = replace(tuning, epoch_tokens=Tokens(tuning.epoch_tokens // 2), epochs=2)
    done = tiny_study.ran(finetune, twice, reads, tmp_path / "2", site)
    assert note(done)["epochs"]["captions-rich"] <= 2  # type: ignore[index]


@pytest.mark.parametrize("readers", [0, 3])
def test_readers_change_no_byte(reads: Inputs, site: Site, tmp_path: Path, readers: int) -> None:
    spec = tiny_study.midtraining(tiny_study.SEES, 8, "1/2")
    one = tiny_study.ran(midtrain, spec, reads, tmp_path / "one", site)
    other = tiny_study.ran(midtrain, spec, reads, tmp_path / "other", replace(site, readers=readers))
    for file in ("model.safetensors", "log.jsonl", "ledger.npy", "ledger.json", "achieved.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file
