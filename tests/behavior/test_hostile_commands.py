"""Hostile URIs, manifests, configs and checkpoints in commands: each is refused with one message.

The world of ``support.hostile`` sees to it after each test that nothing was asked for and nothing executed.
"""

import io
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DEMO_MODEL
from support.hostile import CANARY, SECRETS, SIGNED, World, guarding, pipe, world_in

from m2f_batch.cli import main
from m2f_batch.storage.allow import OF_MACHINE


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_in(tmp_path_factory.mktemp("hostile")) as made:
        yield made


@pytest.fixture(autouse=True)
def guarded(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with guarding(world, monkeypatch):
        yield


def laughs(key: str) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join([*lines, f"{key}: *a11\n"])


def parquet(**columns: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def segment(
    world: World, source: str, *options: str, model: str = str(DEMO_MODEL), output: str | None = None
) -> list[str]:
    allow = json.dumps([str(world.allowed), str(DEMO_MODEL), "s3://mine/images/", "hf://owner/name"])
    output = output or str(world.outputs / "never")
    return [
        "segment",
        source,
        output,
        "--model",
        model,
        "--task",
        "panoptic",
        "--set",
        f"storage.allow={allow}",
        *options,
    ]


def train(world: World, annotations: str, form: str, *options: str) -> list[str]:
    allow = json.dumps([str(world.allowed)])
    words = ["finetune", annotations, str(world.outputs / "never"), "--set", f"data.format={form}"]
    return [*words, "--set", "train.steps=1", "--set", f"storage.allow={allow}", *options]


def deep(n: int = 100_000) -> str:
    return "[" * n + "]" * n


OUTSIDE = r"lies outside (storage\.allow|M2F_BATCH_ALLOW); allowed: "
SCHEME = "uri: .*no scheme of files that can be opened; allowed: "
WEB = "uri: .*the web is read only where storage.allow [(]or M2F_BATCH_ALLOW[)] names the host; add https?://"
# name: (command of a world, what its one message says)
COMMANDS = {
    "a system folder": (lambda w: segment(w, "file:///etc"), "input.uri: /etc: " + OUTSIDE),
    "dots out of the folder": (lambda w: segment(w, f"{w.allowed}/../secret"), "input.uri: .*" + OUTSIDE),
    "encoded dots": (lambda w: segment(w, f"file://{w.allowed}/%2e%2e/secret"), "input.uri: .*" + OUTSIDE),
    "through a link": (lambda w: segment(w, f"{w.allowed}/link"), "input.uri: .*" + OUTSIDE),
    "a glob through a link": (lambda w: segment(w, f"{w.allowed}/link/*.png"), "input.uri: .*" + OUTSIDE),
    "a glob beside the folder": (lambda w: segment(w, f"{w.allowed}/../s*/*"), "input.uri: .*" + OUTSIDE),
    "/proc": (lambda w: segment(w, f"/proc/self/root{w.secret}"), "input.uri: .*" + OUTSIDE),
    "an endless device": (lambda w: segment(w, "/dev/zero"), "input.uri: /dev/zero: " + OUTSIDE),
    "the metadata address": (
        lambda w: segment(w, f"http://{w.host}/latest/meta-data/"),
        "input.uri: http://.*" + OUTSIDE,
    ),
    "another protocol": (lambda w: segment(w, f"ftp://{w.host}/x.png"), SCHEME),
    "the metadata address as files": (
        lambda w: segment(w, f"hdfs://{w.host}/latest/meta-data/"),
        "input.uri: hdfs.*" + OUTSIDE,
    ),
    "another bucket": (lambda w: segment(w, "s3://theirs/images/"), "input.uri: .*" + OUTSIDE),
    "the bucket's other prefix": (lambda w: segment(w, "s3://mine/images-private/"), "input.uri: .*" + OUTSIDE),
    "dots in a key": (lambda w: segment(w, "s3://mine/images/../secret"), "input.uri: .*" + OUTSIDE),
    "a host behind an @": (lambda w: segment(w, "s3://mine@evil.example/x"), "input.uri: s3://...: wanted s3://BUCKET"),
    "an endpoint in the URI": (
        lambda w: segment(w, f"gs://b?endpoint_override={w.host}&scheme=http/x.png"),
        "input.uri: gs://...: .* options are not taken",
    ),
    "an S3 endpoint in the URI": (
        lambda w: segment(w, f"s3://mine?endpoint_override=http://{w.host}/x.png"),
        "input.uri: s3://...: .* options are not taken",
    ),
    "a password in the URI": (lambda w: segment(w, "gs://me:hunter2hunter2@b/x"), "input.uri: .*never from the URI"),
    "a presigned URL": (
        lambda w: segment(w, f"https://b/x.png?X-Amz-Signature={SIGNED}"),
        "input.uri: .*never from the URI",
    ),
    "a NUL in the URI": (lambda w: segment(w, "/etc/passwd\0.png"), "input.uri: .*NUL"),
    "a terminal escape": (lambda w: segment(w, "s3://mine/\x1b]0;evil\x07\x1b[2J"), r"input.uri: .*\\x1b\]0;evil\\x07"),
    "a forged line": (lambda w: segment(w, "/etc/x\nm2f-batch: all is well"), r"input.uri: /etc/x\\nm2f-batch"),
    "OUTPUT outside": (lambda w: segment(w, str(w.allowed), output=str(w.secret / "run")), "output.uri: .*" + OUTSIDE),
    "OUTPUT through a link": (
        lambda w: segment(w, str(w.allowed / "good.png"), output=str(w.allowed / "link" / "run")),
        "output.uri: .*" + OUTSIDE,
    ),
    "input.root outside": (
        lambda w: segment(w, w.write("c.json", '{"images": []}'), "--set", f"input.root={w.secret}"),
        "input.root: .*" + OUTSIDE,
    ),
    "a key that no job can widen": (
        lambda w: segment(w, str(w.secret), "--set", "storage.allow=[/]"),
        "input.uri: .*lies outside M2F_BATCH_ALLOW",
    ),
    "a model of the hub": (
        lambda w: segment(w, str(w.allowed), model="evil/mask2former-panoptic"),
        "model.uri: hf://evil/mask2former-panoptic: " + OUTSIDE,
    ),
    "a model of another bucket": (
        lambda w: segment(w, str(w.allowed), model="s3://theirs/m"),
        "model.uri: .*" + OUTSIDE,
    ),
    "a model behind a link": (
        lambda w: segment(w, str(w.allowed), model=str(w.allowed / "link")),
        "model.uri: .*" + OUTSIDE,
    ),
    "a manifest that is a device": (lambda w: segment(w, "/dev/stdin"), "input.uri: .*" + OUTSIDE),
    "a manifest that is a pipe": (lambda w: segment(w, pipe(w, "p.csv")), "input.uri: .*no such file"),
    "a manifest with a list for a URI": (
        lambda w: segment(w, w.write("list.parquet", parquet(uri=[["/etc/passwd"]]))),
        r"input.uri: .*list\.parquet' cannot be read",
    ),
    "a manifest without URIs": (
        lambda w: segment(w, w.write("bare.parquet", parquet(url=["/etc/passwd"]))),
        "input.uri: .*needs one column 'uri'",
    ),
    "a manifest that is a pickle": (lambda w: segment(w, w.write("b.parquet", w.bomb)), "input.uri: .*cannot be read"),
    "a manifest with a NUL": (lambda w: segment(w, w.write("nul.txt", "a\0b.png\n")), "input.uri: .*NUL"),
    "a manifest that is no text": (
        lambda w: segment(w, w.write("x.csv", b"uri\n\xff\xfe\xff\n")),
        "input.uri: .*x.csv",
    ),
    "a manifest with a password": (
        lambda w: segment(w, w.write("pw.txt", "good.png\ngs://me:hunter2hunter2@b/x.png\n")),
        "input.uri: .*never from the URI",
    ),
    "a manifest with a presigned URL": (
        lambda w: segment(w, w.write("signed.txt", f"good.png\ns3://mine/x.png?a=1&X-Amz-Signature={SIGNED}\n")),
        "input.uri: .*never from the URI",
    ),
    "a COCO JSON a hundred thousand deep": (
        lambda w: segment(w, w.write("d.json", deep())),
        "input.uri: .*not valid JSON",
    ),
    "a manifest line as deep": (
        lambda w: segment(w, w.write("d.jsonl", f'{{"uri": "a", "x": {deep()}}}')),
        "input.uri: .*not valid JSON",
    ),
    "a COCO JSON with an object for a name": (
        lambda w: segment(w, w.write("o.json", '{"images": [{"id": 1, "file_name": {"a": 1}}]}')),
        r"input.uri: .*images\[0\] needs a text",
    ),
    "YAML that calls": (
        lambda w: [
            "segment",
            "--config",
            w.write("y.yaml", f"input: !!python/object/apply:os.system ['touch {w.marker}']"),
        ],
        "--config .*is not YAML",
    ),
    "YAML of aliases": (lambda w: ["segment", "--config", w.write("l.yaml", laughs("input"))], "its aliases make more"),
    "YAML that holds itself": (
        lambda w: ["segment", "--config", w.write("r.yaml", "a: &a [*a]")],
        "--config .*not YAML",
    ),
    "YAML a hundred thousand deep": (
        lambda w: ["segment", "--config", w.write("n.yaml", deep())],
        "--config .*not YAML",
    ),
    "a config that is a folder": (lambda w: ["segment", "--config", str(w.allowed)], "--config .*cannot be read"),
    "a config without end": (lambda w: ["segment", "--config", "/dev/zero"], "--config /dev/zero: .*more than"),
    "a config of bytes": (lambda w: ["segment", "--config", w.write("b.yaml", w.bomb)], "--config .*is not YAML"),
    "a set key of the class": (lambda w: segment(w, "a", "--set", "input.__class__=x"), "input.__class__: unknown key"),
    "pickled weights": (
        lambda w: segment(w, str(w.allowed), model=w.model("bin", model__safetensors=None, pytorch_model__bin=w.bomb)),
        "model.uri: .*pickled weights are never read",
    ),
    "a pickle called safetensors": (
        lambda w: segment(w, str(w.allowed), model=w.model("fake", model__safetensors=w.bomb)),
        "model.uri: model.safetensors of .* is not whole",
    ),
    "a header of exabytes": (
        lambda w: segment(
            w, str(w.allowed), model=w.model("huge", model__safetensors=struct.pack("<Q", 2**60) + b"{}")
        ),
        "model.uri: model.safetensors of .* is not whole",
    ),
    "shards that lie elsewhere": (
        lambda w: segment(
            w, str(w.allowed), model=w.model("shards", model__safetensors=None, **index("../secret/model"))
        ),
        "model.uri: .*must name safetensors files of that directory",
    ),
    "weights behind a link": (
        lambda w: segment(w, str(w.allowed), model=linked(w)),
        "model.uri: .*safetensors: " + OUTSIDE,
    ),
    "a kernel of the hub": (
        lambda w: segment(w, str(w.allowed), model=w.model("kernel", {"_attn_implementation": "evil/kernel"})),
        "model.uri: .*never run",
    ),
    "a kernel in the backbone": (
        lambda w: segment(
            w,
            str(w.allowed),
            model=w.model(
                "inner", {"backbone_config": {"model_type": "swin", "attn_implementation": {"": "evil/kernel:f"}}}
            ),
        ),
        "model.uri: .*never run",
    ),
    "a backbone of another repository": (
        lambda w: segment(
            w,
            str(w.allowed),
            model=w.model("timm", {"backbone_config": {"model_type": "timm_backbone", "backbone": "local-dir:/etc"}}),
        ),
        "model.uri: .*must be the name of an architecture",
    ),
    "weights elsewhere": (
        lambda w: segment(
            w, str(w.allowed), model=w.model("moved", {"transformers_weights": "../secret/model.safetensors"})
        ),
        "model.uri: .*transformers_weights is not supported",
    ),
    "a config.json a hundred thousand deep": (
        lambda w: segment(w, str(w.allowed), model=w.model("deep", config__json=f'{{"a": {deep()}}}'.encode())),
        "model.uri: config.json .* is not valid JSON",
    ),
    "a config.json that is deep enough to be read": (
        lambda w: segment(w, str(w.allowed), model=w.model("nested", nested(900))),
        "model.uri: config.json of .*nested more than",
    ),
    "a data.yaml that calls": (
        lambda w: train(
            w, w.write("yolo/data.yaml", f"names: !!python/object/apply:os.system ['touch {w.marker}']"), "yolo"
        ),
        "data.train: .*data.yaml",
    ),
    "a data.yaml of aliases": (lambda w: train(w, w.write("laugh/data.yaml", laughs("names")), "yolo"), "its aliases"),
    "a data.yaml that leads elsewhere": (
        lambda w: train(w, w.write("out/data.yaml", f"names: [a]\npath: {w.secret}\ntrain: s.txt\n"), "yolo"),
        OUTSIDE,
    ),
    "annotations outside": (lambda w: train(w, str(w.secret / "s.txt"), "coco"), "data.train: .*" + OUTSIDE),
    "masks outside": (
        lambda w: train(w, w.write("p.json", "{}"), "coco-panoptic", "--set", f"data.train_masks={w.secret}"),
        "data.train_masks: .*" + OUTSIDE,
    ),
    "a pretrained backbone of the hub": (
        lambda w: train(w, coco(w, "good.png"), "coco", "--set", "model.backbone=evil/swin"),
        "model.backbone: hf://evil/swin: " + OUTSIDE,
    ),
    "an export outside": (
        lambda w: ["export", str(w.run), str(w.secret / "x.json"), "--format", "coco"],
        "DEST: .*" + OUTSIDE,
    ),
    "an explanation outside": (
        lambda w: ["explain", str(w.run), str(w.allowed / "good.png"), str(w.secret / "x")],
        "DEST: .*" + OUTSIDE,
    ),
    "a run outside": (lambda w: ["status", str(w.secret)], OUTSIDE),
}


def nested(depth: int) -> dict:
    tree: dict = {}
    for _ in range(depth):
        tree = {"a": tree}
    return tree


def index(name: str) -> dict[str, bytes]:
    return {"model__safetensors__index__json": json.dumps({"weight_map": {"a": f"{name}.safetensors"}}).encode()}


def linked(world: World) -> str:
    folder = Path(world.model("linked", model__safetensors=None))
    if not (folder / "model.safetensors").is_symlink():
        (folder / "model.safetensors").symlink_to(world.secret / "model.safetensors")
    return str(folder)


def coco(world: World, name: str) -> str:
    square = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 100, "bbox": [0, 0, 10, 10]}
    square["segmentation"] = [[0, 0, 10, 0, 10, 10, 0, 10]]
    images = [{"id": 1, "file_name": name, "height": 30, "width": 40}]
    tree = {"images": images, "annotations": [square], "categories": [{"id": 1, "name": "a"}]}
    return world.write("train.json", json.dumps(tree))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_hostile_command_is_refused_with_one_message(name, world, capfd):
    command, wanted = COMMANDS[name]
    before = set(world.secret.rglob("*"))
    assert main(command(world)) in ((1, 2) if name == "a run outside" else (2,))
    out, err = capfd.readouterr()
    assert re.search(wanted, err), err
    assert err.startswith("m2f-batch ") and "Traceback" not in err and len(err) < 3000
    assert all(char.isprintable() or char == "\n" for char in err)
    assert not [secret for secret in SECRETS if secret in out + err]
    assert set(world.secret.rglob("*")) == before
    assert not (world.outputs / "never").exists()


def test_an_export_inside_is_made(world):
    assert main(["export", str(world.run), str(world.outputs / "x.json"), "--format", "coco"]) == 0
    assert (world.outputs / "x.json").is_file()


# Without any list, too: pyarrow would open all that fsspec does
UNLISTED = {
    "INPUT of the web": lambda w: ["segment", f"http://{w.host}/x.png", str(w.outputs / "never")],
    "INPUT of fsspec's web": lambda w: ["segment", f"fsspec+http://{w.host}/x.png", str(w.outputs / "never")],
    "INPUT of fsspec's disk": lambda w: ["segment", f"fsspec+file://{w.secret}", str(w.outputs / "never")],
    "a glob of it": lambda w: ["segment", f"fsspec+file://{w.secret}/*.png", str(w.outputs / "never")],
    "OUTPUT of it": lambda w: ["segment", str(w.allowed / "good.png"), f"fsspec+file://{w.secret}/run"],
    "a manifest that names it": lambda w: [
        "segment",
        w.write("fsspec.txt", f"good.png\nfsspec+file://{w.secret}/s.png\n"),
        str(w.outputs / "never"),
    ],
    "a manifest of the web": lambda w: [
        "segment",
        w.write("web.jsonl", json.dumps({"uri": f"https://{w.host}/x.png"})),
        str(w.outputs / "never"),
    ],
}


@pytest.mark.parametrize("name", UNLISTED)
def test_schemes_of_others_are_refused_without_a_list(name, world, capfd, monkeypatch):
    monkeypatch.delenv(OF_MACHINE)
    before = set(world.secret.rglob("*"))
    assert main([*UNLISTED[name](world), "--model", str(DEMO_MODEL), "--task", "panoptic"]) == 2
    out, err = capfd.readouterr()
    assert re.search(rf"(in|out)put\.({SCHEME}|{WEB})", err), err
    assert "Traceback" not in err and CANARY not in out + err
    assert set(world.secret.rglob("*")) == before
    assert (
        main(["segment", str(world.allowed), str(world.outputs / "never"), "--model", f"fsspec+file://{world.secret}"])
        == 2
    )
    assert re.search("model." + SCHEME, capfd.readouterr().err)


def test_there_are_enough_of_them():
    assert len(COMMANDS) >= 60
