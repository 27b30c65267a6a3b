"""``m2f-batch convert-checkpoint``: the same model in safetensors, or one line and nothing written."""

import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEMO_MODEL
from PIL import Image
from safetensors.torch import load_file
from support.conversion_files import FLAG, FOREIGN, HOSTILE, demo_tensors, pickled_model, sharded_model
from support.s3_servers import S3Endpoint

from m2f_batch.cli import main
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.models.checkpoint import read_checkpoint, weight_files
from m2f_batch.models.conversion.command import convert_checkpoint
from m2f_batch.models.source import find_model, local_directory
from m2f_batch.vision.segmenter import Segmenter

pytestmark = pytest.mark.slow  # processes of their own

BOUNDS = "without network (a network namespace of its own) and with"


def refused(capsys: pytest.CaptureFixture[str], source: object, dest: Path, code: int = 2) -> str:
    """The one line of a refusal, after which all is as it was."""
    before = sorted(str(path) for path in dest.parent.rglob("*")) if dest.parent.exists() else None
    assert main(["convert-checkpoint", str(source), str(dest)]) == code
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("m2f-batch convert-checkpoint: ") and said.err.count("\n") == 1, said
    after = sorted(str(path) for path in dest.parent.rglob("*")) if dest.parent.exists() else None
    assert after == before
    assert ".partial" not in said.err, "the folder of our own, where the new model stands before it is delivered"
    return said.err.removeprefix("m2f-batch convert-checkpoint: ").removesuffix("\n")


def rows_of(model: Path) -> list[Any]:
    """Rows of two scenes, without where they came from."""
    images = []
    for seed in (3, 4):
        buffer = io.BytesIO()
        Image.fromarray(draw_scene(seed).image).save(buffer, "PNG")
        images.append(buffer.getvalue())
    segmenter = Segmenter.from_pretrained(str(model), task="panoptic", device="cpu")
    return segmenter.rows(images)


