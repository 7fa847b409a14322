"""Mixes through the training handlers: spans, token units, several texts, other row lengths."""

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
from firstsight.train.handlers import pretrain, train_stage
from firstsight.units import Share, Tokens
from tests.train import tiny_study

Inputs = dict[str, Path]
MORE = SyntheticTexts(world=tiny_study.WORLD, documents=300, loss_mask="all")


@pytest.fixture(scope="module")
def stage_inputs(inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Step inputs with a second text source."""
    root = tmp_path_factory.mktemp("more")
    needs = {"source": tiny_study.write_texts(root, np.random.default_rng(7)), "tokenizer": inputs["tokenizer"]}
    spec = Prepare(source=MORE, tokenizer=tiny_study.VOCABULARY)
    return {**inputs, "text1": tiny_study.run_handler(prepare, spec, needs, root / "text1-index", site)}


def texts(counted_in: ShareUnit) -> Mixture:
    parts = (tiny_study.TEXTS, Share(3, 4)), (MORE, Share(1, 4))
    return Mixture(
        components=tuple(WeightedSource(source=source, share=share, max_epochs=1) for source, share in parts),
        share_unit=counted_in,
    )


def with_mix(spec: Midtrain, **changes: object) -> Midtrain:
    return replace(spec, mix=replace(spec.mix, **changes))


def read_achieved(folder: Path) -> dict[str, object]:
    return json.loads((folder / "achieved.json").read_text())


def read_ledger(folder: Path) -> np.ndarray:
    return np.load(folder / "ledger.npy")


@pytest.mark.parametrize("counted_in", ["rows", "tokens"])
def test_two_text_sources_continue_across_segments_and_branch(
    stage_inputs: Inputs, site: Site, tmp_path: Path, counted_in: ShareUnit, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = replace(tiny_study.pretrain_spec(10), text=texts(counted_in))
    cuts = [Share(0), Share(1, 5), Share(2, 5)]
    first = tiny_study.run_handler(
        pretrain, TrunkSegment(pretrain=trunk, start=cuts[0], end=cuts[1]), stage_inputs, tmp_path / "1", site
    )
    later_segment = TrunkSegment(pretrain=trunk, start=cuts[1], end=cuts[2])
    second = tiny_study.run_handler(pretrain, later_segment, {**stage_inputs, "previous": first}, tmp_path / "2", site)
    spec = with_mix(tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/2"), text=texts(counted_in))
    branch = tiny_study.run_handler(train_stage, spec, {**stage_inputs, "trunk": second}, tmp_path / "3", site)
    whole = replace(trunk, tokens=tiny_study.ROW_SHAPE.tokens_per_step * 10)
    unbroken = tiny_study.run_handler(
        pretrain, TrunkSegment(pretrain=whole, start=Share(0), end=Share(1)), stage_inputs, tmp_path / "4", site
    )
    ledgers = [read_ledger(place) for place in (first, second, branch)]
    text = np.concatenate([rows[rows["source"] < 2] for rows in ledgers])
    compared = min(len(text), 40)
    assert (text[:compared] == read_ledger(unbroken)[:compared]).all()
    assert read_achieved(branch)["text_rows_seen"] == len(text)
    assert command(["data", "verify", str(first), str(second), str(branch)]) == 0
    assert "proved" in capsys.readouterr().out
    assert command(["data", "verify", str(branch), str(first)]) == 1
    assert "an overlap" in capsys.readouterr().out
    assert command(["data", "verify", str(tmp_path)]) == 2


def test_image_share_changes_by_span(stage_inputs: Inputs, site: Site, tmp_path: Path) -> None:
    spans = ShareSpan(end=Share(1, 4), share=Share(0)), ShareSpan(end=Share(1), share=Share(3, 4))
    spec = with_mix(tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/2"), image_share=spans)
    done = tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "m", site)
    is_image = read_ledger(done)["source"] > 0
    assert not is_image[:8].any()
    assert [int(is_image[8 : 8 + n].sum()) for n in range(25)] == [n * 3 // 4 for n in range(25)]
    assert [(span["rows"], span["asked"], span["achieved"]["rows"]) for span in read_achieved(done)["spans"]] == [  # type: ignore[index, attr-defined]
        (8, "0", 0.0),
        (24, "3/4", 0.75),
    ]


@pytest.mark.parametrize("counted_in", ["tokens", "loss_tokens"])
def test_shares_counted_in_tokens_match_the_log(
    stage_inputs: Inputs, site: Site, tmp_path: Path, counted_in: str
) -> None:
    spec = with_mix(tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 12, "1/5"), share_unit=counted_in)
    done = tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "m", site)
    achieved = read_achieved(done)
    units = achieved[counted_in]
    assert isinstance(units, dict)
    assert abs(units["captions-rich"] - Fraction(1, 5) * sum(units.values())) < 2 * tiny_study.ROW_SHAPE.length
    lines = [json.loads(line) for line in (done / "log.jsonl").read_text().splitlines()]
    assert sum(line["loss_tokens"] for line in lines) == sum(achieved["loss_tokens"].values())  # type: ignore[attr-defined]
    assert not verify_ledgers([done]).problems


def test_shorter_rows_continue_the_trunks_rows(stage_inputs: Inputs, site: Site, tmp_path: Path) -> None:
    """The branch continues the trunk's rows in rows of half the length."""
    trunk = tiny_study.run_handler(
        pretrain, tiny_study.segment_spec(10, "0", "2/5"), stage_inputs, tmp_path / "t", site
    )
    spec = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/2")
    short = replace(spec, row_shape=RowShape(batch_size=8, length=8), tokens=Tokens(8 * 64))
    branch = tiny_study.run_handler(train_stage, short, {**stage_inputs, "trunk": trunk}, tmp_path / "b", site)
    achieved = read_achieved(branch)
    assert (achieved["text_row_length"], achieved["text_cut"], achieved["text_rows_seen"]) == (8, 2, 32 + 32)
    assert not verify_ledgers([trunk, branch]).problems
    index = Index.open(stage_inputs["text0"])
    long = pack(index, length=16, image_tokens=0, packing="best_fit")
    everything = tiny_study.run_handler(
        pretrain, tiny_study.segment_spec(10, "0", "1"), stage_inputs, tmp_path / "all", site
    )
    expected = [row * 2 + half for row in read_ledger(everything)["row"][16:32].tolist() for half in range(2)]
    ledgers = read_ledger(branch)
    assert ledgers["row"][ledgers["source"] == 0].tolist() == expected
    assert long.split_rows(2).filled[expected].sum() == long.filled[read_ledger(everything)["row"][16:32]].sum()
    last = tiny_study.run_handler(train_stage, spec, {**stage_inputs, "trunk": branch}, tmp_path / "c", site)
    assert (read_achieved(last)["text_cut"], read_achieved(last)["text_rows_seen"]) == (1, 32 + 16), (
        "and back to rows of 16"
    )
    assert not verify_ledgers([trunk, branch, last]).problems


def test_row_lengths_that_do_not_divide_are_errors(stage_inputs: Inputs, site: Site, tmp_path: Path) -> None:
    trunk = {
        **stage_inputs,
        "trunk": tiny_study.run_handler(
            pretrain, tiny_study.segment_spec(10, "0", "2/5"), stage_inputs, tmp_path / "t", site
        ),
    }
    spec = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/2")
    for length in (12, 32):
        spec_ = replace(spec, row_shape=RowShape(batch_size=4, length=length))
        with pytest.raises(MixError, match=rf"divide the 16 tokens .* Got rows of {length}"):
            tiny_study.run_handler(train_stage, spec_, trunk, tmp_path / str(length), site)


def test_branch_seed_changes_image_order_only(stage_inputs: Inputs, site: Site, tmp_path: Path) -> None:
    trunk = tiny_study.run_handler(
        pretrain, tiny_study.segment_spec(10, "0", "2/5"), stage_inputs, tmp_path / "t", site
    )
    spec = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/2")
    ledgers = {}
    for seed in (1, 5):
        branch = tiny_study.run_handler(
            train_stage, replace(spec, seed=seed), {**stage_inputs, "trunk": trunk}, tmp_path / str(seed), site
        )
        ledgers[seed] = read_ledger(branch)
        assert read_achieved(branch)["text_seed"] == 1
        assert not verify_ledgers([trunk, branch]).problems
    texts, images = (
        [ledgers[seed]["row"][ledgers[seed]["source"] == kind].tolist() for seed in ledgers] for kind in (0, 1)
    )
    assert texts[0] == texts[1] and images[0] != images[1]


def test_stage_without_text_keeps_the_text_position(stage_inputs: Inputs, site: Site, tmp_path: Path) -> None:
    trunk = tiny_study.run_handler(
        pretrain, tiny_study.segment_spec(10, "0", "2/5"), stage_inputs, tmp_path / "t", site
    )
    tuning = replace(
        tiny_study.finetune_spec(tiny_study.FEATURE_VLM, 4), seed=9, row_shape=RowShape(batch_size=2, length=32)
    )
    tuned = tiny_study.run_handler(train_stage, tuning, {**stage_inputs, "previous": trunk}, tmp_path / "f", site)
    for name in ("text_rows_seen", "text_row_length", "text_cut", "text_seed"):
        assert read_achieved(tuned)[name] == read_achieved(trunk)[name]
    branch = tiny_study.run_handler(
        train_stage,
        tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/2"),
        {**stage_inputs, "trunk": tuned},
        tmp_path / "b",
        site,
    )
    assert read_achieved(branch)["text_rows_seen"] == 16 + 16
    assert not verify_ledgers([trunk, tuned, branch]).problems


def test_epochs_are_source_epochs_times_stage_epochs(stage_inputs: Inputs, site: Site, tmp_path: Path) -> None:
    """160 captions, two a row: 80 rows a pass; 40 steps of 4 rows are two passes."""
    tuning = tiny_study.finetune_spec(tiny_study.FEATURE_VLM, 40)
    with pytest.raises(MixError, match="captions-rich: wants 160 rows"):
        tiny_study.run_handler(train_stage, tuning, stage_inputs, tmp_path / "1", site)
    twice = replace(tuning, epoch_tokens=Tokens(tuning.epoch_tokens // 2), epochs=2)
    done = tiny_study.run_handler(train_stage, twice, stage_inputs, tmp_path / "2", site)
    assert read_achieved(done)["epochs"]["captions-rich"] <= 2  # type: ignore[index]


@pytest.mark.parametrize("readers", [0, 3])
def test_reader_count_changes_no_byte(stage_inputs: Inputs, site: Site, tmp_path: Path, readers: int) -> None:
    spec = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 8, "1/2")
    span = tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "one", site)
    spec_ = tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "other", replace(site, readers=readers))
    for file in ("model.safetensors", "log.jsonl", "ledger.npy", "ledger.json", "achieved.json"):
        assert (span / file).read_bytes() == (spec_ / file).read_bytes(), file
