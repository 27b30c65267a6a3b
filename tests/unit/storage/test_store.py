"""One behavior suite for a disk, moto, Ceph, and a pyarrow file system that is none of them."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.s3_servers import S3Endpoint

from m2f_batch.errors import TransientError
from m2f_batch.storage import places
from m2f_batch.storage.places import open_store
from m2f_batch.storage.s3.client import new_client
from m2f_batch.storage.s3.store import S3Store
from m2f_batch.storage.store import Entry, NotFound, Unreadable

pytest_plugins = ["support.s3_servers"]

WEIRD = [
    "a b.jpg",
    "ü/é日本.jpg",
    "100%25.jpg",
    "p+q.jpg",
    "h#s.jpg",
    "q?x=1.jpg",
    "a&b<c>.jpg",
    "[x]*.jpg",
    "new\nline.jpg",
]


@pytest.fixture(params=["local", "moto", "ceph", "arrow"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of each kind."""
    if request.param == "local":
        return str(tmp_path)
    if request.param == "arrow":
        place = f"mock:///{tmp_path.name}"  # pyarrow's own, in memory
        open_store(place).write(f"{place}/x", b"")
        open_store(place).delete([f"{place}/x"])
        return place
    return request.getfixturevalue(f"{request.param}_s3").uri


def test_write_then_read_list_stat_delete(place: str) -> None:
    store = open_store(place)
    assert [*store.list(f"{place}/runs")] == []
    store.write(f"{place}/runs/a.bin", b"old")
    store.write(f"{place}/runs/a.bin", b"new!")
    store.write(f"{place}/runs/deep/er/b.bin", b"")
    assert store.read(f"{place}/runs/a.bin") == b"new!"
    listed = {entry.uri: entry for entry in store.list(f"{place}/runs/")}
    assert {uri: entry.size for uri, entry in listed.items()} == {
        f"{place}/runs/a.bin": 4,
        f"{place}/runs/deep/er/b.bin": 0,
    }
    wanted = [f"{place}/runs/none", f"{place}/runs/a.bin", f"{place}/runs", f"{place}/runs/deep/er/b.bin"]
    assert store.stat_many(wanted) == [None, listed[wanted[1]], None, listed[wanted[3]]]
    assert places.stat_many(wanted) == store.stat_many(wanted)
    assert store.read_entry(wanted[1]) == (b"new!", listed[wanted[1]])
    assert [store.exists(uri) for uri in wanted] == [False, True, False, True]
    assert [store.is_folder(uri) for uri in [place, *wanted]] == [True, False, False, True, False]
    store.delete([wanted[1], f"{place}/runs/none"])
    assert [entry.uri for entry in store.list(place)] == [f"{place}/runs/deep/er/b.bin"]


def test_names_come_back_as_they_were_given(place: str) -> None:
    store, names = (
        open_store(place),
        [name for name in WEIRD if "\n" not in name or not place.startswith("s3://test-moto")],
    )
    for name in names:
        store.write(f"{place}/{name}", name.encode())
    assert sorted(entry.uri for entry in store.list(place)) == sorted(f"{place}/{name}" for name in names)
    for name in names:
        assert store.read(f"{place}/{name}") == name.encode()
        assert store.stat(f"{place}/{name}") is not None


def test_a_list_may_be_narrowed_by_the_start_of_a_name(place: str) -> None:
    store = open_store(place)
    for name in ("in/im1.jpg", "in/im2/x.jpg", "in/other.jpg", "im.jpg"):
        store.write(f"{place}/{name}", b"x")
    assert sorted(entry.uri for entry in store.list(f"{place}/in", "im")) == [
        f"{place}/in/im1.jpg",
        f"{place}/in/im2/x.jpg",
    ]


def test_a_version_changes_with_the_content(place: str) -> None:
    store = open_store(place)
    store.write(f"{place}/a", b"one")
    before = store.stat(f"{place}/a")
    store.write(f"{place}/a", b"three")
    after = store.stat(f"{place}/a")
    assert before and after and before.version and before.version != after.version
    assert '"' not in before.version


def test_write_new_never_replaces(place: str) -> None:
    store = open_store(place)
    assert store.write_new(f"{place}/locks/one", b"first") is True
    assert store.write_new(f"{place}/locks/one", b"second") is False
    assert store.read(f"{place}/locks/one") == b"first"
    assert [entry.uri for entry in store.list(place)] == [f"{place}/locks/one"]


@pytest.mark.parametrize("place", ["local", "moto", "ceph"], indirect=True)
def test_one_of_eight_racing_writers_wins(place: str) -> None:
    store, gate = open_store(place), threading.Barrier(8)

    def race(number: int) -> bool:
        gate.wait()
        return store.write_new(f"{place}/lease", f"writer {number}".encode() * 1000)

    with ThreadPoolExecutor(8) as pool:
        won = [*pool.map(race, range(8))]
    assert won.count(True) == 1
    assert store.read(f"{place}/lease") == f"writer {won.index(True)}".encode() * 1000
    assert len([*store.list(place)]) == 1


def test_replace_knows_what_it_replaces(place: str) -> None:
    store, uri = open_store(place), f"{place}/run.json"
    assert store.replace(uri, b"x", "1-1") is False and not store.exists(uri)
    store.write(uri, b"one")
    first = store.stat(uri)
    assert first and store.replace(uri, b"second", first.version) is True
    assert store.read(uri) == b"second"
    assert store.replace(uri, b"third!!", first.version) is False
    assert store.read(uri) == b"second"
    assert [entry.uri for entry in store.list(place)] == [uri]
    store.delete([uri])
    assert store.replace(uri, b"x", first.version) is False and not store.exists(uri)


