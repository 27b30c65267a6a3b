"""A model is found in a directory, on the hub or in an object store, and brought to a local directory.

Only safetensors and JSON are ever fetched, no code of a model repository is run, and the hub is asked for one pinned
commit only, which keeps ``transformers`` from asking an outside service to convert weights.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from m2f_batch.errors import CommandError, Plain, RunError, TransientError, UsageError
from m2f_batch.models.family import whole_weights
from m2f_batch.storage import allow, uris
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import Entry, ObjectError, StoreUnavailable, Unreachable

_TEXTS = ("config.json", "preprocessor_config.json", "processor_config.json", "README.md")
# what is ever fetched; a training run's folder holds much more
WANTED = (*_TEXTS, "model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
TO_CONVERT = (*_TEXTS, *PICKLES)  # what convert-checkpoint reads, and nothing else does
MAX_REQUESTS = 20  # pull requests that are looked at
PACKAGE = Path(__file__).parents[1]
OWN = PACKAGE / "demo" / "model"
BUNDLED = "m2f_batch/demo/model"  # its path in a checkout, and its name wherever the package is installed


@dataclass(frozen=True)
class ModelSource:
    """A pinned model: ``revision`` is a commit (hub), a hash of the ETags (bucket) or None (directory)."""

    uri: str
    kind: str  # directory, hub or bucket
    revision: str | None = None
    wanted: tuple[str, ...] = WANTED


def find_model(uri: str, revision: str | None = None, wanted: tuple[str, ...] = WANTED) -> ModelSource:
    """Pin down what ``model.uri`` names. ``wanted`` are patterns of the names of its files.

    ``BUNDLED`` is the package's own model, from any folder.

    Raises UsageError when there is no such model, or it is not allowed.
    """
    given, uri = uri, local_name(uri)
    if os.path.isdir(uri):
        source = ModelSource(os.path.abspath(uri), "directory", wanted=wanted)
        _check_allowed(source, UsageError)
        if revision is not None:
            raise UsageError(
                f"needs a hub id in model.uri, not the directory {uri}", field="model.revision", value=revision
            )
        return source
    if os.path.isfile(uri):  # before the hub is asked, because a/b.pt might be an id of it
        raise _is_file(given, uri, wanted)
    if "://" in uri:
        return _find_at(uri, revision, wanted)
    if uris.HUB_ID.fullmatch(uri) and not uri.startswith((".", "/")):
        name, _, inline = uri.partition("@")
        if inline and revision and inline != revision:
            raise UsageError(
                f"and model.uri {uri!r} name two revisions: keep one", field="model.revision", value=revision
            )
        source = ModelSource(name, "hub", inline or revision, wanted)
        _check_allowed(source, UsageError)
        return _pin_hub(source)
    raise UsageError(
        "is no directory here, no hub id (owner/name) and no object-store URI",
        field="model.uri",
        value=given,
        hint=_wanted_directory(wanted),
    )


def _wanted_directory(wanted: tuple[str, ...]) -> str:
    weights = "pytorch_model.bin" if wanted == TO_CONVERT else "model.safetensors"
    return f"give a Hugging Face directory with config.json and {weights}"


def _is_file(given: str, path: str, wanted: tuple[str, ...]) -> UsageError:
    """Return the error of a file in place of a model, with its directory where that may be one."""
    folder, names = os.path.dirname(os.path.abspath(path)), []
    with suppress(OSError):
        names = os.listdir(folder)
    weights = [name for name in names if any(fnmatchcase(name, each) for each in wanted[len(_TEXTS) :])]
    if weights and os.path.isfile(os.path.join(folder, "config.json")):
        return UsageError("is a file", field="model.uri", value=given, hint=f"give its directory, {folder}")
    extension = os.path.splitext(path)[1]
    problem = f"is a file ({extension}), which is not read" if extension else "is a file, which is not read"
    return UsageError(problem, field="model.uri", value=given, hint=_wanted_directory(wanted))


def local_name(uri: str) -> str:
    """Return what ``model.uri`` means on this machine: ``~`` is a home, and ``BUNDLED`` lies in the package."""
    uri = uris.expanded(uri)
    return str(OWN) if uri.rstrip("/") == BUNDLED and not os.path.isdir(uri) else uri


def local_directory(source: ModelSource) -> Path:
    """Fetch the model's files to this node, once per node however many processes ask.

    Raises RunError when they cannot be had, or are not allowed here.
    """
    _check_allowed(source, RunError)
    if source.kind == "directory":
        if not os.path.isdir(source.uri):
            raise RunError(
                f"the directory {source.uri} is not on node {os.uname().nodename}; on several nodes use "
                "a shared path, a hub id or an object-store URI",
                field="model.uri",
            )
        return Path(source.uri)
    if source.kind == "hub":
        return _fetch_from_hub(source)
    return _fetch_from_bucket(source)


def _check_allowed(source: ModelSource, kind: type[CommandError]) -> None:
    """A model of the hub is hf://owner/name, and its files any kept copy. Links must not leave the lists.

    The package's own model is in every list, as its code is.
    """
    if source.kind == "directory" and os.path.realpath(source.uri) == os.path.realpath(OWN):
        return
    places = [source.uri]
    if source.kind == "hub":
        places = [allow.hub_place(source.uri, source.revision)]
    elif source.kind == "directory" and allow.is_confined() and os.path.isdir(source.uri):
        places += [entry.path for entry in os.scandir(source.uri) if entry.is_symlink()]
    try:
        for place in places:
            allow.check(place)
    except allow.NotAllowed as error:
        raise kind.about("model.uri", error) from None


def _find_at(uri: str, revision: str | None, wanted: tuple[str, ...]) -> ModelSource:
    try:
        place = uris.parse(uri)
        uris.check_model(uri)
    except UsageError as error:
        raise UsageError.about("model.uri", error) from None
    if not place.scheme and os.path.exists(place.path):
        return find_model(place.path, revision, wanted)
    if revision is not None:
        raise UsageError(f"needs a hub id in model.uri, not the URI {uri}", field="model.revision", value=revision)
    source = ModelSource(str(place).rstrip("/"), "bucket", wanted=wanted)
    _check_allowed(source, UsageError)
    with _bucket_errors(UsageError):
        entries = _bucket_files(source)
    if not any(PurePosixPath(entry.uri).name == "config.json" for entry in entries):
        raise UsageError(
            "holds no config.json",
            field="model.uri",
            value=Plain(source.uri),
            hint="give the URI of a Hugging Face directory",
        )
    return replace(source, revision=_digest(entries))


def _digest(entries: list[Entry]) -> str:
    """Make a revision for files that have none: a hash of their names and versions."""
    return hashlib.sha256("\n".join(f"{e.uri} {e.version}" for e in entries).encode()).hexdigest()[:40]


def _bucket_files(source: ModelSource) -> list[Entry]:
    """List the wanted files right below the source's uri (a store lists the folders below it too), by name."""
    entries = open_store(source.uri).list(source.uri)
    names = ((uris.below(source.uri, entry.uri), entry) for entry in entries)
    return [
        entry for name, entry in sorted(names) if "/" not in name and any(fnmatchcase(name, w) for w in source.wanted)
    ]


