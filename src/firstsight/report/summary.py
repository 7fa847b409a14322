"""The report's first sentence, and what the study can and cannot show: text generated from the score table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from firstsight.recipe.analysis import STABLE_MEASURES, Axis, Sweep
from firstsight.recipe.study import Study
from firstsight.report.compare import ArmComparison, ArmPair, PairedDifference
from firstsight.report.decision_accuracy import StudyDecisionAccuracy
from firstsight.report.format import format_interval, format_points, join_names
from firstsight.report.results import ArmResult, RunInfo, arm_texts, arms_with_scores, compared_arms, place_text
from firstsight.report.table import (
    GUESSERS,
    STABLE,
    changed_tasks,
    guesser_margins,
    mean_over_seeds,
    single_task_names,
    single_task_rows,
)
from firstsight.units import format_count


def answer_sentence(
    arms: Sequence[ArmResult],
    rows: pl.DataFrame,
    comparison: ArmComparison,
    *,
    axes: Sequence[Axis] = (),
    accuracy: StudyDecisionAccuracy | None = None,
) -> str:
    """Which arm is best in vision, by how much, over how many seeds, and whether the difference is significant.

    Of a study with decision accuracy instead the share of pairs that smaller sizes order as the largest.
    """
    if accuracy and accuracy.sizes:
        return accuracy.sentence()
    stable = rows.filter(role="compared", task=STABLE, kind="vision", condition="sighted")
    ranked = mean_over_seeds(stable).sort("score", descending=True, maintain_order=True).to_dicts()
    if not ranked:
        scored = len(arms_with_scores(arms))
        return f"No answer yet: no arm has been evaluated on vision ({scored} of {len(arms)} have scores)."
    best, *others = ranked
    texts = arm_texts(arms, axes)
    winner = _winner_text(next(arm for arm in arms if arm.name == best["arm"]), texts[best["arm"]], axes)
    # The higher stable score of both guessers in vision.
    guessers = rows.filter(pl.col("condition").is_in(GUESSERS), arm=best["arm"], task=STABLE, kind="vision")
    guesser_score = max(mean_over_seeds(guessers).get_column("score").to_list(), default=None)
    score = _chance_text(best["score"])
    if guesser_score is not None and best["score"] <= guesser_score:
        return (
            f"No answer: even the best arm, {winner}, scores {score} in vision, and a guesser "
            f"without the image or the question {_chance_text(guesser_score)}, so the order of the arms means nothing."
        )
    seeds = f"mean of {best['seeds']} seeds" if best["seeds"] > 1 else "one seed"
    opening = f"Best in vision: {winner}, {score} ({seeds})"
    if not others:
        return f"{opening}; no other arm has been evaluated."
    # The best arm was selected by its score, so it is corrected as if every pair had been compared.
    pairs = [ArmPair(a=best["arm"], b=row["arm"], measure="vision") for row in others]
    differences = comparison.corrected_differences(pairs, candidates=len(ranked) * len(others) // 2)
    runner_up = f"{texts[others[0]['arm']]} is next{_gap_text(differences[0])}"
    if best["seeds"] == 1:
        return f"{opening}; {runner_up}, but one seed cannot distinguish an effect from a lucky run."
    undecided = [texts[row["arm"]] for row, d in zip(others, differences, strict=True) if not d or d.sign <= 0]
    if undecided:
        names = join_names(undecided)
        return f"{opening}; {runner_up}. These seeds and questions cannot distinguish it from {names}."
    return f"{opening}, significantly better than every other arm; {runner_up}."


def _winner_text(arm: ArmResult, text: str, axes: Sequence[Axis]) -> str:
    """An arm by its text, followed by the label of its axis in brackets."""
    meaning = "; ".join(axis.label for axis in axes) if text == place_text(arm, axes) else ""
    return f"{text} ({meaning})" if meaning else text


def _chance_text(stable_score: float) -> str:
    points = round(100 * stable_score, 1)
    return f"{abs(points):.1f} points {'below' if points < 0 else 'above'} chance"


def _gap_text(difference: PairedDifference | None) -> str:
    """The difference to the best arm with its interval, which is over questions alone where there is one seed."""
    if difference is None or difference.display_interval is None:
        return ""
    scope = " over questions alone" if difference.interval is None else ""
    interval = f"{100 * difference.level:.3g} % interval{scope} {format_interval(difference.display_interval)}"
    return f", {format_points(difference.mean).lstrip('+')} points behind ({interval})"


def comparability_warnings(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[str]:
    """Scores that cannot be compared, because tasks were evaluated differently or are missing, as sentences."""
    return [*_changed_task_warnings(rows), *_hole_warnings(compared_arms(arms_with_scores(arms)), rows)]


def _changed_task_warnings(rows: pl.DataFrame) -> Iterator[str]:
    if names := ", ".join(changed_tasks(rows)):
        yield (
            f"Not all arms were evaluated on {names} in the same version, by the same metric and on the same number of "
            "questions. Differences between arms leave these tasks out; stable scores and figures do not."
        )


def _hole_warnings(arms: Sequence[ArmResult], rows: pl.DataFrame) -> Iterator[str]:
    sighted = rows.filter(pl.col("baseline").is_not_null(), condition="sighted", role="compared")
    for kind in STABLE_MEASURES:
        tasks = single_task_names(sighted, kind)
        lacking: dict[str, list[str]] = {}
        for arm in arms:
            evaluated = sighted.filter(label=arm.label, kind=kind).get_column("task").to_list()
            if missing := ", ".join(task for task in tasks if task not in evaluated):
                lacking.setdefault(missing, []).append(arm.label)
        for missing, labels in lacking.items():
            if missing == ", ".join(tasks):
                yield f"No {kind} score, because no {kind} task was evaluated: {', '.join(labels)}."
                continue
            yield (
                f"No score on {missing}: {', '.join(labels)}. The {kind} stable score of such an arm is a mean over "
                "fewer tasks than that of the others. Differences between arms leave these tasks out."
            )


def study_limits(
    arms: Sequence[ArmResult], rows: pl.DataFrame, study: Study, *, run: RunInfo, tokens: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """What this study can show, and what it cannot, as sentences; `tokens` is the training tokens of each arm."""
    limits = [
        _scale_limit(study, run),
        _seed_limit(arms),
        _untrained_limit(arms),
        *[f"Arms over equal seeds: {', '.join(gaps)}." for gaps in [seed_gaps(arms)] if gaps],
        *dict.fromkeys(_hollow_limits(arms, study)),
        _budget_limit(tokens),
        *_missing_task_limits(arms, study),
    ]
    return _supported_findings(arms, rows), list(filter(None, limits))


def _supported_findings(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[str]:
    scored = arms_with_scores(arms)
    names, seeds = len({arm.name for arm in scored}), len({arm.seed for arm in scored})
    if names < 2:
        return ["What is planned, what it costs, and what has trained so far."]
    marks = f"each of {seeds} seeds is a separate mark" if seeds > 1 else "one seed of each"
    text = f"How {names} arms compare on the same questions: {marks}, and differences are paired question by question."
    vision = guesser_margins(single_task_rows(rows.filter(kind="vision")))
    margins = vision.group_by("arm", "task").agg(pl.col("margin").mean()).get_column("margin")
    helpful = f"{int((margins > 0).sum())} of {len(margins)} vision scores (arms × tasks) are above both guessers"
    guessers = "the model without the image and the best answer without the question"
    return [text, *[f"Where the image helps: {helpful}, {guessers}."] * bool(len(margins))]


def _scale_limit(study: Study, run: RunInfo) -> str:
    limit = f"At {study.scale} scale the order of the arms can change with the budget"
    about = ", so no result here confirms or refutes the paper" if tests_paper(study) else ""
    return f"What happens in large models. {limit}{about}." if run.is_builtin_scale else ""


def tests_paper(study: Study) -> bool:
    """Whether a claim of the study has the paper as its source."""
    return any(re.search(r"\bpaper\b", claim.source) for claim in study.claims)


def seed_gaps(arms: Sequence[ArmResult]) -> list[str]:
    """The arms that lack a seed that others have: mlp3 lacks seed 2. Models that were not trained here have none."""
    seeds: dict[str, set[int]] = {}
    for arm in filter(_is_trained, arms):
        seeds.setdefault(arm.name, set()).add(arm.seed)
    lacking = {name: sorted(set().union(*seeds.values()) - own) for name, own in seeds.items()}
    return [
        f"{name} lacks seed{'s' * (len(missing) > 1)} {' and '.join(map(str, missing))}"
        for name, missing in lacking.items()
        if missing
    ]


def _is_trained(arm: ArmResult) -> bool:
    """Whether a step of the study trained it; else it is a model of others."""
    return bool(arm.stages)


def _untrained_limit(arms: Sequence[ArmResult]) -> str:
    names = [arm.name for arm in arms_with_scores(arms) if not _is_trained(arm)]
    if not names:
        return ""
    rule = "Each is compared with one seed of the others, on the same questions, with intervals over questions alone"
    return f"How {', '.join(names)} would score with other seeds, data or budgets: not trained here. {rule}."


def _seed_limit(arms: Sequence[ArmResult]) -> str:
    seeds = len({arm.seed for arm in arms_with_scores(arms)})
    effects = {1: "one seed gives no interval at all", 2: "2 seeds give wide intervals"}
    return f"The result of another seed: {effects[seeds]}. More seeds narrow it down." if seeds in effects else ""


def _hollow_limits(arms: Sequence[ArmResult], study: Study) -> Iterator[str]:
    """Arms on a line that differ from the others in more than their coordinate."""
    for figure in study.score_figures:
        if isinstance(figure, Sweep) and figure.hollow:
            axis = study.axis(figure.x)
            hollow = {axis.text(arm.at[axis.name]): None for arm in compared_arms(arms) if arm.group == figure.hollow}
            groups = {arm.group: None for arm in compared_arms(arms) if arm.group != figure.hollow}
            if hollow and groups:
                yield (
                    f"The effect of {axis.label} alone at {' and '.join(hollow)}: those arms are {figure.hollow}, the "
                    f"others {join_names(list(groups))}. Hollow points and dashed lines mark this."
                )


def _budget_limit(tokens: Mapping[str, float]) -> str:
    low, high = min(tokens.values(), default=0), max(tokens.values(), default=0)
    if high <= 1.02 * low:
        return ""
    fewest, largest = (
        f"{name} on {format_count(int(tokens[name]))}"
        for name in (min(tokens, key=tokens.__getitem__), max(tokens, key=tokens.__getitem__))
    )
    return f"The arms at an equal budget: they are not trained on as many tokens in all, {fewest} and {largest}."


def _missing_task_limits(arms: Sequence[ArmResult], study: Study) -> list[str]:
    scores = [arm.scores for arm in arms_with_scores(arms) if arm.scores and arm.role == "compared"]
    missing = {kind: tasks for entry in scores for kind, tasks in entry.missing.items()}
    names = {kind: ", ".join(tasks) for kind, tasks in missing.items() if tasks}
    subject = "The paper's {} score itself" if tests_paper(study) else "The {} stable score over all of its tasks"
    text = f"{subject}: this mean lacks {{}}, which were not evaluated."
    return [text.format(kind, tasks) for kind, tasks in names.items()]
