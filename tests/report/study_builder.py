"""A synthetic study with known effects, in the files that training and evaluation write."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from firstsight.evaluate.result_files import (
    SoftTaskScores,
    SplitScores,
    TaskScores,
    build_scores,
    read_scores,
    write_scores,
)
from firstsight.evaluate.task import TaskKind
from firstsight.recipe.analysis import Claim
from firstsight.recipe.scales import CONTINUED, REWARMED, get_scale
from firstsight.recipe.study import Study
from firstsight.report.answers import read_answers
from firstsight.report.results import ArmResult, RunInfo, StageKind, StageLog, read_training_log
from firstsight.studies.when import when
from firstsight.units import Share

VISION = {"vqav2": 0.25, "gqa": 0.25, "vizwiz": 0.0, "textvqa": 0.0, "refcoco": 0.0, "ocid_ref": 0.0, "pope": 0.5}
TEXT = {"arc_easy": 0.25, "mathqa": 0.2, "boolq": 0.5, "agieval_sat_en": 0.2, "hellaswag": 0.25}
"""Tasks with their chance."""
WORDS = ["fox", "penguin", "tractor", "violin", "mango", "hammer", "scarf", "dolphin"]
COLOURS = ["#d1495b", "#edae49", "#66a182", "#2e4057", "#8d96a3", "#4c78a8"]
TRUNK_TOKENS, MIDTRAIN_TOKENS, FINETUNE_TOKENS = 1_433_600, 593_920, 798_720
HOSTILE_TEXT = "<script>alert('x')</script><img src=https://evil.example/a.png onerror=alert(1)>"

MakeArms = Callable[..., list[ArmResult]]
WrittenStudy = tuple[list[ArmResult], Path]
"""Arms and the path of their report.html."""


@dataclass
class StudyEffects:
    """Probability of a correct answer without guessing, by start in percent; seeds differ from it by up to `noise`."""

    folder: Path
    questions: int = 60
    seeds: tuple[int, ...] = (1, 2)
    vision: dict[int, float] = field(
        default_factory=lambda: {0: 0.08, 20: 0.24, 40: 0.36, 60: 0.48, 80: 0.6, 100: 0.52}
    )
    text: dict[int, float] = field(default_factory=lambda: {0: 0.1, 20: 0.3, 40: 0.38, 60: 0.45, 80: 0.5, 100: 0.52})
    trunk: bool = True
    noise: float = 0.01
    missing: dict[str, str] = field(default_factory=dict)
    """Reason by label."""
    suffix: str = ""
    """Appended to every string that a user could have written."""


def build_arms(effects: StudyEffects) -> list[ArmResult]:
    """All arms of all seeds, with files under the folder."""
    benchmarks = effects.folder / "benchmarks"
    benchmarks.mkdir(parents=True, exist_ok=True)
    _write_images(benchmarks / "images.tar")
    arms = []
    for seed in effects.seeds:
        for percent in effects.vision:
            group = CONTINUED if 0 < percent < 100 else REWARMED
            arms.append(_arm(effects, f"start-{percent:03d}", seed, percent=percent, group=group))
        if effects.trunk:
            arms.append(_arm(effects, "trunk", seed, percent=100, group=""))
    return arms


def _arm(effects: StudyEffects, name: str, seed: int, *, percent: int, group: str) -> ArmResult:
    label = f"{name}{effects.suffix}.s{seed}"
    folder = effects.folder / f"{name}.s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    missing = effects.missing.get(f"{name}.s{seed}", "")
    if not missing:
        _write_evaluation(effects, folder, seed, percent=percent, group=group)
    return ArmResult(
        name=f"{name}{effects.suffix}",
        label=label,
        seed=seed,
        at={"start": Share(percent, 100)} if group else {},
        group=group,
        role="compared" if group else "baseline",
        address=f"evaluate-{Random(label).getrandbits(48):012x}",
        stages=_stages(folder, seed, percent, group),
        scores=None if missing else read_scores(folder),
        missing_reason=missing + effects.suffix if missing else "",
        answers=None if missing else read_answers(folder / "answers.jsonl"),
        benchmarks_dir=effects.folder / "benchmarks",
    )


def _write_evaluation(effects: StudyEffects, folder: Path, seed: int, *, percent: int, group: str) -> None:
    """scores.json and answers.jsonl; an answer is correct where the question's difficulty is below the ability."""
    noise = Random(f"{seed}{percent}").uniform(-effects.noise, effects.noise)
    lines: list[dict[str, Any]] = []
    tasks: dict[str, TaskScores] = {}
    chances_by_kind: dict[TaskKind, dict[str, float]] = {"vision": VISION, "text": TEXT}
    for kind, chances in chances_by_kind.items():
        if kind == "vision" and not group:
            continue
        ability = (effects.vision if kind == "vision" else effects.text)[percent] + noise
        for task, chance in chances.items():
            answers = [_answers(effects, task, kind, (chance, ability), index) for index in range(effects.questions)]
            lines += [line for pair in answers for line in pair]
            tasks[task] = _task_scores(task, kind, chance, answers)
    write_scores(build_scores(tasks), folder)
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _answers(
    effects: StudyEffects, task: str, kind: str, chance_and_ability: tuple[float, float], index: int
) -> list[dict[str, Any]]:
    """Lines of one question: with the image, and for vision without it."""
    random = Random(f"{task}{index}")
    chance, ability = chance_and_ability
    difficulty, luck, blind_luck = random.random(), random.random(), random.random()
    is_correct = difficulty < ability or luck < chance
    is_blind_correct = difficulty < 0.05 or luck < chance or blind_luck < 0.12
    has_box = task in ("refcoco", "ocid_ref")
    truth: Any = _box(random, 0.0) if has_box else random.choice(WORDS) + effects.suffix
    wrong: Any = _box(random, 0.4) if has_box else random.choice(WORDS) + " " + effects.suffix
    line = {
        "task": task,
        "question_id": f"{task}-{index}",
        "image": f"{index % 20:06d}" if kind == "vision" else None,
        "prompt": f"what is right of the {random.choice(WORDS)} ?{effects.suffix}",
        "truth": truth,
        "combination": "heldout" if index % 3 == 0 else "seen",
    }
    correct = json.dumps(truth) if has_box else truth
    sighted = line | {"answer": correct if is_correct else str(wrong), "score": float(is_correct), "blind": False}
    blind = line | {"answer": correct if is_blind_correct else "cat", "score": float(is_blind_correct), "blind": True}
    pair = [sighted, blind] if kind == "vision" else [sighted]
    return [row | {"soft": {"score": soft_of(row["score"])}} for row in pair]


