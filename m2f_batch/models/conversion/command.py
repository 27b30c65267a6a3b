"""Makes of a model whose weights are pickled the same model in safetensors (``m2f-batch convert-checkpoint``).

This process never opens a pickle. The child that does (``child``) has no network, no keys and a bound of memory; what
it writes is read back by its headers, and loaded, before DEST is there.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from m2f_batch.errors import Plain, RunError, TransientError, UsageError
from m2f_batch.models.checkpoint import Checkpoint, read_checkpoint, read_config
from m2f_batch.models.conversion.child import MAX_SHARD, Order
from m2f_batch.models.source import PICKLES, TO_CONVERT, ModelSource, find_model, local_directory
from m2f_batch.storage import uris
from m2f_batch.storage.json_text import json_object_or_none, read_json_object
from m2f_batch.storage.places import Place, not_empty, writable_folder
from m2f_batch.storage.retries import retry_before_run
from m2f_batch.storage.store import ObjectError, StoreUnavailable

COPIED = ("config.json", "preprocessor_config.json", "processor_config.json", "README.md")
INDEX = "pytorch_model.bin.index.json"
# Bytes beside the weights themselves, of which there are up to three at a time: read, made to stand alone, written
HEADROOM = 1 << 30
SECONDS, BYTES_PER_SECOND = 600, 10_000_000  # of a core, far above what is honest
_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from m2f_batch.models.conversion.child import serve
serve(json.loads(sys.argv[2]))
"""


def convert_checkpoint(source: str, dest: str, *, max_shard: int = MAX_SHARD) -> list[str]:
    """Write the model of ``source`` to ``dest``, a new or empty place, whole or not at all.

    Returns the lines that tell a person what was read and written.

    ``max_shard``: bytes of one file of weights. Raises UsageError for a source that has no pickled weights, is no
    model of a family that is known, or whose weights are not what they should be.
    """
    place = _new_folder(dest)
    with _of_source():
        found = retry_before_run(lambda: find_model(source, wanted=TO_CONVERT))
        directory = retry_before_run(lambda: local_directory(found))
        read_config(directory, source)
    files = _pickles(directory, source)
    with _beside(place.uri) as folder:
        answer = _run(files, folder, max_shard)
        names = _settle_names(folder, answer["written"])
        _copy(directory, folder, found)
        lines = [*_lines(dest, files, names, answer, _loaded(folder, source))]
        _deliver(folder, place)
    return lines


@contextmanager
def _of_source() -> Iterator[None]:
    """Turn mistakes in model.uri in this block into mistakes in SRC."""
    try:
        yield
    except (UsageError, RunError) as error:
        raise (error.with_field("SRC") if error.field in ("model.uri", "model.revision") else error) from None


def _new_folder(dest: str) -> Place:
    """Return DEST. Raises UsageError where something is there, of a disk also a folder without files."""
    place = writable_folder(dest, "DEST", is_new=True)
    if not uris.root(place.uri) and os.path.isdir(place.uri) and os.listdir(place.uri):
        raise not_empty(dest, "DEST")
    return place


