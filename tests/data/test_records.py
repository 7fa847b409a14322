from __future__ import annotations

import pytest

from firstsight.data.records import (
    ImageLocation,
    Notices,
    RecordError,
    join_interleaved,
    parse_caption,
    parse_document,
    parse_llava_dialogue,
    parse_token_ids,
    strip_image_placeholder,
)

LOCATION = ImageLocation(shard="images.tar", offset=512, size=9, hash=0)


def llava_row(*turns: tuple[str, str]) -> dict[str, object]:
    return {"id": "7", "image": "a.png", "conversations": [{"from": role, "value": value} for role, value in turns]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "1"}, "field missing"),
        ({"text": 3}, "field missing"),
        ({"text": " \n"}, "empty text"),
        ({"text": "a\ud800"}, "not UTF-8"),
        ({"text": "a\0b"}, "control character"),
        ({"text": "abc", "loss": [[0, 4]]}, "bad loss span"),
        ({"text": "abc", "loss": [[1, 1]]}, "bad loss span"),
        ({"text": "abc", "loss": [[1, 2], [0, 1]]}, "bad loss span"),
        ({"text": "abc", "loss": [[0, 1.0]]}, "bad loss span"),
        ({"text": "abc", "loss": "all"}, "bad loss span"),
    ],
)
def test_an_invalid_document_is_rejected_with_its_reason(row: dict[str, object], reason: str) -> None:
    with pytest.raises(RecordError) as error:
        parse_document(row, default_id="f:1")
    assert error.value.reason == reason


def test_a_document_has_its_spans_and_a_default_id() -> None:
    assert parse_document({"text": "ab cd", "loss": [[0, 2], [2, 5]]}, default_id="f:1").loss == ((0, 2), (2, 5))
    assert parse_document({"text": "ab"}, default_id="f:1").id == "f:1"
    assert parse_document({"text": "ab"}, default_id="f:1").loss is None


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "field missing"),
        ([("human", "q")], "turns do not alternate"),
        ([("gpt", "a"), ("human", "q")], "turns do not alternate"),
        ([("human", "q"), ("human", "q")], "turns do not alternate"),
        ([("system", "s"), ("gpt", "a")], "unknown role"),
        ([("human", "<image>\n"), ("gpt", "a")], "empty turn"),
        ([("human", "<image><image>q"), ("gpt", "a")], "several images"),
    ],
)
def test_an_invalid_dialogue_is_rejected_with_its_reason(turns: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(RecordError) as error:
        parse_llava_dialogue(llava_row(*turns), default_id="f:1", image=LOCATION)
    assert error.value.reason == reason


@pytest.mark.parametrize("human", ["<image>\nwhat ?", "what ?\n<image>", "<image>what ?"])
def test_the_placeholder_is_removed_with_its_line_break(human: str) -> None:
    assert parse_llava_dialogue(llava_row(("human", human), ("gpt", "a\nb")), default_id="f", image=LOCATION).turns == (
        "what ?",
        "a\nb",
    )


def test_a_placeholder_without_an_image_is_rejected() -> None:
    with pytest.raises(RecordError, match="no image"):
        parse_llava_dialogue(llava_row(("human", "<image>\nq"), ("gpt", "a")), default_id="f", image=None)


def test_captions_are_stripped_and_documents_keep_control_characters() -> None:
    assert parse_caption(" a\tb\nc ") == "a\tb\nc"
    assert parse_document({"text": "\x0c a\x1b"}, default_id="f").text == "\x0c a\x1b"


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "field missing"), ("", "empty caption"), ("a\x9b", "control character"), ("a" * 10_001, "too long")],
)
def test_an_invalid_caption_is_rejected_with_its_reason(text: object, reason: str) -> None:
    with pytest.raises(RecordError) as error:
        parse_caption(text)
    assert error.value.reason == reason


@pytest.mark.parametrize("ids", [[], None, "12", {}, [1, -1], [1.0], [True], [None], (1, 2)])
def test_an_invalid_list_of_tokens_is_rejected(ids: object) -> None:
    with pytest.raises(RecordError, match="bad tokens"):
        parse_token_ids(ids, record_id="f")


def test_adjacent_texts_are_joined_and_empty_ones_left_out() -> None:
    parts = ["", "a", " ", "b", LOCATION, LOCATION, "\n", "c", "d"]
    assert join_interleaved(parts, record_id="f", separator="+").parts == ("a+b", LOCATION, LOCATION, "c+d")
    for parts, reason in (([LOCATION], "empty text"), (["a"], "no image"), ([], "empty text")):
        with pytest.raises(RecordError, match=reason):
            join_interleaved(parts, record_id="f", separator="")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>\r\nwhat", "what"), ("<image> what", "what"), ("what \t<image>", "what"), (" <image>\n\nwhat", "what"),
        ("a <image> b", "a b"), ("a\n\n<image>\nb", "a\n\nb"), ("a<image>b", "ab"), ("a\r\n<image> b", "a\r\nb"),
        ("  what ", "  what "),
    ],
)  # fmt: skip
def test_white_space_next_to_a_placeholder_is_removed(text: str, expected: str) -> None:
    assert strip_image_placeholder(text) == expected


def test_byte_order_marks_are_not_part_of_texts() -> None:
    assert parse_document({"text": "\ufeffa b", "loss": [[0, 2], [3, 4]]}, default_id="f").loss == ((0, 1), (2, 3))
    assert parse_caption(" \ufeffa dog\ufeff ") == "a dog"
    for blank in ("\ufeff", "\u200b", " \u2060\n\u00ad", "\u3164"):
        with pytest.raises(RecordError, match="empty caption"):
            parse_caption(blank)
    assert parse_caption("\u200bx") == "\u200bx"


def test_details_are_shortened() -> None:
    assert len(RecordError("unsafe path", "x" * 100_000).detail) < 320


def test_notices_count_by_reason_up_to_a_limit() -> None:
    notices = Notices({"a": (2, "first")})
    notices.add("a", "second", 3)
    assert notices.entries == {"a": (5, "first")}
    for number in range(1_000):
        notices.add(f"ending .{number}", "f")
    assert len(notices.entries) == 101
    assert sum(count for count, _ in notices.entries.values()) == 1_005
