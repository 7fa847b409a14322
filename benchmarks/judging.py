"""Judging a checkpoint: firstsight's harness against one `generate` call of transformers a question.

    python benchmarks/judging.py
    python benchmarks/judging.py --pictures 100 --plain 40
    python benchmarks/judging.py --device cuda

Four questions a picture: two answered in words (VQAv2's form), two by P("Yes") against P("No") (POPE's). The plain way
is the exported model in transformers, its own processor on the opened JPEG and one call a question; its time is taken
on `--plain` questions and multiplied up. Weights are random and never end an answer, so that both sides stop
after `--tokens`. Everything is measured in one run, both sides in float32 on the same device; pictures are real JPEG
files of 640 x 480.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from cProfile import Profile
from dataclasses import dataclass
from pathlib import Path
from pstats import Stats
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from firstsight.data.tokenizer import CHAT_TOKENS
from firstsight.evaluate import requests, tasks
from firstsight.evaluate.harness import EvalConfig, EvalResult, evaluate_checkpoint
from firstsight.evaluate.task import Question, Task, benchmark_files
from firstsight.hub.export import export_checkpoint
from firstsight.model.checkpoint_io import save
from firstsight.model.vlm import VLM
from firstsight.recipe.mixture import External
from firstsight.recipe.model import ProjectorSpec, VLMSpec, llama_family_spec
from firstsight.recipe.vision import Siglip, ViTSpec
from firstsight.site import Site
from firstsight.units import Tokens

TASKS = ("vqav2", "pope_p")
THINGS = ("cat", "dog", "bus", "red chair", "woman with an umbrella", "clock on the wall", "bicycle", "bowl of soup")
ASKED = ("what is left of the {}?", "what colour is the {}?", "is there a {} in the image?", "do you see a {} here?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A model that sees."""

    name: str
    vit: ViTSpec
    layers: int
    width: int


LAPTOP = (
    Shape(
        name="encoder-heavy: ViT 12 x 384 at 224 (196 tokens), decoder 4 x 256",
        vit=ViTSpec(layers=12, width=384, heads=6, mlp_width=1536, image_size=224, patch_size=16),
        layers=4,
        width=256,
    ),
    Shape(
        name="decoder-heavy: ViT 6 x 192 at 112 (49 tokens), decoder 8 x 448",
        vit=ViTSpec(layers=6, width=192, heads=3, mlp_width=768, image_size=112, patch_size=16),
        layers=8,
        width=448,
    ),
)
GPU = (
    Shape(
        name="ViT-B/16: 12 x 768 at 224 (196 tokens), decoder 12 x 768",
        vit=ViTSpec(layers=12, width=768, heads=12, mlp_width=3072, image_size=224, patch_size=16),
        layers=12,
        width=768,
    ),
)


def picture(seed: int) -> bytes:
    """A smooth noise of 640 x 480 as JPEG, as many bytes as a photograph."""
    rough = np.random.default_rng(seed).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rough).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


