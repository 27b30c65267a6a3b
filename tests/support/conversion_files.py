"""Files called pytorch_model.bin that nobody should open, each with what the refusal must say, and good ones."""

import io
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import DEMO_MODEL
from safetensors.torch import load_file

FLAG = "was-called"  # a file that a pickle which runs would leave


class Calls:
    """Pickled as a call of ``os.system``."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder / FLAG}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def demo_tensors() -> dict[str, torch.Tensor]:
    """The demo model's."""
    return load_file(DEMO_MODEL / "model.safetensors")


def pickled_model(folder: Path, tensors: object | None = None, **options: Any) -> Path:
    """The demo model with its weights, or other ones, in pytorch_model.bin."""
    shutil.copytree(DEMO_MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(demo_tensors() if tensors is None else tensors, folder / "pytorch_model.bin", **options)
    return folder


def sharded_model(folder: Path, shards: int = 3) -> Path:
    """The demo model in several files and an index."""
    import json

    pickled_model(folder).joinpath("pytorch_model.bin").unlink()
    names = [f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin" for number in range(shards)]
    tensors = demo_tensors()
    weight_map = {name: names[place % shards] for place, name in enumerate(tensors)}
    for file in names:
        torch.save({name: tensors[name] for name, where in weight_map.items() if where == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def rezipped(file: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Writes an archive of torch anew with changed members."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))


def _calls(file: Path) -> None:
    torch.save({"class_predictor.weight": Calls(file.parent.parent)}, file)


def _plain_pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps(Calls(file.parent.parent), protocol=2))


def _nested_call(file: Path) -> None:
    torch.save({"state": {"deep": [Calls(file.parent.parent)]}, **demo_tensors()}, file)


def _zip_bomb(file: Path) -> None:
    torch.save({"a": torch.zeros(100_000_000)}, file)
    rezipped(file, lambda _, data: data, zipfile.ZIP_DEFLATED)


def _overlapping_bomb(file: Path) -> None:
    """Many members that share their bytes."""
    torch.save({"a": torch.zeros(1_000_000)}, file)
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        start, large = archive.start_dir, next(i for i in archive.infolist() if i.file_size >= 4_000_000)
    head = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 0, 0, 0, 0, 0, 0, 0, 0, large.CRC, large.file_size,
                       large.file_size, 9, 0, 0, 0, 0, 0, large.header_offset)  # fmt: skip
    entries = b"".join(head + f"a/data/{number:02d}".encode() for number in range(50))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 50, 50, len(entries), start, 0)
    file.write_bytes(bytes(data[:start]) + entries + end)


def _view(file: Path) -> None:
    torch.save(demo_tensors() | {"class_predictor.weight": torch.zeros(1).expand(10**12)}, file)


def _storage_claim(file: Path) -> None:
    torch.save({"a": torch.arange(77, dtype=torch.float32)}, file)
    claim = pickle.dumps(10**12, protocol=2)[2:-1]
    rezipped(file, lambda name, data: data.replace(b"K\x4d", claim, 1) if name.endswith("data.pkl") else data)


def _legacy_claim(file: Path) -> None:
    torch.save({"a": torch.arange(77, dtype=torch.float32)}, file, _use_new_zipfile_serialization=False)
    claim = pickle.dumps(10**12, protocol=2)[2:-1]
    data = file.read_bytes()
    file.write_bytes(data.replace(b"K\x4d", claim).replace((77).to_bytes(8, "little"), (10**12).to_bytes(8, "little")))


def _meta(file: Path) -> None:
    torch.save(demo_tensors() | {"class_predictor.weight": torch.empty(10**12, device="meta")}, file)


def _many_views(file: Path) -> None:
    shared = torch.zeros(1_000_000)
    torch.save({f"view {number}": shared.view(-1) for number in range(1000)}, file)


def _tar(file: Path) -> None:
    with tarfile.open(file, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Calls(file.parent.parent), protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _cut(file: Path) -> None:
    torch.save(demo_tensors(), file)
    file.write_bytes(file.read_bytes()[:100_000])


def _cut_legacy(file: Path) -> None:
    torch.save(demo_tensors(), file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:100_000])


def _saved(value: object) -> Callable[[Path], None]:
    return lambda file: torch.save(value, file)


def _written(data: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(data) and None


def _renamed(file: Path) -> None:
    torch.save({name.replace("transformer_module", "module"): value for name, value in demo_tensors().items()}, file)


# what is written to pytorch_model.bin, and a pattern of what is said behind "SRC: "
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pickle that calls": (_calls, r"pytorch_model.bin: is refused, since to read it posix.system would be called"),
    "a plain pickle that calls": (_plain_pickle, r"pytorch_model.bin: is refused, .*posix.system would be called"),
    "a call deep inside": (_nested_call, r"pytorch_model.bin: is refused, .*posix.system would be called"),
    "a zip bomb": (_zip_bomb, r"pytorch_model.bin: [\d,]+ bytes that unpack to 400,000,\d+: torch.save packs nothing"),
    "members that overlap": (_overlapping_bomb, r"pytorch_model.bin: [\d,]+ bytes that unpack to 200,000,000"),
    "a view of 10^12": (_view, r"'class_predictor.weight' claims 1,000,000,000,000 elements, and 4 bytes are there"),
    "a storage of 10^12": (_storage_claim, r"pytorch_model.bin: is no whole file .*308 bytes\) does not match"),
    "a legacy storage of 10^12": (_legacy_claim, r"pytorch_model.bin: asks for more memory than weights of this size"),
    "a tensor on no device": (
        _meta,
        r"'class_predictor.weight' is no plain tensor \(torch.strided, meta, torch.float32",
    ),
    "1000 views": (_many_views, r"its tensors claim more than [\d,]+ bytes, and it has 4,\d{3},\d{3}"),
    "a tar": (_tar, r"pytorch_model.bin: is a tar file, as torch wrote before 0.2"),
    "cut": (_cut, r"pytorch_model.bin: is no whole file of weights"),
    "cut, legacy": (_cut_legacy, r"pytorch_model.bin: is no whole file of weights"),
    "empty": (_written(b""), r"pytorch_model.bin: is empty"),
    "a pointer": (
        _written(b"version https://git-lfs.github.com/spec/v1\nsize 1\n"),
        r"pytorch_model.bin: is a pointer",
    ),
    "text": (_written(b"no weights at all"), r"pytorch_model.bin: is refused \(Unsupported operand 110"),
    "a list": (_saved([torch.zeros(3)]), r"pytorch_model.bin: holds no tensors by name, but a list"),
    "nothing": (_saved({}), r"pytorch_model.bin: holds no tensors by name, but an empty dictionary"),
    "a training state": (
        _saved({"state_dict": {"a": torch.zeros(3)}, "epoch": 3}),
        r"pytorch_model.bin: 'state_dict' is no tensor, but a dictionary of 'a'; wanted is the state of a model alone",
    ),
    "numbers as names": (_saved({7: torch.zeros(3)}), r"pytorch_model.bin: holds 7, which is no name of a tensor"),
    "a reserved name": (
        _saved({"__metadata__": torch.ones(3)}),
        r"pytorch_model.bin: holds '__metadata__', which is",
    ),
    "complex": (_saved({"a": torch.ones(3) * 1j}), r"'a' is no plain tensor \(torch.strided, cpu, torch.complex64"),
    "sparse": (_saved({"a": torch.eye(3).to_sparse()}), r"'a' is no plain tensor \(torch.sparse_coo"),
}
# what is read, and yet is no whole Mask2Former
FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "another model": (_saved({"weight": torch.zeros(3, 3)}), r".* has no class_predictor.weight, so is not a Mask2For"),
    "other names": (_renamed, r".* \d+ tensors are missing or of another shape than config.json says, e.g. "),
}
