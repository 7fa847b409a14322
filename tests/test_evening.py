"""The page "A public checkpoint in an evening" on small downloads in their publishers' layouts: its script, its site
file and its commands, at the scale `evening` with tiny models and budgets."""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import shutil
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.utils import logging

from firstsight.cli.app import command
from firstsight.plan.graph import build_graph
from firstsight.recipe.mixture import External
from firstsight.recipe.scales.donors import public_run
from firstsight.site_file import read_site
from firstsight.workspace.study_functions import find_study_function
from tests.own_data import OwnData

PAGE = Path(__file__).parents[1] / "docs" / "tutorial" / "public-checkpoint-in-an-evening.md"
BLOCK = re.compile(r"^```(console|python|toml|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = '''
"""The study `when` at 80 and 100 % of the run, with a tiny Pythia, a tiny SigLIP and four updates of each stage."""
from dataclasses import replace

from firstsight.recipe.scales import Scale
from firstsight.recipe.stages import RowShape
from firstsight.recipe.study import Study
from firstsight.studies.when import when_at
from firstsight.units import Share, Tokens

ROW_SHAPE = RowShape(batch_size=4, length=64)
TOKENS = Tokens(4 * ROW_SHAPE.tokens_per_step)


def tiny(scale: Scale) -> Study:
    base = scale.base
    vision = base.stages[0].model.vision
    vit = replace(vision.vit, layers=2, width=16, heads=2, mlp_width=32, image_size=16, patch_size=8)
    sizes = dict(layers=2, width=32, heads=2, kv_heads=2, head_dim=16, mlp_width=128, vocab_size=512)
    lm = replace(base.pretrain.model, **sizes)
    midtrain, finetune = (
        replace(stage, model=replace(stage.model, lm=lm, vision=replace(vision, vit=vit)), row_shape=ROW_SHAPE)
        for stage in base.stages
    )
    stages = (replace(midtrain, tokens=TOKENS), replace(finetune, epoch_tokens=TOKENS))
    evaluate = replace(base.evaluate, text_tasks=("arc_easy", "copa"))
    base = replace(base, pretrain=replace(base.pretrain, model=lm), stages=stages, evaluate=evaluate)
    return when_at(replace(scale, base=base), (Share(4, 5), Share(1)))
'''


class Downloads:
    """What the page downloads, in the publishers' layouts: 3 tars of captions, 2 shards of text, 320 dialogues, ..."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, OwnData(root / "own")
        self.data.write_tokenizer()

    def write(self) -> None:
        for write in (self.captions, self.text, self.dialogues, self.questions, self.text_tasks):
            write()
        self.data.write_siglip()

    def folder(self, *parts: str) -> Path:
        folder = self.root.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def captions(self) -> None:
        """pixparse/cc12m-wds: key.jpg, key.txt, key.json."""
        for shard in range(3):
            with tarfile.open(self.folder("data", "cc12m") / f"cc12m-train-{shard:04d}.tar", "w") as tar:
                for number in range(12):
                    key = f"{shard:04d}{number:05d}"
                    texts = {"txt": self.data.sentence(6).encode(), "json": json.dumps({"key": key}).encode()}
                    for ending, content in {"jpg": self.data.random_jpeg(), **texts}.items():
                        member = tarfile.TarInfo(f"{key}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))

    def text(self) -> None:
        """DCLM's shards, in the folders of the hub."""
        self.data.write_texts()
        folder = self.folder("data", "dclm", "global-shard_03_of_10", "local-shard_0_of_10")
        for file in sorted((self.root / "own" / "dclm").iterdir()):
            shutil.copy(file, folder / file.name.replace(".zst", ".zstd"))

    def dialogues(self) -> None:
        """LLaVA's list, a fifth of it about images of others, with COCO's train2017."""
        images, rows = self.folder("data", "llava", "coco", "train2017"), []
        for number in range(320):
            of_coco, name = number % 5 > 0, f"{number:012d}.jpg"
            if of_coco:
                (images / name).write_bytes(self.data.random_jpeg())
            turns = [
                {"from": "human", "value": f"<image>\nwhat {self.data.sentence(3)}"},
                {"from": "gpt", "value": self.data.sentence(3)},
            ]
            image = f"coco/train2017/{name}" if of_coco else f"ocr_vqa/images/{name}"
            rows.append({"id": f"{number}", "image": image, "conversations": turns})
        (self.folder("downloads") / "llava_v1_5_mix665k.json").write_text(json.dumps(rows))

    def questions(self) -> None:
        """VQAv2's pair of files, GQA's tables of lmms-lab, POPE's lines; COCO's val2014."""
        images, downloads = self.folder("data", "benchmarks", "images", "val2014"), self.folder("downloads")
        numbers = range(1, 9)
        for number in numbers:
            (images / f"COCO_val2014_{number:012d}.jpg").write_bytes(self.data.random_jpeg())
        asked = [{"question_id": number, "image_id": number, "question": "is it a cat?"} for number in numbers]
        answers = [{"answer": "yes", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
        types = {"question_type": "is it", "answer_type": "yes/no", "multiple_choice_answer": "yes"}
        annotated = [{"question_id": number, "image_id": number, "answers": answers, **types} for number in numbers]
        files = {"OpenEnded_mscoco_val2014_questions": {"questions": asked}}
        files |= {"mscoco_val2014_annotations": {"annotations": annotated}}
        for name, content in files.items():
            (downloads / f"v2_{name}.json").write_text(json.dumps(content))
        for split in ("random", "popular", "adversarial"):
            lines = [
                {"question_id": n, "image": f"COCO_val2014_{n:012d}.jpg", "text": "Is there a cat?", "label": label}
                for n, label in zip(numbers, ["yes", "no"] * 4, strict=True)
            ]
            (downloads / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, lines)))
        rows = [{"id": str(n), "imageId": f"n{n}", "question": "what is it?", "answer": "cat"} for n in range(8)]
        pictures = [{"id": f"n{n}", "image": {"bytes": self.data.random_jpeg(), "path": f"n{n}.jpg"}} for n in range(8)]
        for name, table in {"instructions": rows, "images": pictures}.items():
            folder = self.folder("downloads", "gqa", f"testdev_balanced_{name}")
            pl.DataFrame(table).write_parquet(folder / "testdev-00000-of-00001.parquet")

    def text_tasks(self) -> None:
        records = [
            {
                "premise": "it runs.",
                "choice1": "a cat",
                "choice2": "a dog",
                "question": "cause",
                "idx": n,
                "label": n % 2,
            }
            for n in range(8)
        ]
        folder = self.folder("data", "benchmarks", "copa", "copa")
        pl.DataFrame(records).write_parquet(folder / "validation-00000-of-00001.parquet")

        choices = {"text": ["a cat", "a dog", "a tree", "a mat"], "label": ["A", "B", "C", "D"]}
        facts = [{"id": f"q{n}", "question": "what runs?", "choices": choices, "answerKey": "A"} for n in range(8)]
        folder = self.folder("data", "benchmarks", "arc_easy", "ARC-Easy")
        pl.DataFrame(facts).write_parquet(folder / "test-00000-of-00001.parquet")

    def snapshot_download(self, name: str, **_: Any) -> str:
        """A folder of a Pythia on the hub, with its tokenizer."""
        assert name == "EleutherAI/pythia-160m"
        folder = self.folder("hub")
        sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"hidden_size": 32, "intermediate_size": 128}
        torch.manual_seed(0)
        logging.disable_progress_bar()
        GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, vocab_size=512)).save_pretrained(folder)
        logging.enable_progress_bar()
        shutil.copy(self.root / "own" / "words" / "tokenizer.json", folder)
        return str(folder)


def block(form: str) -> str:
    """The only block of that form."""
    (text,) = [text for found, text in BLOCK.findall(PAGE.read_text()) if found == form]
    return text


def test_the_page_names_every_source_of_the_scale(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(block("toml"))
    sources = read_site(tmp_path / "site.toml").sources
    study = find_study_function("when").build("evening", options={})
    assert sources.keys() == {step.spec.name for step in build_graph(study).steps if isinstance(step.spec, External)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_runs_on_small_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    downloads = Downloads(tmp_path)
    downloads.write()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", downloads.snapshot_download)
    runpy.run_path(str(_written(tmp_path / "subset.py", block("python"))))
    own = tmp_path / "own" / "siglip"
    site = block("toml").replace("hf://google/siglip-base-patch16-224", str(own))
    site = site.replace("[machine]", '[machine]\ndevice = "cpu"\ncompile = false\ncache = "cache"')
    monkeypatch.setenv("FIRSTSIGHT_SITE", str(_written(tmp_path / "site.toml", site)))
    _written(tmp_path / "tiny.py", TINY)

    def firstsight(words: str) -> str:
        code = command(shlex.split(words))
        out, err = capsys.readouterr()
        assert code == 0, f"{words}\n{out}{err}"
        return out + err

    for line in public_run("pythia-160m").commands():
        if line.startswith("firstsight import") and ("step114000" in line or "step143000" in line):
            firstsight(line.removeprefix("firstsight "))
    assert re.search(r"captions: 36 real, 0 synthetic", firstsight("prepare cc12m-sample --tokenizer gpt-neox-20b"))
    prepared = firstsight("prepare llava-coco --tokenizer gpt-neox-20b")
    assert re.search(r"^total +64 ", prepared, re.MULTILINE), prepared  # every fourth of 256 about COCO
    plan = firstsight("plan tiny.py --scale evening --seeds 2")
    assert "when at evening: 6 arms" in plan and "rtx4090" in plan
    assert "Assumed" in firstsight("power tiny.py --scale evening --effect 2")
    assert "report.html" in firstsight("run tiny.py --scale evening --seeds 2 --jobs 1")
    assert "0 steps run" in firstsight("run tiny.py --scale evening --seeds 2 --jobs 1")
    report = tmp_path / "runs" / "reports" / "when-evening" / "report.html"
    assert report.is_file() and all(
        name in report.read_text() for name in ("start-080", "start-100", "vqav2", "gqa", "pope")
    )
    measured = firstsight("power tiny.py --scale evening --seeds 2 --effect 2")
    assert "vision: 2 seeds, 40 questions" in measured and "Assumed" not in measured
    firstsight("next tiny.py --scale evening --seeds 2")


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
