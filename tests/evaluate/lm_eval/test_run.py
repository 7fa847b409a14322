"""lm-eval's own definitions over offline copies: prompts, scores and scored answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from firstsight import synthetic
from firstsight.errors import DataError, UnknownName
from firstsight.evaluate.lm_eval import definition_version, evaluate_lm_eval_tasks
from firstsight.evaluate.models.interface import ChoiceRequest
from firstsight.evaluate.models.native import NativeModel
from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import get_task
from firstsight.model.checkpoint_io import save
from firstsight.model.generate import continuation_likelihoods
from firstsight.model.vlm import VLM
from firstsight.recipe.mixture import SyntheticBenchmarks, SyntheticVocabulary, SyntheticWorld
from firstsight.recipe.model import llama_family_spec
from firstsight.recipe.scales.synthetic import SYNTHETIC_TEXT_TASKS
from firstsight.site import Progress, Site
from tests.evaluate.lm_eval.conftest import native_model
from tests.evaluate.lm_eval.small_copies import RECORDS, ignore_progress, write_task
from tests.evaluate.lm_eval.test_task_definitions import build_requests, link_copy


def reference_loglikelihoods(model: NativeModel, pairs: list[tuple[str, str]]) -> list[float]:
    """Log-likelihoods of continuations, without lm-eval."""
    context_ids = model.tokenizer.encode([prompt for prompt, _ in pairs])
    full_ids = model.tokenizer.encode([prompt + continuation for prompt, continuation in pairs])
    continuation_ids = [ids_of_text[len(ids) :] for ids, ids_of_text in zip(context_ids, full_ids, strict=True)]
    requests = continuation_likelihoods(
        model.checkpoint.model, [[model.tokenizer.special_ids.end, *ids] for ids in context_ids], continuation_ids
    )
    return [likelihood.log_likelihood for likelihood in requests]


def test_copies_use_lm_evals_definitions(model: NativeModel, tmp_path: Path) -> None:
    for name, rows in RECORDS.items():
        write_task(tmp_path, name, rows)
    reported: list[Progress] = []
    results = {
        item.name: item
        for item in evaluate_lm_eval_tasks(
            model, list(RECORDS), folder=tmp_path, on_progress=reported.append, style="paper"
        )
    }
    prompts = {name: result.rows[0].prompt for name, result in results.items()}
    assert prompts == {
        "arc_easy": "Question: what is 0\nAnswer:",
        "boolq": "It is red.\nQuestion: is it 0?\nAnswer:",
        "agieval_sat_en": "P 0\nA: Among A through D, the answer is",
        "bigbench_cs_algorithms_multiple_choice": "Count 0:",
        "pubmedqa": "Abstract: A.\nB.\nQuestion: Is it?\nAnswer:",
        "mathqa": "Question: 2+2\nAnswer:",
    }
    assert [row.question.id for row in results["arc_easy"].rows] == [f"m{n}" for n in range(5)]
    assert [row.stored().truth for row in results["boolq"].rows] == ["yes", "no", "yes", "no"]
    assert results["mathqa"].rows[0].stored().truth == "4"
    for result in results.values():
        for row in result.rows:
            chosen = int(
                np.argmax(
                    reference_loglikelihoods(model, [(row.prompt, f" {choice}") for choice in row.question.choices])
                )
            )
            assert row.answer == row.question.choices[chosen]
            assert row.score == float(chosen == row.question.truth)
        assert result.metrics["acc"] == np.mean([row.score for row in result.rows])
        assert result.version == definition_version(result.name)
    assert results["arc_easy"].metrics.keys() == {"acc", "acc_norm"}
    assert (
        reported[-1].done
        == reported[-1].total
        == sum(len(row.question.choices) for r in results.values() for row in r.rows)
    )


def test_evaluation_has_no_side_effects(
    model: NativeModel, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Two runs have the same rows, and the process's seeds, log levels and switches are unchanged."""
    from datasets import config
    from huggingface_hub import constants

    write_task(tmp_path, "arc_easy", RECORDS["arc_easy"])
    evaluate_lm_eval_tasks(model, ["arc_easy"], folder=tmp_path, on_progress=ignore_progress)
    capfd.readouterr()
    caplog.clear()

    def state() -> tuple[Any, ...]:
        log = logging.getLogger("lm_eval").level
        numpy: Any = np.random.get_state()
        return numpy[1].tolist(), torch.get_rng_state().tolist(), log, config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE

    state_before = state()
    first, second = (
        evaluate_lm_eval_tasks(model, ["arc_easy"], folder=tmp_path, on_progress=ignore_progress) for _ in range(2)
    )
    assert [row.stored() for row in first[0].rows] == [row.stored() for row in second[0].rows]
    for value, value_before in zip(state(), state_before, strict=True):
        assert value == value_before
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_invalid_data_is_refused(model: NativeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config

    with pytest.raises(UnknownName, match="arc_easy"):
        evaluate_lm_eval_tasks(model, ["arc_esay"], folder=tmp_path, on_progress=ignore_progress)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"piqa: lm-eval could not fetch.*folder piqa"):
        evaluate_lm_eval_tasks(model, ["piqa"], folder=tmp_path, on_progress=ignore_progress)
    write_task(tmp_path, "copa", [{"premise": "A.", "label": 0}])
    with pytest.raises(DataError, match="copa, record 1: wanted premise, choice1"):
        evaluate_lm_eval_tasks(model, ["copa"], folder=tmp_path, on_progress=ignore_progress)
    write_task(tmp_path, "boolq", [{"passage": "A.", "question": "q", "label": 7}])
    with pytest.raises(DataError, match=r"boolq: wanted records that lm-eval.*IndexError"):
        evaluate_lm_eval_tasks(model, ["boolq"], folder=tmp_path, on_progress=ignore_progress)
    write_task(tmp_path, "arc_easy", [*RECORDS["arc_easy"], {**RECORDS["arc_easy"][0], "answerKey": "C"}])
    with pytest.raises(DataError, match=r"arc_easy: wanted records.*not in list"):
        evaluate_lm_eval_tasks(model, ["arc_easy"], folder=tmp_path, on_progress=ignore_progress)
    write_task(tmp_path, "agieval_sat_en", [*RECORDS["agieval_sat_en"], {**RECORDS["agieval_sat_en"][0], "gold": [2]}])
    with pytest.raises(DataError, match=r"wanted the number of a choice as truth. Got \[2\]"):
        evaluate_lm_eval_tasks(model, ["agieval_sat_en"], folder=tmp_path, on_progress=ignore_progress)
    write_task(tmp_path, "bigbench_cs_algorithms_multiple_choice", [{"context": "c", "continuation": "8"}])
    with pytest.raises(DataError, match="or query, choices and gold"):
        evaluate_lm_eval_tasks(
            model, ["bigbench_cs_algorithms_multiple_choice"], folder=tmp_path, on_progress=ignore_progress
        )