def same_tensors(directory: Path, expected: dict[str, torch.Tensor]) -> None:
    """Names, types and bytes of all tensors."""
    found: dict[str, torch.Tensor] = {}
    for file in weight_files(directory):
        found |= load_file(file)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_the_demo_model_comes_back_byte_for_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, dest = pickled_model(tmp_path / "old"), tmp_path / "new" / "model"
    message = refused_by_segment(capsys, source)
    assert message == (
        f"model.uri: {source} has no model.safetensors (pytorch_model.bin: pickled weights are never read); convert "
        f"it: m2f-batch convert-checkpoint {source} DEST; of a hub id, a pull request may hold safetensors: "
        "id@refs/pr/3"
    )
    assert main(["convert-checkpoint", str(source), str(dest)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"read    pytorch_model.bin in a process {BOUNDS} 1.1 GB of memory at most",
        f"wrote   {dest}: 239 tensors in model.safetensors",
        "model   6 labels; license of the weights: mit",
    ]
    assert sorted(path.name for path in dest.iterdir()) == sorted(path.name for path in DEMO_MODEL.iterdir())
    for name in ("config.json", "preprocessor_config.json", "README.md", "model.safetensors"):
        assert (dest / name).read_bytes() == (DEMO_MODEL / name).read_bytes(), name
    assert rows_of(dest) == rows_of(DEMO_MODEL)
    assert [path.name for path in dest.parent.iterdir()] == ["model"]


def refused_by_segment(capsys: pytest.CaptureFixture[str], model: Path) -> str:
    """What ``segment`` says of a model."""
    assert main(["segment", str(model.parent), str(model.parent / "out"), "--model", str(model)]) == 2
    return capsys.readouterr().err.removeprefix("m2f-batch segment: ").removesuffix("\n")


def test_shards_and_types(tmp_path: Path) -> None:
    """As many files as there were, and more where they would be too large; the legacy form; float16; an empty DEST."""
    (tmp_path / "a").mkdir()
    assert convert_checkpoint(str(sharded_model(tmp_path / "shards")), str(tmp_path / "a"))
    assert [file.name for file in weight_files(tmp_path / "a")] == [
        f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    same_tensors(tmp_path / "a", demo_tensors())
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in demo_tensors().items()}
    old = pickled_model(tmp_path / "half", half, _use_new_zipfile_serialization=False)
    assert convert_checkpoint(str(old), str(tmp_path / "b"), max_shard=1_000_000)
    assert len(weight_files(tmp_path / "b")) > 3
    same_tensors(tmp_path / "b", half)
    assert read_checkpoint(tmp_path / "b", "b").trained_task == "panoptic"


def test_tied_and_parameters_and_views(tmp_path: Path) -> None:
    """Tensors that share memory, are part of a larger one, or are transposed: each is there by its name."""
    tensors: dict[str, torch.Tensor] = demo_tensors()
    names = [name for name, tensor in tensors.items() if tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]]
    changed = dict(tensors)
    changed[names[1]] = changed[names[0]]
    changed[names[2]] = torch.nn.Parameter(tensors[names[2]].t())
    large = torch.cat([tensors[names[3]], tensors[names[3]]])
    changed[names[3]] = large[: len(large) // 2]
    assert convert_checkpoint(str(pickled_model(tmp_path / "old", changed)), str(tmp_path / "new"))
    same_tensors(tmp_path / "new", {name: tensor.detach() for name, tensor in changed.items()})


@pytest.mark.parametrize("kind", ["a pickle that calls", *FOREIGN])  # the others are in test_hostile_files
def test_a_hostile_model_is_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "old"
    shutil.copytree(DEMO_MODEL, source, ignore=shutil.ignore_patterns("*.safetensors"))
    make, said = (HOSTILE | FOREIGN)[kind]
    make(source / "pytorch_model.bin")
    message = refused(capsys, source, tmp_path / "out" / "new")
    assert re.match(f"SRC: (pytorch_model.bin: )?{said}", message), message
    assert len(message) < 500 and not (tmp_path / FLAG).exists() and not (tmp_path / "out").exists()


def test_hostile_files(tmp_path: Path) -> None:
    """Each is refused by the code of the child, in one process with its bounds."""
    for kind, (make, _) in HOSTILE.items():
        (tmp_path / kind).mkdir()
        make(tmp_path / kind / "pytorch_model.bin")
    code = f"""
import glob, json
confinement.cut_network()
import torch
confinement.bound_memory(1 << 30)
from m2f_batch.models.conversion import child
said = {{}}
for file in glob.glob({str(tmp_path)!r} + '/*/pytorch_model.bin'):
    try:
        child._tensors(file)
    except child.Refused as error:
        said[file.split('/')[-2]] = str(error)
print(json.dumps(said))
"""
    done = run_confined(code)
    assert done.returncode == 0, done.stderr
    messages = json.loads(done.stdout)
    wrong = {
        kind: messages.get(kind)
        for kind, (_, said) in HOSTILE.items()
        if not re.match(f"(pytorch_model.bin: )?{said}", messages.get(kind, ""))
    }
    assert wrong == {} and all("\n" not in text and len(text) < 300 for text in messages.values())
    assert not [*tmp_path.rglob(FLAG)]


def test_a_hostile_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = sharded_model(tmp_path / "old")
    last = source / "pytorch_model-00003-of-00003.bin"
    tensors = torch.load(last, weights_only=True)
    first = next(iter(torch.load(source / "pytorch_model-00001-of-00003.bin", weights_only=True)))
    torch.save(tensors | {first: torch.zeros(1)}, last)
    said = f"SRC: {last.name}: holds '{first}', as a file before it does"
    assert refused(capsys, source, tmp_path / "new") == said
    HOSTILE["a pickle that calls"][0](last)
    assert f"{last.name}: is refused, since to read it posix.system" in refused(capsys, source, tmp_path / "new")
    last.unlink()
    said = f"SRC: {source} has no {last.name}, which pytorch_model.bin.index.json names"
    assert refused(capsys, source, tmp_path / "new") == said
    index = source / "pytorch_model.bin.index.json"
    for tree, said in (
        ({"weight_map": {"a": "../../etc/x.bin"}}, "must name .bin files of that directory"),
        ({"weight_map": {"a": 7}}, "must name .bin files of that directory"),
        ({"weight_map": {}}, "must name .bin files of that directory"),
        ({"weight_map": [7]}, "has no weight_map from tensors to files"),
        ([], "has no weight_map from tensors to files"),
    ):
        index.write_text(json.dumps(tree))
        assert refused(capsys, source, tmp_path / "new").endswith(said)
    index.write_text("{")
    assert refused(capsys, source, tmp_path / "new").endswith("has no weight_map from tensors to files")


def test_other_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, new = pickled_model(tmp_path / "old"), tmp_path / "new"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "file").write_text("x")
    assert refused(capsys, source, tmp_path / "full") == (
        f"DEST: '{tmp_path / 'full'}' is not empty; remove it, or choose another DEST"
    )
    assert refused(capsys, source, tmp_path / "file") == f"DEST: '{tmp_path / 'file'}' is a file; give a directory"
    assert "DEST: " in refused(capsys, source, tmp_path / "file" / "below")
    assert "is not empty" in refused(capsys, source, source)
    assert main(["convert-checkpoint", str(source), "https://example.org/model"]) == 2
    said = "DEST: 'https://example.org/model': nothing can be written to the web; give a folder or a bucket\n"
    assert capsys.readouterr().err == f"m2f-batch convert-checkpoint: {said}"
    assert refused(capsys, DEMO_MODEL, new) == (
        f"SRC: {DEMO_MODEL} has neither pytorch_model.bin nor pytorch_model.bin.index.json; it has safetensors, which "
        "segment reads as they are"
    )
    assert refused(capsys, tmp_path / "none", new).startswith(f"SRC: '{tmp_path / 'none'}' is no directory here")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    said = f"SRC: {source} is a 'bert' model; only "
    assert refused(capsys, source, new).startswith(said)
    (source / "config.json").write_text(json.dumps(config))
    (source / "preprocessor_config.json").write_text("{")
    assert refused(capsys, source, new).startswith(f"SRC: preprocessor_config.json of {source} is not valid JSON")
    (source / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in refused(capsys, source, new)
    monkeypatch.setenv("M2F_BATCH_ALLOW", str(tmp_path / "elsewhere"))
    assert refused(capsys, source, new).startswith(f"DEST: {new}: lies outside M2F_BATCH_ALLOW")
    monkeypatch.setenv("M2F_BATCH_ALLOW", str(new))
    assert refused(capsys, source, new).startswith(f"SRC: {source}: lies outside M2F_BATCH_ALLOW")


def test_into_a_directory_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mounted volume is, beside which nothing can be written, or at the end of a symlink."""
    source, new, link = pickled_model(tmp_path / "old"), tmp_path / "new", tmp_path / "link"
    new.mkdir()
    link.symlink_to(new)
    made = new.stat().st_ino
    assert main(["convert-checkpoint", str(source), str(link)]) == 0
    files = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert link.is_symlink() and new.stat().st_ino == made
    assert sorted(file.name for file in new.iterdir()) == files
    for file in new.iterdir():
        file.unlink()
    real = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if target.name == "config.json":
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    assert main(["convert-checkpoint", str(source), str(new)]) == 1
    assert [*new.iterdir()] == []


def test_from_a_bucket_into_another(moto_s3: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = pickled_model(tmp_path / "old")
    moto_s3.put({f"old/{file.name}": file.read_bytes() for file in source.iterdir()})
    assert convert_checkpoint(f"{moto_s3.uri}/old", f"{moto_s3.uri}/new")
    found = local_directory(find_model(f"{moto_s3.uri}/new"))
    same_tensors(found, demo_tensors())
    assert (found / "config.json").read_bytes() == (DEMO_MODEL / "config.json").read_bytes()
    assert main(["convert-checkpoint", f"{moto_s3.uri}/old", f"{moto_s3.uri}/new"]) == 2


def run_confined(code: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, with ``port`` of a server that listens."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        head = f"port = {server.getsockname()[1]}\nfrom m2f_batch.models.conversion import confinement\nimport socket\n"
        return subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ("confinement.cut_network()", "a network namespace of its own"),
        ("confinement._has_own_namespace()", "True"),
        ("confinement._are_sockets_filtered()", "True"),
        ("confinement._forbid_sockets()", "None"),
    ],
)
def test_a_process_without_network(cut: str, said: str) -> None:
    """Each of the three ways by itself, against a server that listens on this machine."""
    reach = "socket.create_connection(('127.0.0.1', port), timeout=5).close()\n"
    done = run_confined(f"{reach}print({cut})\ntry:\n    {reach}except OSError as error:\n    print('cut', error)\n")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == said and second.startswith("cut "), done.stdout


def test_the_kernel_refuses_sockets_to_whatever_code_asks() -> None:
    """A socket file is no way out either, and no namespace keeps those away."""
    code = "confinement.cut_network()\nimport ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    done = run_confined(code + "print(libc.socket(1, 1, 0), libc.socket(2, 1, 0), ctypes.get_errno())\n")
    assert done.stdout == "-1 -1 1\n", done.stderr


def test_a_process_with_a_bound_of_memory() -> None:
    code = "confinement.bound_memory(100_000_000)\nbytearray(50_000_000)\ntry:\n    bytearray(200_000_000)\n"
    done = run_confined(code + "except MemoryError:\n    print('bound')\n")
    assert done.stdout == "bound\n", done.stderr


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What is said of a conversion where namespaces are refused, and its child's environment, whose parent has keys."""
    folder = tmp_path_factory.mktemp("watched")
    seen = folder / "environment"
    spy = f"import os\nopen({str(seen)!r}, 'w').write(repr(dict(os.environ)))\n"
    lines = "from m2f_batch.models.conversion import confinement\nconfinement._has_own_namespace = lambda: False\n"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-children")
        patch.setenv("HF_TOKEN", "not-for-children")
        boot = spy + _boot().replace("from m2f_batch", f"{lines}from m2f_batch")
        patch.setattr("m2f_batch.models.conversion.command._BOOT", boot)
        assert main(["convert-checkpoint", str(pickled_model(folder / "old")), str(folder / "new")]) == 0
    return said.getvalue(), seen.read_text()


def test_where_namespaces_are_refused_it_is_said(watched: tuple[str, str]) -> None:
    """As in most containers, which let a process block its sockets all the same."""
    said = "without network (sockets blocked by the kernel, since a network namespace was refused) and with 1.1 GB"
    assert said in watched[0]


def _boot() -> str:
    from m2f_batch.models.conversion import command

    return command._BOOT


def test_a_child_that_dies_is_a_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2f_batch.models.conversion.command._BOOT", "import os\nos.abort()")
    source = pickled_model(tmp_path / "old")
    assert refused(capsys, source, tmp_path / "new") == (
        "SRC: pytorch_model.bin: is refused, since the process that read it ended by SIGABRT, within 1.1 GB of memory "
        "and 600 s"
    )
    monkeypatch.setattr("m2f_batch.models.conversion.command._BOOT", 'print(\'{"written": {"../x": []}}\')')
    assert "ended with 0" in refused(capsys, source, tmp_path / "new")


def test_the_child_knows_no_keys(watched: tuple[str, str]) -> None:
    assert "'PATH'" in watched[1] and "not-for-children" not in watched[1]