def benchmark(folder: Path, count: int) -> None:
    """Pictures, and the two tasks' own files about them."""
    (folder / "images").mkdir(parents=True)
    open_, closed, answers = [], [], []
    for at in range(count):
        name = f"{at:06d}.jpg"
        (folder / "images" / name).write_bytes(picture(at))
        for each in range(2):
            thing = THINGS[(at + each) % len(THINGS)]
            open_.append({"question_id": 2 * at + each, "image_id": at, "question": ASKED[each].format(thing)})
            answers.append({"question_id": 2 * at + each, "answers": [{"answer": "cat"}] * 10})
            line = {"question_id": 2 * at + each, "image": name, "text": ASKED[2 + each].format(thing), "label": "yes"}
            closed.append(json.dumps(line) + "\n")
    put = {
        "vqav2/questions.json": json.dumps({"questions": open_}),
        "vqav2/annotations.json": json.dumps({"annotations": answers}),
        "pope_p/coco_pope_random.json": "".join(closed),
    }
    for name, text in put.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def tokenizer(file: Path) -> Path:
    """Byte-level BPE with a token for most words that are asked, as a large vocabulary has."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=["<|endoftext|>", "<|pad|>", *CHAT_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    wordings = [tasks.get_task(name).prompt_templates["paper"] for name in TASKS]
    told = [wording.replace("{q}", one.format(thing)) for wording in wordings for one in ASKED for thing in THINGS]
    made.train_from_iterator([*told, "Yes", "No"] * 3, trainer)
    made.save(str(file))
    return file


def checkpoint(folder: Path, shape: Shape) -> Path:
    """Random weights, the encoder frozen beside them, as mid-training leaves it."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    vit = shape.vit
    config = SiglipVisionConfig(
        hidden_size=vit.width,
        intermediate_size=vit.mlp_width,
        num_hidden_layers=vit.layers,
        num_attention_heads=vit.heads,
        image_size=vit.image_size,
        patch_size=vit.patch_size,
    )
    SiglipVisionModel(config).save_pretrained(folder / "tower")
    heads, hidden = shape.width // 64, 8 * shape.width // 3 // 64 * 64
    lm = llama_family_spec(
        layers=shape.layers, width=shape.width, heads=heads, kv_heads=heads, mlp_width=hidden, vocab_size=32_768
    )
    spec = VLMSpec(
        lm=lm,
        vision=Siglip(vit=vit, fit="resize", weights=External(name="tower", form="encoder", tokens=Tokens(0))),
        encoder="frozen",
        projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False),
        attention="causal",
    )
    model = VLM(spec)
    model.initialise(7)
    words = tokenizer(folder / "tokenizer.json")
    save(folder / "checkpoint", model, tokens_seen=0, tokenizer=words, encoders=[folder / "tower"])
    return folder / "checkpoint"


