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
from firstsight.model.checkpoint_io import save
from firstsight.model.vlm import VLM
from firstsight.recipe.mixture import SyntheticBenchmarks, SyntheticWorld
from firstsight.recipe.model import llama_family_spec
from firstsight.site import Site
from firstsight.synthetic import write_benchmarks

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

from firstsight.recipe.mixture import Mixture, ImageTextMix, External, WeightedSource, Recaptioned, ShareSpan
from firstsight.recipe.model import openlm_spec
from firstsight.recipe.vision import Siglip, ViTSpec
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.stages import Rewarm
from firstsight.recipe.stages import Evaluate, RowShape
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.units import Share, Tokens


def named(name, form):
    return External(name=name, form=form, tokens=Tokens(0))


ROWS = RowShape(batch_size=4, length=64)
WORDS = named("my-tokenizer", "tokenizer")
TEXT = Mixture(
    components=(
        WeightedSource(source=named("my-dclm", "text"), share=Share(3, 4), max_epochs=1),
        WeightedSource(source=named("my-notes", "text"), share=Share(1, 4), max_epochs=2),
    ),
    share_unit="tokens",
)
CAPTIONS = Recaptioned(external=named("my-datacomp", "captions"), synthetic_share=Share(3, 4), seed=0)
TURNS = named("my-llava", "dialogues")
SEEN = Mixture(
    components=(
        WeightedSource(source=CAPTIONS, share=Share(1, 2), max_epochs=1),
        WeightedSource(source=named("my-obelics", "interleaved"), share=Share(1, 4), max_epochs=1),
        WeightedSource(source=TURNS, share=Share(1, 4), max_epochs=1),
    ),
    share_unit="rows",
)
TUNED = Mixture(components=(WeightedSource(source=TURNS, share=Share(1), max_epochs=1),), share_unit="rows")
GROWING = (ShareSpan(end=Share(1, 2), share=Share(1, 4)), ShareSpan(end=Share(1), share=Share(3, 4)))
EYES = Siglip(
    vit=ViTSpec(layers=2, width=16, heads=2, mlp_width=32, image_size=16, patch_size=8),
    fit="resize",
    weights=named("my-siglip", "encoder"),
)
JUDGE = Evaluate(benchmarks=named("my-benchmarks", "benchmarks"), vision_tasks=("pope",), text_tasks=("boolq",))


def mix(images, share):
    return ImageTextMix(text=TEXT, images=images, image_share=share, share_unit="rows", packing="best_fit")


def rate(steps):
    tokens = Tokens(steps * ROWS.tokens_per_step)
    return Rewarm(peak_lr=1e-3, min_lr=1e-5, warmup_tokens=ROWS.tokens_per_step, tokens=tokens)


def small(arm: Arm) -> Arm:
    lm = openlm_spec(layers=2, width=32, heads=2, vocab_size=512)
    mid, tune = arm.stages
    model = replace(mid.model, lm=lm, vision=EYES)
    schedule = dict(tokens=rate(8).tokens, schedule=rate(8))
    trunk = replace(arm.pretrain, model=lm, tokenizer=WORDS, text=TEXT, row_shape=ROWS, **schedule)
    alike = dict(model=model, tokenizer=WORDS, row_shape=ROWS)
    mid = replace(mid, **alike, mix=mix(SEEN, GROWING), **schedule)
    tune = replace(tune, **alike, mix=mix(TUNED, Share(1)), epoch_tokens=rate(2).tokens, epochs=2, schedule=rate(4))
    return replace(arm, pretrain=trunk, stages=(mid, tune), evaluate=JUDGE)


def mine(scale: Scale) -> Study:
    arms = [small(branch_at(scale, Share(1, 2))), small(branch_at(scale, Share(1)))]
    return Study(name="mine", scale=scale.name, question="Does it run on my own data?", arms=over_seeds(arms, [1]))
'''

DONATED = (
    STUDY
    + """

from firstsight.recipe.model import llama_family_spec
from firstsight.recipe.stages import Donor

GIVEN = llama_family_spec(layers=2, width=32, heads=2, kv_heads=1, mlp_width=64, vocab_size=512)
WHOLE = Tokens(51_200)
DONOR = Donor(
    model=GIVEN,
    tokenizer=WORDS,
    row_shape=RowShape(batch_size=8, length=64),
    tokens=WHOLE,
    schedule=Rewarm(peak_lr=2e-3, min_lr=2e-5, warmup_tokens=Tokens(512), tokens=WHOLE),
    checkpoints=((Share(2, 5), named("donor-40", "checkpoint")), (Share(4, 5), named("donor-80", "checkpoint"))),
)


def donated(scale: Scale) -> Study:
    base = small(scale.base)
    mid, tune = (replace(stage, model=replace(stage.model, lm=GIVEN)) for stage in base.stages)
    base = replace(base, pretrain=DONOR, stages=(replace(mid, moments="fresh"), tune))
    own = replace(scale, base=base, rewarm=rate(8))
    given = replace(base, name="given", start=Share(4, 5), stages=(), evaluate=replace(JUDGE, vision_tasks=()))
    arms = [given, branch_at(own, Share(2, 5)), branch_at(own, Share(4, 5))]
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
        world = SyntheticWorld(objects=16, kinds=4, image_size=48, max_objects=4, seed=0)
        out = self.folder("benchmarks")
        write_benchmarks(
            SyntheticBenchmarks(world=world, questions=8), inputs={}, out=out, site=Site(), on_progress=lambda _: None
        )

    def donor(self) -> None:
        """Two checkpoints of one run: one as training would leave it, one imported from transformers' Llama."""
        spec = llama_family_spec(layers=2, width=32, heads=2, kv_heads=1, mlp_width=64, vocab_size=512)
        model = VLM(spec)
        model.initialise(0)
        save(self.folder("donor-40"), model, tokens_seen=0, tokenizer=self.folder("words"), encoders=())
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