def _fetch_from_bucket(source: ModelSource) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "m2f-batch" / "models"
    target = cache / str(source.revision)
    with _bucket_errors(RunError), _cache_errors(cache), _lock(cache, str(source.revision)):
        if target.is_dir():
            return target
        entries = _bucket_files(source)
        if _digest(entries) != source.revision:
            raise _changed(source)
        partial = cache / f"{source.revision}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        store = open_store(source.uri)
        for entry in entries:
            if not store.download(entry, partial / PurePosixPath(entry.uri).name):
                raise _changed(source)
        partial.rename(target)
    return target


def _changed(source: ModelSource) -> RunError:
    return RunError(
        "changed while the run was going on", field="model.uri", value=Plain(source.uri), hint="start the run again"
    )


@contextmanager
def _bucket_errors(kind: type[CommandError]) -> Iterator[None]:
    try:
        yield
    except (TransientError, Unreachable) as error:
        raise RunError.about("model.uri", error, hint="the same command may succeed later") from error
    except (UsageError, ObjectError, StoreUnavailable) as error:
        raise kind.about("model.uri", error) from error


@contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot be kept in {cache} ({error.strerror})", field="model.uri", hint="set XDG_CACHE_HOME"
        ) from None


@contextmanager
def _lock(folder: Path, name: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _pin_hub(source: ModelSource) -> ModelSource:
    """Find the commit behind a revision, so that every node and every later run reads the same files."""
    from huggingface_hub import snapshot_download

    with _hub_errors(source, UsageError):
        # only config.json: the folder it lands in is named after the commit, online and from the cache alike
        folder = snapshot_download(source.uri, revision=source.revision, allow_patterns=["config.json"])
    return replace(source, revision=Path(folder).name)


def _fetch_from_hub(source: ModelSource) -> Path:
    from huggingface_hub import snapshot_download

    with _hub_errors(source, RunError):
        folder = Path(snapshot_download(source.uri, revision=source.revision, allow_patterns=list(source.wanted)))
    if source.wanted == WANTED and not any(folder.glob("model*.safetensors*")):
        raise UsageError(_ways_out(source), field="model.uri")
    return folder


def _ways_out(source: ModelSource) -> str:
    """Advise what to do with a model of the hub that has no safetensors."""
    name, whole = source.uri, whole_weights(source.uri)
    if whole is not None:
        return (
            f"{name} has no safetensors, and its pytorch_model.bin holds what is to be added to the "
            f"weights of another model; take the whole ones, {whole}"
        )
    found = _safe_requests(name)
    if found is None:
        first = f"a pull request that holds them ({name}@refs/pr/N; the hub cannot be asked which)"
    elif found:
        first = f"a pull request that holds them, by whoever made it ({', '.join(f'{name}@{ref}' for ref in found)})"
    else:
        first = "a pull request that holds them (there is none yet)"
    return (
        f"{name}@{source.revision} has no safetensors, and pickled weights (pytorch_model.bin) are never "
        f"read here; ways out: {first}, or, of a model that segments, m2f-batch convert-checkpoint {name} DEST"
    )


def _safe_requests(name: str) -> list[str] | None:
    """List the pull requests of a model of the hub that hold safetensors, newest first, or None if it does not say."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        api = HfApi()
        listed = api.list_repo_refs(name, include_pull_requests=True).pull_requests or []
        refs = sorted((each.ref for each in listed), key=lambda ref: [int(n) for n in re.findall(r"\d+", ref)])
        newest = refs[: -MAX_REQUESTS - 1 : -1]
        return [ref for ref in newest if any(_is_safe(file) for file in api.list_repo_files(name, revision=ref))]
    except (HTTPError, OSError, ValueError):
        return None


def _is_safe(file: str) -> bool:
    return any(fnmatchcase(file, pattern) for pattern in WANTED[4:])


@contextmanager
def _hub_errors(source: ModelSource, kind: type[CommandError]) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]  # httpx's

    name = f"{source.uri}@{source.revision}" if source.revision else source.uri
    try:
        yield
    except LocalEntryNotFoundError:
        raise kind(
            "is no directory here, nor in the hub's local cache, and the hub cannot be reached",
            field="model.uri",
            value=Plain(name),
            hint="give a directory, or a bucket URI of one",
        ) from None
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        problem = f"cannot be had from the hub ({type(error).__name__}: {reason})"
        raise kind(problem, field="model.uri", value=Plain(name)) from None
