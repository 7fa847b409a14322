"""A whole study with known truth, written in the forms that training and judging leave."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image, ImageDraw

from firstsight.report.pages.report_page import write
from firstsight.report.results import ArmResult, ArmSchedule, StageKind, StageLog, StudyFacts

VISION = {"vqav2": 0.25, "gqa": 0.25, "vizwiz": 0.0, "textvqa": 0.0, "refcoco": 0.0, "ocid_ref": 0.0, "pope": 0.5}
TEXT = {"arc_easy": 0.25, "mathqa": 0.2, "boolq": 0.5, "agieval_sat_en": 0.2, "hellaswag": 0.25}
WORDS = ["fox", "penguin", "tractor", "violin", "mango", "hammer", "scarf", "dolphin"]
INKS = ["#d1495b", "#edae49", "#66a182", "#2e4057", "#8d96a3", "#4c78a8"]
TRUNK, BRANCH, TUNE = 1_433_600, 593_920, 798_720


@dataclass
class World:
    """What is true of a synthetic study: an ability for each start, the same for every seed up to `noise`."""

    folder: Path
    questions: int = 60
    seeds: tuple[int, ...] = (1, 2)
    ability: dict[int, float] = field(
        default_factory=lambda: {0: 0.08, 20: 0.24, 40: 0.36, 60: 0.48, 80: 0.6, 100: 0.52}
    )
    literacy: dict[int, float] = field(
        default_factory=lambda: {0: 0.1, 20: 0.3, 40: 0.38, 60: 0.45, 80: 0.5, 100: 0.52}
    )
    trunk: bool = True
    noise: float = 0.01
    missing: dict[str, str] = field(default_factory=dict)
    spice: str = ""
    """Put into every string that a user could have written."""


def build(world: World) -> list[ArmResult]:
    """All arms of all seeds, with files under the world's folder."""
    benchmarks = world.folder / "benchmarks"
    benchmarks.mkdir(parents=True, exist_ok=True)
    _pictures(benchmarks / "images.tar")
    arms = []
    for seed in world.seeds:
        for percent in world.ability:
            schedule: ArmSchedule = "continue" if 0 < percent < 100 else "rewarm"
            arms.append(_arm(world, f"start-{percent:03d}", seed, percent, schedule))
        if world.trunk:
            arms.append(_arm(world, "trunk", seed, 100, "trunk"))
    return arms


def _arm(world: World, name: str, seed: int, percent: int, schedule: ArmSchedule) -> ArmResult:
    label = f"{name}{world.spice}.s{seed}"
    folder = world.folder / f"{name}.s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    missing = world.missing.get(f"{name}.s{seed}", "")
    if not missing:
        _judge(world, folder, seed, percent, schedule)
    return ArmResult(
        name=f"{name}{world.spice}",
        label=label,
        seed=seed,
        start=Fraction(percent, 100),
        schedule=schedule,
        address=f"evaluate-{abs(hash_of(label)):012x}",
        stages=_stages(folder, seed, percent, schedule),
        scores=None if missing else json.loads((folder / "scores.json").read_text()),
        missing_reason=missing + world.spice if missing else "",
        answers_path=None if missing else folder / "answers.jsonl",
        benchmarks_dir=world.folder / "benchmarks",
    )


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return Random(text).getrandbits(48)