def soft_of(score: float) -> float:
    """The soft score of an answer or, as it is linear, of a task: a quarter for a wrong answer, three for a right."""
    return 0.25 + 0.5 * score


def _box(random: Random, shift: float) -> list[float]:
    left, top = random.uniform(0, 0.5), random.uniform(0, 0.5)
    return [round(edge, 3) for edge in (left + shift * 0.2, top + shift * 0.2, left + 0.4, top + 0.4)]


def _task_scores(task: str, kind: TaskKind, chance: float, answers: list[list[dict[str, Any]]]) -> TaskScores:
    score = _mean([pair[0]["score"] for pair in answers])
    half_width = 1.96 * math.sqrt(score * (1 - score) / len(answers))
    popular = SplitScores(n=20, accuracy=score, f1=score, precision=score, recall=score, yes=0.5)
    return task_scores(
        kind=kind,
        n=len(answers),
        score=score,
        interval=(max(0.0, score - half_width), min(1.0, score + half_width)),
        chance=chance,
        guess=chance,
        stable=task != "vizwiz",
        blind=_mean([pair[1]["score"] for pair in answers]) if kind == "vision" else None,
        question_blind=min(1.0, chance + 0.21) if kind == "vision" else None,
        heldout=_mean([pair[0]["score"] for pair in answers if pair[0]["combination"] == "heldout"]),
        splits={"popular": popular} if task == "pope" else {},
        soft=_soft_scores(score, _mean([pair[1]["score"] for pair in answers]) if kind == "vision" else None),
    )


def _soft_scores(score: float, blind: float | None) -> SoftTaskScores:
    return SoftTaskScores(
        n=60,
        score=soft_of(score),
        interval=(0.0, 1.0),
        blind=None if blind is None else soft_of(blind),
        **dict.fromkeys(("mean", "best", "bits_per_byte", "best_bits_per_byte")),
    )


