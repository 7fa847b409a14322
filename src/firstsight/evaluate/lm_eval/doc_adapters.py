"""Questions in llm-foundry's or OLMES' form (query, choices, gold), turned into what lm-eval's definitions read.

Each form of record is the one that lm-eval's own template makes the same question of again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.errors import DataError

_UNCONDITIONAL_OFFSET = 1_000_000
"""OLMES lists every question again for its unconditional likelihood, numbered from here."""
_EXTRA_KEYS = ("question_id", "form", "combination")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceQuery:
    """A question as it is told, its choices, and the number of the right one."""

    query: str
    choices: tuple[str, ...]
    gold: int
    extra_fields: Mapping[str, Any]
    """What else is known of it: its id, and what it holds out."""


def parse_queries(rows: Sequence[Mapping[str, Any]], location: str) -> list[ChoiceQuery] | None:
    """The questions of rows in query form; None where the first row is not in it. DataError names a row that is not."""
    numbered_rows = _unique_docs(rows) if rows and "request" in rows[0] else list(enumerate(rows))
    if not numbered_rows or not _is_query(numbered_rows[0][1]):
        return None
    return [
        _query({"question_id": question_id, **row}, f"{location}, record {question_id}")
        for question_id, row in numbered_rows
    ]


def _unique_docs(requests: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Mapping[str, Any]]]:
    """OLMES' requests, one a choice and again without a context: each question once, by its native id."""
    docs_by_id: dict[Any, tuple[Any, Mapping[str, Any]]] = {}
    for request in requests:
        doc_id, doc = request.get("doc_id"), request.get("doc")
        if isinstance(doc_id, int) and doc_id < _UNCONDITIONAL_OFFSET and isinstance(doc, dict):
            docs_by_id.setdefault(doc_id, (request.get("native_id", doc_id), doc))
    return list(docs_by_id.values())


def _is_query(row: Mapping[str, Any]) -> bool:
    """AGIEval's own records have these keys, too; their gold is a list."""
    return {"query", "choices", "gold"} <= row.keys() and isinstance(row["gold"], int)


def _query(row: Mapping[str, Any], location: str) -> ChoiceQuery:
    if not _is_query(row):
        raise DataError(f"{location}: wanted query, choices and gold. Got {str(dict(row))[:120]}. Mend it.")
    choices, gold = tuple(row["choices"]), row["gold"]
    if not isinstance(row["query"], str) or not all(isinstance(choice, str) and choice for choice in choices):
        raise DataError(f"{location}: wanted a query and choices in words. Got {str(row)[:120]}. Mend it.")
    if isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise DataError(f"{location}: gold is the number of a choice, 0 to {len(choices) - 1}. Got {gold!r}. Mend it.")
    extra_fields = {key: row[key] for key in _EXTRA_KEYS if key in row}
    return ChoiceQuery(query=row["query"], choices=choices, gold=gold, extra_fields=extra_fields)


def definition_row(name: str, query: ChoiceQuery) -> dict[str, Any] | None:
    """What lm-eval's definition of task `name` reads; None where this question cannot be told in it."""
    fields = _ROW_BUILDERS[name](query) if name in _ROW_BUILDERS else None
    return None if fields is None else {**query.extra_fields, **fields}


def query_row(query: ChoiceQuery) -> dict[str, Any]:
    """A record of a task that has no more than query, choices and gold."""
    return {**query.extra_fields, "query": query.query, "choices": list(query.choices), "gold": query.gold}


def _question_text(query: str) -> str:
    """The question without what lm-eval's template puts around it."""
    return query.removesuffix("Answer:").removesuffix("\n").removeprefix("Question: ")


def _option_letters(count: int) -> list[str]:
    return [chr(ord("A") + number) for number in range(count)]


def _arc_row(query: ChoiceQuery) -> dict[str, Any]:
    letters = _option_letters(len(query.choices))
    choices = {"text": list(query.choices), "label": letters}
    return {"question": _question_text(query.query), "choices": choices, "answerKey": letters[query.gold]}


def _piqa_row(query: ChoiceQuery) -> dict[str, Any] | None:
    if len(query.choices) != 2:
        return None
    return {
        "goal": _question_text(query.query),
        "sol1": query.choices[0],
        "sol2": query.choices[1],
        "label": query.gold,
    }


def _boolq_row(query: ChoiceQuery) -> dict[str, Any] | None:
    parts = re.fullmatch(r"(?:Passage: )?(.*)\nQuestion: (.*?)\??(?:\nAnswer:)?", query.query, re.DOTALL)
    if parts is None or sorted(query.choices) != ["no", "yes"]:
        return None
    return {"passage": parts[1], "question": parts[2], "label": int(query.choices[query.gold] == "yes")}


def _copa_row(query: ChoiceQuery) -> dict[str, Any] | None:
    parts = re.fullmatch(r"(.*?),? (because|therefore)", query.query, re.DOTALL)
    if parts is None or len(query.choices) != 2:
        return None
    kind = "cause" if parts[2] == "because" else "effect"
    first, second = query.choices
    # The definition cuts the premise's last character off, its full stop.
    return {"premise": f"{parts[1]}.", "question": kind, "choice1": first, "choice2": second, "label": query.gold}


def _hellaswag_row(query: ChoiceQuery) -> dict[str, Any] | None:
    activity, colon, context = query.query.partition(": ")
    if not colon:
        return None
    endings = [_protect_from_cleaning(choice) for choice in query.choices]
    fields = {"activity_label": activity, "ctx_a": _protect_from_cleaning(context), "ctx_b": ""}
    return {**fields, "endings": endings, "label": str(query.gold)}


def _protect_from_cleaning(text: str) -> str:
    """What the definition's cleaning (bare edges, brackets out, two spaces into one) makes `text` of."""
    spaced_text = re.sub(" {2,}", lambda spaces: 2 * spaces[0], text)
    return f"[]{spaced_text}[]" if text != text.strip() else spaced_text


def _mathqa_row(query: ChoiceQuery) -> dict[str, Any] | None:
    if len(query.choices) != 5:
        return None
    letters = [letter.lower() for letter in _option_letters(5)]
    options = " , ".join(f"{letter} ) {choice}" for letter, choice in zip(letters, query.choices, strict=True))
    return {"Problem": _question_text(query.query), "options": options, "correct": letters[query.gold]}


def _pubmedqa_row(query: ChoiceQuery) -> dict[str, Any] | None:
    parts = re.fullmatch(r"(?:Abstract: )?(.*)\nQuestion: (.*?)(?:\nAnswer:)?", query.query, re.DOTALL)
    if parts is None or sorted(query.choices) != ["maybe", "no", "yes"]:
        return None
    return {"CONTEXTS": [parts[1]], "QUESTION": parts[2], "final_decision": query.choices[query.gold]}


_ROW_BUILDERS: Mapping[str, Callable[[ChoiceQuery], dict[str, Any] | None]] = {
    "arc_easy": _arc_row,
    "boolq": _boolq_row,
    "copa": _copa_row,
    "hellaswag": _hellaswag_row,
    "mathqa": _mathqa_row,
    "piqa": _piqa_row,
    "pubmedqa": _pubmedqa_row,
}
