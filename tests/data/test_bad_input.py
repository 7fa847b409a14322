"""Bad input from the door to the row: a named error or a quarantined record with reason and place, never silence."""

from __future__ import annotations

import gzip
import io
import json
import resource
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from firstsight.data.audit import duplicates
from firstsight.data.fetch import Fetch
from firstsight.data.index import Index, changed
from firstsight.data.pack import pack
from firstsight.data.pictures import decode, quick
from firstsight.data.prepare import prepare
from firstsight.errors import DataError, StepFailed
from firstsight.recipe.mix import Form
from firstsight.site import Location, Site
from firstsight.units import Share

from .conftest import END, WORDS, Workshop, add, asked, picture, words_of

GOOD = picture((10, 200, 30), side=16)


@dataclass(frozen=True)
class Made:
    """What became of a source."""

    index: Index
    location: Location
    quarantine: list[tuple[str, str, str]]
    """Reason, shard and place of every refused record."""

    def captions(self) -> list[list[int]]:
        """Numbers of the words of every record, without its ends."""
        return [
            [int(one) - WORDS for one in self.index.tokens[start : start + count] if one >= WORDS]
            for start, count in zip(self.index.samples["tokens_from"], self.index.samples["tokens_count"], strict=True)
        ]

    def pictures(self) -> list[bytes]:
        return Fetch(self.index, self.location, None).take(np.arange(len(self.index.images)))


def run(workshop: Workshop, source: Path, form: Form, *, words: Path | None = None, out: str = "index") -> Made:
    """Prepare a source of which any share may be bad."""
    location = Location(path=str(source), most_bad=Share(1))
    folder = workshop.folder(out)
    prepare(
        asked(form),
        inputs={"tokenizer": words or workshop.words()},
        out=folder,
        site=Site(sources={"s": location}),
        tell=lambda progress: None,
    )
    lines = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    refused = [(line["reason"], line["shard"], line["where"]) for line in lines]
    index = Index.open(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["counts"]["bad"] == len(refused)
    return Made(index=index, location=location, quarantine=refused)


def refuses(workshop: Workshop, source: Path, form: Form, match: str, *, words: Path | None = None) -> None:
    """Preparing ends in a DataError that says `match`, and leaves nothing that could be taken for an index."""
    with pytest.raises(DataError, match=match):
        run(workshop, source, form, words=words)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Index.open(workshop.root / "index")


def tarred(folder: Path, members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], name: str = "00000.tar") -> Path:
    with tarfile.open(folder / name, "w") as tar:
        for member, data in members.items() if isinstance(members, Mapping) else members:
            add(tar, member, data)
    return folder


def pairs(count: int, **odd: bytes) -> dict[str, bytes]:
    """Captioned pictures a0 to a<count - 1>, the n-th says w<n>; `odd` are members that replace or add."""
    members: dict[str, bytes] = {}
    for number in range(count):
        members |= {f"a{number}.png": GOOD, f"a{number}.txt": f"w{number}".encode()}
    return members | {name.replace("_", "."): data for name, data in odd.items()}


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, form, **options)  # type: ignore[arg-type]
    return held.getvalue()


@pytest.mark.parametrize("left", ["nothing", "half a header", "half a picture", "no closing block"])
def test_a_truncated_tar_publishes_nothing(workshop: Workshop, left: str) -> None:
    folder = tarred(workshop.folder("source"), pairs(20))
    file = folder / "00000.tar"
    with tarfile.open(file) as tar:
        picture_at, end = tar.getmembers()[20].offset_data, tar.getmembers()[-1].offset_data + 512
    size = {"nothing": 0, "half a header": 1024 + 200, "half a picture": picture_at + 20, "no closing block": end}[left]
    file.write_bytes(file.read_bytes()[:size])
    refuses(workshop, folder, "captions", r"00000\.tar.*(breaks off|closing block|empty)")


def test_a_truncated_tar_among_whole_ones_publishes_nothing(workshop: Workshop) -> None:
    folder = tarred(tarred(workshop.folder("source"), pairs(5)), pairs(5), "00001.tar")
    cut = (folder / "00001.tar").read_bytes()[:3000]
    (folder / "00001.tar").write_bytes(cut)
    refuses(workshop, folder, "captions", r"00001\.tar")


