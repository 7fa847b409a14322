"""Instructions: JSON lists cut into stretches and streamed, JSON lines, and the forms that real samples have."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from firstsight.data.readers import RecordReader, list_shards
from firstsight.data.readers.fields import IMAGE_KEYS
from firstsight.data.records import Dialogue

from ..conftest import picture
from .reading import RED_IMAGE, external, llava_row, read_all, read_shards, rejected, source_at, to_jsonl, valid


def test_llava_records_and_single_questions_in_lines(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED_IMAGE)
    rows = [
        llava_row(0, image="a.png"),
        {"id": 5, "image": "a.png", "instruction": "q", "output": "a", "type": "conv"},
        {"instruction": "add", "input": "1 and 2", "output": "3"},
        {"instruction": "q", "input": "", "output": "a"},
        {"prompt": "q", "response": "a"},
        {"question": "q", "answer": "a", "image": None},
        llava_row(6, image=""),
    ]
    (tmp_path / "a.jsonl").write_bytes(to_jsonl(rows))
    records = [record for record in read_all(source_at(tmp_path), "dialogues") if isinstance(record, Dialogue)]
    assert [(record.id, record.image is not None, record.turns) for record in records] == [
        ("n0", True, ("w1 ?", "w2")),
        ("5", True, ("q", "a")),
        ("a.jsonl:3", False, ("add\n1 and 2", "3")),
        ("a.jsonl:4", False, ("q", "a")),
        ("a.jsonl:5", False, ("q", "a")),
        ("a.jsonl:6", False, ("q", "a")),
        ("n6", False, ("w1 ?", "w2")),
    ]


def test_invalid_dialogues_are_rejected_with_a_reason(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q"},
        {"prompt": " ", "response": "a"},
        {"prompt": "q", "response": 3},
        {"prompt": "<image>q", "response": "a"},
        llava_row(0, image=["a.png", "b.png"]),
        {"conversations": ["q", "a"]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}, {"role": "assistant", "content": "a"}]},
        {"conversations": []},
        {"prompt": "q\0", "response": "a"},
    ]
    (tmp_path / "a.jsonl").write_bytes(to_jsonl(rows) + b"{\n[]\n")
    assert [reason for _, reason in rejected(read_all(source_at(tmp_path), "dialogues"))] == [
        "field missing", "empty turn", "field missing", "no image", "several images", "field missing",
        "unknown role", "video or audio", "field missing", "control character", "not JSON", "not JSON",
    ]  # fmt: skip


def test_shared_image_enters_the_digest_of_every_shard(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED_IMAGE)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps([llava_row(0, image="a.png"), llava_row(1, image="a.png")]))
    before = [digest for _, digest in read_shards(source_at(tmp_path), "dialogues")]
    file_digest = hashlib.sha256((tmp_path / "a.json").read_bytes()).hexdigest()
    image_digest = hashlib.sha256(RED_IMAGE).hexdigest()
    assert before == [hashlib.sha256((file_digest + image_digest).encode()).hexdigest()] * 2
    (tmp_path / "a.png").write_bytes(picture((0, 0, 0)))
    assert not set(before) & {digest for _, digest in read_shards(source_at(tmp_path), "dialogues")}


@pytest.mark.shared
def test_real_llava_questions_lack_only_their_images(shared: Path, tmp_path: Path) -> None:
    """90 records (`wc -l`) of 30 images, which are not in the folder; with replacements all are valid."""
    file = shared / "instruct_samples" / "llava" / "coco2014_val_gpt4_qa_30x3.jsonl"
    assert [reason for _, reason in rejected(read_all(source_at(file), "dialogues"))] == ["no image"] * 90
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        (tmp_path / row["image"]).write_bytes(RED_IMAGE)
    records = [
        record
        for record in read_all(source_at(file, pictures=str(tmp_path)), "dialogues")
        if isinstance(record, Dialogue)
    ]
    assert [record.turns for record in records] == [(row["instruction"], row["output"]) for row in rows]
    assert len({record.image for record in records}) == 30


@pytest.mark.shared
def test_real_prompts_and_responses(shared: Path) -> None:
    """1,000 rows, `zcat | wc -l`; the other file has a question and choices, which are not a dialogue."""
    records = read_all(source_at(shared / "instruct_samples" / "dolly_hhrlhf_train_small.jsonl.gz"), "dialogues")
    assert len(valid(records)) == 1000
    assert all(len(record.turns) == 2 and record.image is None for record in valid(records))
    choices = read_all(source_at(shared / "instruct_samples" / "finetune_example_train.jsonl"), "dialogues")
    assert [reason for _, reason in rejected(choices)] == ["field missing"] * 100


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("key", IMAGE_KEYS)
@pytest.mark.parametrize("placeholder", ["", "<image>\n", "<image>\r\n", "<image> "])
def test_images_under_every_key_are_shown(tmp_path: Path, ending: str, key: str, placeholder: str) -> None:
    (tmp_path / "a.png").write_bytes(RED_IMAGE)
    turns = [{"role": "user", "content": f"{placeholder}w1 ?"}, {"role": "assistant", "content": "w2"}]
    rows = [{"messages": turns, key: value} for value in ("a.png", ["a.png"], {"path": "a.png"})]
    (tmp_path / f"a.{ending}").write_bytes(json.dumps(rows).encode() if ending == "json" else to_jsonl(rows))
    records = [record for record in read_all(source_at(tmp_path), "dialogues") if isinstance(record, Dialogue)]
    assert [(record.turns, record.image is not None) for record in records] == [(("w1 ?", "w2"), True)] * 3


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.png"}, {"type": "image", "path": "a.png"}, {"type": "image", "url": "a.png"},
        {"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "image_url", "image_url": "a.png"},
        {"type": "input_image", "image_url": "a.png"}, {"image": "a.png"},
    ],
)  # fmt: skip
def test_images_in_parts_of_a_turn_are_shown(tmp_path: Path, part: dict[str, object]) -> None:
    (tmp_path / "a.png").write_bytes(RED_IMAGE)
    answer = {"role": "assistant", "content": [{"type": "text", "text": "w2"}]}
    for content in ([part, {"type": "text", "text": "w1 ?"}], [part, "w1 ?"]):
        for extra in ({}, {"images": ["a.png"]}):
            rows = [{"messages": [{"role": "user", "content": content}, answer], **extra}]
            (tmp_path / "a.jsonl").write_bytes(to_jsonl(rows))
            [record] = read_all(source_at(tmp_path), "dialogues")
            assert isinstance(record, Dialogue)
            assert (record.turns, record.image is not None) == (("w1 ?", "w2"), True)


def test_records_that_would_lose_an_image_or_a_video_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED_IMAGE)
    base64_image = base64.b64encode(RED_IMAGE * 3).decode()
    user, answer = {"role": "user", "images": ["a.png"], "content": "w1"}, {"role": "assistant", "content": "w2"}
    rows = [
        llava_row(0, video="0.mp4"), llava_row(1, audio=["x.wav"]), llava_row(2, my_file="a.png"),
        llava_row(3, image="a.png", img="b.png"), llava_row(4, images=["a.png", "b.png"]),
        llava_row(5, image=base64_image),
        {"conversations": [{"from": "human", "value": "<video>\nq"}, {"from": "gpt", "value": "a"}]},
        {"messages": [{**user, "images": ["b.png"]}, answer], "image": "a.png"},
        {"messages": [{"role": "user", "content": [{"type": "video", "video": "x"}]}, answer]},
    ]  # fmt: skip
    fine = [{"messages": [user, answer]}, llava_row(6, video=None, audio="")]
    (tmp_path / "a.jsonl").write_bytes(to_jsonl([*rows, *fine]))
    records = read_all(source_at(tmp_path), "dialogues")
    assert [reason for _, reason in rejected(records)] == [
        "video or audio", "video or audio", "no image", "several images", "several images", "not an image",
        "video or audio", "several images", "video or audio",
    ]  # fmt: skip
    assert [record.image is not None for record in valid(records)] == [True, False]


def test_keys_that_are_not_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(to_jsonl([llava_row(0, system="s"), llava_row(1, system="s", score=1)]))
    [shard] = list_shards(source_at(tmp_path), "dialogues")
    records = RecordReader(source_at(tmp_path), "dialogues", source=external("dialogues")).read(shard)
    assert len(list(records)) == 2
    assert records.notices.entries == {"key system": (2, "a.jsonl, line 1"), "key score": (1, "a.jsonl, line 2")}
