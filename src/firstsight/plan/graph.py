"""From a study to the graph of its steps: equal work is one node, whichever arms ask for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.step import VERSIONS, Step, find
from firstsight.recipe.mix import Benchmarks, Blend, Captions, Dialogues, Named, Recaptioned, Source, Texts, Vocabulary
from firstsight.recipe.model import Contrast, Siglip
from firstsight.recipe.stages import Encode, Finetune, Midtrain, Prepare, Pretrain, Segment, Tokenizer
from firstsight.recipe.study import Arm, Study
from firstsight.units import Share

LEAVES: dict[type, str] = {
    Named: "named",
    Vocabulary: "vocabulary",
    Texts: "texts",
    Captions: "captions",
    Dialogues: "dialogues",
    Benchmarks: "benchmarks",
}
"""Specs that need nothing, and the kind of step that each is."""

LINE = ("trunk", "previous", "checkpoint")
"""Roles in which the model itself is handed on."""

MODEL = ("pretrain", "midtrain", "finetune", "evaluate")
"""Kinds on the line from nothing to a judged model; all other kinds make what these read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """What a study runs."""

    title: str
    """Study and scale."""
    steps: tuple[Step, ...]
    """Every step once, parents first; seed by seed, and within a seed its trunk first."""
    arms: Mapping[str, tuple[Step, ...]]
    """By label, what an arm would run alone, parents first; the last step is its judgement."""
    seeds: Mapping[str, int]
    """Each arm's seed, by label."""

    def final(self, label: str) -> Step:
        """The step that judges the arm called `label`."""
        if label not in self.arms:
            raise UnknownName("arm", label, self.arms)
        return self.arms[label][-1]

    def users(self) -> dict[Step, tuple[str, ...]]:
        """Which arms need each step, by label, in the study's order."""
        found: dict[Step, list[str]] = {step: [] for step in self.steps}
        for label, steps in self.arms.items():
            for step in steps:
                found[step].append(label)
        return {step: tuple(labels) for step, labels in found.items()}

    def find(self, prefix: str) -> Step:
        """The step whose address or digest begins with `prefix`; UnknownName or RequestError otherwise."""
        address = find(prefix, (step.address for step in self.steps))
        return next(step for step in self.steps if step.address == address)


def graph(study: Study) -> Graph:
    """The steps of all arms, with each trunk cut wherever one of the study's arms leaves it."""
    cuts: dict[Pretrain, set[Share]] = {}
    for arm in study.arms:
        cuts.setdefault(arm.pretrain, set()).update({arm.start} - {Share(0)})
    finals = {arm.label: _judged(arm, sorted(cuts[arm.pretrain])) for arm in study.arms}
    order: dict[Step, None] = {}
    for seed in dict.fromkeys(arm.seed for arm in study.arms):
        ours = [step for arm in study.arms if arm.seed == seed for step in _upto(finals[arm.label])]
        trunks = [step for segment in ours if segment.kind == "pretrain" for step in _upto(segment)]
        order.update(dict.fromkeys([*trunks, *ours]))
    return Graph(
        title=f"{study.name} at {study.scale}",
        steps=tuple(order),
        arms={label: tuple(dict.fromkeys(_upto(final))) for label, final in finals.items()},
        seeds={arm.label: arm.seed for arm in study.arms},
    )


def _upto(step: Step) -> Iterator[Step]:
    """A step after everything that it needs; what is needed twice comes twice."""
    for _, parent in step.needs:
        yield from _upto(parent)
    yield step


def _step(kind: str, spec: Any, *, needs: Iterable[tuple[str, Step]] = ()) -> Step:
    return Step(kind=kind, spec=spec, needs=tuple(needs), version=VERSIONS[kind])


def _leaf(spec: Source | Tokenizer | Benchmarks) -> Step:
    if isinstance(spec, Recaptioned):
        return _leaf(spec.named)
    return _step(LEAVES[type(spec)], spec)


def _judged(arm: Arm, cuts: list[Share]) -> Step:
    """The arm's last step."""
    model = _trunk(arm.pretrain, [cut for cut in cuts if cut <= arm.start])
    role = "trunk"
    for stage in arm.stages:
        model = _stage(stage, [(role, model)] if model is not None else [])
        role = "previous"
    if model is None:
        raise QuantityError(
            f"{arm.label}: nothing is trained before it is judged. "
            "Got start 0 and no stages; set a start above 0 or add a stage."
        )
    reads = [("checkpoint", model), ("benchmarks", _leaf(arm.evaluate.benchmarks))]
    return _step("evaluate", arm.evaluate, needs=reads)


def _trunk(pretrain: Pretrain, cuts: list[Share]) -> Step | None:
    """The chain of segments through `cuts`; an address depends on the cuts before it, never on later ones."""
    reads = [("tokenizer", _leaf(pretrain.tokenizer)), *_words(pretrain.text, pretrain.tokenizer)]
    model: Step | None = None
    for since, until in zip([Share(0), *cuts], cuts, strict=False):
        before = [("previous", model)] if model is not None else []
        model = _step("pretrain", Segment(pretrain=pretrain, since=since, until=until), needs=[*before, *reads])
    return model


