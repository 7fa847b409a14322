"""Small offline copies of lm-eval's data sets, in the data sets' own records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from firstsight.site import Progress

RECORDS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [
        {"id": f"m{n}", "question": f"what is {n}", "answerKey": "AB"[n % 2]}
        | {"choices": {"text": ["a cat", "no"], "label": ["A", "B"]}}
        for n in range(5)
    ],
    "boolq": [{"passage": "It is red.", "question": f"is it {n}", "label": n % 2 == 0, "idx": n} for n in range(4)],
    "agieval_sat_en": [
        {"query": f"P {n}\nA: Among A through D, the answer is", "choices": ["(A)x", "(B)the cat"], "gold": [n % 2]}
        for n in range(4)
    ],
    "bigbench_cs_algorithms_multiple_choice": [
        {"inputs": f"Count {n}:", "targets": ["1"], "multiple_choice_targets": ["0", "1"], "idx": n} for n in range(3)
    ],
    "pubmedqa": [{"CONTEXTS": ["A.", "B."], "QUESTION": "Is it?", "final_decision": "no"}],
    "mathqa": [{"Problem": "2+2", "options": "a ) 1 , b ) 2 , c ) 3 , d ) 4 , e ) 5", "correct": "d"}],
}


def ignore_progress(_: Progress) -> None:
    """Discard progress reports."""


def write_task(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
