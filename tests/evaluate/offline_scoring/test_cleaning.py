"""Answers as chat templates and reasoning models write them: the answer alone remains, and what was removed is said."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firstsight.evaluate.offline_scoring import cleaning
from firstsight.evaluate.offline_scoring.cleaning import clean_answer, clean_answers
from tests.evaluate.offline_scoring.small_benchmarks import score, write_file, write_pope, write_refcoco, write_vqa

QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
WRITTEN = [
    # end tokens of Llama 2 and 3, Qwen, Phi, gpt-oss, Gemma, Idefics, DeepSeek, the paper's model
    *(
        f"No{token}"
        for token in ("</s>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|return|>", "<eos>")
    ),
    *(
        f"No{token}"
        for token in (
            "<end_of_turn>\n",
            "<end_of_utterance>",
            "<\uff5cend\u2581of\u2581sentence\uff5c>",
            "<|/a|>",
            "[EOS]",
        )
    ),
    *("No</s></s><pad><pad>", "<pad><pad><s>No</s>", "<bos>No<eos>", "No\n###", "No###", "No<|end_of_text|>"),
    # role labels, glued or not
    *("ASSISTANT: No", "ASSISTANT:No", "Assistant:\nNo", "assistant : No", "### Assistant: No", "###Assistant:No"),
    *(
        "Answer: No",
        "Answer:No",
        "answer\uff1aNo",
        "**Answer:** No",
        "**Answer**: No",
        "## Answer\nNo",
        "The answer is: No",
    ),
    *("Final answer: No", "Short answer: No", "### Response:\nNo", "A: No", "A:No", "GPT: No", "Model answer: No"),
    # headers of a turn, and what is left of them without special tokens
    *("<|im_start|>assistant\nNo<|im_end|>", "<start_of_turn>model\nNo<end_of_turn>", "<|assistant|>\nNo<|end|>"),
    *(
        "<|start_header_id|>assistant<|end_header_id|>\n\nNo<|eot_id|>",
        "assistant\n\nNo",
        "model\nNo",
        "[/INST] No</s>",
    ),
    "<\uff5cAssistant\uff5c>No<\uff5cend\u2581of\u2581sentence\uff5c>",
    # reasoning: whole, without its start, in tags, in channels
    *(
        "<think>Is there? Yes, maybe.</think>No",
        "<think>\nhm\n</think>\n\nNo",
        "hm, yes.\n</think>\n\nNo",
        "<think></think>No",
    ),
    *(
        "\u25c1think\u25b7yes\u25c1/think\u25b7No",
        "[THINK]yes[/THINK]No",
        "<thinking>yes</thinking>\nNo",
        "<reasoning>yes</reasoning>No",
    ),
    *("<think>yes</think><answer>No</answer>", "<answer> No </answer>", "<think>a</think>b<think>c</think>No"),
    "<think>yes</think><answer><|begin_of_box|>No<|end_of_box|></answer>",
    "<|begin_of_thought|>yes<|end_of_thought|>No",
    "<|channel|>analysis<|message|>yes<|end|><|start|>assistant<|channel|>final<|message|>No<|return|>",
    "Assistant: <think>yes</think> Answer: No</s>",
    "<think>yes</think>\n\n**Answer: No**",
    # the prompt repeated
    "USER: <image>\nIs there a cat? ASSISTANT: No</s>",
    "A chat between a curious human and an artificial intelligence assistant. USER: Is there? ASSISTANT:No",
    "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nIs there? [/INST] No</s>",
    f"{QWEN_SYSTEM}<|im_start|>user\nIs there?<|im_end|>\n<|im_start|>assistant\nNo<|im_end|>",
    "system\nYou are a helpful assistant.\nuser\nIs there?\nassistant\nNo",
    # a model that went on
    "No<|im_end|>\n<|im_start|>user\nAnother?<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>",
    *(
        "No\n### Human: and a dog?",
        "No USER: and a dog? ASSISTANT: Yes",
        "No</s>Yes",
        "No<|endoftext|>Yes<|endoftext|>",
    ),
]
UNCHANGED = [
    "No",
    "",
    " No\n",
    "12:30",
    "model: T4",
    "the answer is no",
    "answer",
    "assistant",
    "a <3 b",
    "Human: hi",
    "C##",
]
UNCHANGED += ["[0.1, 0.2, 0.3, 0.4]", "{<12><20><50><80>}", "<box>(120,200),(500,800)</box>", "<loc0001>" * 4]
UNCHANGED += ["<|object_ref_start|>user<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>", "<ref>a</ref>[1]", "#1"]


@pytest.mark.parametrize("written", WRITTEN)
def test_the_answer_alone_remains(written: str) -> None:
    text, removed = clean_answer(written)
    assert text == "No" and removed
    assert clean_answers([written]).texts == ("No",)


@pytest.mark.parametrize("answer", UNCHANGED)
def test_other_answers_are_unchanged(answer: str) -> None:
    assert clean_answer(answer) == (answer, frozenset())
    assert clean_answers([answer, answer]) == cleaning.CleanedAnswers(texts=(answer, answer), counts={}, notes=())


def test_reasoning_that_was_cut_leaves_no_answer() -> None:
    cleaned = clean_answers(["<think>there is a", "yes"])
    assert cleaned.texts == ("", "yes")
    assert cleaned.counts == {cleaning.REASONING: 1}
    assert cleaned.notes[-1] == "1 answers are empty without what was removed"


def test_a_letter_before_a_colon_is_a_choice_where_there_are_choices() -> None:
    assert clean_answers(["A: a cat"], has_choices=True).texts == ("A: a cat",)
    assert clean_answers(["Answer: A"], has_choices=True).texts == ("A",)


def test_each_kind_is_counted_once_per_answer() -> None:
    cleaned = clean_answers(["a</s>", "a</s>", "Answer: b</s></s>", "c"])
    assert cleaned.texts == ("a", "a", "b", "c")
    assert cleaned.counts == {cleaning.TOKENS: 3, cleaning.LABELS: 1}
    assert "special tokens removed from 3 answers: 'a</s>' is read as 'a'" in cleaned.notes


PIECES = st.sampled_from(
    [*WRITTEN, *UNCHANGED, "</s>", "Answer:", "<think>", "</think>", "USER:", "ASSISTANT:", "A:", "\n", " "]
)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=4).map("".join), st.text(max_size=40), st.text("<|/s>ANansw:er\n[]#", max_size=30)
)


@given(TEXTS)
@example("<|im_start|>" * 3)
@example("A:A:A:")
def test_cleaning_again_changes_nothing_and_the_quick_check_misses_nothing(answer: str) -> None:
    text, removed = clean_answer(answer)
    assert clean_answer(text) == (text, frozenset())
    assert clean_answers([answer]).texts == (text,)
    assert len(text) <= len(answer) and (removed or text == answer)


@given(st.text("abc ,.!?'-0123456789\u00e9\u4e2d", max_size=30))
def test_plain_words_are_unchanged(answer: str) -> None:
    assert clean_answer(answer) == (answer, frozenset()) or answer.lstrip().startswith(("A:", "a:"))


DRESSES = [
    "{}</s>",
    "ASSISTANT: {}",
    "Answer:{}",
    "<think>maybe yes, maybe not</think>{}",
    "<|im_start|>assistant\n{}<|im_end|>",
]


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("ending", ["answers.json", "answers.jsonl", "answers.csv", "answers.tsv"])
def test_scores_of_dressed_answers_are_those_of_bare_ones(tmp_path: Path, dress: str, ending: str) -> None:
    """Every task, every form of file; a note says what was removed."""
    write_vqa(tmp_path / "vqav2", 6)
    gqa = {str(n): {"question": f"q {n}?", "imageId": str(n), "answer": f"w{n}"} for n in range(6)}
    write_file(tmp_path / "gqa", "q.json", gqa)
    pope = [
        {"question_id": n, "image": "1.jpg", "text": f"Is {n}?", "label": "yes" if n % 2 else "no"} for n in range(6)
    ]
    write_file(tmp_path / "pope", "coco_pope_random.json", "\n".join(map(_json, pope)))
    answers = {
        "vqav2": [(100 + n, f"w{n}" if n < 4 else "no") for n in range(6)],
        "gqa": [(n, f"w{n}" if n < 4 else "no") for n in range(6)],
        "pope": [(n, "Yes" if (n % 2) == (n < 4) else "No") for n in range(6)],
    }
    for task, pairs in answers.items():
        rows = [{"question_id": question_id, "answer": dress.format(word)} for question_id, word in pairs]
        scored = score(task, _write_rows(tmp_path / task / "out", ending, rows), tmp_path / task)
        assert scored.score == pytest.approx(4 / 6), task
        assert sum("removed from 6 answers" in note for note in scored.notes) == 1 and scored.unreadable_count == 0


def test_boxes_keep_the_tokens_of_their_notation(tmp_path: Path) -> None:
    references = write_refcoco(tmp_path / "refcoco", 4)
    boxes = ["(0,250),(500,750)", "(0,250),(500,750)", "(250,250),(750,750)", "(250,250),(750,750)"]
    rows = [
        {"sents": f"thing {n}", "img_id": f"COCO_train2014_{n // 4:012d}_{n // 2 % 2}"}
        | {
            "answer": f"<think>at 12 and 7?</think><|object_ref_start|>thing {n}<|object_ref_end|>"
            f"<|box_start|>{box}<|box_end|></s>"
        }
        for n, box in enumerate(boxes)
    ]
    scored = score("refcoco", write_file(tmp_path, "a.json", rows), references)
    assert (scored.score, scored.unreadable_count) == (1, 0)
    assert scored.cleaned == {cleaning.REASONING: 4, cleaning.TOKENS: 4}


def test_pope_splits_use_cleaned_answers(tmp_path: Path) -> None:
    rows = [
        {"question_id": n + 1, "category": "random", "answer": f"Answer:{word}"}
        for n, word in enumerate(("Yes", "No", "No"))
    ]
    scored = score(
        "pope", write_file(tmp_path, "a.json", rows), write_pope(tmp_path / "pope") / "coco_pope_random.jsonl"
    )
    assert scored.splits["random"]["yes"] == pytest.approx(1 / 3)
    assert not any("count as yes" in note for note in scored.notes)


def _json(row: dict[str, object]) -> str:
    return json.dumps(row)


def _write_rows(folder: Path, name: str, rows: list[dict[str, object]]) -> Path:
    if name.endswith((".json", ".jsonl")):
        return write_file(folder, name, rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["question_id", "answer"], delimiter="\t" if name.endswith(".tsv") else ",")
    writer.writeheader()
    writer.writerows(rows)
    return write_file(folder, name, text.getvalue())
