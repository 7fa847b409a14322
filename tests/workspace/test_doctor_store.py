"""`doctor --store`: every kind of damage is named with what depends on it, and a repair gives back the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from firstsight.cli.app import command
from firstsight.errors import RequestError, StoreError
from firstsight.files import file_lock
from firstsight.leases import Owner
from firstsight.plan.graph import Graph
from firstsight.plan.step import STEP_VERSIONS, Step
from firstsight.plan.store import Store
from firstsight.recipe.mixture import External
from firstsight.recipe.stages import Prepare
from firstsight.site import Site
from firstsight.units import Tokens
from firstsight.workspace import doctor_store
from firstsight.workspace.doctor_store import check_store, dependents, repair_store
from firstsight.workspace.execute import run_graph
from firstsight.workspace.workspace import Workspace
from tests.workspace.answer_store import ANY_FILES
from tests.workspace.test_execute import GRAPH

PREPARE = next(step for step in GRAPH.steps if step.kind == "prepare" and "texts" in step.slug)
VOCABULARY, TEXTS = PREPARE.parent("tokenizer"), PREPARE.parent("source")
assert VOCABULARY and TEXTS
STEPS = (VOCABULARY, TEXTS, PREPARE)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the three steps that prepare the built-in texts."""
    root = tmp_path_factory.mktemp("healthy") / "runs"
    graph = Graph(title="texts", steps=STEPS, arms={"texts": STEPS}, seeds={"texts": 0})
    run_graph(graph, Store(root), site=Site(cache=root.parent / "cache"), jobs=1).check()
    return root


@pytest.fixture
def root(healthy: Path, tmp_path: Path) -> Path:
    """A copy of the healthy store, as a backup gives it back: other inodes, the same times of modification."""
    shutil.copytree(healthy, tmp_path / "runs")
    return tmp_path / "runs"


def result_digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in (root / "steps").rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def largest_file(root: Path, step: Step) -> Path:
    return max((path for path in Store(root).path(step.address).rglob("*") if path.is_file()), key=os.path.getsize)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_link(path: Path) -> None:
    path.rename(path.parents[3] / "moved")
    path.symlink_to(path.parents[3] / "moved")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def add_file(path: Path) -> None:
    path.with_name("notes.txt").write_text("mine")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flip, "changed"),
    "cut": (cut, "changed"),
    "emptied": (lambda path: path.write_bytes(b""), "changed"),
    "deleted": (Path.unlink, "missing"),
    "link": (replace_by_link, "a link"),
    "folder": (replace_by_folder, "missing"),
    "added": (add_file, "unexpected"),
}


