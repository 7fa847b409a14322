"""Small data of a user, each source in its publisher's format, and study files that train on it."""

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

from firstsight.cli.app import command
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
"""Two text sources with shares of tokens; captions, documents and dialogues with a growing image share."""
from dataclasses import replace

from firstsight.recipe.mixture import Mixture, ImageTextMix, External, WeightedSource, Recaptioned, ShareSpan
from firstsight.recipe.model import openlm_spec
from firstsight.recipe.vision import Siglip, ViTSpec
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Evaluate, RowShape
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.units import Share, Tokens


def external(name, form):
    return External(name=name, form=form, tokens=Tokens(0))


ROW_SHAPE = RowShape(batch_size=4, length=64)
TOKENIZER = external("my-tokenizer", "tokenizer")
TEXT = Mixture(
    components=(
        WeightedSource(source=external("my-dclm", "text"), share=Share(3, 4), max_epochs=1),
        WeightedSource(source=external("my-notes", "text"), share=Share(1, 4), max_epochs=2),
    ),
    share_unit="tokens",
)
CAPTIONS = Recaptioned(external=external("my-datacomp", "captions"), synthetic_share=Share(3, 4), seed=0)
DIALOGUES = external("my-llava", "dialogues")
IMAGES = Mixture(
    components=(
        WeightedSource(source=CAPTIONS, share=Share(1, 2), max_epochs=1),
        WeightedSource(source=external("my-obelics", "interleaved"), share=Share(1, 4), max_epochs=1),
        WeightedSource(source=DIALOGUES, share=Share(1, 4), max_epochs=1),
    ),
    share_unit="rows",
)
INSTRUCTIONS = Mixture(components=(WeightedSource(source=DIALOGUES, share=Share(1), max_epochs=1),), share_unit="rows")
GROWING_SHARE = (ShareSpan(end=Share(1, 2), share=Share(1, 4)), ShareSpan(end=Share(1), share=Share(3, 4)))
ENCODER = Siglip(
    vit=ViTSpec(layers=2, width=16, heads=2, mlp_width=32, image_size=16, patch_size=8),
    fit="resize",
    weights=external("my-siglip", "encoder"),
)
EVALUATE = Evaluate(benchmarks=external("my-benchmarks", "benchmarks"), vision_tasks=("pope",), text_tasks=("boolq",))


def mix(images, share):
    return ImageTextMix(text=TEXT, images=images, image_share=share, share_unit="rows", packing="best_fit")


def tokens(steps):
    return Tokens(steps * ROW_SHAPE.tokens_per_step)


REWARM = Rewarm(peak_lr=1e-3, min_lr=1e-5, warmup=Share(1, 8))


def shrink(arm: Arm) -> Arm:
    lm = openlm_spec(layers=2, width=32, heads=2, vocab_size=512)
    midtrain, finetune = arm.stages
    model = replace(midtrain.model, lm=lm, vision=ENCODER, stores_features=True)
    schedule = dict(tokens=tokens(8), schedule=REWARM)
    trunk = replace(arm.pretrain, model=lm, tokenizer=TOKENIZER, text=TEXT, row_shape=ROW_SHAPE, **schedule)
    common = dict(model=model, tokenizer=TOKENIZER, row_shape=ROW_SHAPE)
    midtrain = replace(midtrain, **common, mix=mix(IMAGES, GROWING_SHARE), **schedule)
    finetune = replace(finetune, **common, mix=mix(INSTRUCTIONS, Share(1)))
    finetune = replace(finetune, epoch_tokens=tokens(2), epochs=2, schedule=REWARM)
    return replace(arm, pretrain=trunk, stages=(midtrain, finetune), evaluate=EVALUATE)


def mine(scale: Scale) -> Study:
    arms = [shrink(branch_at(scale, Share(1, 2))), shrink(branch_at(scale, Share(1)))]
    return Study(name="mine", scale=scale.name, question="Does it run on my own data?", arms=over_seeds(arms, [1]))
