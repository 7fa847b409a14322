"""Small inputs after public bug reports against tools of this kind: what a user may expect of each."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.data.readers import RecordReader, list_source
from firstsight.data.records import Notices, Record, RejectedRecord
from firstsight.errors import DataError
from firstsight.recipe.mixture import External, ExternalForm
from firstsight.site import Location
from firstsight.units import Tokens
from tests.conftest import SHARED
from tests.evaluate.conftest import PATCHES, PROMPT_WORDS, write_tokenizer

CASES = SHARED.parent / "cases"
pytestmark = [pytest.mark.shared, pytest.mark.skipif(not CASES.is_dir(), reason=f"no cases at {CASES}")]
READ: list[tuple[str, str, ExternalForm, int, dict[str, int]]] = [
    ("appledouble-in-tar", "caps", "captions", 12, {}),
    ("arrow-file", "t", "captions", 8, {}),
    ("base64-picture", "t", "captions", 0, {"not an image": 20}),
    ("blank-after-mark", "l", "dialogues", 10, {}),
    ("bom-caption-json", "c", "captions", 5, {}),
    ("caption-txt-bom", "caps", "captions", 6, {"empty caption": 3}),
    ("content-key", "l", "text", 0, {"field missing": 1}),
    ("dots-in-names", "caps", "captions", 200, {"dots in key": 100}),
    ("dots-only", "caps", "captions", 0, {"dots in key": 60}),
    ("images-key-json", "l", "dialogues", 10, {}),
    ("images-key-messages", "l", "dialogues", 10, {}),
    ("images-key-placeholder", "l", "dialogues", 10, {}),
    ("jsonl-bom", "text", "text", 150, {}),
    ("mixed-endings", "l", "text", 90, {}),
    ("ocrvqa-gif", "l", "dialogues", 6, {}),
    ("parquet-list_uint8", "t", "captions", 8, {}),
    ("png-large-text", "l", "captions", 5, {}),
    ("stray-members", "caps", "captions", 120, {}),
    ("two-pictures", "l", "captions", 0, {"several images": 5}),
    ("upper-gz", "l", "text", 100, {}),
    ("video-key", "l", "dialogues", 0, {"video or audio": 10}),
]
NOTICES = {
    "appledouble-in-tar": {"tar member: macOS file": 24},
    "mixed-endings": {"ending .txt": 1},
    "ocrvqa-gif": {"image found with another ending": 6},
    "stray-members": {"tar member: macOS file": 1, "tar member: metadata file": 1, "tar member: no ending": 1},
}


def read_case(case: str, folder: str, form: ExternalForm) -> tuple[list[Record | RejectedRecord], Notices]:
    """All records of a case, and what was not read."""
    location, site = Location(path=str(CASES / case / folder)), CASES / case / "site.toml"
    if site.is_file():
        pictures = tomllib.loads(site.read_text())["sources"][folder]["pictures"]
        location = replace(location, pictures=str(CASES / case / pictures))
    listing = list_source(location, form)
    reader, notices = (
        RecordReader(location, form, source=External(name="s", form=form, tokens=Tokens(0))),
        listing.notices,
    )
    records: list[Record | RejectedRecord] = []
    for shard in listing.shards:
        shard_records = reader.read(shard)
        records += shard_records
        for reason, (count, first) in shard_records.notices.entries.items():
            notices.add(reason, first, count)
    return records, notices


@pytest.mark.parametrize(("case", "folder", "form", "accepted", "reasons"), READ)
def test_records_of_a_case(case: str, folder: str, form: ExternalForm, accepted: int, reasons: dict[str, int]) -> None:
    records, notices = read_case(case, folder, form)
    rejected = [record for record in records if isinstance(record, RejectedRecord)]
    assert {reason: sum(r.reason == reason for r in rejected) for reason in reasons} == reasons
    assert len(records) - len(rejected) == accepted
    assert len(rejected) == sum(reasons.values())
    assert {reason: count for reason, (count, _) in notices.entries.items()} == NOTICES.get(case, {})
    assert all(len(record.detail) < 400 for record in rejected)
    if form == "dialogues" and accepted:
        accepted_records = [record for record in records if not isinstance(record, RejectedRecord)]
        assert all(
            record.image is not None and record.turns[0] == record.turns[0].strip() for record in accepted_records
        )


@pytest.mark.parametrize(
    ("case", "folder", "form", "message"),
    [
        ("pictures-zip", "l", "dialogues", r"Got a \.zip archive, which is not read\. Unpack it"),
        ("zstd-long-window", "text", "text", r"window of at most 128 MB.*Pack it again"),
    ],
)
def test_what_cannot_be_read_is_named(case: str, folder: str, form: ExternalForm, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_case(case, folder, form)


@pytest.mark.parametrize(("case", "prefix"), [("import-module", "module."), ("import-orig-mod", "_orig_mod.")])
def test_weights_with_prefixes_of_wrappers_are_imported(case: str, prefix: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    from firstsight.hub.import_ import ImportRequest, import_checkpoint

    request = ImportRequest(
        location=str(CASES / case), revision=None, tokenizer="", config_path=None, tokens_seen=Tokens(1)
    )
    result = import_checkpoint(request, tmp_path / "out", on_progress=lambda progress: None)
    assert result.spec.parameters() == 32_928
    with safe_open(CASES / case / "model.safetensors", "pt") as file:
        count = sum(name.startswith(prefix) for name in file.keys())  # noqa: SIM118 - it cannot be iterated
    assert result.removed_prefixes == {prefix: count}
    assert f"names of tensors: prefixes of wrappers are removed: {prefix} from {count}" in result.lines()


@pytest.mark.parametrize("case", ["evaluate-appledouble", "evaluate-exif-byte"])
def test_a_benchmark_of_a_case_is_evaluated(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every question has an answer with its image and one without; images are upright."""
    from PIL import Image

    from firstsight.cli.app import command
    from firstsight.data.images import decode_rgb
    from firstsight.evaluate.answer_cache import evaluation_folder
    from firstsight.model.checkpoint_io import save
    from firstsight.model.vlm import VLM

    bench, model, tokenizer = CASES / case / "bench", tmp_path / "model", tmp_path / "tokenizer.json"
    write_tokenizer(tokenizer, ("what", "a", "the", *(f"{n}?" for n in range(6)), *PROMPT_WORDS))
    untrained = VLM(PATCHES)
    untrained.initialise(7)
    save(model, untrained, tokens_seen=0, tokenizer=tokenizer, encoders=[])
    words = ("evaluate", model, "--benchmarks", bench, "--tasks", "vqav2", "--out", tmp_path / "runs")
    code = command([str(word) for word in words])
    output = capsys.readouterr()
    assert code == 0, output.err
    hidden = len(list((bench / "images").glob("._*")))
    assert hidden == 6 * (case == "evaluate-appledouble")
    assert (f"{hidden} x macOS file (._COCO" in output.out) == bool(hidden), output.out
    folder = evaluation_folder(tmp_path / "runs", model)
    assert json.loads((folder / "scores.json").read_text())["tasks"]["vqav2"]["n"] == 6
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert sorted((row["question_id"], row["blind"]) for row in rows) == [
        (str(n), b) for n in range(6) for b in (False, True)
    ]
    for file in sorted((bench / "images").glob("COCO*")):
        width, height = Image.open(file).size
        expected = (height, width) if case == "evaluate-exif-byte" else (width, height)
        assert decode_rgb(file.read_bytes()).size == expected