def _pickles(directory: Path, source: str) -> list[Path]:
    """List the files of pickled weights that transformers would load: the one, or those that the index names."""
    single, index = directory / PICKLES[0], directory / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        ready = any(directory.glob("model*.safetensors"))
        others = sorted(file.name for file in directory.iterdir() if file.suffix in (".pt", ".pth", ".ckpt", ".pkl"))
        hint = f"; if {others[0]} holds the state of the model, give it the name {PICKLES[0]}" if others else ""
        hint = "; it has safetensors, which segment reads as they are" if ready else hint
        raise UsageError(f"has neither {PICKLES[0]} nor {INDEX}{hint}", field="SRC", value=Plain(source))
    try:
        tree = read_json_object(index.read_bytes(), INDEX)
        names = sorted({*tree["weight_map"].values()})
    except (UsageError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{INDEX} of {source} has no weight_map from tensors to files", field="SRC") from None
    if not names or not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.bin", name) for name in names):
        raise UsageError(f"the weight_map in {INDEX} of {source} must name .bin files of that directory", field="SRC")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise UsageError(f"has no {missing[0]}, which {INDEX} names", field="SRC", value=Plain(source))
    return [directory / name for name in names]


@contextmanager
def _beside(place: str) -> Iterator[Path]:
    """Make a folder from which files are renamed to a local place, or else uploaded. It is gone afterwards.

    It is in the place itself where that is there: that may be a mount, and nothing beside it writable.
    """
    if uris.root(place):
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    parent = Path(place) if os.path.isdir(place) else Path(place).parent
    new = [each for each in (parent, *parent.parents) if not each.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{Path(place).name}-", suffix=".partial", dir=parent))
    except OSError as error:
        raise UsageError(f": {error.strerror}", field="DEST", value=Plain(place)) from None
    folder.chmod(0o777 & ~_umask())  # which mkdtemp makes for its owner alone
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for each in new:  # the deepest first
            if each.is_dir() and not any(each.iterdir()):
                each.rmdir()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _run(files: list[Path], folder: Path, max_shard: int) -> dict[str, Any]:
    """Get the child's answer with ``memory``, its bound. Raises UsageError for what it refuses or dies of, RunError."""
    sizes = [file.stat().st_size for file in files]
    memory, seconds = 3 * max(sizes) + HEADROOM, SECONDS + sum(sizes) // BYTES_PER_SECOND
    order: Order = {
        "files": [str(file.resolve()) for file in files],
        "out": str(folder.resolve()),
        "memory": memory,
        "seconds": seconds,
        "max_shard": max_shard,
    }
    command = [sys.executable, "-c", _BOOT, json.dumps(sys.path), json.dumps(order)]
    # of the environment only what it takes to start: no keys, no tokens
    settings = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR") if name in os.environ}
    try:
        done = subprocess.run(
            command, env=settings, stdin=subprocess.DEVNULL, capture_output=True, cwd=folder, check=False
        )
    except OSError as error:
        raise RunError(f"the process that reads weights does not start: {error.strerror}") from None
    answer = _answer(done.stdout)
    what = ", ".join(file.name for file in files[:2]) + (", ..." if len(files) > 2 else "")
    if answer is None:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        end = f"by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"with {done.returncode}"
        problem = f"{what}: is refused, since the process that read it ended {end}, within {_bytes(memory)} of memory "
        problem += f"and {seconds:,} s" + (f" ({said})" if said else "")
        raise UsageError(problem, field="SRC")
    if "refused" in answer:
        raise UsageError(answer["refused"], field="SRC")
    if "failed" in answer:
        raise RunError(answer["failed"], field="DEST")
    return answer | {"memory": memory}


def _answer(stdout: bytes) -> dict[str, Any] | None:
    """Read the child's answer, if its form is right, because the child has read what anybody may have made."""
    try:
        answer = json.loads(stdout.decode().strip().rpartition("\n")[2])
    except ValueError:
        return None
    written = answer.get("written") if isinstance(answer, dict) else None
    is_fit = isinstance(written, dict) and all(re.fullmatch(r"part-\d{5}\.safetensors", name) for name in written)
    said = isinstance(answer, dict) and [
        text for key in ("refused", "failed") if isinstance(text := answer.get(key), str)
    ]
    return answer if is_fit or said else None


def _settle_names(folder: Path, written: dict[str, list[str]]) -> list[str]:
    """Give the files the names that transformers gives them, with an index where there are several."""
    if len(written) == 1:
        (only,) = written
        (folder / only).rename(folder / "model.safetensors")
        return ["model.safetensors"]
    weight_map: dict[str, str] = {}
    names = []
    for number, (part, tensors) in enumerate(written.items(), 1):
        names.append(f"model-{number:05d}-of-{len(written):05d}.safetensors")
        (folder / part).rename(folder / names[-1])
        weight_map |= dict.fromkeys(tensors, names[-1])
    total = sum((folder / name).stat().st_size for name in names)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return [*names, "model.safetensors.index.json"]


def _copy(directory: Path, folder: Path, found: ModelSource) -> None:
    """Copy the other files of a model. A model of the hub keeps its name, which tells its license and task."""
    for name in COPIED:
        if (directory / name).is_file():
            shutil.copyfile(directory / name, folder / name)
    if found.kind == "hub":
        config = folder / "config.json"
        tree = json_object_or_none(config.read_bytes())
        if tree is not None:  # what it is else is said when it is read
            config.write_text(json.dumps(tree | {"_name_or_path": found.uri}, indent=2) + "\n")


def _loaded(folder: Path, source: str) -> Checkpoint:
    """Return the new model, once it loads. Raises UsageError where it is no whole model."""
    try:
        checkpoint = read_checkpoint(folder, source)
        from m2f_batch.models.loading import load_original

        load_original(folder, name=source)
    except (UsageError, RunError) as error:
        raise UsageError.about("SRC", error.with_field("")) from None
    return checkpoint


def _deliver(folder: Path, place: Place) -> None:
    """Bring the files to DEST by one rename, or one by one with config.json last, without which they are no model."""
    files = sorted(folder.iterdir(), key=lambda file: file.name == "config.json")
    for file in files:
        file.chmod(0o666 & ~_umask())  # safetensors writes files for their owner alone
    try:
        if not uris.root(place.uri):
            _move(folder, files, Path(place.uri))
            return
        store, names = place.store, [f"{place.uri}/{file.name}" for file in files]
        try:
            for file, name in zip(files, names, strict=True):
                store.upload(file, name)
        except BaseException:
            with suppress(ObjectError, StoreUnavailable, TransientError):
                store.delete(names)
            raise
    except OSError as error:
        raise RunError(f": {error.strerror}", field="DEST", value=Plain(place.uri)) from None
    except (ObjectError, StoreUnavailable) as error:
        raise RunError.about("DEST", error) from None


def _move(folder: Path, files: list[Path], place: Path) -> None:
    """Rename the folder in one step, or where the place is there from inside it. Raises OSError, RunError."""
    if folder.parent != place:
        folder.rename(place)
        return
    if os.listdir(place) != [folder.name]:
        raise RunError(
            "is not empty any more: somebody else writes to it; nothing was changed", field="DEST", value=Plain(place)
        )
    targets = [place / file.name for file in files]
    try:
        for file, target in zip(files, targets, strict=True):
            file.rename(target)
    except BaseException:
        for target in targets:
            target.unlink(missing_ok=True)
        raise


def _lines(
    dest: str, files: list[Path], names: list[str], answer: dict[str, Any], checkpoint: Checkpoint
) -> Iterator[str]:
    read = f"{len(files):,} files" if len(files) > 1 else files[0].name
    bounds = f"without network ({answer['network']}) and with {_bytes(answer['memory'])} of memory at most"
    yield f"read    {read} in a process {bounds}"
    count = sum(len(tensors) for tensors in answer["written"].values())
    yield f"wrote   {dest}: {count:,} tensors in {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    yield f"model   {len(checkpoint.id2label):,} labels; license of the weights: {checkpoint.license}"


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
