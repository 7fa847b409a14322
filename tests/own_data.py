"""A user's own data in miniature, each source in the form that its publisher chose, and a study file that reads it."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path

import torch
import zstandard
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel
from transformers.utils import logging

from firstsight.cli import command
from firstsight.data.world import benchmarks
from firstsight.model.vlm import VLM
from firstsight.model.weights import save
from firstsight.recipe.lm import llama
from firstsight.recipe.mix import Benchmarks, World
from firstsight.site import Site

WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "green",
    "cat",
    "dog",
    "bird",
    "tree",
    "house",
    "sits",
    "runs",
    "sleeps",
    "near",
    "under",
    "on",
    "mat",
    "road",
    "hill",
    "and",
    "then",
    "it",
    "sees",
]

STUDY = '''
"""Own data: two texts counted in tokens, and captions, documents and instructions in an image share that grows."""
from dataclasses import replace

from firstsight.recipe.mix import Blend, Mix, Named, Part, Recaptioned, Span
from firstsight.recipe.lm import openlm
from firstsight.recipe.vision import Siglip, Vit
from firstsight.recipe.scales import Scale, enter
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Evaluate, Rows
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.units import Share, Tokens


def named(name, form):
    return Named(name=name, form=form, tokens=Tokens(0))


ROWS = Rows(batch=4, length=64)
WORDS = named("my-tokenizer", "tokenizer")
TEXT = Blend(
    parts=(
        Part(source=named("my-dclm", "text"), share=Share(3, 4), epochs=1),
        Part(source=named("my-notes", "text"), share=Share(1, 4), epochs=2),
    ),
    counted_in="tokens",
)
CAPTIONS = Recaptioned(named=named("my-datacomp", "captions"), synthetic=Share(3, 4), seed=0)
TURNS = named("my-llava", "dialogues")
SEEN = Blend(
    parts=(
        Part(source=CAPTIONS, share=Share(1, 2), epochs=1),
        Part(source=named("my-obelics", "interleaved"), share=Share(1, 4), epochs=1),
        Part(source=TURNS, share=Share(1, 4), epochs=1),
    ),
    counted_in="rows",
)
TUNED = Blend(parts=(Part(source=TURNS, share=Share(1), epochs=1),), counted_in="rows")
GROWING = (Span(until=Share(1, 2), share=Share(1, 4)), Span(until=Share(1), share=Share(3, 4)))
EYES = Siglip(
    vit=Vit(layers=2, width=16, heads=2, hidden=32, image=16, patch=8),
    fit="resize",
    weights=named("my-siglip", "encoder"),
)
JUDGE = Evaluate(benchmarks=named("my-benchmarks", "benchmarks"), vision=("pope",), text=("boolq",))


def mix(images, share):
    return Mix(text=TEXT, images=images, share=share, counted_in="rows", packing="best_fit")


def rate(steps):
    tokens = Tokens(steps * ROWS.tokens)
    return Rewarm(peak=1e-3, floor=1e-5, warmup=ROWS.tokens, tokens=tokens)


def small(arm: Arm) -> Arm:
    lm = openlm(layers=2, width=32, heads=2, vocabulary=512)
    mid, tune = arm.stages
    model = replace(mid.model, lm=lm, vision=EYES)
    trunk = replace(arm.pretrain, model=lm, tokenizer=WORDS, text=TEXT, rows=ROWS, tokens=rate(8).tokens, rate=rate(8))
    alike = dict(model=model, tokenizer=WORDS, rows=ROWS)
    mid = replace(mid, **alike, mix=mix(SEEN, GROWING), tokens=rate(8).tokens, rate=rate(8))
    tune = replace(tune, **alike, mix=mix(TUNED, Share(1)), epoch=rate(2).tokens, epochs=2, rate=rate(4))
    return replace(arm, pretrain=trunk, stages=(mid, tune), evaluate=JUDGE)


def mine(scale: Scale) -> Study:
    arms = [small(enter(scale, Share(1, 2))), small(enter(scale, Share(1)))]
    return Study(name="mine", scale=scale.name, question="Does it run on my own data?", arms=over_seeds(arms, [1]))
'''

DONATED = (
    STUDY
    + """

