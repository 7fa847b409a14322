"""Resume folders: what does not have the bytes of the point is never used, and the point never precedes its files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstsight import resume_folder
from firstsight.errors import DataError
from firstsight.resume_folder import ResumeFolder, seal_json, unseal_json
from tests.damage import DAMAGES, damage_file

FILES = ("log.jsonl", "weights.bin", "point.json")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def write_step(out: Path, *, rounds: int, state: dict[str, object] | None = None) -> list[str]:
    """A step that appends a line a round, has a point after each, and writes one more line before it is killed."""
    damage: list[str] = []
    resume = ResumeFolder(out, on_damage=damage.append)
    restored = resume.restore()
    log = resume.open_appended("log.jsonl")
    for number in range(0 if restored is None else restored["rounds"], rounds):
        log.append(f"round {number}\n".encode())
        weights = resume.path / f"{number}-weights.bin"
        weights.write_bytes(random.Random(number).randbytes(100))
        resume.save({"rounds": number + 1} | (state or {}), resume.record_files([weights]))
    log.append(b"a line after the point\n")
    return damage


@given(json_values)
def test_sealed_json_is_read_back(content: object) -> None:
    assert unseal_json(seal_json(content)) == content


@given(json_values, st.data())
def test_a_changed_character_breaks_the_seal(content: object, data: st.DataObject) -> None:
    text = seal_json(content)
    position = data.draw(st.integers(0, len(text) - 1))
    changed = text[:position] + data.draw(st.characters(codec="utf-8").filter(lambda c: c != text[position]))
    with pytest.raises(DataError, match="digest"):
        unseal_json(changed + text[position + 1 :])


def test_a_step_continues_from_its_point(tmp_path: Path) -> None:
    write_step(tmp_path, rounds=2)
    assert write_step(tmp_path, rounds=4) == []
    resume = ResumeFolder(tmp_path, on_damage=pytest.fail)
    assert resume.restore() == {"rounds": 4}
    resume.open_appended("log.jsonl")
    assert sorted(path.name for path in resume.path.iterdir()) == ["3-weights.bin", "log.jsonl", "point.json"]
    resume.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "resume"]
    assert (tmp_path / "log.jsonl").read_text() == "".join(f"round {number}\n" for number in range(4))


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_sets_the_folder_aside(tmp_path: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "work" / "step"
    out.mkdir(parents=True)
    write_step(out, rounds=3)
    [file] = (out / "resume").glob(f"*{name}")
    damage_file(file, kind, at=0.2)
    elsewhere = {path: path.read_bytes() for path in tmp_path.rglob("*.elsewhere")}
    if kind == "folder" and name == "point.json":
        assert file.is_dir()
    damage = write_step(out, rounds=3)
    assert (out / "resume" / "log.jsonl").read_text().startswith("round 0\nround 1\nround 2\n")
    if name == "point.json" and kind == "deleted":  # like a kill before the first point
        assert damage == [] and not (out / "resume.damaged-1").exists()
    else:
        [line] = damage
        assert "starts over" in line and line + "\n" == capsys.readouterr().err
        assert (out / "resume.damaged-1").is_dir()
    assert {path: path.read_bytes() for path in elsewhere} == elsewhere


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(name=st.sampled_from(FILES), kind=st.sampled_from(("flipped", "cut", "padded")), at=st.floats(0, 1))
def test_damage_anywhere_is_found(tmp_path_factory: pytest.TempPathFactory, name: str, kind: str, at: float) -> None:
    out = tmp_path_factory.mktemp("step")
    write_step(out, rounds=2)
    [file] = (out / "resume").glob(f"*{name}")
    size = len(file.read_bytes())
    counted = len("round 0\nround 1\n") if name == "log.jsonl" else size
    damage_file(file, kind, at=at)
    changed = min(int(size * at), size - 1) < counted
    damage = write_step(out, rounds=2)
    assert bool(damage) is changed, "only the bytes that the point names count"
    assert (out / "resume" / "log.jsonl").read_text() == "round 0\nround 1\na line after the point\n"


@pytest.mark.parametrize("kind", ["file", "link", "nothing"])
def test_something_else_in_place_of_the_folder(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "step"
    out.mkdir()
    write_step(out, rounds=2)
    (out / "resume").rename(tmp_path / "moved")
    before = {path.name: path.read_bytes() for path in (tmp_path / "moved").iterdir()}
    if kind == "file":
        (out / "resume").write_bytes(b"a file")
    elif kind == "link":
        (out / "resume").symlink_to(tmp_path / "moved")
    assert len(write_step(out, rounds=1)) == (kind == "link")
    assert (out / "resume").is_dir() and not (out / "resume").is_symlink()
    assert {path.name: path.read_bytes() for path in (tmp_path / "moved").iterdir()} == before


def test_files_are_on_the_disk_before_the_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte that a point names was synced, with its name, before the point was written; the point is synced too."""
    synced: dict[str, bytes] = {}
    points = 0

    def record_sync(path: Path) -> None:
        if path.is_file():
            synced[path.name] = path.read_bytes()
        else:
            synced["names"] = "\n".join(sorted(entry.name for entry in path.iterdir())).encode()

    def check_point(path: Path, content: str, *, sync: bool) -> None:
        nonlocal points
        points += 1
        assert sync
        for name, (size, _) in unseal_json(content)["files"].items():
            assert synced[name][:size] == (path.parent / name).read_bytes()[:size], name
            assert len(synced[name]) >= size and name in synced["names"].decode().split("\n")
        path.write_text(content)

    monkeypatch.setattr(resume_folder, "fsync_path", record_sync)
    monkeypatch.setattr(resume_folder, "write_atomic", check_point)
    write_step(tmp_path, rounds=3)
    assert points == 3


def test_a_point_of_another_format_is_set_aside(tmp_path: Path) -> None:
    write_step(tmp_path, rounds=2)
    path = tmp_path / "resume" / "point.json"
    path.write_text(seal_json(unseal_json(path.read_text()) | {"format": 0}))
    [line] = write_step(tmp_path, rounds=2)
    assert "format 0" in line
    path.write_text(json.dumps({"digests": {}, "seen": 64, "notes": {}}))  # of a firstsight before there were formats
    assert len(write_step(tmp_path, rounds=2)) == 1


def test_a_state_that_is_no_json_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_step(tmp_path, rounds=1, state={"loss": float("nan")})