def _stage(stage: Midtrain | Finetune, model: list[tuple[str, Step]]) -> Step:
    """One stage with the model that it goes on from (none: untrained) and all that it reads."""
    kind = "midtrain" if isinstance(stage, Midtrain) else "finetune"
    reads = [("tokenizer", _leaf(stage.tokenizer)), *_words(stage.mix.text, stage.tokenizer), *_sight(stage)]
    return _step(kind, stage, needs=[*model, *reads])


def _words(text: Blend, tokenizer: Tokenizer) -> Iterator[tuple[str, Step]]:
    """The text sources of a trunk or stage, in order."""
    for number, source in enumerate(text.sources):
        yield f"text{number}", _index(source, tokenizer)


def _sight(stage: Midtrain | Finetune) -> Iterator[tuple[str, Step]]:
    """What the image part reads. An encoder of our own is applied once for all arms; a named one as rows are read."""
    vision = stage.model.vision
    for number, wanted in enumerate(stage.mix.images.sources):
        index, source = _index(wanted, stage.tokenizer), _leaf(wanted)
        yield f"image{number}", index
        yield f"image{number}.source", source
        if isinstance(vision, Siglip) and isinstance(vision.weights, Contrast):
            needs = [("source", source), ("index", index), ("encoder", _encoder(vision))]
            yield f"image{number}.features", _step("encode", Encode(source=wanted, vision=vision), needs=needs)
    if isinstance(vision, Siglip):
        yield "encoder", _encoder(vision)


def _encoder(vision: Siglip) -> Step:
    """The tower's weights: trained here, or named."""
    if isinstance(vision.weights, Named):
        return _leaf(vision.weights)
    return _step("contrast", vision, needs=[("captions", _leaf(vision.weights.captions))])


def _index(source: Source, tokenizer: Tokenizer) -> Step:
    needs = [("source", _leaf(source)), ("tokenizer", _leaf(tokenizer))]
    return _step("prepare", Prepare(source=source, tokenizer=tokenizer), needs=needs)


def tree(graph: Graph, stored: Collection[str] = ()) -> tuple[str, ...]:
    """The graph as lines of text, every step once: first what is read, then the models as they branch.

    Shared steps say how many arms share them; a step whose address is in `stored` is marked.
    """
    users = graph.users()
    alone = sum(len(steps) for steps in graph.arms.values())
    head = f"{graph.title}: {len(graph.arms)} arms, {len(graph.steps)} steps ({alone} if every arm ran alone)"
    data = [step for step in graph.steps if step.kind not in MODEL]
    drawing = _Drawing(children=_children(graph), users=users, stored=stored)
    return (head, "data", *_data(data, drawing), "models", *drawing.branches(None, ""))


def _children(graph: Graph) -> dict[Step | None, list[Step]]:
    """Who goes on from whom along the model line; models from nothing are the children of None."""
    found: dict[Step | None, list[Step]] = {}
    for step in graph.steps:
        if step.kind in MODEL:
            before = [parent for role, parent in step.needs if role in LINE]
            found.setdefault(before[0] if before else None, []).append(step)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Drawing:
    children: dict[Step | None, list[Step]]
    users: dict[Step, tuple[str, ...]]
    stored: Collection[str]

    def name(self, step: Step) -> str:
        return f"{step.address} [stored]" if step.address in self.stored else step.address

    def shared(self, step: Step) -> str:
        labels = self.users[step]
        return f"for {labels[0]}" if len(labels) == 1 else f"shared by {len(labels)} arms"

    def branches(self, parent: Step | None, indent: str) -> Iterator[str]:
        """A line for each chain that only the same arms use, its branches indented below."""
        below = sorted(self.children.get(parent, []), key=lambda step: step.kind == "pretrain")
        for number, step in enumerate(below):
            chain = [step]
            while len(after := self.children.get(chain[-1], [])) == 1 and self.users[after[0]] == self.users[step]:
                chain.append(after[0])
            corner, down = ("└── ", "    ") if number == len(below) - 1 else ("├── ", "│   ")
            steps = " → ".join(map(self.name, chain))
            labels = self.users[step]
            line = f"{labels[0]}: {steps}" if len(labels) == 1 else f"{steps}  {self.shared(step)}"
            yield f"{indent}{corner}{line}"
            yield from self.branches(chain[-1], indent + down)


def _data(steps: list[Step], drawing: _Drawing) -> Iterator[str]:
    for number, step in enumerate(steps):
        corner = "└── " if number == len(steps) - 1 else "├── "
        reads = ", ".join(parent.slug for _, parent in step.needs)
        yield f"{corner}{drawing.name(step)}{f' from {reads}' if reads else ''}  {drawing.shared(step)}"
