"""Speed of evaluation: firstsight's harness compared with one `generate` call of transformers per question.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --images 100 --baseline 40
    python benchmarks/evaluation.py --device cuda

Four questions per image: two with generated answers (VQAv2), two with the choices "Yes" and "No" (POPE). The baseline
is the exported model in transformers with its processor, one call per question; its time is measured on `--baseline`
questions and extrapolated. Weights are random and never emit the end token, thus all answers have `--tokens` tokens.
Both run in float32 on the same device; images are JPEG files of 640 x 480.
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
OBJECTS = ("cat", "dog", "bus", "red chair", "woman with an umbrella", "clock on the wall", "bicycle", "bowl of soup")
QUESTION_TEMPLATES = (
    "what is left of the {}?",
    "what colour is the {}?",
    "is there a {} in the image?",
    "do you see a {} here?",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Shape of a vision-language model."""

    name: str
    vit: ViTSpec
    layers: int
    width: int


CPU_SHAPES = (
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
GPU_SHAPES = (
    Shape(
        name="ViT-B/16: 12 x 768 at 224 (196 tokens), decoder 12 x 768",
        vit=ViTSpec(layers=12, width=768, heads=12, mlp_width=3072, image_size=224, patch_size=16),
        layers=12,
        width=768,
    ),
)


def random_jpeg(seed: int) -> bytes:
    """A JPEG of smooth noise, 640 x 480, with about the size in bytes of a photograph."""
    noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


def write_benchmark(folder: Path, count: int) -> None:
    """Write images and the benchmark files of both tasks."""
    (folder / "images").mkdir(parents=True)
    vqa_questions, pope_lines, annotations = [], [], []
    for index in range(count):
        name = f"{index:06d}.jpg"
        (folder / "images" / name).write_bytes(random_jpeg(index))
        for offset in range(2):
            object_name = OBJECTS[(index + offset) % len(OBJECTS)]
            vqa_questions.append(
                {
                    "question_id": 2 * index + offset,
                    "image_id": index,
                    "question": QUESTION_TEMPLATES[offset].format(object_name),
                }
            )
            annotations.append({"question_id": 2 * index + offset, "answers": [{"answer": "cat"}] * 10})
            line = {
                "question_id": 2 * index + offset,
                "image": name,
                "text": QUESTION_TEMPLATES[2 + offset].format(object_name),
                "label": "yes",
            }
            pope_lines.append(json.dumps(line) + "\n")
    files = {
        "vqav2/questions.json": json.dumps({"questions": vqa_questions}),
        "vqav2/annotations.json": json.dumps({"annotations": annotations}),
        "pope_p/coco_pope_random.json": "".join(pope_lines),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def train_tokenizer(file: Path) -> Path:
    """Train byte-level BPE with a token for most words of the questions."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=["<|endoftext|>", "<|pad|>", *CHAT_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    prompt_templates = [tasks.get_task(name).prompt_templates["paper"] for name in TASKS]
    texts = [
        template.replace("{q}", question.format(name))
        for template in prompt_templates
        for question in QUESTION_TEMPLATES
        for name in OBJECTS
    ]
    bpe.train_from_iterator([*texts, "Yes", "No"] * 3, trainer)
    bpe.save(str(file))
    return file


def write_checkpoint(folder: Path, shape: Shape) -> Path:
    """Write a checkpoint with random weights and a frozen encoder, in the layout after mid-training."""
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
        encoder="external",
        projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False),
        attention="causal",
    )
    model = VLM(spec)
    model.initialise(7)
    tokenizer_path = train_tokenizer(folder / "tokenizer.json")
    save(folder / "checkpoint", model, tokens_seen=0, tokenizer=tokenizer_path, encoders=[folder / "tower"])
    return folder / "checkpoint"


@dataclass(kw_only=True, slots=True)
class Baseline:
    """The exported model with one call per question; accumulates times."""

    model: Any
    processor: Any
    benchmarks: Path
    tokens: int
    seconds: dict[str, float]

    def answer(self, task: Task, question: Question) -> str:
        """The answer: generated text, or a choice by the logits of its first token."""
        start = time.perf_counter()
        file = self.benchmarks / "images" / image_file_name(question.image)
        content = [
            {"type": "image", "image": Image.open(file)},
            {"type": "text", "text": task.prompt(question, "paper").strip()},
        ]
        messages = [{"role": "user", "content": content}]
        inputs = self.processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        self.seconds["processor"] += time.perf_counter() - start
        start = time.perf_counter()
        answer = (self._choose if task.answer_type == "choice" else self._generate)(inputs.to(self.model.device))
        self.seconds["generate"] += time.perf_counter() - start  # decoding to text synchronises the GPU
        return answer

    def _generate(self, inputs: Any) -> str:
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.tokens)
        return self.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def _choose(self, inputs: Any) -> str:
        yes, no = (self.processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
        settings = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
        logits = self.model.generate(**inputs, do_sample=False, **settings).logits[0][0]
        return "Yes" if logits[yes] >= logits[no] else "No"


def load_baseline(folder: Path, benchmarks: Path, *, device: str, tokens: int) -> Baseline:
    """Load the exported model in transformers."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    seconds = {"processor": 0.0, "generate": 0.0}
    model = model.to(device).eval()
    return Baseline(model=model, processor=processor, benchmarks=benchmarks, tokens=tokens, seconds=seconds)


def image_file_name(image: object) -> str:
    """File name of an image, which VQAv2 identifies by number and POPE by name."""
    return f"{str(image).removesuffix('.jpg'):0>6}.jpg"


PROFILED_FUNCTIONS = {
    "image loading and encoder": ("native.py", "encode_images"),
    "encoder": ("vision.py", "extract_features"),
    "prefill": ("generate.py", "_prefill"),
    "decoding": ("generate.py", "_decode"),
    "choices": ("generate.py", "_branch_states"),
    "choice logits": ("generate.py", "_token_log_likelihoods"),
}
"""Parts of an evaluation, with the file and function that are profiled."""


def format_shares(profile: Profile, seconds: float) -> str:
    """Shares of a run by part."""
    times = {(Path(path).name, name): row[3] for (path, _, name), row in Stats(profile).stats.items()}  # pyright: ignore
    return ", ".join(
        f"{part} {times.get(function, 0.0) / seconds:.0%}" for part, function in PROFILED_FUNCTIONS.items()
    )


def read_questions(task: Task, benchmarks: Path) -> tuple[Question, ...]:
    """All questions of a task."""
    return task.read_questions(benchmark_files(benchmarks / task.name))


def _wall_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(shape: Shape, folder: Path, args: argparse.Namespace) -> None:
    """Measure harness and baseline with a model, and print the results."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    site = Site(device=args.device, threads=args.threads)
    torch.set_num_threads(site.threads)
    folder.mkdir()
    checkpoint_path = write_checkpoint(folder, shape)
    exported = export_checkpoint(checkpoint_path, folder / "exported", dtype="float32")
    config = EvalConfig(tasks=TASKS, image_mode="seeing", prompt_style="paper")
    benchmarks = folder.parent / "benchmarks"
    sample = [
        (task, question)
        for task in map(tasks.get_task, TASKS)
        for question in read_questions(task, benchmarks)[: max(2, args.baseline) // 2]
    ]
    results: list[EvalResult] = []
    baseline = load_baseline(folder / "exported", benchmarks, device=site.device, tokens=args.tokens)
    baseline.answer(*sample[0])  # excludes one-time initialisation
    baseline.seconds = dict.fromkeys(baseline.seconds, 0.0)
    # half of the questions run before the harness, half after: both are exposed to the same background load
    answers = {
        index: baseline.answer(task, question) for index, (task, question) in enumerate(sample) if index % 2 == 0
    }
    with Profile() as profile:  # overhead is negligible at a few thousand calls per second
        harness_seconds = _wall_seconds(
            lambda: results.append(
                evaluate_checkpoint(checkpoint_path, benchmarks, config=config, site=site, on_progress=lambda _: None)
            )
        )
    answers |= {index: baseline.answer(task, question) for index, (task, question) in enumerate(sample) if index % 2}
    [result] = results
    mean_seconds = {name: seconds / len(sample) for name, seconds in baseline.seconds.items()}
    count, baseline_seconds = len(result.answers), sum(mean_seconds.values())
    harness_answers = {(row.task.name, row.question.id): row.answer for row in result.answers}
    num_equal = sum(
        harness_answers[task.name, question.id] == answers[index] for index, (task, question) in enumerate(sample)
    )
    print(f"\n{shape.name}; {exported.architecture}, {exported.parameter_count / 1e6:.0f} M parameters")
    print(
        f"  harness  {harness_seconds:7.1f} s for {count:,} questions, loading included: "
        f"{1000 * harness_seconds / count:6.1f} ms/question"
    )
    if site.device == "cpu":  # on a GPU, the profile attributes kernel time to the synchronising call
        print(f"           {format_shares(profile, harness_seconds)}")
    print(
        f"  baseline {baseline_seconds * count:7.1f} s, from {len(sample)} questions: "
        f"{1000 * baseline_seconds:6.1f} ms/question"
    )
    print(f"           {', '.join(f'{name} {1000 * seconds:.1f} ms' for name, seconds in mean_seconds.items())}")
    print(
        f"  ratio    {baseline_seconds * count / harness_seconds:7.1f} (target: 3)   "
        f"equal answers {num_equal} of {len(sample)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--baseline", type=int, default=120, help="number of questions for the baseline")
    parser.add_argument("--tokens", type=int, default=5, help="tokens per generated answer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    requests.ANSWER_TOKEN_LIMITS["paper"] = args.tokens
    with TemporaryDirectory() as folder:
        write_benchmark(Path(folder) / "benchmarks", args.images)
        for number, shape in enumerate(CPU_SHAPES if args.device == "cpu" else GPU_SHAPES):
            measure(shape, Path(folder) / str(number), args)


if __name__ == "__main__":
    main()
