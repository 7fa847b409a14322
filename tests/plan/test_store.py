"""The store: atomic publishing, foreign folders and formats, damage."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from firstsight.errors import DamagedResult, DataError, RequestError, StepFailed, StoreError
from firstsight.plan.step import Step
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.store import STORE_FORMAT, Store
from firstsight.recipe.mixture import External
from firstsight.units import Tokens

ANY_FILES = StepHandler(function="", outputs=("**",))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def step(name: str = "thing", **needs: Step) -> Step:
    spec = External(name=name, form="text", tokens=Tokens(0))
    return Step(kind="named", spec=spec, needs=tuple(needs.items()), version=1)


def published(store: Store, step: Step) -> Path:
    with store.lock(step.address) as lease:
        assert lease
        work = store.work_folder(lease, step.address)
        (work / "deep").mkdir()
        (work / "deep" / "b.txt").write_text("two")
        (work / "a.txt").write_text("one")
        return store.publish(lease, step, ANY_FILES, started=NOW)


def publish_work(store: Store, step: Step, handler: StepHandler) -> Path:
    with store.lock(step.address) as lease:
        assert lease and store.work_folder(lease, step.address)
        return store.publish(lease, step, handler, started=NOW)


def test_a_result_is_published_whole_with_its_provenance_outside(tmp_path: Path) -> None:
    store, result_step = Store(tmp_path / "runs"), step()
    child = step("child", source=result_step)
    published(store, result_step)
    folder = published(store, child)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "a.txt",
        "deep/b.txt",
    ]
    record = store.provenance(child.address)
    assert record["needs"] == {"source": result_step.address} and record["spec"]["name"] == "child"
    assert record["started"] == NOW.isoformat() and record["ended"] > record["started"]
    assert set(record["code"]) == {"commit", "python", "packages"} and "torch" in record["code"]["packages"]
    assert store.has(child.address) and not (tmp_path / "runs" / "work" / child.address).exists()
    assert not list((tmp_path / "runs").rglob(".*"))


def test_an_empty_folder_is_not_a_result(tmp_path: Path) -> None:
    store, result_step = Store(tmp_path), step()
    with store.lock(result_step.address) as lease, pytest.raises(StepFailed, match="wanted all outputs"):
        assert lease and store.work_folder(lease, result_step.address)
        store.publish(lease, result_step, ANY_FILES, started=NOW)
    assert not store.has(result_step.address)


def test_the_working_folder_survives(tmp_path: Path) -> None:
    for content in ("", "half"):
        with Store(tmp_path).lock("a-1") as lease:
            assert lease
            file = Store(tmp_path).work_folder(lease, "a-1") / "half"
            assert not content or file.read_text() == "half"
            file.write_text("half")
        assert (Store(tmp_path).work_path("a-1") / "half").read_text() == "half"


@pytest.mark.parametrize("damage", ["changed", "missing", "unexpected"])
def test_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    store, result_step = Store(tmp_path), step()
    folder = published(store, result_step)
    assert store.verify(result_step.address) == ()
    match damage:
        case "changed":
            (folder / "a.txt").write_text("onf")
        case "missing":
            (folder / "a.txt").unlink()
        case _:
            (folder / "c.txt").write_text("three")
    assert store.verify(result_step.address) == (f"{'c' if damage == 'unexpected' else 'a'}.txt: {damage}",)


def test_what_an_attempt_continues_from_stays_until_the_result_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, handler = Store(tmp_path / "runs"), StepHandler(function="", outputs=("model",), unfinished=("resume/**",))
    result_step = step()
    work = store.work_path(result_step.address)
    work.mkdir()
    (work / "model").write_text("weights")
    (work / "resume").mkdir()
    (work / "resume" / "point.json").write_text("{}")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("firstsight.plan.store._provenance_record", killed)
        with pytest.raises(KeyboardInterrupt):
            publish_work(store, result_step, handler)
    assert (work / "resume" / "point.json").is_file() and not store.has(result_step.address)
    result = publish_work(store, result_step, handler)
    assert [path.name for path in result.iterdir()] == ["model"]
    assert not list((tmp_path / "runs" / "work").iterdir())
    (tmp_path / "runs" / "work" / f".{result_step.address}.unfinished").mkdir()  # killed before it was removed
    Store(tmp_path / "runs")
    assert not list((tmp_path / "runs" / "work").iterdir())


def test_lost_provenance_is_an_error(tmp_path: Path) -> None:
    store, result_step = Store(tmp_path), step()
    published(store, result_step)
    (tmp_path / "provenance" / f"{result_step.address}.json").write_text("{")
    with pytest.raises(DataError, match=r"wanted the provenance.*firstsight doctor --store .* --repair"):
        store.provenance(result_step.address)
    with pytest.raises(DamagedResult, match="wanted the provenance"):
        store.check_result(result_step.address)
    (problem,) = store.verify(result_step.address)
    assert "wanted the provenance" in problem


def test_a_checked_result_is_its_folder_and_a_damaged_one_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    store, result_step = Store(tmp_path), step()
    folder = published(store, result_step)
    assert store.check_result(result_step.address) == folder
    (folder / "a.txt").write_text("onf")
    (folder / "deep" / "b.txt").unlink()
    message = rf"{result_step.address} is not .* published: deep/b.txt: missing, and 1 more. Compute .* --repair"
    with pytest.raises(DamagedResult, match=message):
        store.check_result(result_step.address)


def test_the_last_failure_is_stored_until_the_step_succeeds(tmp_path: Path) -> None:
    store, result_step = Store(tmp_path), step()
    assert store.last_failure(result_step.address) == ""
    store.record_failure(result_step.address, "no disk")
    assert Store(tmp_path).last_failure(result_step.address) == "no disk"
    published(store, result_step)
    assert store.last_failure(result_step.address) == ""
    (tmp_path / "logs" / f"{result_step.address}.failed.json").write_text("[")
    assert store.last_failure(result_step.address) == ""
    (tmp_path / "logs").rename(tmp_path / "no-logs")
    (tmp_path / "logs").write_text("a file, so that nothing can be written there")
    store.record_failure(result_step.address, "no disk")


def test_one_holder_a_lock(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    with one.lock("a-1") as is_first, two.lock("a-1") as is_second, two.lock("b-1") as is_other:
        assert is_first and not is_second and is_other
        assert two.is_locked("a-1")
    assert not two.is_locked("a-1")


def test_a_store_opens_again_and_finds_by_prefix(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = step("first"), step("second")
    published(store, first)
    published(store, second)
    again = Store(tmp_path)
    assert again.find("named-first") == again.find(first.address[-12:]) == first.address
    assert again.addresses() == tuple(sorted((first.address, second.address)))
    with pytest.raises(RequestError, match="matches 2"):
        again.find("named-")


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="not a firstsight store"):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "marker", ["{", "[]", '{"firstsight": "other"}', json.dumps({"format": STORE_FORMAT}), "\udcff"]
)
def test_a_foreign_marker_is_refused(tmp_path: Path, marker: str) -> None:
    (tmp_path / "store.json").write_bytes(marker.encode(errors="surrogateescape"))
    with pytest.raises(StoreError, match="does not belong"):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("change", "advice"), [(-1, "older firstsight.* other addresses.*--out"), (1, "another firstsight.*Update .*--out")]
)
def test_a_store_of_another_format_is_refused(tmp_path: Path, change: int, advice: str) -> None:
    Store(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({"firstsight": "store", "format": STORE_FORMAT + change}))
    with pytest.raises(StoreError, match=f"has format {STORE_FORMAT + change}.*{advice}"):
        Store(tmp_path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file" / "runs")