def task_scores(**fields: Any) -> TaskScores:
    """An entry of scores.json; `fields` replace the defaults, which are a task without baselines or subsets."""
    defaults: dict[str, Any] = {
        "kind": "vision",
        "metric": "accuracy",
        "version": 1,
        "n": 10,
        "benchmark": "10 questions",
    }
    defaults |= {"left_out": {}, "boxes": None, "unreadable": 0, "score": 0.5, "interval": (0.1, 0.9)}
    defaults |= {"chance": 0.25, "guess": 0.25, "stable": True, "over": {}, "by": {}, "splits": {}}
    defaults |= dict.fromkeys(("blind", "text_only", "question_blind", "heldout", "soft"))
    return TaskScores(**defaults | fields)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _stages(folder: Path, seed: int, percent: int, group: str) -> tuple[StageLog, ...]:
    stages = []
    for end in range(20, percent + 1, 20):
        span = TRUNK_TOKENS * (end - 20) // 100, TRUNK_TOKENS * end // 100
        log_path = folder.parent / f"trunk-{seed}-{end}.jsonl"
        stages.append(_stage("pretrain", f"pretrain-{seed}{end:011d}", log_path, start=0, span=span, rate=_trunk_rate))
    if not group:
        return tuple(stages)
    start = TRUNK_TOKENS * percent // 100
    is_continued = group == CONTINUED
    peak, warmup = (_trunk_rate(start), 0) if is_continued else (3e-3, MIDTRAIN_TOKENS // 20)
    suffix = f"{percent:03d}{seed:09d}"
    for kind, tokens, rate in (
        ("midtrain", MIDTRAIN_TOKENS, _cosine(peak, 3e-5, warmup, MIDTRAIN_TOKENS)),
        ("finetune", FINETUNE_TOKENS, _cosine(2e-3, 0.0, FINETUNE_TOKENS // 30, FINETUNE_TOKENS)),
    ):
        log_path = folder / f"{kind}.jsonl"
        stages.append(_stage(kind, f"{kind}-{suffix}", log_path, start=start, span=(0, tokens), rate=rate))
        start += tokens
    return tuple(stages)


def _trunk_rate(seen: float) -> float:
    return _cosine(1e-2, 3e-5, TRUNK_TOKENS // 50, TRUNK_TOKENS)(seen)


def _cosine(peak: float, floor: float, warmup: int, total: int) -> Callable[[float], float]:
    def rate(seen: float) -> float:
        if seen < warmup:
            return peak * seen / warmup
        return floor + 0.5 * (1 + math.cos(math.pi * (seen - warmup) / (total - warmup))) * (peak - floor)

    return rate


def _stage(
    kind: StageKind,
    address: str,
    log_path: Path,
    *,
    start: int,
    span: tuple[int, int],
    rate: Callable[[float], float],
) -> StageLog:
    random = Random(address)
    steps = 140
    rows = []
    for step in range(1, steps + 1):
        seen = span[0] + (span[1] - span[0]) * step // steps
        level = {"pretrain": 1.4, "midtrain": 1.1, "finetune": 0.4}[kind]
        loss = level + 4 * math.exp(-3.5 * (start + seen) / TRUNK_TOKENS) * (1 if kind == "pretrain" else 0.4)
        rows.append({"step": step, "seen": seen, "lr": rate(seen), "loss": loss + random.gauss(0, 0.05)})
    shares = {"rows": 0.1, "tokens": 0.0971, "loss_tokens": 0.0312}
    mix = {"asked": "1/10", "achieved": shares} if kind == "midtrain" else {}
    log_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log_rows = read_training_log(log_path, start_tokens=start)
    planned = [{"seen": row["seen"], "lr": row["lr"]} for row in log_rows]
    return StageLog(kind=kind, address=address, planned=planned, rows=log_rows, achieved_mix=mix)


def _write_images(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for index in range(20):
            data = _png(index)
            member = tarfile.TarInfo(f"{index:06d}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _png(index: int) -> bytes:
    random = Random(index)
    image = Image.new("RGB", (48, 48), random.choice(["#cfe3ef", "#e9e2c8", "#d6e8cf", "#eadbe8"]))
    draw = ImageDraw.Draw(image)
    for cell in random.sample([(0, 0), (24, 0), (0, 24), (24, 24)], random.randint(1, 4)):
        x, y = cell[0] + random.randint(1, 5), cell[1] + random.randint(1, 5)
        draw.ellipse((x, y, x + 17, y + 17), fill=random.choice(COLOURS))
        draw.rectangle((x + 5, y + 4, x + 10, y + 12), fill=random.choice(COLOURS))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def study(suffix: str = "", *, claims: tuple[Claim, ...] | None = None) -> Study:
    """The study `when`; `suffix` is appended to every free text that a user could have written."""
    shipped = when(get_scale("cpu"))
    return replace(
        shipped,
        question=f"{shipped.question}{suffix}",
        claims=shipped.claims if claims is None else claims,
    )


def run_info(suffix: str = "") -> RunInfo:
    """Facts of a small built-in study; `suffix` is appended to every string that a user could have written."""
    return RunInfo(
        plan_tree=f"when · cpu · 7 arms × 2 seeds{suffix}\n"
        "├── pretrain 0–20 %        shared by 12\n"
        "│   └── pretrain 20–40 %   shared by 10\n"
        "└── …",
        cost_estimate="tokens 18.2M   FLOPs 41T   disk 310 MB   0.2 h\n"
        f"against each arm alone: 31.4M tokens, 42 % saved{suffix}",
        provenance={"firstsight": f"0.1.0{suffix}", "python": "3.11.7", "torch": "2.13.0+cpu", "git": "4f1c2ab"},
        device=f"2 cores, AVX-512 bf16{suffix}",
        compute_seconds=521.4,
        is_builtin_scale=True,
        uses_openmoji=True,
    )
