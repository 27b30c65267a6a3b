"""Where models come from: directories, the hub's cache, buckets. Nothing here leaves the machine."""

import hashlib
import os
from pathlib import Path

import pytest
from support.hand_made import make_model
from support.model_places import refusal

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import check_config
from m2f_batch.datasets.lint.command import queries_of_training
from m2f_batch.errors import RunError
from m2f_batch.models import source as model_source
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.models.source import WANTED, ModelSource, find_model, local_directory
from m2f_batch.storage import allow

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40
FILES = {"config.json", "preprocessor_config.json", "model.safetensors"}


# ---- directories


def test_a_directory_in_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "a b" / "m")
    expected = ModelSource(str(tmp_path / "a b" / "m"), "directory", None)
    monkeypatch.chdir(tmp_path / "a b")
    for uri in ("m", "./m/", "../a b/m", str(tmp_path / "a b" / "m"), f"file://{tmp_path}/a%20b/m"):
        assert find_model(uri) == expected
    assert local_directory(expected) == tmp_path / "a b" / "m"


def test_a_directory_wins_over_a_hub_id_and_takes_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "me" / "m")
    monkeypatch.chdir(tmp_path)
    assert find_model("me/m").kind == "directory"
    assert refusal("me/m", "main") == "model.revision: 'main' needs a hub id in model.uri, not the directory me/m"


def test_the_bundled_model_is_named_alike_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("m2f_batch/demo/model/").uri == str(model_source.PACKAGE / "demo" / "model")
    make_model(tmp_path / "m2f_batch/demo/model")
    assert find_model("m2f_batch/demo/model").uri == str(tmp_path / "m2f_batch/demo/model")


def test_lint_counts_the_queries_of_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, output = {"uri": "m2f_batch/demo/model"}, {"uri": "out"}
    config = check_config(
        FinetuneConfig, {"data": {"train": "a.json"}, "model": model, "output": output, "train": {"steps": 1}}
    )
    assert queries_of_training(config) == 16


def test_the_bundled_model_is_in_every_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    with allow.confine(["labels/"], {}):
        assert local_directory(find_model("m2f_batch/demo/model")) == model_source.OWN
        assert "lies outside storage.allow" in refusal("m")
    make_model(tmp_path / "m2f_batch/demo/model")
    with allow.confine(["labels/"], {}):
        assert "lies outside storage.allow" in refusal("m2f_batch/demo/model"), "a folder of that name is another model"


def test_a_directory_that_is_not_on_a_node(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"model.uri: the directory .* is not on node .*shared path"):
        local_directory(ModelSource(str(tmp_path / "gone"), "directory"))


@pytest.mark.parametrize(
    "uri", ["nothing", "", "/no/such/folder", "./a/b", "a/b/c", "~/m", "a b/c", "a/b\n", "a\0b", "a/b@"]
)
def test_what_is_no_model_at_all(uri: str) -> None:
    assert refusal(uri).startswith(f"model.uri: {uri!r} is no directory here, no hub id")


def test_a_file_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = "give a Hugging Face directory with config.json and model.safetensors"
    (tmp_path / "m").mkdir()
    for name in ("best.pt", "mask2former.py"):
        (tmp_path / "m" / name).write_bytes(b"")
    (tmp_path / "m" / "weights").touch()
    monkeypatch.chdir(tmp_path)
    for uri in (str(tmp_path / "m/best.pt"), "m/best.pt", "./m/best.pt", f"file://{tmp_path}/m/best.pt"):
        assert refusal(uri).endswith(f"best.pt' is a file (.pt), which is not read; {wanted}")
    assert refusal("m/mask2former.py") == f"model.uri: 'm/mask2former.py' is a file (.py), which is not read; {wanted}"
    assert refusal("m/weights") == f"model.uri: 'm/weights' is a file, which is not read; {wanted}"
    (tmp_path / "m" / "config.json").write_text("{}")
    assert refusal("m/best.pt").endswith(wanted)  # its folder holds no model either
    (tmp_path / "m" / "model.safetensors").touch()
    told = f"model.uri: 'm/model.safetensors' is a file; give its directory, {tmp_path}/m"
    assert refusal("m/model.safetensors") == told


# ---- the hub


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of huggingface_hub, offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_in_cache(cache: Path, name: str, commit: str, *refs: str) -> Path:
    """A snapshot as huggingface_hub lays it out, with links to blobs."""
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir(exist_ok=True)
    for file in make_model(cache / "made").iterdir():
        blob = repo / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    for ref in refs:
        (repo / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    return snapshot


def test_a_hub_model_is_pinned_to_its_commit(hub_cache: Path) -> None:
    snapshot = put_in_cache(hub_cache, "me/m-panoptic", COMMIT, "main", "v1", "refs/pr/3")
    other = put_in_cache(hub_cache, "me/m-panoptic", OTHER, "next")
    pinned = ModelSource("me/m-panoptic", "hub", COMMIT)
    assert find_model("me/m-panoptic") == pinned
    for revision in ("main", "v1", "refs/pr/3", COMMIT):
        assert find_model(f"me/m-panoptic@{revision}") == pinned == find_model("me/m-panoptic", revision)
    assert find_model("me/m-panoptic@v1", "v1") == pinned
    assert find_model("me/m-panoptic@next").revision == OTHER
    assert local_directory(pinned) == snapshot
    assert local_directory(find_model("me/m-panoptic", OTHER)) == other
    assert read_checkpoint(snapshot, "me/m-panoptic").trained_task == "panoptic"


def test_a_hub_model_that_is_not_there(hub_cache: Path) -> None:
    put_in_cache(hub_cache, "me/m", COMMIT, "main")
    for uri in ("me/other", "me/m@v9", f"me/m@{OTHER}"):
        message = refusal(uri)
        assert message.startswith(f"model.uri: {uri} is no directory here, nor in the hub's local cache, and the hub")
    with pytest.raises(RunError, match=r"model.uri: me/other@v1 is no directory here"):
        local_directory(ModelSource("me/other", "hub", "v1"))


def test_two_revisions(hub_cache: Path) -> None:
    assert refusal("me/m@v1", "v2") == ("model.revision: 'v2' and model.uri 'me/m@v1' name two revisions: keep one")


@pytest.mark.parametrize("uri", ["me/..", "me/m.git", "me/-m", "ü/m", "me/m--x"])
def test_names_that_the_hub_does_not_allow(hub_cache: Path, uri: str) -> None:
    assert refusal(uri).startswith(f"model.uri: {uri} cannot be had from the hub (HFValidationError: ")


def test_whatever_the_hub_raises_is_one_line(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HTTPError

    for error in (HTTPError("407\nproxy"), ValueError("Unknown scheme for proxy"), PermissionError(13, "denied")):

        def fail(*_: object, error: Exception = error, **__: object) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        assert refusal("me/m").startswith(f"model.uri: me/m cannot be had from the hub ({type(error).__name__}: ")
        with pytest.raises(RunError, match=r"model.uri: me/m@c cannot be had from the hub"):
            local_directory(ModelSource("me/m", "hub", "c"))


def test_only_the_pinned_commit_and_wanted_files_are_asked_for(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    snapshot = put_in_cache(hub_cache, "me/m", COMMIT, "main")
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert local_directory(find_model("me/m@v1")) == snapshot
    assert asked == [("me/m", "v1", ["config.json"]), ("me/m", COMMIT, list(WANTED))]
    assert not any(pattern.endswith((".bin", ".py", ".pt", ".pkl", "*")) for pattern in WANTED)