def _judge(world: World, folder: Path, seed: int, percent: int, schedule: ArmSchedule) -> None:
    """scores.json and answers.jsonl; a question is answered rightly where its own difficulty is below the ability."""
    drift = Random(f"{seed}{percent}").uniform(-world.noise, world.noise)
    lines: list[dict[str, Any]] = []
    tasks: dict[str, Any] = {}
    for kind, chances in (("vision", VISION), ("text", TEXT)):
        if kind == "vision" and schedule == "trunk":
            continue
        skill = (world.ability if kind == "vision" else world.literacy)[percent] + drift
        for task, chance in chances.items():
            asked = [_question(world, task, kind, chance, skill, index) for index in range(world.questions)]
            lines += [line for pair in asked for line in pair]
            tasks[task] = _facts(task, kind, chance, asked)
    stable = {
        kind: _mean(
            [facts["score"] - facts["chance"] for facts in tasks.values() if facts["kind"] == kind and facts["stable"]]
        )
        for kind in ("vision", "text")
    }
    scores = {"tasks": tasks, "stable": stable, "versions": {"scores": 1, "stable": 1}}
    scores["missing"] = {"vision": [], "text": ["copa", "piqa"]}
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _question(world: World, task: str, kind: str, chance: float, skill: float, index: int) -> list[dict[str, Any]]:
    random = Random(f"{task}{index}")
    hard, luck, unseen = random.random(), random.random(), random.random()
    right = hard < skill or luck < chance
    blind = hard < 0.05 or luck < chance or unseen < 0.12
    boxes = task in ("refcoco", "ocid_ref")
    truth: Any = _box(random, 0.0) if boxes else random.choice(WORDS) + world.spice
    wrong: Any = _box(random, 0.4) if boxes else random.choice(WORDS) + " " + world.spice
    line = {
        "task": task,
        "question_id": f"{task}-{index}",
        "image": f"{index % 20:06d}" if kind == "vision" else None,
        "prompt": f"what is right of the {random.choice(WORDS)} ?{world.spice}",
        "truth": truth,
        "form": "heldout" if index % 3 == 0 else "seen",
    }
    shown = json.dumps(truth) if boxes else truth
    seeing = line | {"answer": shown if right else str(wrong), "score": float(right), "blind": False}
    unsighted = line | {"answer": shown if blind else "cat", "score": float(blind), "blind": True}
    return [seeing, unsighted] if kind == "vision" else [seeing]


def _box(random: Random, shift: float) -> list[float]:
    left, top = random.uniform(0, 0.5), random.uniform(0, 0.5)
    return [round(edge, 3) for edge in (left + shift * 0.2, top + shift * 0.2, left + 0.4, top + 0.4)]


