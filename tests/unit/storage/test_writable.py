"""Where a command may write: one check for DEST and ``--json``, with one wording."""

from pathlib import Path

import pytest

from m2f_batch.errors import UsageError
from m2f_batch.storage import allow
from m2f_batch.storage.places import writable_file, writable_folder, writable_place


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with a file, a folder that holds a file, and an empty folder."""
    (tmp_path / "file.json").write_text("{}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").write_text("a")
    (tmp_path / "empty").mkdir()
    return tmp_path


def refused(make, *args, **kwargs) -> str:
    with pytest.raises(UsageError) as caught:
        make(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("check", [writable_place, writable_file, writable_folder])
def test_no_place_to_write_is_refused_with_its_field(check):
    signed = "s3://bucket/a?X-Amz-Signature=" + "0" * 32
    assert refused(check, "", "DEST") == "DEST: a URI must not be empty, nor contain a NUL character"
    assert refused(check, "ftp://host/a", "--json").startswith("--json: ftp://...: no scheme of files")
    assert refused(check, "https://host/a", "DEST") == (
        "DEST: 'https://host/a': nothing can be written to the web; give a folder or a bucket"
    )
    assert refused(check, signed, "DEST").startswith("DEST: a URI holds a signature or a key")


@pytest.mark.parametrize("check", [writable_place, writable_file, writable_folder])
def test_what_lies_outside_an_allow_list_is_refused(check, there):
    with allow.confine([str(there / "full")], {}):
        assert f"DEST: {there}/new: lies outside storage.allow" in refused(check, f"{there}/new", "DEST")
        assert check(f"{there}/full/new", "DEST").uri == f"{there}/full/new"


def test_a_file_is_given_by_its_name(there):
    place = writable_file(f"{there}/full/../new.json", "DEST")
    place.store.write(place.uri, b"written")
    assert (place.uri, (there / "new.json").read_bytes()) == (f"{there}/new.json", b"written")
    for folder in (f"{there}/full", f"{there}/new/"):
        assert refused(writable_file, folder, "DEST") == (
            f"DEST: {folder!r} is a folder; give the name of a file in it"
        )
    below = f"{there}/file.json/a/b.json"
    assert refused(writable_file, below, "--json") == f"--json: {below!r}: '{there}/file.json' is a file; give a folder"


def test_a_file_takes_the_place_of_nothing_that_is_read(there):
    run = f"{there}/run"
    for name in ("run.json", "annotations/0.parquet", "_state/plan.json", "_SUCCESS"):
        assert refused(writable_file, f"{run}/{name}", "DEST", run=run) == (
            f"DEST: '{run}/{name}' is a part of the run itself; give another place"
        )
    assert writable_file(f"{run}/coco.json", "DEST", run=run).uri == f"{run}/coco.json"
    read = f"{there}/file.json"
    assert refused(writable_file, read, "DEST", read=[None, "no://place", read]) == (
        f"DEST: {read!r} is what is read; give another name"
    )
    assert writable_file(read, "DEST", read=[f"{read}.other"]).uri == read


def test_a_folder_may_be_there_or_not_and_is_no_file(there):
    for name in ("full", "empty", "new", "new/"):
        assert writable_folder(f"{there}/{name}", "DEST").uri == f"{there}/{name}".rstrip("/")
    assert refused(writable_folder, f"{there}/file.json", "DEST") == (
        f"DEST: '{there}/file.json' is a file; give a directory"
    )


def test_a_new_folder_holds_no_file(there):
    assert refused(writable_folder, f"{there}/full", "DEST", is_new=True) == (
        f"DEST: '{there}/full' is not empty; remove it, or choose another DEST"
    )
    for name in ("empty", "new"):
        assert writable_folder(f"{there}/{name}", "DEST", is_new=True).uri == f"{there}/{name}"


def test_a_bucket_is_spelled_without_its_last_slash(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert writable_place("s3://bucket/models/mine/", "DEST").uri == "s3://bucket/models/mine"