@pytest.mark.parametrize("name", ["mathqa", "agieval_sat_en"])
def test_inexpressible_questions_are_used_as_they_are(name: str, model: NativeModel, tmp_path: Path) -> None:
    """lm-eval's MathQA definition would read a comma within a choice as its end."""
    rows = [{"query": "Question: 2+2", "choices": ["1 , 2", "2", "3", "4", "5"], "gold": 3}]
    write_task(tmp_path, name, rows)
    [result] = evaluate_lm_eval_tasks(model, [name], folder=tmp_path, on_progress=ignore_progress, style="paper")
    assert "query, choices and gold" in result.version
    assert result.rows[0].prompt == "Question: 2+2\nAnswer:"
    assert result.rows[0].question.choices == tuple(rows[0]["choices"])


@pytest.fixture(scope="module")
def synthetic_benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic world's text tasks, and a checkpoint with its vocabulary."""
    out = tmp_path_factory.mktemp("world")
    world = SyntheticWorld(objects=16, kinds=4, image_size=48, max_objects=4, seed=0)
    synthetic.write_benchmarks(
        SyntheticBenchmarks(world=world, questions=12), inputs={}, out=out, site=Site(), on_progress=ignore_progress
    )
    (out / "vocab_size").mkdir()
    synthetic.write_vocabulary(
        SyntheticVocabulary(world=world), inputs={}, out=out / "vocab_size", site=Site(), on_progress=ignore_progress
    )
    vocab_size = vocabulary_size(out / "vocab_size")
    model = VLM(llama_family_spec(layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, vocab_size=vocab_size))
    model.initialise(3)
    save(out / "checkpoint", model, tokens_seen=0, tokenizer=out / "vocab_size", encoders=[])
    return out


def vocabulary_size(folder: Path) -> int:
    from firstsight.data.tokenizer import load_tokenizer

    return load_tokenizer(folder).vocab_size


def test_synthetic_tasks_score_as_in_rank_choices(synthetic_benchmarks: Path) -> None:
    model = native_model(synthetic_benchmarks / "checkpoint")
    results = evaluate_lm_eval_tasks(
        model, SYNTHETIC_TEXT_TASKS, folder=synthetic_benchmarks, on_progress=ignore_progress, style="bare"
    )
    for name, result in zip(SYNTHETIC_TEXT_TASKS, results, strict=True):
        questions = get_task(name).read_questions(benchmark_files(synthetic_benchmarks / name))
        requests = [
            ChoiceRequest(text=item.text, image=None, choices=item.choices, is_chat_turn=False) for item in questions
        ]
        expected = [
            (item.id, item.truth, item.choices[int(answer.text)])
            for item, answer in zip(questions, model.rank_choices(requests), strict=True)
        ]
        assert [(row.question.id, row.question.truth, row.answer) for row in result.rows] == expected
        scores = get_task(name).metric.compute(
            [
                str(item.choices.index(continuation))
                for item, (_, _, continuation) in zip(questions, expected, strict=True)
            ],
            [item.truth for item in questions],
        )
        assert [row.score for row in result.rows] == list(scores)
        assert [row.question.tags for row in result.rows] == [item.tags for item in questions]


@pytest.mark.slow
@pytest.mark.shared
def test_untrained_accuracy_is_chance_and_as_in_the_reference(
    checkpoint_folder: Callable[[str], Path], shared: Path, tmp_path: Path
) -> None:
    model = native_model(checkpoint_folder("openlm"))
    counts = {"arc_easy": 570, "copa": 100, "piqa": 1838}
    for name in counts:
        link_copy(name, shared, tmp_path)
    results = evaluate_lm_eval_tasks(model, list(counts), folder=tmp_path, on_progress=ignore_progress, style="paper")
    for result in results:
        n, chance = counts[result.name], get_task(result.name).chance
        assert len(result.rows) == n
        assert abs(result.metrics["acc"] - chance) < 4 * np.sqrt(chance * (1 - chance) / n)
        requests = build_requests(result.name, tmp_path / result.name)
        loglikelihoods = iter(reference_loglikelihoods(model, requests))
        for row in result.rows:
            chosen = int(np.argmax([next(loglikelihoods) for _ in row.question.choices]))
            assert row.score == float(chosen == row.question.truth)
