"""A store of a study with claims, as runs leave it, and runs that only write the scores that a test wants."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from firstsight.plan.graph import Graph
from firstsight.plan.scheduler import RunSummary, missing_steps
from firstsight.plan.store import Store
from firstsight.recipe.scales import get_scale
from firstsight.recipe.study import Study, combine
from firstsight.studies.when import TWO_POINTS, when
from firstsight.workspace.workspace import Workspace
from tests.report.study_builder import StudyEffects, build_arms
from tests.workspace.answer_store import ANY_FILES

SECONDS = 60.0
"""Of every step."""


def small_study(seeds: int = 2) -> Study:
    """Images at 80 and at 100 % of the smoke trunk, and the claim that 80 % is better in vision."""
    study = when(replace(get_scale("smoke"), seeds=seeds))
    arms = tuple(arm for arm in study.arms if arm.name in ("start-080", "start-100"))
    return replace(study, arms=arms, claims=(TWO_POINTS,))


def combined_study(seeds: int = 2) -> Study:
    """Two studies of the same two arms: the claim about vision, and that 80 % is not worse in text."""
    first = small_study(seeds)
    text = replace(TWO_POINTS, name="text-kept", compare=(replace(TWO_POINTS.compare[0], measure="text"),))
    second = replace(first, name="when-text", claims=(text,))
    return combine("both", question="Is 80 % better?", parts=[first, second])


@dataclass(frozen=True)
class DecisionStore:
    """A folder of results, whose missing steps are written without being run."""

    folder: Path
    vision: Mapping[int, float]
    """The ability of the arm at each percent."""
    noise: float
    """A seed's ability differs from it by up to this."""
    questions: int = 5
    """Of each task."""

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / "runs")

    def fill(self, study: Study) -> None:
        """Store all results of a study."""
        self.run_graph(self.workspace.stored(study).graph, Store(self.folder / "runs"))

    def run_graph(self, graph: Graph, store: Store, **_: Any) -> RunSummary:
        """Stands in for `workspace.execute.run_graph`."""
        seeds = tuple(dict.fromkeys(graph.seeds.values()))
        text = dict.fromkeys(self.vision, 0.5)
        effects = StudyEffects(
            folder=self.folder / "scores",
            questions=self.questions,
            seeds=seeds,
            vision=dict(self.vision),
            text=text,
            noise=self.noise,
        )
        build_arms(replace(effects, trunk=False))
        labels = {graph.final_step(label): label[label.index("start-") :] for label in graph.arms}  # without a part
        missing = missing_steps(graph, store)
        for step in (step for step in graph.steps if step in missing):
            started = datetime.now(UTC) - timedelta(seconds=SECONDS)
            with store.lock(step.address) as lease:
                assert lease
                folder = store.work_folder(lease, step.address)
                (folder / "log.jsonl").write_text("")
                if step in labels:
                    for name in ("scores.json", "answers.jsonl"):
                        shutil.copy(effects.folder / labels[step] / name, folder)
                store.publish(lease, step, ANY_FILES, started=started)
        return RunSummary(published=tuple(missing), skipped=(), failed=(), blocked=(), seconds=0.0)


MakeStore = Callable[..., DecisionStore]
