"""Reads pickled weights in a process with no network and a bound of memory, of which only tensors by name come.

It is given its ``Order`` as JSON and answers with one line of JSON: how it was confined, and ``written`` (file to names
of tensors), ``refused`` (what is wrong with a file) or ``failed`` (what is wrong with this machine).
"""

import errno
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypedDict

from m2f_batch.models.conversion.confinement import bound_memory, bound_seconds, cut_network

if TYPE_CHECKING:
    from torch import Tensor

_POINTER = b"version https://git-lfs"
MAX_SHARD = 5_000_000_000  # bytes of one safetensors file, as transformers 4 writes them


class Order(TypedDict):
    """``files`` are read in order and written below ``out``, with ``memory`` in bytes and ``seconds`` of a core."""

    files: list[str]
    out: str
    memory: int
    seconds: int
    max_shard: int


class Refused(Exception):
    """The file is not what it should be."""


def serve(order: Order) -> None:
    """Read and write as ordered, and answer on stdout."""
    answer: dict[str, Any] = {"network": cut_network()}
    import torch

    torch.set_num_threads(1)
    bound_seconds(order["seconds"])
    bound_memory(order["memory"])
    try:
        answer["written"] = _convert(order)
    except Refused as error:
        answer["refused"] = str(error)
    except MemoryError:
        answer["refused"] = _TOO_LARGE
    except OSError as error:
        answer["failed"] = error.strerror or str(error)
    print(json.dumps(answer), flush=True)


_TOO_LARGE = "asks for more memory than weights of this size need"


def _convert(order: Order) -> dict[str, list[str]]:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    written: dict[str, list[str]] = {}
    seen: set[str] = set()
    for file in order["files"]:
        try:
            tensors = _tensors(file)
        except MemoryError:
            raise Refused(f"{_base(file)}: {_TOO_LARGE}") from None
        twice = next((name for name in tensors if name in seen), None)
        if twice is not None:
            raise Refused(f"{_base(file)}: holds {_shown(twice)}, as a file before it does")
        seen |= tensors.keys()
        for part in _parts(tensors, order["max_shard"]):
            name = f"part-{len(written):05d}.safetensors"
            try:
                save_file(part, os.path.join(order["out"], name), metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(errno.EIO, str(error)) from None
            written[name] = [*part]
    return written


def _tensors(file: str) -> "dict[str, Tensor]":
    """Read the tensors of a file by name, each with memory of its own. Raises Refused."""
    held = os.path.getsize(file)
    _check_archive(file, held)
    loaded = _loaded(file)
    if not isinstance(loaded, dict) or not loaded:
        raise Refused(f"{_base(file)}: holds no tensors by name, but {_kind(loaded)}")
    total = 0
    for name, tensor in loaded.items():
        total += _check(file, name, tensor)
        if total > 2 * held + 1_000_000:  # tied ones are there twice
            raise Refused(f"{_base(file)}: its tensors claim more than {total:,} bytes, and it has {held:,}")
    own: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in loaded.items():  # safetensors takes none that share their memory, as tied ones do
        storage = tensor.untyped_storage()
        is_alone = storage.data_ptr() not in taken and storage.nbytes() == tensor.numel() * tensor.element_size()
        taken.add(storage.data_ptr())
        plain = tensor.detach().contiguous()
        own[name] = plain if is_alone else plain.clone()
    return own


def _check_archive(file: str, held: int) -> None:
    """Raise Refused for what is no file of weights by its outside, without opening what it holds."""
    import tarfile

    if held == 0:
        raise Refused(f"{_base(file)}: is empty")
    with open(file, "rb") as handle:
        if handle.read(len(_POINTER)) == _POINTER:
            raise Refused(f"{_base(file)}: is a pointer of Git LFS, not the file itself: git lfs pull")
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                inside = archive.infolist()
            claimed = sum(entry.file_size for entry in inside)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in inside) or claimed > held:
                raise Refused(f"{_base(file)}: {held:,} bytes that unpack to {claimed:,}: torch.save packs nothing")
        elif tarfile.is_tarfile(file):
            raise Refused(f"{_base(file)}: is a tar file, as torch wrote before 0.2; its weights cannot be read safely")
    except (zipfile.BadZipFile, NotImplementedError, ValueError, RecursionError) as error:
        raise Refused(f"{_base(file)}: is not whole ({_line(error)})") from None


def _loaded(file: str) -> Any:
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise Refused(f"{_base(file)}: {_reason(str(error))}") from None
    except Exception as error:  # noqa: BLE001  # whatever a file that anybody may have made leads torch to raise
        if isinstance(error, RuntimeError) and "allocate" in str(error):
            raise Refused(f"{_base(file)}: {_TOO_LARGE}") from None
        raise Refused(f"{_base(file)}: is no whole file of weights ({_line(error)})") from None


def _reason(text: str) -> str:
    """Return the text of torch's unpickler, without its advice to trust the file."""
    called = re.search(r"GLOBAL ([\w.<>]+)", text) or re.search(r"instantiate class ([\w.<>]+)", text)
    if called:
        return f"is refused, since to read it {called[1]} would be called"
    said = re.search(r"WeightsUnpickler error:\s*([^\n]+)", text)
    return f"is refused ({(said[1] if said else text.strip().partition(chr(10))[0])[:200]})"


def _check(file: str, name: object, tensor: object) -> int:
    """Return the bytes of a tensor. Raises Refused for what is none, or claims what its storage does not hold."""
    import torch

    if not isinstance(name, str) or name == "__metadata__":  # which safetensors keeps for itself
        raise Refused(f"{_base(file)}: holds {name!r:.100}, which is no name of a tensor")
    what = f"{_base(file)}: {_shown(name)}"
    if not isinstance(tensor, torch.Tensor):
        raise Refused(f"{what} is no tensor, but {_kind(tensor)}; wanted is the state of a model alone")
    is_number = not tensor.is_quantized and not tensor.is_complex()
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or not is_number:
        raise Refused(f"{what} is no plain tensor ({tensor.layout}, {tensor.device}, {tensor.dtype})")
    size, storage = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > storage:
        raise Refused(f"{what} claims {tensor.numel():,} elements, and {storage:,} bytes are there")
    return size


def _parts(tensors: "dict[str, Tensor]", most: int) -> "Iterator[dict[str, Tensor]]":
    """Yield the tensors in pieces of at most so many bytes, or of one tensor."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        more = tensor.numel() * tensor.element_size()
        if part and size + more > most:
            yield part
            part, size = {}, 0
        part[name] = tensor
        size += more
    yield part


def _kind(value: object) -> str:
    if isinstance(value, dict):
        inside = ", ".join(_shown(str(key)) for key in [*value][:3])
        return f"a dictionary of {inside}" if value else "an empty dictionary"
    return f"a {type(value).__name__}"


def _base(file: str) -> str:
    return os.path.basename(file)


def _shown(name: str) -> str:
    return repr(name[:100])


def _line(error: Exception) -> str:
    return (re.split(r"\n|\. ", str(error).strip())[0] or type(error).__name__)[:200]


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
