"""Small files that unpack, parse or describe themselves to gigabytes are refused by name, in little memory.

All cases run in one process of their own (`main`), whose address space is bounded, and which measures the peak of its
resident memory for each case. A case is refused with an error or as a rejected record.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import zstandard
from PIL import Image

from firstsight.data.images import perceptual_hash
from firstsight.data.readers import RecordReader, list_shards
from firstsight.data.records import RejectedRecord
from firstsight.data.tokenizer import load_tokenizer
from firstsight.errors import FirstsightError
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.offline_scoring.answer_files import read_answer_files
from firstsight.evaluate.result_files import iter_answers, read_scores
from firstsight.evaluate.task import load_json
from firstsight.files import read_weight_map
from firstsight.hub.download import resolve_hub_path
from firstsight.hub.import_ import ImportRequest, import_checkpoint
from firstsight.hub.openlm import read_openlm_checkpoint
from firstsight.limits import DEFAULT_LIMITS, Limits, apply_limits
from firstsight.model.checkpoint_io import read_spec
from firstsight.model.tensors import StoredTensors
from firstsight.model.vision import encoder_spec
from firstsight.recipe.mixture import External, ExternalForm
from firstsight.site import Location
from firstsight.site_file import read_site
from firstsight.units import Tokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MB = 10**6
ADDRESS_SPACE_BYTES = 1500 * MB
"""What the process may map in addition to what it has mapped after its imports."""
DEEP = b"[" * 100_000 + b"]" * 100_000
DEEP_OBJECT = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


def read_source(folder: Path, form: ExternalForm = "text") -> str:
    """The rejected records of a source, as text."""
    location = Location(path=str(folder))
    reader = RecordReader(location, form, source=External(name="s", form=form, tokens=Tokens(0)))
    records = [record for shard in list_shards(location, form) for record in reader.read(shard)]
    assert all(isinstance(record, RejectedRecord) for record in records)
    return "; ".join(f"{record.shard}, {record.where}: {record.reason}: {record.detail}" for record in records)


def import_folder(folder: Path) -> object:
    request = ImportRequest(location=str(folder), revision=None, tokenizer="", config_path=None, tokens_seen=None)
    return import_checkpoint(request, folder / "out", on_progress=lambda progress: None)


def load_within(limit: int, file: Path) -> object:
    apply_limits(Limits(file=limit))
    return load_json(file)


def frames(count: int, compress: Callable[[bytes], bytes]) -> bytes:
    """`count` times 100 MB of one letter, compressed; decoders read concatenated frames as one stream."""
    return compress(b"a" * 100 * MB) * count


def write(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder


def sparse(folder: Path, name: str, size: int, data: bytes = b"") -> Path:
    """A file of `size` bytes that begins with `data` and takes no space on the disk."""
    with (write(folder, name, data) / name).open("r+b") as file:
        file.truncate(size)
    return folder


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes, width: int = 8, height: int = 8) -> bytes:
    """A grey PNG with additional chunks after its header."""
    rows = zlib.compress(bytes((width + 1) * 8)) if height == 8 else b""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = (header, *chunks, png_chunk(b"IDAT", rows), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def tar_with_size(size: int) -> bytes:
    """A tar whose only header states `size` bytes, of which there are none."""
    member = tarfile.TarInfo("a.jpg")
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def deflated_checkpoint(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(500 * MB))
        archive.writestr("archive/version", b"3\n")


def llama_config(**sizes: object) -> bytes:
    config = {
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    return json.dumps(config | sizes).encode()


def wide_tokenizer() -> bytes:
    model = {"type": "WordLevel", "vocab": {"<|endoftext|>": 0, "a": 4_000_000_000}, "unk_token": "a"}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model}).encode()


@dataclass(frozen=True)
class Bomb:
    """Writes its files into an empty folder, and reads that; the words of the refusal; megabytes that this may take."""

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    words: Sequence[str]
    megabytes: int = 100


LINE = ("record of at most 16 MB", 'record = "32 MB" under [limits]')
DEPTH = ("JSON of at most 100 levels", "depth = 200 under [limits]")
BOMBS = {
    "6 GB in a line of zstd": Bomb(
        lambda folder: write(folder, "a.jsonl.zst", frames(60, zstandard.compress)),
        read_source,
        ("a.jsonl.zst, line 1", *LINE),
    ),
    "1 GB in a line of gzip": Bomb(
        lambda folder: write(folder, "a.jsonl.gz", frames(10, gzip.compress)),
        read_source,
        ("a.jsonl.gz, line 1", *LINE),
    ),
    "a line of 200 MB": Bomb(
        lambda folder: write(folder, "a.jsonl", b'{"text": "' + b"a" * 200 * MB + b'"}'), read_source, ("line 1", *LINE)
    ),
    "gzip in gzip": Bomb(
        lambda folder: write(folder, "a.jsonl.gz", gzip.compress(frames(1, gzip.compress))), read_source, ("not UTF-8",)
    ),
    "a deep line": Bomb(
        lambda folder: write(folder, "a.jsonl", b'{"text": ' + DEEP + b"}"), read_source, ("line 1: too deep", *DEPTH)
    ),
    "an item of 200 MB": Bomb(
        lambda folder: write(folder, "a.json", b'[{"a": "' + b"a" * 200 * MB + b'"}]'),
        lambda folder: read_source(folder, "dialogues"),
        ("a.json, byte 1", *LINE),
        200,
    ),
    "a deep item": Bomb(
        lambda folder: write(folder, "a.json", b"[" + DEEP_OBJECT + b"]"),
        lambda folder: read_source(folder, "dialogues"),
        ("a.json, byte 1", *DEPTH),
    ),
    "a member of 100 GB": Bomb(
        lambda folder: write(folder, "a.tar", tar_with_size(100_000 * MB)),
        lambda folder: read_source(folder, "captions"),
        ("a.tar", "a truncated tar"),
    ),
    "a member of a false size": Bomb(
        lambda folder: write(folder, "a.tar", tar_with_size(15 * MB)),
        lambda folder: read_source(folder, "captions"),
        ("a.tar", "a truncated tar"),
    ),
    "60,000 x 60,000 pixels": Bomb(
        lambda folder: write(folder, "a.png", png_with(width=60_000, height=60_000)),
        lambda folder: perceptual_hash((folder / "a.png").read_bytes()),
        ("too many pixels", "at most 50,000,000 pixels", "pixels = 3600000000 under [limits]"),
    ),
    "a color profile of 500 MB": Bomb(
        lambda folder: write(
            folder,
            "a.png",
            png_with(png_chunk(b"iCCP", b"icc\0\0" + frames(1, zlib.compress) + b"")),
        ),
        lambda folder: perceptual_hash((folder / "a.png").read_bytes()),
        ("not an image",),
    ),
    "a PNG comment of 500 MB": Bomb(
        lambda folder: write(folder, "a.png", png_with(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(500 * MB))))),
        lambda folder: perceptual_hash((folder / "a.png").read_bytes()),
        ("not an image",),
    ),
    "an image file of 3 GB": Bomb(
        lambda folder: sparse(folder / "images", "1.jpg", 3000 * MB),
        lambda folder: BenchmarkImages(folder).read("1.jpg"),
        ("images/1.jpg", "image of at most 20 MB", 'picture = "3000 MB" under [limits]'),
    ),
    "a benchmark of 2 GB in gzip": Bomb(
        lambda folder: write(folder, "a.json.gz", frames(20, gzip.compress)),
        lambda folder: load_within(100 * MB, folder / "a.json.gz"),
        ("a.json.gz", "file of at most 100 MB after unpacking", 'file = "200 MB" under [limits]'),
        250,
    ),
    "a deep benchmark": Bomb(
        lambda folder: write(folder, "a.json", DEEP), lambda folder: load_json(folder / "a.json"), ("a.json", *DEPTH)
    ),
    "deep answers": Bomb(
        lambda folder: write(folder, "a.jsonl", b'{"question_id": 1, "text": "a"}\n' + DEEP),
        lambda folder: read_answer_files([folder / "a.jsonl"], "pope"),
        ("a.jsonl:2", *DEPTH),
    ),
    "a deep scores.json": Bomb(
        lambda folder: write(folder, "scores.json", DEEP_OBJECT), read_scores, ("scores.json", *DEPTH)
    ),
    "a line of 200 MB in answers.jsonl": Bomb(
        lambda folder: write(folder, "answers.jsonl", b"a" * 200 * MB),
        lambda folder: list(iter_answers(folder / "answers.jsonl")),
        ("answers.jsonl:1", *LINE),
    ),
    "a deep site file": Bomb(
        lambda folder: write(folder, "site.toml", b"a = " + DEEP),
        lambda folder: read_site(folder / "site.toml"),
        ("site.toml", "wanted a site file in TOML"),
    ),
    "a config of 10,000,000 layers": Bomb(
        lambda folder: write(folder, "config.json", llama_config(num_hidden_layers=10_000_000)),
        import_folder,
        ("config.json", "at most 2,000 layers", "Got 10,000,000 in num_hidden_layers", "layers = 10000000"),
    ),
    "a config with wide layers": Bomb(
        lambda folder: write(folder, "config.json", llama_config(hidden_size=10**12)),
        import_folder,
        ("config.json", "sizes of at most 1,000,000", "in hidden_size", "width = 1000000000000"),
    ),
    "a deep config": Bomb(
        lambda folder: write(folder, "config.json", DEEP_OBJECT), import_folder, ("config.json", *DEPTH)
    ),
    "a config of 3 GB": Bomb(
        lambda folder: sparse(folder, "config.json", 3000 * MB),
        import_folder,
        ("config.json", "settings of at most 64 MB", 'settings = "3000 MB"'),
    ),
    "an encoder for images of 10,000,000 pixels a side": Bomb(
        lambda folder: write(folder, "config.json", b'{"model_type": "siglip_vision_model", "image_size": 10000000}'),
        lambda folder: encoder_spec(folder, "siglip", "resize"),
        ("config.json", "images of at most 4,096 pixels a side"),
    ),
    "a spec with 10,000,000 layers": Bomb(
        lambda folder: write(folder, "spec.json", b'{"format": 2, "model": {"lm": {"layers": 10000000}}}'),
        read_spec,
        ("spec.json", "at most 2,000 layers"),
    ),
    "a deep spec": Bomb(lambda folder: write(folder, "spec.json", DEEP_OBJECT), read_spec, ("spec.json", *DEPTH)),
    "a deep index of shards": Bomb(
        lambda folder: write(folder, "index.json", DEEP_OBJECT),
        lambda folder: read_weight_map(folder / "index.json"),
        ("index.json", *DEPTH),
    ),
    "a tensor header of 90 MB": Bomb(
        lambda folder: sparse(folder, "model.safetensors", 200 * MB, (90 * MB).to_bytes(8, "little") + b"{"),
        StoredTensors,
        ("model.safetensors", "settings of at most 64 MB. Got 90 MB for its header"),
    ),
    "a chat template of 3 GB": Bomb(
        lambda folder: sparse(folder, "chat_template.jinja", 3000 * MB),
        lambda folder: resolve_hub_path(str(folder)),
        ("chat_template.jinja", "settings of at most 64 MB"),
    ),
    "a tokenizer of 3 GB": Bomb(
        lambda folder: sparse(folder, "tokenizer.json", 3000 * MB),
        load_tokenizer,
        ("tokenizer.json", "tokenizer of at most 128 MB", 'tokenizer = "3000 MB"'),
    ),
    "a token with the id 4,000,000,000": Bomb(
        lambda folder: write(folder, "tokenizer.json", wide_tokenizer()),
        load_tokenizer,
        ("tokenizer.json", "vocabulary of at most 2,000,000 tokens. Got 4,000,000,001"),
    ),
    "a compressed .pt": Bomb(
        lambda folder: deflated_checkpoint(folder / "a.pt"),
        lambda folder: read_openlm_checkpoint(folder / "a.pt"),
        ("a.pt", "a compressed archive/data.pkl"),
    ),
    "a tensor of 4 TB in four bytes": Bomb(
        lambda folder: torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, folder / "a.pt"),
        lambda folder: read_openlm_checkpoint(folder / "a.pt"),
        ("a.pt", "all numbers of a tensor. Got fewer of a"),
    ),
}


def main(root: Path) -> None:
    """Print the refusal of every case and the megabytes that resident memory grew by, as JSON."""
    warm_up = io.BytesIO()
    Image.new("L", (8, 8)).save(warm_up, "PNG")
    perceptual_hash(warm_up.getvalue())
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE_BYTES, resource.RLIM_INFINITY))
    outcomes = dict[str, tuple[str, float]]()
    for number, (name, bomb) in enumerate(BOMBS.items()):
        before = start_peak()
        apply_limits(DEFAULT_LIMITS)
        try:
            text = str(bomb.read(root / str(number)))
        except FirstsightError as error:
            text = str(error)
        except BaseException as error:  # noqa: BLE001 - any other is a fault, which the test reports
            text = f"FAULT {type(error).__name__}: {error}"
        outcomes[name] = text, (status_kb("VmHWM") - before) / 1000
    sys.stdout.write(json.dumps(outcomes))


def start_peak() -> int:
    """Forget the peak of resident memory; its size now in kB."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_kb("VmRSS")


def status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    root = tmp_path_factory.mktemp("bombs")
    for number, bomb in enumerate(BOMBS.values()):
        (root / str(number)).mkdir()
        bomb.write(root / str(number))
    ran = subprocess.run([sys.executable, __file__, str(root)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_by_name_in_little_memory(name: str, outcomes: dict[str, tuple[str, float]]) -> None:
    bomb, (text, megabytes) = BOMBS[name], outcomes[name]
    assert all(word in text for word in bomb.words), text[:600]
    assert megabytes < bomb.megabytes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
