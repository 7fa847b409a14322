"""What an exported folder holds: words and pictures as training had them, a card, and nothing half done."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer as Fast
from tokenizers import processors

import firstsight.hub.hf_classes  # noqa: F401
from firstsight.cli.app import command
from firstsight.data import images
from firstsight.data.records import Dialogue, ImageLocation
from firstsight.data.tokenizer import load_tokenizer as load_tokenizer
from firstsight.data.tokenizer import tokenize_records
from firstsight.errors import ModelError, RequestError
from firstsight.hub import llama, llava, model_card
from firstsight.hub.export import export_checkpoint
from firstsight.hub.hf_processing import image_to_pixels
from firstsight.model.checkpoint_io import save
from firstsight.model.tensors import read_tensors
from firstsight.model.vision import normalize_pixels
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import ImageFit
from tests.hub.made import LLAVA, MARKS, NATIVE, OPENLM, OURS, checkpoint, png
from tests.hub.made import words as made_words
from tests.model.tiny_models import random_model


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("kept") / "start-080 <b>*bold*", OURS["letterbox"])


@pytest.fixture(scope="module")
def out(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own classes' export."""
    export_checkpoint(kept, tmp_path_factory.mktemp("own") / "out", dtype="float32")
    return next(tmp_path_factory.getbasetemp().glob("own*/out"))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    export_checkpoint(checkpoint(folder / "kept", LLAVA), folder / "out", dtype="float32")
    return folder / "out"


def processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, backend="pil")  # where torchvision is, too: it rounds otherwise


@pytest.mark.parametrize("seeing", [True, False])
def test_dialogues_are_laid_out_as_training_rows(out: Path, seeing: bool) -> None:
    turns = ("what is the cat ?", "red", "where ?", "left of a dog")
    place = ImageLocation(shard="a.tar", offset=0, size=1, hash=0) if seeing else None
    tokenizer = load_tokenizer(out)
    [sample] = tokenize_records(tokenizer, [Dialogue(id="0", image=place, turns=turns)])
    shown = [{"type": "image", "image": Image.open(io.BytesIO(png(0)))}] if seeing else []
    talk: list[Any] = [
        {"role": ("user", "assistant")[number % 2], "content": said} for number, said in enumerate(turns)
    ]
    talk[0]["content"] = [*shown, {"type": "text", "text": turns[0]}]
    found = processor(out).apply_chat_template(talk, tokenize=True, return_dict=True, return_tensors="pt")
    ids = found["input_ids"][0].tolist()
    spec = OURS["letterbox"]
    assert isinstance(spec, VLMSpec)
    places = [MARKS.index("<|img_patch|>") + 3] * spec.image_tokens if seeing else []
    assert ids == places + sample.ids.tolist()


def test_talks_that_training_never_had_are_refused(out: Path) -> None:
    picture = {"type": "image", "image": Image.open(io.BytesIO(png(0)))}
    for talk in ([{"role": "system", "content": "be kind"}], [{"role": "user", "content": [picture, picture]}]):
        with pytest.raises(Exception, match="a dialogue is"):
            processor(out).apply_chat_template(talk)


@pytest.mark.parametrize("fit", ["resize", "letterbox"])
def test_pictures_become_the_pixels_of_training(fit: ImageFit) -> None:
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(png(2))).save(turned, "PNG", exif=exif)
    deep = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 1 << 16, (9, 30), dtype=np.uint16)).save(deep, "PNG")
    for data in (png(0), png(1, size=(9, 30)), png(3, mode="RGBA"), turned.getvalue(), deep.getvalue()):
        wanted = images.decode_image(data, 12, fit, pad_color=(124, 116, 104))
        assert np.array_equal(
            image_to_pixels(Image.open(io.BytesIO(data)), 12, fit=fit, ground=(124, 116, 104)), wanted
        )


