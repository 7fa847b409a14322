"""Questions in llm-foundry's or OLMES' form (query, choices, gold), turned into what lm-eval's definitions read.

Each form of record is the one that lm-eval's own template makes the same question of again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.errors import DataError

_DOUBLED = 1_000_000
"""OLMES lists every question again for its unconditional likelihood, numbered from here."""
_TELLS = ("question_id", "form", "combination")


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A question as it is told, its choices, and the number of the right one."""

    query: str
    choices: tuple[str, ...]
    gold: int
    told: Mapping[str, Any]
    """What else is known of it: its id, and what it holds out."""


def queries(rows: Sequence[Mapping[str, Any]], where: str) -> list[Query] | None:
    """The questions of rows in query form; None where the first row is not in it. DataError names a row that is not."""
    told = _once(rows) if rows and "request" in rows[0] else list(enumerate(rows))
    if not told or not _is_query(told[0][1]):
        return None
    return [_query({"question_id": name, **row}, f"{where}, record {name}") for name, row in told]


def _once(requests: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Mapping[str, Any]]]:
    """OLMES' requests, one a choice and again without a context: each question once, by its native id."""
    found: dict[Any, tuple[Any, Mapping[str, Any]]] = {}
    for request in requests:
        number, asked = request.get("doc_id"), request.get("doc")
        if isinstance(number, int) and number < _DOUBLED and isinstance(asked, dict):
            found.setdefault(number, (request.get("native_id", number), asked))
    return list(found.values())


def _is_query(row: Mapping[str, Any]) -> bool:
    """AGIEval's own records have these keys, too; their gold is a list."""
    return {"query", "choices", "gold"} <= row.keys() and isinstance(row["gold"], int)


def _query(told: Mapping[str, Any], where: str) -> Query:
    if not _is_query(told):
        raise DataError(f"{where}: wanted query, choices and gold. Got {str(dict(told))[:120]}. Mend it.")
    choices, gold = tuple(told["choices"]), told["gold"]
    if not isinstance(told["query"], str) or not all(isinstance(choice, str) and choice for choice in choices):
        raise DataError(f"{where}: wanted a query and choices in words. Got {str(told)[:120]}. Mend it.")
    if isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise DataError(f"{where}: gold is the number of a choice, 0 to {len(choices) - 1}. Got {gold!r}. Mend it.")
    kept = {key: told[key] for key in _TELLS if key in told}
    return Query(query=told["query"], choices=choices, gold=gold, told=kept)


def record(name: str, asked: Query) -> dict[str, Any] | None:
    """What lm-eval's definition of task `name` reads; None where this question cannot be told in it."""
    made = _FORMS[name](asked) if name in _FORMS else None
    return None if made is None else {**asked.told, **made}


def plain(asked: Query) -> dict[str, Any]:
    """A record of a task that has no more than query, choices and gold."""
    return {**asked.told, "query": asked.query, "choices": list(asked.choices), "gold": asked.gold}


def _stem(query: str) -> str:
    """The question without what lm-eval's template puts around it."""
    return query.removesuffix("Answer:").removesuffix("\n").removeprefix("Question: ")


def _letters(count: int) -> list[str]:
    return [chr(ord("A") + number) for number in range(count)]


def _arc(asked: Query) -> dict[str, Any]:
    letters = _letters(len(asked.choices))
    choices = {"text": list(asked.choices), "label": letters}
    return {"question": _stem(asked.query), "choices": choices, "answerKey": letters[asked.gold]}


def _piqa(asked: Query) -> dict[str, Any] | None:
    if len(asked.choices) != 2:
        return None
    return {"goal": _stem(asked.query), "sol1": asked.choices[0], "sol2": asked.choices[1], "label": asked.gold}


def _boolq(asked: Query) -> dict[str, Any] | None:
    parts = re.fullmatch(r"(?:Passage: )?(.*)\nQuestion: (.*?)\??(?:\nAnswer:)?", asked.query, re.DOTALL)
    if parts is None or sorted(asked.choices) != ["no", "yes"]:
        return None
    return {"passage": parts[1], "question": parts[2], "label": int(asked.choices[asked.gold] == "yes")}


def _copa(asked: Query) -> dict[str, Any] | None:
    parts = re.fullmatch(r"(.*?),? (because|therefore)", asked.query, re.DOTALL)
    if parts is None or len(asked.choices) != 2:
        return None
    kind = "cause" if parts[2] == "because" else "effect"
    first, second = asked.choices
    # The definition cuts the premise's last character off, its full stop.
    return {"premise": f"{parts[1]}.", "question": kind, "choice1": first, "choice2": second, "label": asked.gold}


def _hellaswag(asked: Query) -> dict[str, Any] | None:
    label, colon, rest = asked.query.partition(": ")
    if not colon:
        return None
    endings = [_through_brackets(choice) for choice in asked.choices]
    told = {"activity_label": label, "ctx_a": _through_brackets(rest), "ctx_b": ""}
    return {**told, "endings": endings, "label": str(asked.gold)}


def _through_brackets(text: str) -> str:
    """What the definition's cleaning (bare edges, brackets out, two spaces into one) makes `text` of."""
    wide = re.sub(" {2,}", lambda spaces: 2 * spaces[0], text)
    return f"[]{wide}[]" if text != text.strip() else wide


def _mathqa(asked: Query) -> dict[str, Any] | None:
    if len(asked.choices) != 5:
        return None
    letters = [letter.lower() for letter in _letters(5)]
    options = " , ".join(f"{letter} ) {choice}" for letter, choice in zip(letters, asked.choices, strict=True))
    return {"Problem": _stem(asked.query), "options": options, "correct": letters[asked.gold]}


def _pubmedqa(asked: Query) -> dict[str, Any] | None:
    parts = re.fullmatch(r"(?:Abstract: )?(.*)\nQuestion: (.*?)(?:\nAnswer:)?", asked.query, re.DOTALL)
    if parts is None or sorted(asked.choices) != ["maybe", "no", "yes"]:
        return None
    return {"CONTEXTS": [parts[1]], "QUESTION": parts[2], "final_decision": asked.choices[asked.gold]}


_FORMS: Mapping[str, Callable[[Query], dict[str, Any] | None]] = {
    "arc_easy": _arc,
    "boolq": _boolq,
    "copa": _copa,
    "hellaswag": _hellaswag,
    "mathqa": _mathqa,
    "piqa": _piqa,
    "pubmedqa": _pubmedqa,
}
