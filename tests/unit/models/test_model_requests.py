"""Nothing that a model directory says causes a request: with the network shut, it loads or is refused as ever.

Each test runs in a process without HF_HUB_OFFLINE, as users' are, whose sockets and clients fail and are counted.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT

from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow  # processes of their own

FOLDER = PROJECT / "tests" / "old_checkpoints"
TIMM, SWIN = FOLDER / "4.57.6-timm", FOLDER / "4.57.6-swin"
NOBODY = "nobody-at-all/no-such-model"
# loads what can be loaded, as segment, finetune and the check of a node's own processor do
LOAD = """
import json, socket, sys
asked = []
def shut(name):
    def fail(*arguments, **options):
        asked.append(name)
        raise OSError("the network is shut")
    return fail
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, shut(name))
socket.getaddrinfo = socket.create_connection = shut("getaddrinfo")
import huggingface_hub
for name in ("hf_hub_download", "snapshot_download", "model_info", "repo_exists", "file_exists"):
    setattr(huggingface_hub, name, shut(name))
    if hasattr(huggingface_hub.HfApi, name):
        setattr(huggingface_hub.HfApi, name, shut(name))
import numpy as np, torch
from pathlib import Path
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.datasets.dataset import Category
from m2f_batch.errors import RunError, UsageError
from m2f_batch.config.finetune import StartConfig
from m2f_batch.train.start.build import build_model
from m2f_batch.models.processor import plan_from_processor
from m2f_batch.models.loading import load_model, processor_pixel_values
from m2f_batch.models.mask2former.training import TRAINING
labels = [Category(i, name, True) for i, name in enumerate(("cat", "dog", "sky"))]
image = np.zeros((64, 64, 3), np.uint8)
def outcome(place):
    said = {}
    for name, use in uses_of(place).items():
        try:
            use()
            said[name] = "ok"
        except (RunError, UsageError) as error:
            said[name] = str(error)
    ours, asked[:] = [*asked], []
    from transformers import AutoConfig
    try:
        AutoConfig.from_pretrained(place)
    except Exception as error:
        said["transformers"] = type(error).__name__
    theirs, asked[:] = [*asked], []
    return {"asked": ours, "said": said, "transformers asked": bool(theirs)}
def uses_of(place):
    return {
        "read": lambda: plan_from_processor(read_checkpoint(place, "m").processor),
        "load": lambda: load_model(place, torch.device("cpu")),
        "train": lambda: build_model(StartConfig(uri="m"), labels, "instance", TRAINING, seed=0, checkpoint=place),
        "processor": lambda: processor_pixel_values(place, image),
    }
