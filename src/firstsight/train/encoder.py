"""Handlers for the frozen encoder: train a small SigLIP on captions, and encode every picture of a source once.

Shapes: B pictures of a batch, P different phrases of a batch, L words a phrase, S pixels a side.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from firstsight.data.index import Index, changed
from firstsight.data.loader import Pixels
from firstsight.data.order import shuffled
from firstsight.data.pictures import decode
from firstsight.data.sources import PICTURES, locate, plain_members
from firstsight.errors import DataError, ModelError
from firstsight.model.vision import features, load_encoder, scaled, siglip_processor
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Encode
from firstsight.recipe.vision import Contrast, Patches, Siglip
from firstsight.site import Progress, Site, Tell
from firstsight.train.compiled import settle
from firstsight.train.feeding import pictures_of
from firstsight.units import Tokens

AT_ONCE = 256
"""Pictures encoded together."""
KEPT = 256 << 20
"""Bytes of pixels that `contrast` keeps in memory; what is beyond is decoded in every epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """A picture's place in its tar and what is true of it."""

    file: Path
    offset: int
    size: int
    phrases: tuple[str, ...]


def contrast(spec: Siglip, *, inputs: Mapping[str, Path], out: Path, site: Site, tell: Tell) -> None:
    """Handler: a SigLIP from scratch, every picture of a batch against every phrase of the batch, true or not.

    Phrases of other pictures that hold here too count as true, so that what is left are honest and hard negatives.
    """
    if not isinstance(spec.weights, Contrast):
        raise ModelError(f"contrast trains its own weights. Got weights that exist: {spec.weights.name}.")
    settle(site)
    recipe, shots = spec.weights, list(_shots(inputs["captions"]))
    words = _words(shots)
    model = _siglip(spec, recipe, words).to(site.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.peak, weight_decay=recipe.decay, betas=(0.9, 0.95))
    rate = Rewarm(peak=recipe.peak, floor=0.0, warmup=Tokens(recipe.warmup), tokens=Tokens(recipe.steps))
    told, album = monotonic(), _Album(shots, spec)
    for step in range(recipe.steps):
        optimizer.param_groups[0]["lr"] = rate.lr(Tokens(step + 1))
        nth = np.arange(step * recipe.batch, (step + 1) * recipe.batch)
        _, rows = shuffled(nth, count=len(shots), seed=recipe.seed)
        loss = _pairwise(model, [shots[row].phrases for row in rows.tolist()], words, album.take(rows.tolist()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if monotonic() - told > 0.5:
            told = monotonic()
            tell(Progress(done=step + 1, total=recipe.steps, unit="steps", numbers={"loss": loss.item()}))
    _leave(model, words, spec, out)


def _shots(folder: Path) -> Iterator[Shot]:
    """Captioned pictures in file order; the caption is the phrase where json lists none."""
    for file in sorted(folder.glob("*.tar")):
        with file.open("rb") as data:
            current, parts = "", dict[str, Any]()
            for member in plain_members(file):
                stem, _, ending = PurePosixPath(member.name).name.partition(".")
                if stem != current and parts:
                    yield _shot(file, current, parts)
                    parts = {}
                current = stem
                if ending in PICTURES:
                    parts["place"] = (member.offset_data, member.size)
                elif ending in ("txt", "json"):
                    data.seek(member.offset_data)
                    parts[ending] = data.read(member.size)
            if parts:
                yield _shot(file, current, parts)


def _shot(file: Path, key: str, parts: Mapping[str, Any]) -> Shot:
    if "place" not in parts or "txt" not in parts:
        raise DataError(f"{file}: sample {key} wants a picture and its txt. Got {', '.join(parts)}. Make it again.")
    phrases = json.loads(parts.get("json", b"{}")).get("phrases") or [parts["txt"].decode().strip()]
    return Shot(file=file, offset=parts["place"][0], size=parts["place"][1], phrases=tuple(phrases))


def _words(shots: list[Shot]) -> Tokenizer:
    """The words of all phrases as a tokenizer that pads to the longest phrase."""
    phrases = {phrase for shot in shots for phrase in shot.phrases}
    if not phrases:
        raise DataError("contrast needs captioned pictures. Got none. Check the captions' folder.")
    known = ["[PAD]", "[UNK]", *sorted({word for phrase in phrases for word in phrase.split()})]
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    longest = min(64, max(len(phrase.split()) for phrase in phrases))
    words.enable_padding(length=longest, pad_id=0, pad_token="[PAD]")
    words.enable_truncation(longest)
    return words


def _siglip(spec: Siglip, recipe: Contrast, words: Tokenizer) -> Any:
    from transformers import SiglipConfig, SiglipModel

    vit = spec.vit
    tower = {
        "num_hidden_layers": vit.layers,
        "hidden_size": vit.width,
        "intermediate_size": vit.hidden,
        "num_attention_heads": vit.heads,
        "image_size": vit.image,
        "patch_size": vit.patch,
    }
    text = {
        "num_hidden_layers": recipe.text_layers,
        "hidden_size": recipe.text_width,
        "intermediate_size": 2 * recipe.text_width,
        "num_attention_heads": vit.heads,
        "vocab_size": words.get_vocab_size(),
        "max_position_embeddings": words.padding["length"],  # pyright: ignore[reportOptionalSubscript]
        "projection_size": vit.width,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        config = SiglipConfig(text_config=text, vision_config=tower)
        config._attn_implementation = "eager"  # torch's fused attention goes backwards three times slower on short rows
        model = SiglipModel(config)
    with torch.no_grad():
        # SigLIP's own start (scale 10, bias -10) suits one true phrase among thousands; here the two sides are balanced
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(0.0)
    return model


def _pairwise(model: Any, told: list[tuple[str, ...]], words: Tokenizer, pixels: np.ndarray) -> Tensor:
    """Sigmoid loss over all B x P pairs, each phrase against its best patch; true and untrue pairs weigh the same."""
    device = model.device
    phrases = sorted({phrase for true_here in told for phrase in true_here})
    place = {phrase: number for number, phrase in enumerate(phrases)}
    true = torch.zeros(len(told), len(phrases))
    for row, true_here in enumerate(told):
        true[row, [place[phrase] for phrase in true_here]] = 1
    ids = torch.tensor([found.ids for found in words.encode_batch_fast(phrases)], device=device)
    seen = scaled(torch.from_numpy(pixels).to(device))
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        patches = model.vision_model(pixel_values=seen).last_hidden_state
        texts = model.text_model(input_ids=ids).pooler_output
    alike = (F.normalize(patches.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T).amax(dim=1)
    logits = alike * model.logit_scale.exp() + model.logit_bias
    true = true.to(device)
    weight = true / true.sum() + (1 - true) / (1 - true).sum().clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits, true, weight=weight, reduction="sum") / 2


class _Album:
    """Pixels of captioned pictures, decoded once each as far as KEPT has room."""

    def __init__(self, shots: list[Shot], spec: Siglip) -> None:
        self._shots, self._spec = shots, spec
        self._room, self._kept = KEPT // (spec.image**2 * 3), dict[int, np.ndarray]()

    def take(self, rows: list[int]) -> np.ndarray:
        return np.stack([self._kept[row] if row in self._kept else self._decoded(row) for row in rows])

    def _decoded(self, row: int) -> np.ndarray:
        shot, spec = self._shots[row], self._spec
        with shot.file.open("rb") as data:
            data.seek(shot.offset)
            pixels = decode(data.read(shot.size), spec.image, spec.fit, ground=spec.ground)
        if len(self._kept) < self._room:
            self._kept[row] = pixels
        return pixels


def _leave(model: Any, words: Tokenizer, spec: Siglip, out: Path) -> None:
    model.save_pretrained(out)
    words.save(str(out / "tokenizer.json"))
    processor = siglip_processor(spec.vit.image)
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2, sort_keys=True) + "\n")


def encode(spec: Encode, *, inputs: Mapping[str, Path], out: Path, site: Site, tell: Tell) -> None:
    """Handler: the frozen encoder's features of every picture of an index, float16, in the index's order.

    Killed and run again it goes on with the batches that are left, to the same bytes. Raises DataError where the
    source is no longer what was prepared, ModelError where the encoder has another shape than the recipe.
    """
    vision = spec.vision
    if isinstance(vision, Patches):
        raise ModelError("encode needs a frozen encoder. Got Patches, which train with the model.")
    settle(site)
    index, location = Index.open(inputs["index"]), locate(spec.source, inputs.get("source"), site)
    changed(index, location)
    folders = [inputs[f"encoder{number}"] for number in range(len(vision.towers))]
    encoder, told = load_encoder(vision, folders).to(site.device), monotonic()
    sheet = _Sheet(out, (len(index.images), vision.tokens, vision.width), mark=index.digest)
    cuts = [np.arange(at, min(at + AT_ONCE, len(sheet.array))) for at in range(sheet.done, len(sheet.array), AT_ONCE)]
    ready, saved = _decoded(pictures_of(index, location, vision, cache=site.cache), cuts, site.readers), monotonic()
    for numbers, decoded in zip(cuts, ready, strict=True):
        seen = features(encoder, torch.from_numpy(decoded).to(site.device)).half().cpu().numpy()
        sheet.put(numbers, seen, where=folders[0])
        if monotonic() - saved > site.save_every:
            sheet.keep()
            saved = monotonic()
        if monotonic() - told > 0.5:
            told = monotonic()
            tell(Progress(done=sheet.done, total=len(sheet.array), unit="pictures"))
    sheet.finish()


def _decoded(pixels: Pixels, cuts: Iterable[np.ndarray], readers: int) -> Iterator[np.ndarray]:
    """Pixels of each of `cuts`, made by `readers` threads while those before are encoded."""
    with ThreadPoolExecutor(readers) as crew:
        coming: Iterator[np.ndarray] | None = None
        for numbers in cuts:
            then = crew.map(pixels.take, np.array_split(numbers, readers))
            if coming is not None:
                yield np.concatenate(list(coming))
            coming = then
        if coming is not None:
            yield np.concatenate(list(coming))


class _Sheet:
    """The features while they are made: an array in `resume/`, and beside it how many of its rows are done."""

    def __init__(self, out: Path, shape: tuple[int, int, int], *, mark: str) -> None:
        self._out, self._folder, self._mark = out, out / "resume", mark
        self._note, file = self._folder / "point.json", self._folder / "features.npy"
        note = json.loads(self._note.read_text()) if self._note.is_file() else {}
        self.done = note["done"] if note.get("mark") == mark and note.get("shape") == list(shape) else 0
        self._folder.mkdir(exist_ok=True)
        mode = "r+" if self.done else "w+"
        self.array = np.lib.format.open_memmap(file, mode=mode, dtype=np.float16, shape=shape)

    def put(self, numbers: np.ndarray, seen: np.ndarray, *, where: Path) -> None:
        """Write the next rows; ModelError when they are of another shape."""
        wanted = self.array.shape[1:]
        if seen.shape[1:] != wanted:
            raise ModelError(f"{where}: wanted {wanted} a picture. Got {seen.shape[1:]}. Mend the Vit.")
        self.array[numbers] = seen
        self.done = int(numbers[-1]) + 1

    def keep(self) -> None:
        """Make what is done the resume point: first the rows, then the note that names them."""
        self.array.flush()
        fresh = self._note.with_suffix(".new")
        fresh.write_text(json.dumps({"done": self.done, "mark": self._mark, "shape": list(self.array.shape)}))
        fresh.replace(self._note)

    def finish(self) -> None:
        """Leave features.npy and nothing else."""
        self.array.flush()
        (self._folder / "features.npy").replace(self._out / "features.npy")
        shutil.rmtree(self._folder)