def test_a_healthy_store_is_healthy_also_after_a_copy(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = Workspace(root).doctor()
    size = sum(path.stat().st_size for path in (root / "steps").rglob("*") if path.is_file())
    assert check.ok and (check.results, check.size, check.damaged) == (3, size, ())
    assert command(["doctor", "--store", str(root)]) == 0
    assert "Every result is what was published." in capsys.readouterr().out
    before = result_digests(root)
    assert command(["doctor", "--store", str(root), "--repair"]) == 0
    assert result_digests(root) == before and not (root / "damaged").exists()


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.kind)
def test_damage_is_named_with_what_depends_on_it(
    root: Path, step: Step, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, (spoil, problem) = largest_file(root, step), DAMAGE[damage]
    spoil(path)
    assert command(["doctor", "--store", str(root)]) == 1
    output = capsys.readouterr().out
    name = "notes.txt" if damage == "added" else path.name
    needed_by = PREPARE.address if step != PREPARE else "no stored result"
    assert f"damaged: {step.address}\n" in output and f"{name}: {problem}\n" in output
    assert f"  needed by: {needed_by}\n" in output and f"firstsight doctor --store {root} --repair" in output


@pytest.mark.parametrize("damages", [("flipped", "link", "cut"), ("folder", "deleted"), ("emptied", "added")])
def test_exactly_the_damaged_steps_are_computed_again_and_give_the_same_bytes(
    root: Path, damages: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = result_digests(root)
    for step, damage in zip(STEPS, damages, strict=False):
        DAMAGE[damage][0](largest_file(root, step))
    problems = [line for damage in check_store(root).damaged for line in damage.problems]
    assert command(["doctor", "--store", str(root), "--repair", "--jobs", "1"]) == 0
    output = capsys.readouterr().out
    assert all(f"  {line}\n" in output for line in problems)
    for step in STEPS[: len(damages)]:
        assert f"{step.address}: computed again, the same bytes as when it was published" in output
        assert (root / "damaged" / f"{step.address}.1" / f"{step.address}.json").is_file()
    assert output.count("computed again") == len(damages)
    assert result_digests(root) == before and check_store(root).ok


def test_a_result_replaced_by_a_link_is_repaired(root: Path, tmp_path: Path) -> None:
    before = result_digests(root)
    folder = Store(root).path(TEXTS.address)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    check = check_store(root)
    assert [damage.problems for damage in check.damaged] == [(f"{folder}: a link instead of a folder",)]
    assert repair_store(root, site=Site(cache=tmp_path / "cache"), jobs=1).ok
    assert result_digests(root) == before and not folder.is_symlink() and (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink, replace_by_folder])
def test_a_lost_record_is_restored_from_its_copy_and_nothing_is_run(
    root: Path, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    path = root / "provenance" / f"{TEXTS.address}.json"
    before = path.read_bytes()
    damage(path)
    (found,) = check_store(root).damaged
    assert found.address == TEXTS.address and path.name in found.problems[0]
    check = repair_store(root, site=Site(cache=tmp_path / "cache"), jobs=1)
    restored = f"restored the provenance of {TEXTS.address} from its copy"
    assert check.ok and check.repairs == (restored, f"  {found.problems[0]}")
    assert path.read_bytes() == before


def test_a_result_without_any_record_is_set_aside_for_a_run_of_its_study(root: Path, tmp_path: Path) -> None:
    for folder in ("provenance", "verified"):
        (root / folder / f"{TEXTS.address}.json").unlink()
    site = Site(cache=tmp_path / "cache")
    check = repair_store(root, site=site, jobs=1)
    assert check.ok and not Store(root).has(TEXTS.address) and (root / "damaged").is_dir()
    assert any("its provenance is lost" in line for line in check.repairs)
    graph = Graph(title="texts", steps=STEPS[:2], arms={"texts": STEPS[:2]}, seeds={"texts": 0})
    assert run_graph(graph, Store(root), site=site, jobs=1).published == (TEXTS,)


def test_what_was_computed_from_a_changed_file_is_computed_again(root: Path, tmp_path: Path) -> None:
    """As a version without checks would have done: the texts were changed before their index was made."""
    before = result_digests(root)
    flip(largest_file(root, TEXTS))
    store = Store(root)
    record = store.provenance(PREPARE.address)
    for folder in ("steps", "provenance", "verified"):
        path = root / folder / PREPARE.address
        path = path if folder == "steps" else path.with_suffix(".json")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    publish_file(store, PREPARE, "wrong")
    (damage,) = check_store(root).damaged
    assert damage.outdated == damage.dependents == (PREPARE.address,)
    check = repair_store(root, site=Site(cache=tmp_path / "cache"), jobs=1)
    assert check.ok and result_digests(root) == before
    assert store.provenance(PREPARE.address)["files"] == record["files"]
    assert any(f"{PREPARE.address}: computed again, with other bytes than before in" in line for line in check.repairs)


def test_a_repair_that_was_killed_is_finished_by_the_next(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, site = result_digests(root), Site(cache=tmp_path / "cache")
    flip(largest_file(root, TEXTS))

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(doctor_store, "run_graph", stop)
        repair_store(root, site=site, jobs=1)
    (damage,) = check_store(root).damaged
    assert damage.address == TEXTS.address and "not computed again yet" in damage.problems[0]
    assert repair_store(root, site=site, jobs=1).ok and result_digests(root) == before


def publish_file(store: Store, step: Step, name: str) -> Path:
    with store.lock(step.address) as lease:
        assert lease
        (store.work_folder(lease, step.address) / name).write_text(name)
        return store.publish(lease, step, ANY_FILES, started=datetime.now(UTC))


def test_leftovers_of_dead_processes_are_removed_and_unfinished_work_stays(root: Path) -> None:
    work = Store(root).work_path("unfinished-0123456789ab")
    work.mkdir()
    (work / "half").write_text("half")
    for path in (root / "provenance" / ".x.json.01234567.tmp", work / ".y.0a1b2c3d.tmp", root / "logs" / ".keep"):
        path.write_text("")
    locks = root / "locks"
    killed = subprocess.Popen(["true"])
    killed.wait()
    owner = replace(Owner.new(), pid=killed.pid)
    dead = [locks / "dead.lease", locks / f".half.lease.{owner}"]
    for lock in dead:
        lock.mkdir()
        (lock / str(owner)).touch()
    living = root / "logs" / ".z.89abcdef.tmp"
    with Store(root).lock("living"), file_lock(living, is_blocking=False):
        check = check_store(root)
        assert living.exists() and (locks / "living.lease").exists()
    assert check.ok and not any(path.exists() for path in dead)
    assert (work / "half").read_text() == "half" and not list(work.glob(".*")) and (root / "logs" / ".keep").exists()
    assert "removed: 2 temporary files" in check.notes[0]
    assert check.notes[-1] == "unfinished, which a run of their study continues or starts over: unfinished-0123456789ab"


def test_a_step_that_another_process_runs_is_not_repaired(root: Path, tmp_path: Path) -> None:
    flip(largest_file(root, TEXTS))
    with Store(root).lock(TEXTS.address), pytest.raises(RequestError, match="another process works on this step"):
        repair_store(root, site=Site(cache=tmp_path / "cache"), jobs=1)
    assert Store(root).has(TEXTS.address)


def test_what_no_run_wrote_is_named_and_no_damage(root: Path) -> None:
    stray = root / "steps" / "notes.txt"
    stray.write_text("mine")
    check = Workspace(root).doctor(repair=True)
    stray_lines = [line for line in check.lines() if "notes.txt" in line]
    assert check.ok and stray_lines == [f"no result: {stray}, which no run wrote. Move it elsewhere, or delete it."]
    assert check.results == len(Store(root).addresses()) - 1 and stray.read_text() == "mine"
    stray.unlink()


def test_a_deleted_result_is_no_damage(root: Path) -> None:
    shutil.rmtree(Store(root).path(TEXTS.address))
    check = check_store(root)
    assert check.ok and check.notes[-1].endswith(f"computes again where it needs them: {TEXTS.address}")


def test_a_result_of_another_version_or_of_data_that_is_not_here_is_left_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = External(name="mine", form="text", tokens=Tokens(9))
    ids = {"mine": "0" * 64}
    leaf = Step(kind="named", spec=data, version=1, content_ids=ids)
    spec, needs = Prepare(source=data, tokenizer=VOCABULARY.spec), (("source", leaf),)
    store = Store(tmp_path)
    for version in (STEP_VERSIONS["prepare"], STEP_VERSIONS["prepare"] - 1):
        step = Step(kind="prepare", spec=spec, needs=needs, version=version, content_ids=ids)
        flip(publish_file(store, step, "index") / "index")
        if version == STEP_VERSIONS["prepare"]:
            with pytest.raises(RequestError, match=r"mine: wanted a path on this machine"):
                repair_store(tmp_path, site=Site(), jobs=1)
            assert store.has(step.address)
            shutil.rmtree(store.path(step.address))
    check = repair_store(tmp_path, site=Site(), jobs=1)
    assert check.ok and any("version 1 of prepare made it, this firstsight has 2" in line for line in check.repairs)


def test_prepared_sources_with_the_same_files_are_set_aside_too(tmp_path: Path) -> None:
    source = tmp_path / "prepared"
    source.mkdir()
    (source / "index").write_text("index")
    store = Store(tmp_path / "runs")
    step = Step(kind="texts", spec=TEXTS.spec, version=STEP_VERSIONS["texts"] + 1)
    shutil.copytree(source, store.root / "sources" / "mine")
    store.adopt(step, store.root / "sources" / "mine", ANY_FILES)
    shutil.copytree(source, store.root / "sources" / "other")
    flip(store.path(step.address) / "index")
    assert repair_store(store.root, site=Site(), jobs=1).ok
    assert [path.name for path in (store.root / "sources").iterdir()] == ["other"]
    assert (store.root / "damaged" / f"{step.address}.1" / "source-mine" / "index").is_file()


def test_dependents_are_all_that_a_result_reaches() -> None:
    needs = {"a": [], "b": ["a"], "c": ["b", "x"], "d": ["x"], "x": []}
    records = {name: {"needs": dict(enumerate(parents))} for name, parents in needs.items()}
    assert dependents(["a"], records) == ("b", "c") and dependents(["x"], records) == ("c", "d")
    assert dependents(["c"], records) == dependents([], records) == ()


def test_a_folder_without_a_store_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StoreError, match=r"Got no store\.json"):
        Workspace(tmp_path / "none").doctor()
    assert command(["doctor", "--repair"]) == 2 and "--store DIR" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_provenance_of_a_restored_record_has_the_bytes_of_a_published_one(root: Path) -> None:
    path = root / "provenance" / f"{TEXTS.address}.json"
    assert path.read_text() == json.dumps(json.loads(path.read_text()), indent=1, sort_keys=True) + "\n"
