"""Write gallery.md and its figures: each shipped study with its question and, where a store has its scores, the answer.

A study is shown if all arms that it compares have scores in the named store at the named scale. A study that an earlier
call has shown stays as it was; one without results has its question, its command and the cost of its plan. Scores of
the scale smoke mean nothing, so they are never shown.

    python docs/gallery.py --store runs --scale cpu
    python docs/gallery.py --store runs --scale hour when frozen

Without --store only the costs of the plans are written anew.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import firstsight as fs
from firstsight.errors import FirstsightError
from firstsight.files import write_atomic
from firstsight.plan.estimate import format_hours
from firstsight.recipe.study import Study
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.figures import draw_figure
from firstsight.report.pages.report_page import write_figure
from firstsight.report.results import compared_arms
from firstsight.studies import shipped_studies
from firstsight.workspace.results import StudyResults

DOCS = Path(__file__).parent
FIGURES = "figures/gallery"
PLANNED_SCALES = ("cpu", "1b")
DEVICES = {"cpu": "processor", "h100": "H100"}
FIGURES_OF_PLANS = {"schedules": "1b"}
"""Studies whose question the plan answers, and at which scale."""
MARK = re.compile(r"^% study (\S+)$", re.MULTILINE)
END = "% end of results"
HEAD = """## Gallery

Every shipped study. The figures and verdicts are of stored results at the scale named below each of them; a verdict
about the built-in world is an example of the method, not evidence about large models.
"""
REST = """### Studies without a result here

No result of these is shown, because none is stored. Costs are the plan's estimates: at `cpu`, the built-in world on one
processor core, and at `1b`, a size of the paper.
"""


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of the script."""
    parser = argparse.ArgumentParser(description="Write docs/gallery.md from stored results.")
    parser.add_argument("studies", nargs="*", help="default: every shipped study")
    parser.add_argument("--store", type=Path, help="a folder of results")
    parser.add_argument("--scale", default="cpu")
    parser.add_argument("--seeds", type=int, help="default: the scale's")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of gallery.md and figures/gallery")
    arguments = parser.parse_args(words)
    if arguments.scale == "smoke":
        parser.error("--scale: scores at the scale smoke mean nothing and are not shown. Wanted cpu or a larger scale.")
    return arguments


def stored_results(store: Path, study: Study) -> StudyResults | None:
    """The results of a study if every compared arm has scores, else None with a line that says how many have."""
    try:
        results = fs.Workspace(store, site=fs.Site()).results(study)
    except FirstsightError as error:
        print(f"{study.name}: not shown: {error}")
        return None
    arms = compared_arms(results.arms)
    scored = sum(arm.scores is not None for arm in arms)
    if not arms or scored < len(arms):
        print(f"{study.name}: not shown: {scored} of {len(arms)} arms have scores")
        return None
    return results


def result_section(results: StudyAnalysis, docs: Path, *, date: str) -> str:
    """The section of a study with results: question, figure, answer, verdicts and command; writes the figure."""
    study = results.study
    file = f"{FIGURES}/{study.name}.svg"
    write_figure(draw_figure(results, "stable"), "stable", study=study, path=docs / file)
    seeds = len({arm.seed for arm in results.arms})
    verdicts = "\n".join(
        f"- **{result.verdict.capitalize()}:** {result.claim.statement} {result.evidence} *{result.claim.source}*"
        for result in results.claims
    )
    return _section(
        study, file, [results.answer, verdicts], source=f"Scale `{study.scale}`, {seeds} seeds, results of {date}."
    )


def plan_section(study: Study, docs: Path) -> str:
    """The section of a study that its plan answers: question, the figure of learning rates and command."""
    file = f"{FIGURES}/{study.name}.svg"
    workspace = fs.Workspace(docs / "no-results", site=fs.Site())
    workspace.learning_rates(study, docs / file)
    return _section(study, file, [], source=f"Scale `{study.scale}`, from the plan: nothing was run.")


def _section(study: Study, file: str, texts: Sequence[str], *, source: str) -> str:
    verb = "run" if texts else "plan"
    command = f"```console\n$ firstsight {verb} {study.name} --scale {study.scale}\n```"
    head = [f"% study {study.name}", f"### {study.question}", f"![{study.question}]({file})"]
    return "\n\n".join([*head, *filter(None, texts), source, command]) + "\n\n"


def plan_card(name: str) -> str:
    """A study without results: question, command and cost."""
    study = fs.study(name)
    parts = [
        "::::{container} card",
        f"**{study.question}**",
        f"`firstsight run {name}`",
        f"By plan {', '.join(plan_costs(name))}.",
    ]
    return "\n\n".join([*parts, "::::"])


def plan_costs(name: str) -> Iterator[str]:
    """The hours of a study by its plan at each of PLANNED_SCALES, without any stored step."""
    for scale in PLANNED_SCALES:
        cost = fs.Workspace(DOCS / "no-results", site=fs.Site()).plan(fs.study(name, scale=scale)).cost
        yield f"{format_hours(cost.total.hours)} {DEVICES[cost.device.name]} hours at `{scale}`"


def shown_sections(page: str) -> dict[str, str]:
    """The sections with results of a written page, by study."""
    results, _, _ = page.partition(END)
    _, *parts = MARK.split(results)
    return {name: f"% study {name}{text.rstrip()}\n\n" for name, text in zip(parts[::2], parts[1::2], strict=True)}


def study_order() -> list[str]:
    """All shipped studies: those of the first question first, then by name, those of several questions last."""
    parts = {name: bool(fs.study(name).parts) for name in shipped_studies()}
    return sorted(parts, key=lambda name: (name != "when", parts[name], name))


def render(sections: Mapping[str, str]) -> str:
    """The page, with sections of the studies that are shown and cards of the others."""
    order = study_order()
    shown = "".join(sections[name] for name in order if name in sections)
    cards = "\n\n".join(plan_card(name) for name in order if name not in sections)
    return f"{HEAD}\n{shown}{END}\n\n{REST}\n:::::{{container}} cards\n\n{cards}\n\n:::::\n"


def main(words: Sequence[str] | None = None) -> None:
    """Write the page."""
    arguments = parse_arguments(words)
    docs, page = arguments.docs, arguments.docs / "gallery.md"
    (docs / FIGURES).mkdir(parents=True, exist_ok=True)
    sections = shown_sections(page.read_text()) if page.is_file() else {}
    for name, scale in FIGURES_OF_PLANS.items():
        sections[name] = plan_section(fs.study(name, scale=scale), docs)
    for name in (arguments.studies or shipped_studies()) if arguments.store else ():
        study = fs.study(name, scale=arguments.scale, seeds=arguments.seeds)
        if name not in FIGURES_OF_PLANS and (results := stored_results(arguments.store, study)):
            sections[name] = result_section(results, docs, date=result_date(arguments.store, results))
            print(f"{name}: shown")
    write_atomic(page, render(sections))


def result_date(store: Path, results: StudyResults) -> str:
    """The day on which the last arm was evaluated."""
    stored = fs.Workspace(store, site=fs.Site()).stored(results.study).open_store()
    return max(stored.provenance(arm.address)["ended"] for arm in results.arms)[:10]


if __name__ == "__main__":
    main()
