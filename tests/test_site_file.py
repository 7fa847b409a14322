"""The site file: what is read from it, and that every error names file, key, wanted and got."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight.errors import RequestError
from firstsight.site import MAX_REJECTED_SHARE, Location, Site
from firstsight.site_file import read_site, source_entries_template
from firstsight.units import Share


def site_from(tmp_path: Path, text: str) -> Site:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return read_site(path)


def test_machine_and_sources_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISK", "/mnt/fast")
    monkeypatch.setenv("HOME", "/home/someone")
    site = site_from(
        tmp_path,
        """
        [machine]
        device = "cuda"
        threads = 4
        compile = false
        save_every = 30
        cache = "${DISK}/cache"
        readers = 8
        track = ["wandb", "tensorboard"]
        spike = 7
        collective_timeout = 60

        [sources.near]
        path = "data/near"
        [sources."llava-v1.5"]
        path = "$DISK/llava/mix.json"
        pictures = "~/pictures"
        split = "train"
        most_bad = "2.5%"
        columns = { text = "content", picture = "image" }
        [sources.far]
        path = "s3://bucket/{00000..00009}.tar"
        captions = "https://host/captions/"
        """,
    )
    machine = (site.device, site.threads, site.compile, site.save_every, site.cache, site.readers)
    assert machine == ("cuda", 4, False, 30.0, Path("/mnt/fast/cache"), 8)
    assert (site.track, site.spike, site.collective_timeout) == (("wandb", "tensorboard"), 7.0, 60.0)
    assert site.sources["near"] == Location(path=str(tmp_path / "data" / "near"))
    assert site.sources["near"].most_bad == MAX_REJECTED_SHARE
    assert site.sources["llava-v1.5"] == Location(
        path="/mnt/fast/llava/mix.json",
        pictures="/home/someone/pictures",
        split="train",
        most_bad=Share(1, 40),
        columns={"text": "content", "picture": "image"},
    )
    assert site.sources["far"].path == "s3://bucket/{00000..00009}.tar"
    assert site.sources["far"].captions == "https://host/captions/"


def test_missing_keys_keep_the_defaults(tmp_path: Path) -> None:
    machine = Site(device="cuda", threads=3)
    (tmp_path / "site.toml").write_text("")
    assert read_site(tmp_path / "site.toml", defaults=machine) == machine
    (tmp_path / "site.toml").write_text("[machine]\nthreads = 2")
    assert read_site(tmp_path / "site.toml", defaults=machine) == Site(device="cuda", threads=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[machin]\ndevice = 'cpu'", ("machin", "machine, slurm, limits, sources", "Nearest: machine")),
        ("[machine]\nthread = 1", ("[machine] thread", "Nearest: threads")),
        ("[machine]\nthreads = '1'", ("[machine] threads", "a whole number", "'1'")),
        ("[machine]\nthreads = true", ("[machine] threads", "a whole number", "True")),
        ("[machine]\nthreads = 1.5", ("[machine] threads", "a whole number", "1.5")),
        ("[machine]\nreaders = 0", ("[machine] readers", "at least 1", "0")),
        ("[machine]\nsave_every = -1", ("[machine] save_every", "-1")),
        ("[machine]\nsave_every = nan", ("[machine] save_every", "at least 0", "nan")),
        ("[machine]\nsave_every = inf", ("[machine] save_every", "at most 1,000,000", "inf")),
        ("[machine]\ncollective_timeout = 0.5", ("[machine] collective_timeout", "at least 1", "0.5")),
        ("[machine]\nspike = -7", ("[machine] spike", "at least 0", "-7")),
        ("[machine]\ntrack = 'wandb'", ("[machine] track", "a list of texts in quotes", "'wandb'")),
        ("[machine]\ntrack = ['comet']", ("[machine] track", "any of tensorboard, wandb, trackio", "'comet'")),
        ("[machine]\ndevice = 'banana'", ("[machine] device", "cpu, cuda or cuda:N", "'banana'")),
        ("[machine]\ndevice = 'cuda:x'", ("[machine] device", "cpu, cuda or cuda:N", "'cuda:x'")),
        ('[sources.x]\npath = "a\\u0000b"', ("[sources.x] path", "NUL", r"'a\x00b'")),
        (f"[machine]\nthreads = {'[' * 100_000}", ("TOML", "recursion")),
        ("[machine]\ncompile = 'no'", ("[machine] compile", "true or false")),
        ("machine = 3", ("[machine]", "a table", "3")),
        ("[sources]\nx = '/data'", ("[sources.x]", "a table", "/data")),
        ("[sources.x]\nsplit = 'train'", ("[sources.x] path", "Got none", 'path = "/path/to/x"')),
        ("[sources.x]\npath = ''", ("[sources.x] path", "Got none")),
        ("[sources.x]\npath = '/a'\npicture = '/b'", ("[sources.x] picture", "Nearest: pictures")),
        ("[sources.x]\npath = ['/a']", ("[sources.x] path", "text in quotes")),
        ("[sources.x]\npath = '/a'\nmost_bad = 0.01", ("[sources.x] most_bad", "text in quotes", "0.01")),
        ("[sources.x]\npath = '/a'\nmost_bad = '101%'", ("[sources.x] most_bad", "between 0 and 1")),
        ("[sources.x]\npath = '/a'\ncolumns = { text = 3 }", ("columns.text", "text in quotes", "3")),
        ("[sources.'a.b']\npath = '$NOT_SET_HERE/x'", ('[sources."a.b"] path', "$NOT_SET_HERE is not set")),
        ("[sources.x\npath = '/a'", ("TOML", "line 1")),
    ],
)
def test_errors_name_file_key_wanted_and_got(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(RequestError) as error_info:
        site_from(tmp_path, text)
    for word in (str(tmp_path / "site.toml"), *words):
        assert word in str(error_info.value)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:15"])
def test_devices_of_torch_are_read(tmp_path: Path, device: str) -> None:
    assert site_from(tmp_path, f'[machine]\ndevice = "{device}"').device == device


@pytest.mark.parametrize("content", [b"\xff\xfe[\x00m\x00", b"[machine]\ndevice = '\x80'"])
def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "site.toml").write_bytes(content)
    with pytest.raises(RequestError, match=r"site.toml: wanted a site file in TOML. Got 'utf-8' codec"):
        read_site(tmp_path / "site.toml")


@pytest.mark.parametrize("name", ["absent.toml", "folder"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError, match=r"wanted a site file\. Got "):
        read_site(tmp_path / name)


def test_the_template_is_a_valid_site_file(tmp_path: Path) -> None:
    assert set(
        site_from(tmp_path, source_entries_template({"plain-name_1": "text", "llava-v1.5": "dialogues"})).sources
    ) == {
        "plain-name_1",
        "llava-v1.5",
    }
