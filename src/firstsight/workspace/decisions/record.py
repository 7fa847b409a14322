"""What is stored of a study that is decided step by step: the seeds that were added, and the looks at its claims.

`decisions/NAME-SCALE-DIGEST.json` in the folder of results. The digest is of the study's arms without their seeds, so
that the same study with another number of seeds continues it. With a record, claims are tested by the sequential
rule and the study has the added arms, in every command; without one, verdicts are of fixed size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.files import read_json, write_atomic
from firstsight.recipe.serialize import canonical_json, to_json
from firstsight.recipe.study import Study

FORMAT = 1
_ADVICE = "Restore it, or delete it: verdicts are then of fixed size, and added seeds are no part of the study."


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One look at the claims of a study."""

    time: str
    """ISO 8601."""
    seeds: Mapping[str, int]
    """The number of evaluated seeds of each arm, by name."""
    verdicts: Mapping[str, str]
    """By name of the claim."""

    def __str__(self) -> str:
        low, high = min(self.seeds.values(), default=0), max(self.seeds.values(), default=0)
        count = f"{low}" if low == high else f"{low} to {high}"
        return f"{self.time}, {count} seeds: {', '.join(f'{name} {v}' for name, v in self.verdicts.items())}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SequentialRecord:
    """The arms that were added to a study, and the looks."""

    labels: tuple[str, ...] = ()
    """Added arms: start-080.s4."""
    looks: tuple[Look, ...] = ()

    def with_look(self, look: Look) -> SequentialRecord:
        """The record with a look, unless the last one saw the same seeds."""
        if self.looks and (self.looks[-1].seeds, self.looks[-1].verdicts) == (look.seeds, look.verdicts):
            return self
        return replace(self, looks=(*self.looks, look))

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        write_atomic(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", sync=True)


def record_path(study: Study, root: Path) -> Path:
    """The file of a study's record."""
    first_arms = {arm.name: arm for arm in reversed(study.arms)}
    arms = {name: to_json(arm.with_seed(0)) for name, arm in first_arms.items()}
    digest = sha256(canonical_json(arms).encode()).hexdigest()[:12]
    return root / "decisions" / f"{study.name}-{study.scale}-{digest}.json"


def read_sequential_record(study: Study, root: Path) -> SequentialRecord | None:
    """The record of a study; None where there is none. DataError for one that is damaged or of another format."""
    path = record_path(study, root)
    if not path.is_file():
        return None
    value = read_json(path, advice=_ADVICE, keys=("format", "labels", "looks"))
    try:
        if value["format"] != FORMAT:
            raise DataError(f"{path}: wanted format {FORMAT}. Got {value['format']}. Update firstsight.")
        record = SequentialRecord(labels=tuple(value["labels"]), looks=tuple(map(_read_look, value["looks"])))
        study.with_arms(record.labels)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: wanted added arms and looks. Got {error!r}. {_ADVICE}") from error
    return record


def _read_look(value: Mapping[str, Any]) -> Look:
    seeds = {str(name): int(count) for name, count in value["seeds"].items()}
    verdicts = {str(name): str(verdict) for name, verdict in value["verdicts"].items()}
    return Look(time=str(value["time"]), seeds=seeds, verdicts=verdicts)