def _facts(task: str, kind: str, chance: float, asked: list[list[dict[str, Any]]]) -> dict[str, Any]:
    score = _mean([pair[0]["score"] for pair in asked])
    half = 1.96 * math.sqrt(score * (1 - score) / len(asked))
    return {
        "kind": kind,
        "metric": "accuracy",
        "n": len(asked),
        "score": score,
        "interval": [max(0, score - half), min(1, score + half)],
        "chance": chance,
        "guess": chance,
        "stable": task != "vizwiz",
        "blind": _mean([pair[1]["score"] for pair in asked]) if kind == "vision" else None,
        "question_blind": min(1.0, chance + 0.21) if kind == "vision" else None,
        "heldout": _mean([pair[0]["score"] for pair in asked if pair[0]["form"] == "heldout"]),
        "by": {},
        "splits": {"popular": {"n": 20, "accuracy": score, "f1": score}} if task == "pope" else {},
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _stages(folder: Path, seed: int, percent: int, schedule: ArmSchedule) -> tuple[StageLog, ...]:
    found = []
    for end in range(20, percent + 1, 20):
        start, stop = TRUNK * (end - 20) // 100, TRUNK * end // 100
        log = folder.parent / f"trunk-{seed}-{end}.jsonl"
        found.append(_stage("pretrain", f"pretrain-{seed}{end:011d}", log, 0, (start, stop), _trunk))
    if schedule == "trunk":
        return tuple(found)
    at = TRUNK * percent // 100
    peak = _trunk(at) if schedule == "continue" else 3e-3
    warm = 0 if schedule == "continue" else BRANCH // 20
    name = f"{percent:03d}{seed:09d}"
    rate, tune = _cosine(peak, 3e-5, warm, BRANCH), _cosine(2e-3, 0.0, TUNE // 30, TUNE)
    found.append(_stage("midtrain", f"midtrain-{name}", folder / "mid.jsonl", at, (0, BRANCH), rate))
    found.append(_stage("finetune", f"finetune-{name}", folder / "tune.jsonl", at + BRANCH, (0, TUNE), tune))
    return tuple(found)


def _trunk(seen: float) -> float:
    return _cosine(1e-2, 3e-5, TRUNK // 50, TRUNK)(seen)


def _cosine(peak: float, floor: float, warm: int, total: int) -> Callable[[float], float]:
    def rate(seen: float) -> float:
        if seen < warm:
            return peak * seen / warm
        return floor + 0.5 * (1 + math.cos(math.pi * (seen - warm) / (total - warm))) * (peak - floor)

    return rate


def _stage(
    kind: StageKind, address: str, log: Path, begins: int, span: tuple[int, int], rate: Callable[[float], float]
) -> StageLog:
    random = Random(address)
    steps = 140
    rows = []
    for step in range(1, steps + 1):
        seen = span[0] + (span[1] - span[0]) * step // steps
        level = {"pretrain": 1.4, "midtrain": 1.1, "finetune": 0.4}[kind]
        loss = level + 4 * math.exp(-3.5 * (begins + seen) / TRUNK) * (1 if kind == "pretrain" else 0.4)
        rows.append({"step": step, "seen": seen, "lr": rate(seen), "loss": loss + random.gauss(0, 0.05)})
    if kind == "midtrain":
        shares = {"rows": 0.1, "tokens": 0.0971, "loss_tokens": 0.0312}
        log.with_name("achieved.json").write_text(json.dumps({"asked": "1/10", "achieved": shares}))
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return StageLog(kind=kind, address=address, start_tokens=begins, log_path=log)


def _pictures(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for index in range(20):
            data = _picture(index)
            member = tarfile.TarInfo(f"{index:06d}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _picture(index: int) -> bytes:
    random = Random(index)
    image = Image.new("RGB", (48, 48), random.choice(["#cfe3ef", "#e9e2c8", "#d6e8cf", "#eadbe8"]))
    draw = ImageDraw.Draw(image)
    for cell in random.sample([(0, 0), (24, 0), (0, 24), (24, 24)], random.randint(1, 4)):
        x, y = cell[0] + random.randint(1, 5), cell[1] + random.randint(1, 5)
        draw.ellipse((x, y, x + 17, y + 17), fill=random.choice(INKS))
        draw.rectangle((x + 5, y + 4, x + 10, y + 12), fill=random.choice(INKS))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def study(spice: str = "") -> StudyFacts:
    """The frame of a study at toy scale."""
    return StudyFacts(
        name=f"when{spice}",
        scale="cpu",
        question=f"When in text pre-training should images enter?{spice}",
        plan_tree=f"when · cpu · 7 arms × 2 seeds{spice}\n"
        "├── pretrain 0–20 %        shared by 12\n"
        "│   └── pretrain 20–40 %   shared by 10\n"
        "└── …",
        cost_estimate="tokens 18.2M   FLOPs 41T   disk 310 MB   0.2 h\n"
        f"against each arm alone: 31.4M tokens, 42 % saved{spice}",
        provenance={"firstsight": f"0.1.0{spice}", "python": "3.11.7", "torch": "2.13.0+cpu", "git": "4f1c2ab"},
        device=f"2 cores, AVX-512 bf16{spice}",
        compute_seconds=521.4,
        is_builtin_scale=True,
        uses_openmoji=True,
    )


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., list[ArmResult]]:
    """Arms of a study built with the given truths."""
    return lambda **truth: build(World(folder=tmp_path / "store", **truth))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ArmResult], Path]:
    """A finished study and its page, written once for all tests that only read them."""
    folder = tmp_path_factory.mktemp("whole")
    arms = build(World(folder=folder / "store"))
    return arms, write(arms, study=study(), folder=folder / "report")


EVIL = "<script>alert('x')</script><img src=https://evil.example/a.png onerror=alert(1)>"


@pytest.fixture(scope="session")
def wounded(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ArmResult], Path]:
    """A half-finished study whose every name, answer and note is hostile, and its page."""
    folder = tmp_path_factory.mktemp("wounded")
    missing = {"start-080.s2": "midtrain failed: out of memory", "start-020.s1": "not run yet", "trunk.s1": "stopped"}
    arms = build(World(folder=folder / "store", questions=20, spice=EVIL, missing=missing))
    return arms, write(arms, study=study(EVIL), folder=folder / "report")


@pytest.fixture(name="evil")
def _evil() -> str:
    return EVIL


@pytest.fixture(name="study")
def _study() -> Callable[[str], StudyFacts]:
    return study
