"""How many images a run can hold is known while they are listed, and said with what to do."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DEMO_MODEL

from m2f_batch.cli import main
from m2f_batch.errors import UsageError
from m2f_batch.inputs import columns, manifests
from m2f_batch.inputs.listed import listing_of
from m2f_batch.storage import driver_memory as memory
from m2f_batch.storage import store
from m2f_batch.storage.driver_memory import BASE, Room, check_room, driver_memory, needed

GIB = 1 << 30


def test_what_is_needed_grows_with_images_and_their_text() -> None:
    assert needed(0, 0) == BASE
    assert needed(1000, 0) - BASE == 1000 * memory.PER_IMAGE
    assert needed(0, 1000) - BASE == 1000 * memory.PER_TEXT_BYTE
    for images in (1, 10**6, 10**9):
        check_room(images, images * 100, needed(images, images * 100))
        with pytest.raises(UsageError):
            check_room(images, images * 100, needed(images, images * 100) - 1)


def test_the_words_say_what_fits_and_what_to_do() -> None:
    images, text = 40_000_000, 4_000_000_000
    with pytest.raises(UsageError) as caught:
        check_room(images, text, 16 * GIB)
    each = (needed(images, text) - BASE) / images
    (fit,) = re.findall(r"at most some ([0-9,]+) such images", str(caught.value))
    number = int(fit.replace(",", ""))
    assert str(caught.value) == (
        f"input.uri: lists 40,000,000 images and more. A run over these takes {needed(images, text) / 1e9:.3g} GB of "
        f"memory beside its driver ({each:.0f} bytes per image, measured), which has 17.2 GB: at most some {fit} such "
        "images. Split INPUT by prefix, each with an OUTPUT of its own, or give the driver (on a cluster, the head) "
        "more memory"
    )
    check_room(number, number * 100, 16 * GIB)
    with pytest.raises(UsageError):
        check_room(int(number * 1.1), int(number * 110), 16 * GIB)


def test_parts_are_added_up() -> None:
    some = pa.array(["a" * 1000] * 1000, pa.large_string())
    one = Room(needed(3000, 3 * some.nbytes))
    for _ in range(3):
        one.take(some)
    with pytest.raises(UsageError, match="lists 4,000 images and more"):
        one.take(some)
    with pytest.raises(UsageError, match="lists 1,000 images and more"):
        Room(needed(1000, some.nbytes)).take(some, some)


@pytest.mark.parametrize("form", ["folder", "manifest"])
def test_too_many_images_end_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """Exit code 2 while it is listed: after the first parts that are too many, and before an image is looked for."""
    (tmp_path / "in").mkdir()
    names = [f"{number:04d}.jpg" for number in range(400)]
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"x")
    pq.write_table(pa.table({"uri": names}), tmp_path / "in" / "list.parquet")
    monkeypatch.setattr(store, "PAGE", 10)
    for module in (columns, manifests):
        monkeypatch.setattr(module, "CHUNK", 10)
    monkeypatch.setattr("m2f_batch.inputs.listed.stat_many", lambda _: pytest.fail("an image was looked for"))
    monkeypatch.setattr(memory, "driver_memory", lambda: BASE + 30 * memory.PER_IMAGE)
    place = str(tmp_path / "in") if form == "folder" else str(tmp_path / "in" / "list.parquet")
    assert main(["segment", place, str(tmp_path / "out"), "--model", str(DEMO_MODEL)]) == 2
    told = capsys.readouterr().err.strip()
    assert re.search(r"input\.uri: lists (\d+) images and more\. A run over these takes 1\.07 GB of memory", told)
    assert told.endswith("or give the driver (on a cluster, the head) more memory")
    assert not (tmp_path / "out").exists()


def test_kept_columns_of_a_manifest_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the plan and in what is written, as the names are."""
    names = pa.array([f"/{number:03d}.jpg" for number in range(100)], pa.large_string())
    kept = pa.table({"patient": ["p" * 1000] * 100, "age": [70] * 100})
    versions = pa.array(["v1"] * 100, pa.large_string())
    monkeypatch.setattr(memory, "driver_memory", lambda: needed(100, names.nbytes + kept.nbytes - 1))
    assert listing_of(names, versions, kept.select(["age"]), 0).table.num_rows == 100
    with pytest.raises(UsageError, match="lists 100 images and more"):
        listing_of(names, versions, kept, 0)


def test_a_listing_is_not_blamed_for_memory_that_ray_itself_lacks() -> None:
    few = pa.array(["/a.jpg"], pa.large_string())
    Room(BASE - 1).take(few)
    Room(BASE + 1).take(few[:0])  # a page without images
    with pytest.raises(UsageError, match="lists 1 images and more"):
        Room(BASE + 1).take(few)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal:  8388608 kB\nMemFree: 1 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_memory_is_the_least_limit(tmp_path: Path) -> None:
    assert driver_memory(tree(tmp_path / "bare", {})) == 8 * GIB
    two = {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}
    assert driver_memory(tree(tmp_path / "none", two)) == 8 * GIB
    assert driver_memory(tree(tmp_path / "above", {**two, "sys/fs/cgroup/a/memory.max": f"{2 * GIB}\n"})) == 2 * GIB
    assert driver_memory(tree(tmp_path / "pod", {**two, "sys/fs/cgroup/memory.max": f"{3 * GIB}\n"})) == 3 * GIB
    assert driver_memory(tree(tmp_path / "more", {**two, "sys/fs/cgroup/memory.max": f"{99 * GIB}\n"})) == 8 * GIB
    one = {
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/x\n0::/\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": str(GIB),
    }
    assert driver_memory(tree(tmp_path / "first", one)) == GIB
    assert 0 < driver_memory() <= 1 << 50
    (told,) = re.findall(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert driver_memory(tmp_path / "no-proc") == int(told) * 1024