@pytest.mark.parametrize("place", ["moto", "ceph"], indirect=True)
def test_one_of_sixteen_racing_replacements_wins(place: str) -> None:
    """A loser is told so, or that others were in its way: Ceph answers some of them with a 500."""
    store, start, uri = open_store(place), threading.Barrier(16), f"{place}/run.json"
    store.write(uri, b"before")
    before = store.stat(uri)
    assert before

    def race(number: int) -> bool | TransientError:
        start.wait()
        try:
            return store.replace(uri, f"{number:02d}".encode() * 1000, before.version)
        except TransientError as fault:
            return fault

    with ThreadPoolExecutor(16) as pool:
        told = [*pool.map(race, range(16))]
    winner = int(store.read(uri)[:2])
    assert store.read(uri) == f"{winner:02d}".encode() * 1000
    assert told[winner] is not False and told.count(True) <= 1, told
    assert told.count(True) == 1 or isinstance(told[winner], TransientError), told


def test_an_answer_to_a_conditional_write_that_was_lost(s3_endpoint: S3Endpoint) -> None:
    """The client sends it twice, and is refused because of itself."""
    client = new_client()
    store, real, uri = S3Store(client), client.put_object, f"{s3_endpoint.uri}/run.json"

    def put_object(**options: Any) -> Any:
        real(**options)
        return real(**options)

    client.put_object = put_object  # type: ignore[method-assign]
    assert store.write_new(uri, b"one") is True
    first = store.stat(uri)
    assert first and store.replace(uri, b"two", first.version) is True
    assert store.read(uri) == b"two"
    client.put_object = real  # type: ignore[method-assign]
    assert store.replace(uri, b"three", first.version) is False
    assert S3Store(new_client()).write_new(uri, b"two") is False, "another's, with the same content"


def test_age_is_told_by_the_clock_of_the_store(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(place)
    assert store.age(f"{place}/lease") is None
    store.write(f"{place}/lease", b"x")
    monkeypatch.setattr("m2f_batch.storage.s3.store.datetime", None)  # ours is not asked
    age = store.age(f"{place}/lease")
    assert age is not None and -2 < age < 600
    if place.startswith("/"):
        monkeypatch.setattr("m2f_batch.storage.local.time", None)
        os.utime(f"{place}/lease", (1, 1))
        age = store.age(f"{place}/lease")
        assert age is not None and age > 1e9
        assert os.listdir(place) == ["lease"]


def test_upload_writes_a_file_of_many_parts(place: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20) * 9)
    store = open_store(place)
    store.upload(source, f"{place}/out/copy")
    assert store.read(f"{place}/out/copy") == source.read_bytes()
    assert [entry.size for entry in store.list(f"{place}/out")] == [9 << 20]


def test_what_is_not_there(place: str) -> None:
    with pytest.raises(NotFound) as caught:
        open_store(place).read(f"{place}/none.jpg")
    assert str(caught.value).startswith(f"{place}/none.jpg: no such")
    assert "\n" not in str(caught.value)


def test_large_prefixes_are_walked_page_by_page(s3_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Store, "page_size", 7)
    store = open_store(s3_endpoint.uri)
    few_folders = [f"few/{part}/{number}/x.jpg" for part in "abc" for number in range(20)]
    many_folders = [f"many/{number}/x.jpg" for number in range(20)]
    flat = [f"flat/{number}.jpg" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        [*pool.map(lambda key: store.write(f"{s3_endpoint.uri}/{key}", b"x"), few_folders + many_folders + flat)]
    store.write(f"{s3_endpoint.uri}/few/", b"")  # a console's folder
    for top, keys in {"few": few_folders, "many": many_folders, "flat": flat}.items():
        uris = [entry.uri for entry in store.list(f"{s3_endpoint.uri}/{top}")]
        assert sorted(uris) == sorted(f"{s3_endpoint.uri}/{key}" for key in keys)
    first = next(iter(store.list(s3_endpoint.uri)))  # and an abandoned list ends
    assert first.size == 1


@pytest.mark.slow
def test_more_than_a_thousand_keys(moto_s3: S3Endpoint) -> None:
    keys = [f"{number // 550}/{number:04d}" for number in range(1100)]
    moto_s3.put(dict.fromkeys(keys, b"x"))
    assert sorted(entry.uri for entry in open_store(moto_s3.uri).list(moto_s3.uri)) == [
        f"{moto_s3.uri}/{k}" for k in keys
    ]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, what in ((".", "is a folder, not a file"), ("pipe", "not a regular file")):
        with pytest.raises(Unreadable, match=what):
            open_store(str(tmp_path)).read(f"{tmp_path}/{name}")
    assert [*open_store(str(tmp_path)).list(str(tmp_path))] == []


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "lost.jpg").symlink_to(tmp_path / "nothing")
    listed = {entry.uri.removeprefix(f"{tmp_path}/"): entry.version for entry in open_store("/").list(str(tmp_path))}
    assert sorted(listed) == ["a/x.jpg", "b/x.jpg", "lost.jpg"]
    assert listed["lost.jpg"] == ""


def test_relative_and_file_uris_name_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("a b.txt")
    store.write("a b.txt", b"x")
    assert store.read(f"file://{tmp_path}/a%20b.txt") == b"x"
    assert store.stat("./a b.txt") == Entry(f"{tmp_path}/a b.txt", 1, f"1-{os.stat('a b.txt').st_mtime_ns}")