print(json.dumps({place: outcome(Path(place)) for place in sys.argv[1:]}))
"""
CONFIG = json.loads((SWIN / "config.json").read_text())
PROCESSOR = json.loads((SWIN / "preprocessor_config.json").read_text())
REMOTE = dict.fromkeys(("AutoConfig", "AutoModel", "AutoImageProcessor"), f"{NOBODY}--code.Class")
# files of a directory, laid over those of a checkpoint that loads
LURES: dict[str, dict[str, Any]] = {
    "names": {"config.json": CONFIG | {"_name_or_path": NOBODY, "name_or_path": NOBODY, "_commit_hash": "a" * 40}},
    "code": {
        "config.json": CONFIG | {"auto_map": REMOTE, "custom_pipelines": {"x": {"impl": f"{NOBODY}--p.P"}}},
        "preprocessor_config.json": PROCESSOR | {"auto_map": REMOTE},
    },
    "a backbone of the hub beside the config of one": {
        "config.json": CONFIG | {"use_pretrained_backbone": True, "use_timm_backbone": False, "backbone_kwargs": {}}
    },
    "an adapter": {"adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": NOBODY}},
    "a processor without its type": {
        "preprocessor_config.json": {key: value for key, value in PROCESSOR.items() if key != "image_processor_type"},
    },
    "another kind of processor": {
        "processor_config.json": {"image_processor": PROCESSOR, "processor_class": NOBODY, "auto_map": REMOTE},
        "chat_template.json": {"chat_template": NOBODY},
        "tokenizer_config.json": {"tokenizer_class": NOBODY, "auto_map": REMOTE},
        "generation_config.json": {"_from_model_config": True, "custom_generate": NOBODY},
        "modules.json": {"0": NOBODY},
    },
    "a pretrained part": {
        "config.json": CONFIG
        | {"backbone_config": CONFIG["backbone_config"] | {"_name_or_path": NOBODY, "auto_map": REMOTE}}
    },
}


def laid_over(base: Path, place: Path, files: dict[str, Any]) -> Path:
    shutil.copytree(base, place)
    for name, tree in files.items():
        (place / name).write_text(json.dumps(tree))
    return place


OK = {"read": "ok", "load": "ok", "train": "ok", "processor": "ok"}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a user's process asks of the network and says of a backbone that is only named, and of all the lures.

    One process does both, because its start takes most of the time.
    """
    folder = tmp_path_factory.mktemp("models")
    untyped = {key: value for key, value in PROCESSOR.items() if key != "image_processor_type"}
    both: dict[str, Any] = {}
    for files in LURES.values():
        both |= {name: both.get(name, {}) | tree for name, tree in files.items()}
    places = {
        "named": laid_over(TIMM, folder / "named", {"preprocessor_config.json": untyped}),
        "lures": laid_over(SWIN, folder / "lures", both),
    }
    environment = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
    run = [sys.executable, "-W", "ignore", "-c", LOAD, *map(str, places.values())]
    done = subprocess.run(run, env=environment, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {name: said[str(place)] for name, place in places.items()}


def test_no_lure_is_followed(outcomes: dict[str, Any]) -> None:
    found = outcomes["lures"]
    assert found["asked"] == [] and found["said"].items() >= OK.items()


def test_a_backbone_that_is_only_named(outcomes: dict[str, Any]) -> None:
    """Version 5 would ask whether the hub has a model of that name, also to find the kind of image processor."""
    pytest.importorskip("timm", reason="the extra timm is not installed")
    assert json.loads((TIMM / "config.json").read_text())["backbone"] == "test_efficientnet"
    found = outcomes["named"]
    assert found["asked"] == [] and found["said"].items() >= OK.items()
    assert found["transformers asked"], "or the process would not notice who asks"


@pytest.mark.parametrize(
    ("base", "changes", "told"),
    [
        (TIMM, {"use_timm_backbone": False}, None),  # its weights are timm's
        (TIMM, {"use_pretrained_backbone": True}, None),  # they are replaced anyway
        (
            SWIN,
            {"backbone_config": None, "backbone": "resnet18"},
            "backbone 'resnet18' is no model of timm in the weights",
        ),
        (
            SWIN,
            {"backbone_config": None, "backbone": "microsoft/resnet-18", "use_timm_backbone": False},
            "backbone 'microsoft/resnet-18' names a model of the hub, which is never asked for parts of a model; write "
            "its settings as backbone_config, which AutoConfig.from_pretrained('microsoft/resnet-18').to_dict() gives",
        ),
        (SWIN, {"backbone_config": None, "backbone": 5}, "backbone must be a text, not 5"),
        (TIMM, {"backbone": "hf-hub:timm/resnet18.a1_in1k"}, "names a model of the hub"),
        (TIMM, {"backbone_kwargs": {"checkpoint_path": "/x.pth"}}, "backbone_kwargs: 'checkpoint_path' is not known"),
        (TIMM, {"backbone_kwargs": ["x"]}, "backbone_kwargs must be an object"),
        (SWIN, {"backbone_config": {"embed_dim": 4}}, "backbone_config must have a model_type, e.g. swin"),
    ],
)
def test_old_words_for_a_backbone(base: Path, changes: dict[str, Any], told: str | None, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text()) | changes
    place = laid_over(base, tmp_path / "m", {"config.json": config})
    if told is None:
        assert read_checkpoint(place, "m").config["backbone"] == "test_efficientnet"
        return
    with pytest.raises(UsageError) as caught:
        read_checkpoint(place, "m")
    assert told in str(caught.value) and str(caught.value).startswith("model.uri: config.json of m: ")


def test_a_backbone_is_named_and_its_weights_are_not_read(tmp_path: Path) -> None:
    """With either word for where it is from, the logits are those of the weights in the directory."""
    pytest.importorskip("timm", reason="the extra timm is not installed")
    import torch
    from test_old_checkpoints import difference

    for changes in ({"use_timm_backbone": False}, {"use_pretrained_backbone": True}, {"use_timm_backbone": None}):
        config = json.loads((TIMM / "config.json").read_text()) | changes
        place = laid_over(TIMM, tmp_path / "".join(changes), {"config.json": config})
        assert difference(place, TIMM) <= 1 and torch.get_default_dtype() == torch.float32
        shutil.rmtree(place)