from firstsight.recipe.lm import llama
from firstsight.recipe.stages import Donor

GIVEN = llama(layers=2, width=32, heads=2, kv_heads=1, hidden=64, vocabulary=512)
WHOLE = Tokens(51_200)
DONOR = Donor(
    model=GIVEN,
    tokenizer=WORDS,
    rows=Rows(batch=8, length=64),
    tokens=WHOLE,
    rate=Rewarm(peak=2e-3, floor=2e-5, warmup=Tokens(512), tokens=WHOLE),
    checkpoints=((Share(2, 5), named("donor-40", "checkpoint")), (Share(4, 5), named("donor-80", "checkpoint"))),
)


def donated(scale: Scale) -> Study:
    base = small(scale.base)
    mid, tune = (replace(stage, model=replace(stage.model, lm=GIVEN)) for stage in base.stages)
    base = replace(base, pretrain=DONOR, stages=(replace(mid, moments="fresh"), tune))
    own = replace(scale, base=base, rewarm=rate(8))
    given = replace(base, name="given", start=Share(4, 5), stages=(), evaluate=replace(JUDGE, vision=()))
    arms = [given, enter(own, Share(2, 5)), enter(own, Share(4, 5))]
    return Study(name="donated", scale=scale.name, question="Does a donor do?", arms=over_seeds(arms, [1]))
"""
)
"""A second function in the same file: branches of a public run's checkpoints, and one of these itself."""


