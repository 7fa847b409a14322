"""The commands of the page "Start from a public checkpoint", with tiny weights in place of those on the hub."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from firstsight.cli.app import command
from firstsight.model.vlm import VLM
from firstsight.plan.graph import build_graph
from firstsight.recipe.model import openlm_spec
from firstsight.workspace.study_functions import find_study_function
from tests.own_data import OwnData
from tests.test_site_file import site_from
from tests.test_tutorial import commands, pattern

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "public-checkpoint.md"
BLOCK = re.compile(r"^```(console|python|text|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Hub:
    """Small folders with the layout of TinyLlama's, DCLM's and GPT-NeoX's on the hub."""

    def __init__(self, root: Path) -> None:
        self.root = root
        OwnData(root).write_tokenizer()
        self.words = (root / "words" / "tokenizer.json").read_text()

    def snapshot_download(self, name: str, **_: Any) -> str:
        folder = self.root / name.replace("/", "-")
        folder.mkdir(exist_ok=True)
        make = {"TinyLlama": self.llama, "TRI-ML": self.dclm, "EleutherAI": self.neox}[name.partition("/")[0]]
        make(folder)
        return str(folder)

    def neox(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(self.words)

    def llama(self, folder: Path) -> None:
        config = LlamaConfig(
            num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=320
        )
        logging.disable_progress_bar()
        LlamaForCausalLM(config).save_pretrained(folder)
        logging.enable_progress_bar()
        self.neox(folder)

    def dclm(self, folder: Path) -> None:
        sizes = {"hidden_dim": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 512, "seq_len": 64}
        plain = {"model_norm": "gain_only_lp_layer_norm", "qk_norm": True, "post_embed_norm": False}
        plain |= {"weight_tying": False, "ffn_type": "swiglu_torch", "positional_embedding_type": "rotary"}
        settings = sizes | plain
        (folder / "config.json").write_text(json.dumps({"model_type": "openlm", "params_args_dict": settings}))
        model = VLM(openlm_spec(layers=1, width=32, heads=2, vocab_size=512))
        model.initialise(0)
        tensors = {f"model.{name.removeprefix('lm.')}": tensor for name, tensor in model.state_dict().items()}
        save_file({name: torch.clone(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")


@pytest.fixture
def page_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "hub").mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(tmp_path / "hub").snapshot_download)
    monkeypatch.delenv("FIRSTSIGHT_SITE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_the_page_print_what_it_shows(page_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = ""
    for form, block in BLOCK.findall(PAGE.read_text()):
        if form == "console":
            for words, shown in commands(block):
                code = command(shlex.split(words)[1:])
                out, err = capsys.readouterr()
                assert pattern(shown.strip()).search(" ".join((out + err).split())), f"{words}\n{out}{err}"
                assert code == (2 if " run " in words else 0)
        elif form == "python":
            name = re.match(r"# (\w+\.py)\n", block)
            file = page_folder / (name[1] if name else "snippet.py")
            file.write_text(block)
            if not name:
                runpy.run_path(str(file))
                printed = capsys.readouterr().out
        elif form == "text":
            assert block == printed
    for name in ("tiny-1t", "tiny-2t", "tiny-3t", "dclm-1b"):
        assert (page_folder / "donors" / name / "model.safetensors").is_file()


def test_the_site_file_and_the_studies_of_the_page_have_the_same_names(page_folder: Path) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    (toml,) = [block for form, block in blocks if form == "toml"]
    sources = site_from(page_folder, toml).sources
    assert sources["siglip-so400m-patch14-384"].path == "hf://google/siglip-so400m-patch14-384"
    assert sources["tiny-1t"].path == sources["tinyllama-words"].path == str(page_folder / "donors" / "tiny-1t")
    for form, block in blocks:
        name = re.match(r"# (\w+)\.py\n", block)
        if form != "python" or not name:
            continue
        (page_folder / f"{name[1]}.py").write_text(block)
        steps = build_graph(find_study_function(f"{name[1]}.py").build("1b", seeds=2, options={}))
        given = {step.spec.name for step in steps.steps if step.donor_model}
        assert given == ({"dclm-1b"} if name[1] == "dclm" else {"tiny-1t", "tiny-2t", "tiny-3t"})
        assert not [step for step in steps.steps if step.kind == "pretrain"]


def test_an_unsupported_family_is_refused_and_told_what_to_do(
    page_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (page_folder / "qwen").mkdir()
    (page_folder / "qwen" / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": 50_304}))
    assert command(["import", "qwen", "--out", "donors/qwen"]) == 2
    words = " ".join(capsys.readouterr().err.split())
    assert "biases of queries, keys and values" in words and "Use a run of one of these as the donor" in words
    assert not (page_folder / "donors").exists()