def test_a_packed_tar_that_is_called_plain_publishes_nothing(workshop: Workshop) -> None:
    file = tarred(workshop.folder("source"), pairs(3)) / "00000.tar"
    file.write_bytes(gzip.compress(file.read_bytes()))
    refuses(workshop, file.parent, "captions", r"00000\.tar: a tar that breaks off or is none")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_table_that_breaks_off_publishes_nothing(workshop: Workshop, share: float) -> None:
    file = workshop.folder("source") / "a.parquet"
    pq.write_table(pa.table({"text": [words_of([n % 200]) for n in range(5000)]}), file, row_group_size=500)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refuses(workshop, file.parent, "text", r"a\.parquet: a table that breaks off or is none")


def link(kind: bytes, target: str = "") -> Callable[[str], tarfile.TarInfo]:
    def made(name: str) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        return member

    return made


STRANGE = {
    "symlink": link(tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": link(tarfile.LNKTYPE, "a0.png"),
    "device": link(tarfile.CHRTYPE),
    "block device": link(tarfile.BLKTYPE),
    "pipe": link(tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_member_that_is_no_plain_file_is_set_aside(workshop: Workshop, kind: str) -> None:
    folder = workshop.folder("source")
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for name, data in pairs(1).items():
            add(tar, name, data)
        tar.addfile(STRANGE[kind]("b.png"))
        add(tar, "b.txt", b"w7")
        add(tar, "c.png", GOOD)
        add(tar, "c.txt", b"w8")
    found = run(workshop, folder, "captions")
    assert found.quarantine == [("not a plain file", "00000.tar", "b")]
    assert found.captions() == [[0], [8]]
    assert found.pictures() == [GOOD, GOOD]


@pytest.mark.parametrize("key", ["../b", "x/../../b", "/b", "/etc/b"])
def test_a_name_that_leads_elsewhere_is_set_aside(workshop: Workshop, key: str) -> None:
    members = [*pairs(1).items(), (f"{key}.png", GOOD), (f"{key}.txt", b"w7"), ("c.png", GOOD), ("c.txt", b"w8")]
    found = run(workshop, tarred(workshop.folder("source"), members), "captions")
    assert [(reason, shard) for reason, shard, _ in found.quarantine] == [("unsafe path", "00000.tar")]
    assert found.captions() == [[0], [8]]
    assert not list(workshop.root.parent.rglob("b.png"))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "x/../../secret.png"])
def test_a_dialogue_that_names_a_file_elsewhere_is_set_aside(workshop: Workshop, name: str) -> None:
    (workshop.root / "secret.png").write_bytes(GOOD)
    said = [{"from": "human", "value": "<image>\nw1"}, {"from": "gpt", "value": "w2"}]
    rows = [{"image": name, "conversations": said}, {"image": "a.png", "conversations": said}]
    found = run(workshop, workshop.dialogues(rows, ["a.png"]), "dialogues")
    assert [(reason, shard) for reason, shard, _ in found.quarantine] == [("unsafe path", "dialogues.json")]
    assert found.captions() == [[1, 2]]


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def told_in_png() -> bytes:
    """A picture with a comment of 100 MB in 100 kB."""
    held = saved(Image.new("RGB", (16, 16)), "PNG")
    said = b"zTXtComment\0\0" + zlib.compress(bytes(100_000_000))
    return held[:33] + struct.pack(">I", len(said) - 4) + said + struct.pack(">I", zlib.crc32(said)) + held[33:]


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(saved(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


BROKEN = {
    "zero bytes": ("b_png", b"", "zero bytes"),
    "a bomb in png": ("b_png", png_header(60_000, 60_000), "too many pixels"),
    "a bomb in jpeg": ("b_jpg", jpeg_header(65_000, 65_000), "too many pixels"),
    "a bomb in a comment": ("b_png", told_in_png(), "not a picture"),
    "half a png": ("b_png", saved(Image.effect_noise((64, 64), 90), "PNG")[:-800], "not a picture"),
    "half a jpeg": ("b_jpg", saved(Image.effect_noise((64, 64), 90), "JPEG")[:-800], "not a picture"),
    "half a webp": ("b_webp", saved(Image.effect_noise((64, 64), 90), "WEBP")[:-400], "not a picture"),
    "a page of html": ("b_jpg", b"<html>404 not found</html>", "not a picture"),
    "an svg": ("b_png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_set_aside(workshop: Workshop, name: str) -> None:
    member, data, reason = BROKEN[name]
    folder = tarred(workshop.folder("source"), pairs(2, **{member: data, "b_txt": b"w7"}))
    found = run(workshop, folder, "captions")
    assert found.quarantine == [(reason, "00000.tar", "b")]
    assert found.captions() == [[0], [1]]


def test_a_bomb_is_never_unpacked(workshop: Workshop) -> None:
    """A declared 3.6 gigapixels would take 10 GB; the whole process must get by with far less."""
    folder = tarred(workshop.folder("source"), pairs(1, b_png=png_header(60_000, 60_000), b_txt=b"w7"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(workshop, folder, "captions")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def two_sided(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (64, 64), left)
    image.paste(right, (32, 0, 64, 64))
    return image


RED, BLUE, WHITE, PINK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (255, 204, 204)
_TURNED = Image.Exif()
_TURNED[0x0112] = 6
"""To be turned by a quarter clockwise: what is on the left belongs on top."""
_FRAMES = {"save_all": True, "append_images": [two_sided(BLUE, BLUE)]}
_DEEP = Image.fromarray(np.full((64, 64), 0x80FF, dtype=np.uint16))
ODD = {
    "print colours": ("jpg", saved(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG", quality=95), RED, RED),
    "sixteen bits": ("png", saved(_DEEP, "PNG"), (128, 128, 128), (128, 128, 128)),
    "moving": ("webp", saved(two_sided(RED, RED), "WEBP", lossless=True, **_FRAMES), RED, RED),
    "moving png": ("png", saved(two_sided(RED, RED), "PNG", **_FRAMES), RED, RED),
    "see-through": (
        "png",
        saved(Image.new("RGBA", (64, 64), (255, 0, 0, 51)), "PNG"),
        (255, 204, 204),
        (255, 204, 204),
    ),
    "a see-through colour": ("png", saved(Image.new("P", (64, 64)), "PNG", transparency=0), WHITE, WHITE),
    "one bit": ("png", saved(Image.new("1", (64, 64), 1), "PNG"), WHITE, WHITE),
    "turned": ("jpg", saved(two_sided(RED, BLUE), "JPEG", exif=_TURNED, quality=95), RED, BLUE),
    "turned in png": ("png", saved(two_sided(RED, BLUE), "PNG", exif=_TURNED), RED, BLUE),
}
"""Ending, bytes, the colour of the upper half, that of the lower."""


@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_is_taken_with_its_right_pixels(workshop: Workshop, name: str) -> None:
    ending, data, upper, lower = ODD[name]
    folder = tarred(workshop.folder("source"), {f"b.{ending}": data, "b.txt": b"w7"})
    found = run(workshop, folder, "captions")
    assert (found.quarantine, found.captions()) == ([], [[7]])
    assert found.pictures() == [data]
    for way in (decode, quick):
        pixels = way(data, 16).astype(int)
        assert abs(pixels[:6] - upper).max() <= 3
        assert abs(pixels[10:] - lower).max() <= 3


TOLD = {
    "a null": (b"w1 \0 w2", "control character"),
    "an escape": (b"w1 \x1b[31m w2", "control character"),
    "a bell": (b"w1 \x07", "control character"),
    "a next line of Latin-1": ("w1 \x85 w2".encode(), "control character"),
    "100 kB": (b"w1 " * 33_000, "too long"),
    "white space": (b" \n\t ", "empty caption"),
    "nothing": (b"", "empty caption"),
    "Latin-1": ("w1 \u00e9".encode("latin-1"), "not UTF-8"),
    "half a letter": ("w1 \u00e9".encode()[:-1], "not UTF-8"),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_caption_that_is_none_is_set_aside(workshop: Workshop, name: str) -> None:
    data, reason = TOLD[name]
    found = run(workshop, tarred(workshop.folder("source"), pairs(2, b_png=GOOD, b_txt=data)), "captions")
    assert found.quarantine == [(reason, "00000.tar", "b")]
    assert found.captions() == [[0], [1]]


def test_line_breaks_and_tabs_are_no_control_characters(workshop: Workshop) -> None:
    found = run(workshop, tarred(workshop.folder("source"), pairs(0, b_png=GOOD, b_txt=b"w1\r\nw2\tw3\n")), "captions")
    assert (found.quarantine, found.captions()) == ([], [[1, 2, 3]])


def test_a_key_that_comes_again_later_is_set_aside(workshop: Workshop) -> None:
    members = [*pairs(2).items(), ("a0.png", picture((9, 9, 9))), ("a0.txt", b"w9")]
    found = run(workshop, tarred(workshop.folder("source"), members), "captions")
    assert found.quarantine == [("duplicate key", "00000.tar", "a0")]
    assert (found.captions(), found.pictures()) == ([[0], [1]], [GOOD, GOOD])


def test_a_member_that_stands_twice_in_its_sample_is_set_aside(workshop: Workshop) -> None:
    members = [("a0.png", GOOD), ("a0.txt", b"w1"), ("a0.txt", b"w2"), ("a1.png", GOOD), ("a1.txt", b"w3")]
    found = run(workshop, tarred(workshop.folder("source"), members), "captions")
    assert found.quarantine == [("duplicate key", "00000.tar", "a0")]
    assert found.captions() == [[3]]


@pytest.mark.parametrize(
    ("member", "reason"), [("b_png", "no caption"), ("b_txt", "no picture"), ("b_json", "no picture")]
)
def test_a_sample_without_all_its_members_is_set_aside(workshop: Workshop, member: str, reason: str) -> None:
    data = {"b_png": GOOD, "b_txt": b"w7", "b_json": b"{}"}[member]
    found = run(workshop, tarred(workshop.folder("source"), pairs(2, **{member: data})), "captions")
    assert found.quarantine == [(reason, "00000.tar", "b")]
    assert found.captions() == [[0], [1]]


@pytest.mark.parametrize(
    "line", ["{", "", "[1]", '"w1"', '{"text": 7}', '{"text": "w1"', "{'text': 'w1'}", "[" * 100_000]
)
def test_a_line_that_is_not_the_json_it_should_be_is_set_aside(workshop: Workshop, line: str) -> None:
    folder = workshop.folder("source")
    (folder / "a.jsonl").write_text(f'{{"text": "w1"}}\n{line}\n{{"text": "w2"}}\n')
    found = run(workshop, folder, "text")
    reason = "field missing" if line == '{"text": 7}' else "not JSON"
    assert found.quarantine == ([(reason, "a.jsonl", "line 2")] if line else [])
    assert found.captions() == [[1], [2]]


def test_a_caption_in_json_that_is_none_is_set_aside(workshop: Workshop) -> None:
    found = run(workshop, tarred(workshop.folder("source"), pairs(1, b_png=GOOD, b_json=b"{ no")), "captions")
    assert found.quarantine == [("not JSON", "00000.tar", "b")]
    assert found.captions() == [[0]]


@pytest.mark.parametrize("data", ["", "{", "[{]", '[{"conversations": []}', '{"a": 1}', '[{"conversations": []}] []'])
def test_a_list_of_dialogues_that_is_none_publishes_nothing(workshop: Workshop, data: str) -> None:
    (workshop.folder("source") / "d.json").write_text(data)
    refuses(workshop, workshop.root / "source", "dialogues", r"d\.json: wanted a JSON list")


def captioned(workshop: Workshop) -> Made:
    """Two tars with ten different pictures each, prepared and read once."""
    folder = workshop.folder("source")
    for shard in range(2):
        members = pairs(10)
        members |= {f"a{n}.png": saved(Image.effect_noise((32, 32), 90 + n), "PNG") for n in range(10)}
        tarred(folder, members, f"0000{shard}.tar")
    found = run(workshop, folder, "captions")
    changed(found.index, found.location)
    assert len(found.pictures()) == 20
    return found


def test_a_shard_that_vanishes_is_named(workshop: Workshop) -> None:
    found = captioned(workshop)
    (workshop.root / "source" / "00001.tar").unlink()
    with pytest.raises(DataError, match=r"00001\.tar"):
        changed(found.index, found.location)
    with pytest.raises(DataError, match=r"00001\.tar.*prepare it again"):
        found.pictures()


def shortened(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """One bit of the first caption: the size stays, and so do the pictures."""
    at = data.index(b"w0")
    return data[: at + 1] + b"9" + data[at + 2 :]


def shifted(data: bytes) -> bytes:
    """Another sample in front and one behind it less: sizes stay, every picture lies elsewhere."""
    return data[2048:-10240] + data[:2048] + data[-10240:]


@pytest.mark.parametrize("change", [shortened, flipped, shifted])
def test_a_shard_that_changes_is_named(workshop: Workshop, change: Callable[[bytes], bytes]) -> None:
    found = captioned(workshop)
    file = workshop.root / "source" / "00000.tar"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=r"00000\.tar"):
        changed(found.index, found.location)
    if change is shortened:
        with pytest.raises(DataError, match=r"00000\.tar.*changed"):
            found.pictures()


def test_a_shard_that_was_only_copied_is_the_same(workshop: Workshop) -> None:
    found = captioned(workshop)
    file = workshop.root / "source" / "00000.tar"
    file.write_bytes(file.read_bytes())
    changed(found.index, found.location)


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.data.conftest import asked
from firstsight.data.prepare import prepare
from firstsight.errors import StepFailed
from firstsight.site import Location, Site
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
site = Site(sources={{"s": Location(path={source!r})}}, readers={readers})
try:
    prepare(asked("text"), inputs={{"tokenizer": Path({words!r})}}, out=Path({out!r}), site=site, tell=str)
except StepFailed as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize(("limit", "readers"), [(100_000, 1), (20_000, 2)])
def test_a_full_disk_is_named_and_the_next_try_is_whole(workshop: Workshop, limit: int, readers: int) -> None:
    """Files end at `limit` bytes: 20,000 is less than one shard's tokens, 100,000 less than those of all."""
    folder = workshop.folder("source")
    for shard in range(3):
        rows = "".join(json.dumps({"text": words_of(range(number % 7, 150))}) + "\n" for number in range(200))
        (folder / f"{shard}.jsonl").write_text(rows)
    out = workshop.folder("index")
    script = FULL.format(
        root=str(Path(__file__).parents[2]),
        source=str(folder),
        words=str(workshop.words()),
        out=str(out),
        limit=limit,
        readers=readers,
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 7, done.stderr
    assert "wanted room" in done.stdout
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Index.open(out)
    again = run(workshop, folder, "text")
    whole = run(workshop, folder, "text", out="whole")
    assert again.index.digest == whole.index.digest
    assert len(again.index.samples) == 600


IDS = {
    "a word": '["w1"]',
    "a fraction": "[9.5]",
    "a negative": "[9, -1]",
    "a truth": "[true]",
    "nothing": "[]",
    "a list in it": "[[9]]",
    "half a list": "[9, 10",
}


@pytest.mark.parametrize("name", IDS)
def test_ids_that_are_none_are_set_aside(workshop: Workshop, name: str) -> None:
    members = {"a.json": b"[9, 10, 0]", "b.json": IDS[name].encode(), "c.json": b"[11, 0]"}
    found = run(workshop, tarred(workshop.folder("source"), members), "text")
    assert [(reason, shard, where) for reason, shard, where in found.quarantine] == [
        ("bad tokens", "00000.tar", "b.json")
    ]
    assert found.captions() == [[1, 2], [3]]


def test_a_packed_member_that_unpacks_without_end_is_set_aside(workshop: Workshop) -> None:
    """30 MB of spaces behind a list of ids, in 30 kB."""
    members = {"a.json.gz": gzip.compress(b"[9, 10, 0]"), "b.json.gz": gzip.compress(b"[9]" + b" " * 30_000_000)}
    found = run(workshop, tarred(workshop.folder("source"), members), "text")
    assert found.quarantine == [("too many bytes", "00000.tar", "b.json.gz")]
    assert found.captions() == [[1, 2]]


@pytest.mark.parametrize("wrong", [WORDS + 200, 50_277, 2**31, 2**63, 2**70])
def test_ids_outside_the_tokenizer_publish_nothing(workshop: Workshop, wrong: int) -> None:
    members = {"a.json": b"[9, 10, 0]", "b.json": json.dumps([9, wrong, 0]).encode()}
    folder = tarred(workshop.folder("source"), members)
    refuses(workshop, folder, "text", r"does not match the token tar")


def test_a_tokenizer_that_did_not_make_the_tokens_is_refused(workshop: Workshop) -> None:
    """Ids of GPT-NeoX end in 0 and begin beyond this vocabulary of 208 words."""
    members = {f"{n}.json": json.dumps([310, 2025, 50_000 + n, 0]).encode() for n in range(3)}
    refuses(workshop, tarred(workshop.folder("source"), members), "text", r"Name the tokenizer that made these tokens")


def test_another_tokenizer_makes_another_index(workshop: Workshop, tmp_path: Path) -> None:
    """Equal data, other words: the identity of the data stays, that of the index moves."""
    folder = workshop.texts([{"text": "w1 w2"}])
    one = run(workshop, folder, "text").index
    told = json.loads((workshop.words() / "tokenizer.json").read_text())
    told["model"]["vocab"] = {word: one + (one > 7) for word, one in told["model"]["vocab"].items()}
    other_words = workshop.folder("other")
    (other_words / "tokenizer.json").write_text(json.dumps(told))
    other = run(workshop, folder, "text", words=other_words, out="again").index
    assert one.source_digest == other.source_digest
    assert one.digest != other.digest
    assert one.tokenizer_digest != other.tokenizer_digest


def tampered(index: Index, name: str, change: Callable[[np.ndarray], None]) -> Index:
    file = index.path / f"{name}.npy"
    array = np.load(file)
    change(array)
    np.save(file, array)
    return Index.open(index.path)


def swapped(array: np.ndarray) -> None:
    array[[2, 3]] = array[[3, 2]]


def lowered(array: np.ndarray) -> None:
    array["tokens_from"][3] -= 1


def negative(array: np.ndarray) -> None:
    array["tokens_count"][3] *= -1


def beyond(array: np.ndarray) -> None:
    array["shown_from"][3] = 10**6


def overlapping(array: np.ndarray) -> None:
    array["tokens_count"][3] += 1


def nowhere(array: np.ndarray) -> None:
    array["picture"][3] = 10**6


def below(array: np.ndarray) -> None:
    array["picture"][3] = -1


def late(array: np.ndarray) -> None:
    array["at"][3] = 100


DAMAGE = [
    *[("samples", one) for one in (swapped, lowered, negative, beyond, overlapping)],
    *[("shown", one) for one in (nowhere, below, late)],
]


@pytest.mark.parametrize(("name", "change"), DAMAGE)
def test_a_damaged_index_makes_no_rows(workshop: Workshop, name: str, change: Callable[[np.ndarray], None]) -> None:
    index = run(workshop, tarred(workshop.folder("source"), pairs(8)), "captions").index
    with pytest.raises(DataError, match=r"(?i)prepare it again"):
        pack(tampered(index, name, change), length=32, image_tokens=4, packing="one_image_per_row")


def test_an_index_with_a_shorter_array_is_refused(workshop: Workshop) -> None:
    index = run(workshop, tarred(workshop.folder("source"), pairs(8)), "captions").index
    for name in ("samples", "shown", "tokens", "loss", "images"):
        file = index.path / f"{name}.npy"
        kept = file.read_bytes()
        np.save(file, np.load(file)[:-1])
        with pytest.raises(DataError, match=rf"{name}\.npy: wanted"):
            Index.open(index.path)
        file.write_bytes(kept[:-1])
        with pytest.raises(DataError, match=rf"{name}\.npy"):
            Index.open(index.path)
        file.write_bytes(kept)


NOWHERE = [("offset", 10**9), ("offset", -5), ("size", 3), ("shard", 7), ("shard", -1)]


@pytest.mark.parametrize(("field", "value"), NOWHERE)
def test_a_picture_that_lies_nowhere_is_named(workshop: Workshop, field: str, value: int) -> None:
    found = run(workshop, tarred(workshop.folder("source"), pairs(8)), "captions")

    def change(array: np.ndarray) -> None:
        array[field][3] = value

    index = tampered(found.index, "images", change)
    with pytest.raises(DataError):
        Fetch(index, found.location, None).take(np.arange(8))


def test_an_audit_of_what_is_left_counts_only_what_is_left(workshop: Workshop) -> None:
    """Pictures and captions that were set aside are no duplicates of those that stayed."""
    noise = [saved(Image.effect_noise((32, 32), 60 + n), "PNG") for n in range(3)]
    members = {
        "a.png": noise[0],
        "a.txt": b"w1",
        "b.png": noise[1],
        "b.txt": b"w1",
        "c.png": noise[1],
        "c.txt": b"\0w1",
    }
    members |= {"d.png": noise[2], "d.txt": b"w3", "e.png": noise[0], "e.txt": b"w4"}
    seen = duplicates(run(workshop, tarred(workshop.folder("source"), members), "captions").index)
    assert (seen.pictures, seen.same, seen.records, seen.repeated) == (4, 1, 4, 1)


def test_every_end_is_an_end(workshop: Workshop) -> None:
    """What data writes like a special token is text: one end a record, whatever the caption says."""
    found = run(
        workshop, tarred(workshop.folder("source"), pairs(1, b_png=GOOD, b_txt=b"w1 <|endoftext|>x w2")), "captions"
    )
    assert (found.index.tokens == END).sum() == len(found.index.samples)


def test_step_failed_is_no_data_error() -> None:
    """A full disk is not the data's fault, so nothing may take it for a bad source."""
    assert not issubclass(StepFailed, DataError)