def test_processors_show_the_model_what_training_showed_it(out: Path, native: Path) -> None:
    data = png(5, size=(31, 17))
    seen = Image.open(io.BytesIO(data))
    own = processor(out)(images=seen, text="<|img_patch|>what ?", return_tensors="pt")["pixel_values"]
    wanted = images.decode_image(data, 12, "letterbox", pad_color=(128, 128, 128))
    assert own.dtype == torch.uint8
    assert np.array_equal(own[0].numpy(), wanted)
    theirs = processor(native)(images=seen, text="<|img_patch|>what ?", return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(images.decode_image(data, 12).copy())[None]
    torch.testing.assert_close(theirs, normalize_pixels(pixels), rtol=0, atol=1e-6)


def test_lacking_marks_get_the_ids_that_training_gave_them(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    bare = made_words(tmp_path / "bare", marks=())
    fast = Fast.from_file(str(bare))
    fast.post_processor = processors.TemplateProcessing(single="<|pad|> $A", special_tokens=[("<|pad|>", 1)])  # pyright: ignore
    fast.save(str(bare))
    save(tmp_path / "kept", random_model(LLAVA, dtype=torch.float32), tokens_seen=0, tokenizer=bare, encoders=[])
    spec = replace(LLAVA, encoder="trained")
    save(tmp_path / "kept", random_model(spec, dtype=torch.float32), tokens_seen=0, tokenizer=bare, encoders=[])
    export_checkpoint(tmp_path / "kept", tmp_path / "out", dtype="float32")
    ours, theirs = load_tokenizer(tmp_path / "kept"), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.convert_tokens_to_ids(list(MARKS)) == [15, 16, 17, 18, 19]
    assert (theirs.convert_tokens_to_ids("<|/h|>"), theirs.eos_token_id) == (
        ours.special_ids.human,
        ours.special_ids.end,
    )
    text = "what is<|/h|>the cat"
    assert theirs(text)["input_ids"] == [*ours.encode(["what is"])[0], 19, *ours.encode(["the cat"])[0]]
    assert theirs.padding_side == "left"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["image_token_index"] == 15
    stops = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [ours.special_ids.end, ours.special_ids.answer]


def test_a_tokenizer_that_outgrows_the_model_is_refused_in_numbers(tmp_path: Path) -> None:
    small = replace(OPENLM, vocab_size=19)
    model = random_model(small, dtype=torch.float32)
    save(tmp_path / "kept", model, tokens_seen=0, tokenizer=made_words(tmp_path / "words"), encoders=[])
    with pytest.raises(ModelError, match=r"wanted at most 19 tokens.*Got 20"):
        export_checkpoint(tmp_path / "kept", tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


def test_other_peoples_files_stay(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years")
    with pytest.raises(RequestError, match="Got other files"):
        export_checkpoint(kept, tmp_path / "out", dtype="float32")
    with pytest.raises(RequestError, match="Got a file"):
        export_checkpoint(kept, tmp_path / "out" / "thesis.txt", dtype="float32")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_killed_export_leaves_nothing_and_a_new_one_replaces(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_checkpoint(kept, tmp_path / "out", dtype="float32")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(model_card, "model_card", killed)
        for name in ("out", "new"):
            with pytest.raises(KeyboardInterrupt):
                export_checkpoint(kept, tmp_path / name, dtype="bfloat16")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    export_checkpoint(kept, tmp_path / "out", dtype="bfloat16")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    found = read_tensors(tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert torch.equal(found["lm.norm.weight"], read_tensors(kept)["lm.norm.weight"].bfloat16())


def test_the_card_tells_what_it_is_and_names_are_no_markup(out: Path) -> None:
    told = (out / "README.md").read_text()
    assert "\n# start-080 \\<b\\>\\*bold\\*\n" in told
    assert "import firstsight.hub.hf_classes" in told
    assert "4 tokens per image, letterbox, frozen in training" in told
    assert "licence:" not in told and "license:" not in told
    seen = sum(tensor.numel() for tensor in read_tensors(out).values())
    assert f"{seen:,} parameters" in told


def test_why_not_is_empty_where_transformers_has_the_model() -> None:
    for name, spec in (NATIVE | OURS).items():
        has_vision = isinstance(spec, VLMSpec)
        reason = llava.llava_unsupported_reason(spec) if has_vision else llama.llama_unsupported_reason(spec)
        assert (reason == "") == (name in NATIVE)
        if name in OURS:
            with pytest.raises(ModelError):
                _ = llava.llava_config(spec) if has_vision else llama.llama_config(spec)


def test_a_llava_of_others_is_read_with_a_tower_of_its_own() -> None:
    told = llava.llava_config(LLAVA)
    assert llava.llava_spec(told) == replace(LLAVA, encoder="trained", vision=named(LLAVA))
    whole = told | {"vision_feature_layer": -2, "vision_config": told["vision_config"] | {"num_hidden_layers": 3}}
    assert llava.llava_spec(whole) == llava.llava_spec(told)
    wrong: dict[str, Mapping[str, Any]] = {
        "vision_feature_select_strategy": {"vision_feature_select_strategy": "default"},
        "siglip_vision_model": {"vision_config": {"model_type": "clip_vision_model"}},
        "one negative number": {"vision_feature_layer": [-2, -3]},
        "projector_hidden_act": {"projector_hidden_act": "relu"},
    }
    for message, changed in wrong.items():
        with pytest.raises(ModelError, match=message):
            llava.llava_spec(told | changed)


def named(spec: VLMSpec) -> Any:
    """The vision of a spec with the weights' name that a folder of others gets."""
    vision: Any = spec.vision
    return replace(vision, weights=replace(vision.weights, name="llava"))


def test_tensors_of_newer_and_whole_llavas_are_read() -> None:
    spec = replace(LLAVA, encoder="trained")
    ours = dict(random_model(spec, dtype=torch.float32).state_dict())
    theirs = llava.to_llava(ours, spec)
    newer = {
        "model."
        + name.replace("language_model.model.", "language_model.").replace(
            "vision_tower.vision_model.", "vision_tower."
        ): t
        for name, t in theirs.items()
        if "lm_head" not in name
    }
    newer |= {"lm_head.weight": theirs["language_model.lm_head.weight"]}
    newer |= {
        "model.vision_tower.encoder.layers.2.mlp.fc1.bias": torch.ones(16),
        "model.vision_tower.head.probe": torch.ones(1),
    }
    for told in (theirs, newer):
        back = llava.from_llava(told, spec)
        assert back.keys() == ours.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in ours.items())
    with pytest.raises(ModelError, match=r"image_newline"):
        llava.from_llava(theirs | {"image_newline": torch.ones(1)}, spec)


def test_the_how_to_is_true(out: Path, native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "transformers.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(png(0))
    for folder in (out, native):
        (tmp_path / "exported").unlink(missing_ok=True)
        (tmp_path / "exported").symlink_to(folder)
        known: dict[str, Any] = {}
        for block in blocks:
            exec(compile(block, str(page), "exec"), known)
        assert isinstance(known["answer"], str) and len(known["answers"]) == 2
    assert len(blocks) == 3


def test_the_command(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--out", str(tmp_path / "out")]
    assert command(["export", str(kept), "--to", "gguf", *place]) == 2
    assert "no form is called 'gguf'" in capsys.readouterr().err
    assert command(["export", str(tmp_path), *place]) == 2
    assert "wanted a checkpoint folder" in capsys.readouterr().err
    assert command(["export", str(kept), "--to", "hf", *place, "--dtype", "bfloat16"]) == 0
    assert "FirstsightForConditionalGeneration" in capsys.readouterr().out