@dataclass(kw_only=True, slots=True)
class Plain:
    """The exported model, asked one question a call; adds up what the calls took."""

    model: Any
    processor: Any
    benchmarks: Path
    tokens: int
    spent: dict[str, float]

    def ask(self, task: Task, question: Question) -> str:
        """What it answers, words by `generate`, a choice by its first token's logits."""
        began = time.perf_counter()
        file = self.benchmarks / "images" / named(question.image)
        content = [
            {"type": "image", "image": Image.open(file)},
            {"type": "text", "text": task.prompt(question, "paper").strip()},
        ]
        talk = [{"role": "user", "content": content}]
        inputs = self.processor.apply_chat_template(talk, tokenize=True, return_dict=True, return_tensors="pt")
        self.spent["processor"] += time.perf_counter() - began
        began = time.perf_counter()
        answer = (self.chosen if task.answer_type == "choice" else self.said)(inputs.to(self.model.device))
        self.spent["generate"] += time.perf_counter() - began  # to words, so a GPU has done its work
        return answer

    def said(self, inputs: Any) -> str:
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.tokens)
        return self.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def chosen(self, inputs: Any) -> str:
        yes, no = (self.processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
        settings = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
        logits = self.model.generate(**inputs, do_sample=False, **settings).logits[0][0]
        return "Yes" if logits[yes] >= logits[no] else "No"


def plain(folder: Path, benchmarks: Path, *, device: str, tokens: int) -> Plain:
    """The exported model in transformers."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    spent = {"processor": 0.0, "generate": 0.0}
    model = model.to(device).eval()
    return Plain(model=model, processor=processor, benchmarks=benchmarks, tokens=tokens, spent=spent)


def named(image: object) -> str:
    """A picture's file: VQAv2 gives its number, POPE its name."""
    return f"{str(image).removesuffix('.jpg'):0>6}.jpg"


WORK = {
    "opening pictures and encoder": ("native.py", "encode_images"),
    "the encoder of that": ("vision.py", "extract_features"),
    "pictures and prompts in the decoder": ("generate.py", "_prefill"),
    "words of answers": ("generate.py", "_decode"),
    "choices": ("generate.py", "_branch_states"),
    "and their logits": ("generate.py", "_token_log_likelihoods"),
}
"""Parts of judging, and the functions whose time they are."""


def shares(profile: Profile, seconds: float) -> str:
    """What part of a run its parts took."""
    found = {(Path(where).name, name): row[3] for (where, _, name), row in Stats(profile).stats.items()}  # pyright: ignore
    return ", ".join(f"{part} {found.get(which, 0.0) / seconds:.0%}" for part, which in WORK.items())


def questions(task: Task, benchmarks: Path) -> tuple[Question, ...]:
    """All of a task's."""
    return task.read_questions(benchmark_files(benchmarks / task.name))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(shape: Shape, folder: Path, given: argparse.Namespace) -> None:
    """One model, both ways, and the table's lines."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    site = Site(device=given.device, threads=given.threads)
    torch.set_num_threads(site.threads)
    folder.mkdir()
    made = checkpoint(folder, shape)
    told = export_checkpoint(made, folder / "exported", dtype="float32")
    ask = EvalConfig(tasks=TASKS, image_mode="seeing", prompt_style="paper")
    benchmarks = folder.parent / "benchmarks"
    asked = [
        (task, one) for task in map(tasks.get_task, TASKS) for one in questions(task, benchmarks)[: given.plain // 2]
    ]
    verdicts: list[EvalResult] = []
    other = plain(folder / "exported", benchmarks, device=site.device, tokens=given.tokens)
    other.ask(*asked[0])  # what a library makes ready once is nobody's
    other.spent = dict.fromkeys(other.spent, 0.0)
    # every second question before the harness and the others after it: what else the machine does hurts both alike
    answers = {one: other.ask(task, question) for one, (task, question) in enumerate(asked) if one % 2 == 0}
    with Profile() as profile:  # a few thousand calls a second; nothing beside what they compute
        ours = _timed(
            lambda: verdicts.append(
                evaluate_checkpoint(made, benchmarks, config=ask, site=site, on_progress=lambda _: None)
            )
        )
    answers |= {one: other.ask(task, question) for one, (task, question) in enumerate(asked) if one % 2}
    [verdict] = verdicts
    spent = {name: seconds / len(asked) for name, seconds in other.spent.items()}
    count, each = len(verdict.answers), sum(spent.values())
    mine = {(row.task.name, row.question.id): row.answer for row in verdict.answers}
    same = sum(mine[task.name, one.id] == answers[at] for at, (task, one) in enumerate(asked))
    print(f"\n{shape.name}; {told.architecture}, {told.parameter_count / 1e6:.0f} M parameters")
    print(f"  harness  {ours:7.1f} s for {count:,} questions, loading included: {1000 * ours / count:6.1f} ms each")
    if site.device == "cpu":  # a GPU's work is counted where it is waited for
        print(f"           {shares(profile, ours)}")
    print(f"  plain    {each * count:7.1f} s, from {len(asked)} questions: {1000 * each:6.1f} ms each")
    print(f"           of these {', '.join(f'{name} {1000 * took:.1f}' for name, took in spent.items())} ms")
    print(f"  ratio    {each * count / ours:7.1f} (wanted: 3)   same answers {same} of {len(asked)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--plain", type=int, default=120, help="questions that are asked the plain way")
    parser.add_argument("--tokens", type=int, default=5, help="of an answer in words")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    requests.ANSWER_TOKEN_LIMITS["paper"] = given.tokens
    with TemporaryDirectory() as folder:
        benchmark(Path(folder) / "benchmarks", given.pictures)
        for number, shape in enumerate(LAPTOP if given.device == "cpu" else GPU):
            measure(shape, Path(folder) / str(number), given)


if __name__ == "__main__":
    main()
