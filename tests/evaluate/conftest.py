"""Small benchmarks, untrained checkpoints whose vocabulary covers them, and evaluations of a scripted model."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from firstsight.evaluate import harness
from firstsight.evaluate.harness import EvalConfig, evaluate_checkpoint
from firstsight.evaluate.requests import ImageMode
from firstsight.evaluate.results import EvalResult, write_result
from firstsight.evaluate.task import PromptStyle
from firstsight.model.checkpoint_io import save
from firstsight.model.vlm import VLM
from firstsight.recipe.mixture import External
from firstsight.recipe.model import ProjectorSpec, VLMSpec, openlm_spec
from firstsight.recipe.vision import PatchProjectionSpec, Siglip, ViTSpec
from firstsight.site import ProgressCallback, Site
from firstsight.units import Tokens
from tests.evaluate.scripted_model import ScriptedModel

SPECIAL = ("<|endoftext|>", "<|pad|>", "<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>")
WORDS = ("what", "is", "it", "?", "there", "a", "cat", "dog", "yes", "no", "0.1", "0.9", "red", "the")
PROMPT_WORDS = ("answer", "question", "using", "single", "word", "or", "phrase.")
"""Words that the paper's prompt adds."""
GUESSES = {"vqav2": "cat", "pope": "yes", "refcoco": "0.1 0.1 0.9 0.9"}

LM = replace(openlm_spec(layers=2, width=32, heads=2, vocab_size=32), mlp_width=64, token_shift=2, embedding_scale=4)
PATCHES = VLMSpec(
    lm=LM,
    vision=PatchProjectionSpec(image_size=16, patch_size=8, width=16, fit="resize"),
    encoder="external",
    projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=True),
    attention="causal",
)
VIT = ViTSpec(layers=2, width=16, heads=2, mlp_width=32, image_size=16, patch_size=8)
TOWER = External(name="tower", form="encoder", tokens=Tokens(0))
SIGLIP = VLMSpec(
    lm=LM,
    vision=Siglip(vit=VIT, fit="resize", weights=TOWER),
    encoder="external",
    projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False),
    attention="causal",
)


MakeCheckpoint = Callable[[str], Path]
"""The fixture `checkpoint`: from "lm", "patches" or "siglip" to a folder."""


def random_png(seed: int, *, width: int = 16, height: int = 16) -> bytes:
    """A PNG file of random pixels."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json", WORDS + PROMPT_WORDS)


def write_tokenizer(path: Path, vocabulary: Sequence[str]) -> Path:
    """A tokenizer file that knows words in lower case, and the chat tokens."""
    words = {word: number for number, word in enumerate((*SPECIAL, *vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|pad|>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def checkpoint(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """The folder of an untrained "lm", "patches" or "siglip" model."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(kind: str) -> Path:
        spec = {"lm": LM, "patches": PATCHES, "siglip": SIGLIP}[kind]
        if not (root / kind).exists():
            model = VLM(spec)
            model.initialise(7)
            encoders = [_tower(root / "tower")] if kind == "siglip" else []
            save(root / kind, model, tokens_seen=0, tokenizer=tokenizer, encoders=encoders)
        return root / kind

    return make


def _tower(folder: Path) -> Path:
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    SiglipVisionModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vqav2, pope, refcoco and copa, twelve questions each, about six images."""
    root = tmp_path_factory.mktemp("benchmarks")
    with tarfile.open(root / "images.tar", "w") as tar:
        for number in range(6):
            data = random_png(number, width=20, height=24)
            info = tarfile.TarInfo(f"{number:06d}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    _vqa(root / "vqav2")
    _pope(root / "pope")
    boxes = [
        {
            "question_id": n,
            "img_id": f"{n % 6:06d}",
            "sents": "the cat",
            "bbox": [2, 2, 16, 16],
            "width": 20,
            "height": 20,
        }
        for n in range(12)
    ]
    _write(root / "refcoco", "refcoco_val.json", boxes)
    rows = [{"query": "what is it ?", "choices": ["a cat", "dog"], "gold": n % 2} for n in range(12)]
    _write(root / "copa", "copa.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    ids = {
        "vqav2": [str(n) for n in range(12)],
        "pope": [f"{split}-{n}" for split in ("adversarial", "popular", "random") for n in range(4)],
        "refcoco": [str(n) for n in range(12)],
    }
    for name, guess in GUESSES.items():
        _write(root / name, "question_blind.json", dict.fromkeys(ids[name], guess))
    return root


def _vqa(folder: Path) -> None:
    tags = [{"combination": "heldout" if n % 3 == 0 else "seen", "domain": "seen"} for n in range(12)]
    questions = [{"question_id": n, "image_id": n % 6, "question": "what is it ?"} | tags[n] for n in range(12)]
    answers = [{"question_id": n, "answers": [{"answer": "cat" if n % 2 else "dog"}] * 10} for n in range(12)]
    _write(folder, "questions.json", {"questions": questions})
    _write(folder, "annotations.json", {"annotations": answers})


def _pope(folder: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": n, "image": f"{n:06d}.png", "text": "is there a cat ?", "label": ("yes", "no")[n % 2]}
            for n in range(4)
        ]
        _write(folder, f"coco_pope_{split}.json", "".join(json.dumps(row) + "\n" for row in rows))


def _write(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


class EvaluateScripted(Protocol):
    """The function of the fixture `evaluate_scripted`."""

    def __call__(
        self,
        model: ScriptedModel | None,
        *names: str,
        image_mode: ImageMode = "both",
        style: PromptStyle = "bare",
        benchmarks_path: Path | None = None,
        answers_folder: Path | None = None,
        on_progress: ProgressCallback = ...,
    ) -> EvalResult: ...


@pytest.fixture
def evaluate_scripted(benchmarks: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluateScripted:
    """Evaluates a model on tasks (five if none is named); None fails where a checkpoint would be loaded."""

    def run(
        model: ScriptedModel | None,
        *names: str,
        image_mode: ImageMode = "both",
        style: PromptStyle = "bare",
        benchmarks_path: Path | None = None,
        answers_folder: Path | None = None,
        on_progress: ProgressCallback = lambda progress: None,
    ) -> EvalResult:
        def load(checkpoint: Path, *, site: Site) -> ScriptedModel:
            assert model is not None, "expected no checkpoint to be loaded"
            return model

        monkeypatch.setattr(harness, "load_eval_model", load)
        config = EvalConfig(
            tasks=names or ("vqav2", "pope", "pope_p", "refcoco", "copa"), image_mode=image_mode, prompt_style=style
        )
        return evaluate_checkpoint(
            Path("x"),
            benchmarks_path or benchmarks,
            config=config,
            site=Site(),
            on_progress=on_progress,
            answers_folder=answers_folder,
        )

    return run


def written_files(result: EvalResult, folder: Path) -> dict[str, bytes]:
    """Name and bytes of the files of a result."""
    write_result(result, folder)
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