'''

DONOR_STUDY = (
    STUDY
    + """

from firstsight.recipe.model import llama_family_spec
from firstsight.recipe.stages import Donor

DONOR_MODEL = llama_family_spec(layers=2, width=32, heads=2, kv_heads=1, mlp_width=64, vocab_size=512)
DONOR_TOKENS = Tokens(51_200)
DONOR = Donor(
    model=DONOR_MODEL,
    tokenizer=TOKENIZER,
    row_shape=RowShape(batch_size=8, length=64),
    tokens=DONOR_TOKENS,
    schedule=Rewarm(peak_lr=2e-3, min_lr=2e-5, warmup=Share(512, DONOR_TOKENS)),
    checkpoints=((Share(2, 5), external("donor-40", "checkpoint")), (Share(4, 5), external("donor-80", "checkpoint"))),
)


def donated(scale: Scale) -> Study:
    base = shrink(scale.base)
    midtrain, finetune = (replace(stage, model=replace(stage.model, lm=DONOR_MODEL)) for stage in base.stages)
    base = replace(base, pretrain=DONOR, stages=(replace(midtrain, moments="fresh"), finetune))
    donor_scale = replace(scale, base=base, rewarm=REWARM)
    text_model = replace(base, name="given", start=Share(4, 5), stages=(), evaluate=replace(EVALUATE, vision_tasks=()))
    arms = [text_model, branch_at(donor_scale, Share(2, 5)), branch_at(donor_scale, Share(4, 5))]
    return Study(name="donated", scale=scale.name, question="Can a donor be the trunk?", arms=over_seeds(arms, [1]))
"""
)
"""STUDY with a second function: branches from a donor's checkpoints, and one of the checkpoints itself."""


class OwnData:
    """Writes everything that the study files name, under one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self._rng = root, random.Random(0)

    def write(self) -> None:
        for write in (
            self.write_texts,
            self.write_tokenizer,
            self.write_datacomp,
            self.write_llava,
            self.write_obelics,
            self.write_siglip,
            self.write_benchmarks,
            self.write_donor,
        ):
            write()

    def sentence(self, words: int) -> str:
        return " ".join(self._rng.choices(WORDS, k=words)) + "."

    def random_jpeg(self) -> bytes:
        buffer = io.BytesIO()
        noise = bytes(self._rng.randrange(256) for _ in range(6 * 6 * 3))
        Image.frombytes("RGB", (6, 6), noise).resize((40, 30)).save(buffer, "JPEG")
        return buffer.getvalue()

    def folder(self, *parts: str) -> Path:
        folder = self.root.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_texts(self) -> None:
        for shard in range(2):
            lines = [
                json.dumps({"text": self.sentence(40), "url": "x", "language_id_whole_page_fasttext": {"en": 0.9}})
            ]
            lines += [json.dumps({"text": self.sentence(self._rng.randrange(5, 60))}) for _ in range(80)]
            compressed = zstandard.ZstdCompressor().compress("\n".join(lines).encode() + b"\n")
            (self.folder("dclm") / f"shard_{shard:08d}_processed.jsonl.zst").write_bytes(compressed)
        lines = [json.dumps({"id": str(number), "text": self.sentence(30)}) for number in range(60)]
        (self.folder("notes") / "notes.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))

    def write_tokenizer(self) -> None:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator((self.sentence(50) for _ in range(50)), trainer)
        tokenizer.save(str(self.folder("words") / "tokenizer.json"))

    def write_datacomp(self) -> None:
        for shard in range(2):
            real, synthetic = (self.folder(kind) / f"{shard:08d}.tar" for kind in ("datacomp", "datacomp-dr"))
            with tarfile.open(real, "w") as images, tarfile.open(synthetic, "w") as captions:
                for number in range(40):
                    key = f"{shard:04d}{number:05d}"
                    self._add(images, f"{key}.jpg", self.random_jpeg())
                    self._add(images, f"{key}.txt", self.sentence(6).encode())
                    self._add(images, f"{key}.json", json.dumps({"uid": key}).encode())
                    texts = {"syn_text": [f"synthetic {self.sentence(5)}", f"synthetic {self.sentence(4)}"]}
                    self._add(captions, f"{key}.syn.json", json.dumps(texts).encode())

    def _add(self, tar: tarfile.TarFile, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))

    def write_llava(self) -> None:
        rows = []
        for number in range(70):
            name = f"coco/train2017/{number:012d}.jpg"
            (self.folder("llava-pictures", "coco", "train2017") / f"{number:012d}.jpg").write_bytes(self.random_jpeg())
            turns = [
                {"from": "human", "value": f"<image>\nwhat {self.sentence(3)}"},
                {"from": "gpt", "value": self.sentence(4)},
            ]
            rows.append({"id": f"{number:012d}", "image": name, "conversations": turns})
        (self.folder("llava") / "llava_mix.json").write_text(json.dumps(rows))

    def write_obelics(self) -> None:
        lines = []
        for number in range(40):
            names = [f"{number:03d}-{image}.jpg" for image in range(2)]
            for name in names:
                (self.folder("obelics-pictures") / name).write_bytes(self.random_jpeg())
            texts = [None, self.sentence(8), None, self.sentence(8)]
            lines.append(json.dumps({"images": [names[0], None, names[1], None], "texts": texts}))
        (self.folder("obelics") / "part-0.jsonl").write_text("\n".join(lines))

    def write_siglip(self) -> None:
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

    def write_benchmarks(self) -> None:
        world = SyntheticWorld(objects=16, kinds=4, image_size=48, max_objects=4, seed=0)
        out = self.folder("benchmarks")
        write_benchmarks(
            SyntheticBenchmarks(world=world, questions=8), inputs={}, out=out, site=Site(), on_progress=lambda _: None
        )

    def write_donor(self) -> None:
        """Two checkpoints of a donor: one in the layout of training, one imported from transformers' Llama."""
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
        options = ["--tokenizer", str(self.folder("words")), "--out", str(self.root / "donor-80")]
        assert command(["import", str(self.folder("llama")), *options]) == 0

    def write_site(self, file: Path) -> None:
        """Write the site file with paths relative to it, so that file and data can be moved together."""
        folder = self.root.relative_to(file.parent).as_posix()
        file.write_text(
            f"""
[machine]
device = "cpu"
compile = false
cache = "cache"

[sources.my-tokenizer]
path = "{folder}/words"
[sources.my-dclm]
path = "{folder}/dclm"
[sources.my-notes]
path = "{folder}/notes/notes.jsonl.gz"
[sources.my-datacomp]
path = "{folder}/datacomp"
captions = "{folder}/datacomp-dr"
[sources.my-llava]
path = "{folder}/llava/llava_mix.json"
pictures = "{folder}/llava-pictures"
[sources.my-obelics]
path = "{folder}/obelics"
pictures = "{folder}/obelics-pictures"
[sources.my-siglip]
path = "{folder}/siglip"
[sources.my-benchmarks]
path = "{folder}/benchmarks"
[sources.donor-40]
path = "{folder}/donor-40"
[sources.donor-80]
path = "{folder}/donor-80"
"""
        )