class OwnData:
    """Everything that the study file names, under one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self._luck = root, random.Random(0)

    def write(self) -> None:
        for make in (
            self.texts,
            self.tokenizer,
            self.datacomp,
            self.llava,
            self.obelics,
            self.siglip,
            self.benchmarks,
            self.donor,
        ):
            make()

    def told(self, words: int) -> str:
        return " ".join(self._luck.choices(WORDS, k=words)) + "."

    def picture(self) -> bytes:
        held = io.BytesIO()
        noise = bytes(self._luck.randrange(256) for _ in range(6 * 6 * 3))
        Image.frombytes("RGB", (6, 6), noise).resize((40, 30)).save(held, "JPEG")
        return held.getvalue()

    def folder(self, *parts: str) -> Path:
        made = self.root.joinpath(*parts)
        made.mkdir(parents=True, exist_ok=True)
        return made

    def texts(self) -> None:
        for shard in range(2):
            lines = [json.dumps({"text": self.told(40), "url": "x", "language_id_whole_page_fasttext": {"en": 0.9}})]
            lines += [json.dumps({"text": self.told(self._luck.randrange(5, 60))}) for _ in range(80)]
            packed = zstandard.ZstdCompressor().compress("\n".join(lines).encode() + b"\n")
            (self.folder("dclm") / f"shard_{shard:08d}_processed.jsonl.zst").write_bytes(packed)
        lines = [json.dumps({"id": str(number), "text": self.told(30)}) for number in range(60)]
        (self.folder("notes") / "notes.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))

    def tokenizer(self) -> None:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        )
        made.train_from_iterator((self.told(50) for _ in range(50)), trainer)
        made.save(str(self.folder("words") / "tokenizer.json"))

    def datacomp(self) -> None:
        for shard in range(2):
            real, told = (self.folder(kind) / f"{shard:08d}.tar" for kind in ("datacomp", "datacomp-dr"))
            with tarfile.open(real, "w") as pictures, tarfile.open(told, "w") as captions:
                for number in range(40):
                    key = f"{shard:04d}{number:05d}"
                    self._add(pictures, f"{key}.jpg", self.picture())
                    self._add(pictures, f"{key}.txt", self.told(6).encode())
                    self._add(pictures, f"{key}.json", json.dumps({"uid": key}).encode())
                    synthetic = {"syn_text": [f"synthetic {self.told(5)}", f"synthetic {self.told(4)}"]}
                    self._add(captions, f"{key}.syn.json", json.dumps(synthetic).encode())

    def _add(self, tar: tarfile.TarFile, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))

    def llava(self) -> None:
        rows = []
        for number in range(70):
            name = f"coco/train2017/{number:012d}.jpg"
            (self.folder("llava-pictures", "coco", "train2017") / f"{number:012d}.jpg").write_bytes(self.picture())
            turns = [
                {"from": "human", "value": f"<image>\nwhat {self.told(3)}"},
                {"from": "gpt", "value": self.told(4)},
            ]
            rows.append({"id": f"{number:012d}", "image": name, "conversations": turns})
        (self.folder("llava") / "llava_mix.json").write_text(json.dumps(rows))

    def obelics(self) -> None:
        lines = []
        for number in range(40):
            names = [f"{number:03d}-{nth}.jpg" for nth in range(2)]
            for name in names:
                (self.folder("obelics-pictures") / name).write_bytes(self.picture())
            texts = [None, self.told(8), None, self.told(8)]
            lines.append(json.dumps({"images": [names[0], None, names[1], None], "texts": texts}))
        (self.folder("obelics") / "part-0.jsonl").write_text("\n".join(lines))

    def siglip(self) -> None:
        config = SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
        torch.manual_seed(0)
        logging.disable_progress_bar()
        SiglipVisionModel(config).save_pretrained(self.folder("siglip"))
        logging.enable_progress_bar()

    def benchmarks(self) -> None:
        world = World(objects=16, kinds=4, picture=48, crowd=4, seed=0)
        out = self.folder("benchmarks")
        benchmarks(Benchmarks(world=world, questions=8), inputs={}, out=out, site=Site(), tell=lambda _: None)

    def donor(self) -> None:
        """Two checkpoints of one run: one as training would leave it, one imported from transformers' Llama."""
        spec = llama(layers=2, width=32, heads=2, kv_heads=1, hidden=64, vocabulary=512)
        model = VLM(spec)
        model.initialise(0)
        save(self.folder("donor-40"), model, seen=0, tokenizer=self.folder("words"), encoders=())
        config = LlamaConfig(
            num_hidden_layers=2,
            hidden_size=32,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=64,
            vocab_size=512,
            rms_norm_eps=1e-5,
        )
        torch.manual_seed(0)
        logging.disable_progress_bar()
        LlamaForCausalLM(config).save_pretrained(self.folder("llama"))
        logging.enable_progress_bar()
        words = ["--tokenizer", str(self.folder("words")), "--out", str(self.root / "donor-80")]
        assert command(["import", str(self.folder("llama")), *words]) == 0

    def site(self, file: Path) -> None:
        """The site file: places relative to it, so that it goes where the data goes."""
        near = self.root.relative_to(file.parent).as_posix()
        file.write_text(
            f"""
[machine]
device = "cpu"
compile = false
cache = "cache"

[sources.my-tokenizer]
path = "{near}/words"
[sources.my-dclm]
path = "{near}/dclm"
[sources.my-notes]
path = "{near}/notes/notes.jsonl.gz"
[sources.my-datacomp]
path = "{near}/datacomp"
captions = "{near}/datacomp-dr"
[sources.my-llava]
path = "{near}/llava/llava_mix.json"
pictures = "{near}/llava-pictures"
[sources.my-obelics]
path = "{near}/obelics"
pictures = "{near}/obelics-pictures"
[sources.my-siglip]
path = "{near}/siglip"
[sources.my-benchmarks]
path = "{near}/benchmarks"
[sources.donor-40]
path = "{near}/donor-40"
[sources.donor-80]
path = "{near}/donor-80"
"""
        )
