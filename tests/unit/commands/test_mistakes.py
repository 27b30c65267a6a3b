"""What a fresh user types wrong, and the one line that says what to do."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from support.hand_made import Picture, box_mask, make_run

from m2f_batch.cli import main, new_parser
from m2f_batch.commands.shared.keys import config_of, words_of
from m2f_batch.commands.shared.registry import find_commands
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import fields_of
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import UsageError
from m2f_batch.messages.foreign_words import WORDS

BUNDLED = "m2f_batch/demo/model"
SIZE = (12, 16)
POLYGON = [[1, 1, 5, 1, 5, 5]]
TRUTH = {
    "images": [{"id": 1, "file_name": "a.png", "height": 12, "width": 16}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 9, "iscrowd": 0, "area": 8, "segmentation": POLYGON}],
    "categories": [{"id": 9, "name": "cat"}],
}

# what is typed behind m2f-batch, and what the answer says
MISTAKES = [
    # commands
    ("segmnt photos out", "m2f-batch: 'segmnt' is no command; did you mean m2f-batch segment?"),
    ("train data out", "'train' is no command; did you mean m2f-batch finetune?"),
    ("predict photos", "did you mean m2f-batch segment?"),
    ("val run", "did you mean m2f-batch evaluate?"),
    ("help", "did you mean m2f-batch --help?"),
    ("version", "did you mean m2f-batch --version?"),
    ("submit version", "m2f-batch submit: 'version' is no command; commands: "),
    ("submit help", "did you mean m2f-batch submit --help?"),
    ("submit -v", "-v: is no option here; type it behind the command: m2f-batch submit JOB -v"),
    ("fly", "'fly' is no command; commands: convert, "),
    ("lables photos", "did you mean m2f-batch segment?"),
    ("submit segmnt", "did you mean m2f-batch submit segment?"),
    ("--quiet segment photos out", "--quiet: is no option here; type it behind the command: m2f-batch COMMAND --quiet"),
    ("-v", "-v: is no option here; did you mean m2f-batch --version?"),
    ("--verison", "--verison: is no option here; did you mean m2f-batch --version?"),
    ("--hlep", "did you mean m2f-batch --help?"),
    ("submit --hlep", "did you mean m2f-batch submit --help?"),
    (
        "submit --address http://h:8265 segment a b",
        "--address: is no option here; type it behind the command: m2f-batch",
    ),
    # what is missing
    ("segment", "input.uri, model.uri, output.uri: are not given; give INPUT, OUTPUT and --model M"),
    ("finetune --set train.steps=5", "data.train, output.uri: are not given; give DATASET and OUTPUT"),
    ("segment photos out", "model.uri: is not given; give --model M, the model: a Hugging Face directory, a hub id"),
    ("segment photos --model M", "output.uri: is not given; give OUTPUT, where the rows go: a directory or an"),
    ("segment photos out --model", "--model: has no value; give --model M"),
    ("segment photos out --model M --set", "--set: has no value; give --set KEY=VALUE"),
    ("finetune data.json out", "exactly one of them must be given, for example train.steps=1000"),
    ("evaluate run", "--ground-truth: is not given; for example: m2f-batch evaluate labels/ --ground-truth inst"),
    ("export run", "DEST: is not given; for example: m2f-batch export labels/ coco.json"),
    ("status", "RUN: is not given; for example: m2f-batch status labels/"),
    ("explain run", "URI: is not given; for example: m2f-batch explain labels/ photo.jpg"),
    ("lint", "data.train: is not given; give DATASET, the annotations: COCO JSON"),
    ("lint", "for PNGs also a file of class names (semantic) or an id map (instance), with --masks as their folder"),
    ("convert truth.json out", "--from, --to: are not given; for example: m2f-batch convert data.yaml coco/ --from y"),
    ("submit follow", "ID: is not given; for example: m2f-batch submit follow labels-tonight"),
    ("submit segment s3://b/in s3://b/out --model a/b", "--address: is not given, nor RAY_API_SERVER_ADDRESS; give"),
    # options of other tools, and mistyped ones
    ("segment photos out --modle M", "--modle: is no option; did you mean --model M?"),
    ("segment photos out --model-name M", "--model-name: is no option; did you mean --model M?"),
    ("segment photos out -m M", "-m: is no option; did you mean --model M?"),
    ("segment photos out --weights yolo.pt", "did you mean --model yolo.pt?"),
    ("segment photos out --model M --batch-size 8", "did you mean --set compute.batch_size=8?"),
    ("segment photos --model M out --batch_size=8", "did you mean --set compute.batch_size=8?"),
    ("segment photos out --compute.batch_size 8", "did you mean --set compute.batch_size=8?"),
    ("segment photos out --model M --num-gpus 4", "did you mean --actors 4?"),
    ("segment photos out --model M --gpu", "did you mean --device cuda?"),
    ("segment photos out --model M --fp16", "did you mean --set model.precision=fp16?"),
    ("segment photos out --model M --imgsz 640", "did you mean --size '{shortest_edge: 640, longest_edge: 640}'?"),
    ("segment photos out --model M --imgsz 640x480", "did you mean --size '{shortest_edge: ..., longest_edge: ...}'?"),
    ("segment photos out --model M --classes person", "--classes: is no option; see m2f-batch segment --help"),
    ("segment photos out --model M --stride 32", "--stride: is no option; see m2f-batch segment --help"),
    ("segment photos out --model M --limit 5", "all that is listed is taken: give a folder, a glob or a list of fewer"),
    ("segment photos out --model M --workers 8", "leave it out: all CPUs are used"),
    ("segment photos out --model M -n 5", "-n: is no option; see m2f-batch segment --help"),
    ("segment photos out --model M --precison bf16", "did you mean --set model.precision=bf16?"),
    ("segment photos out --model M --weigths M", "did you mean --model M?"),
    ("segment photos out --model M --conf 0.5", "did you mean --score-threshold 0.5?"),
    ("segment photos out --model M --force", "did you mean --overwrite?"),
    ("segment photos out --model M --resume", "leave it out: the same command goes on where it stopped"),
    ("segment photos out --model M --xyzzy 3", "--xyzzy: is no option; see m2f-batch segment --help"),
    ("segment --input photos --output out", "give INPUT without a name: m2f-batch segment INPUT OUTPUT"),
    ("segment photos --output-dir out", "give OUTPUT without a name: m2f-batch segment INPUT OUTPUT"),
    ("finetune data.json out --model M --epochs 10", "did you mean --set train.epochs=10?"),
    ("finetune data.json out --model M --lr 0.001", "did you mean --set train.learning_rate=0.001?"),
    ("finetune --data d.json --output-dir out", "give DATASET without a name: m2f-batch finetune DATASET OUTPUT"),
    ("export run coco.json --formt coco", "did you mean --format coco?"),
    ("export run coco.json --type coco", "did you mean --format coco?"),
    ("status run --jsn", "--jsn: is no option; did you mean --json?"),
    ("submit segment s3://b/in s3://b/out --cluster http://x:8265", "did you mean --address http://x:8265?"),
    ("finetune d out --images photos", "did you mean --set data.train_images=photos?"),
    ("finetune d out --imgsz 640", "did you mean --set augment.crop_size=640?"),
    ("finetune d out --val-split 0.1", "did you mean --set data.split=0.8?"),
    ("finetune d out --save-period 10", "did you mean --set train.checkpoint_every=...?"),
    ("finetune d out --gpus 2", "did you mean --set train.workers=2?"),
    ("segment photos out --model M --format coco", "rows are Parquet, of which m2f-batch export makes COCO and other"),
    ("segment photos out -vv", "leave it out: all that is known is printed"),
    ("explain run --uri photo.jpg", "give URI without a name: m2f-batch explain RUN URI DEST"),
    ("convert --src truth.json out --from coco --to yolo", "give SRC without a name: m2f-batch convert SRC DEST"),
    ("demo --out here", "give DIR without a name: m2f-batch demo DIR"),
    (
        "demo here --model M",
        "--model: is no option; m2f-batch segment and finetune take a model as --model M, and demo",
    ),
    ("demo here --weights M", "--weights: is no option; m2f-batch segment and finetune take a model as --model M"),
    (
        "segment photos out --opts MODEL.WEIGHTS x.pkl",
        "give --set KEY=VALUE, with a key of those that m2f-batch segmen",
    ),
    ("segment photos out --opts compute.batch_size=8", "did you mean --set compute.batch_size=8?"),
    ("segment photos out --device-map cuda", "did you mean --device cuda?"),
    ("submit segment s3://b/i s3://b/o --working-dir .", "leave it out: m2f-batch submit sends the package with the j"),
    ("submit segment s3://b/i s3://b/o --entrypoint-num-cpus 2", "leave it out: a job asks Ray for what it needs"),
    ("convert data.yaml out --to coco --format yolo", "did you mean --from yolo?"),
    ("convert data.yaml out --from yolo --format coco", "did you mean --to coco?"),
    # more than there is room for
    (
        "segment photos out --set compute.actors 4",
        "--set compute.actors: must be KEY=VALUE; for example --set compute.act",
    ),
    ("segment a.jpg b.jpg c.jpg out --model M", "c.jpg out: are too much; m2f-batch segment takes INPUT OUTPUT; quote"),
    ("segment photos out model=M", "model=M: is too much; did you mean --model M?"),
    ("segment photos out conf=0.3 --model M", "conf=0.3: is too much; did you mean --score-threshold 0.3?"),
    ("segment photos out M", "M: is too much; m2f-batch segment takes INPUT OUTPUT; the model is given as --model M"),
    ("segment photos out M --set model.uri=M", "M: is too much; m2f-batch segment takes INPUT OUTPUT\n"),
    ("segment --config=job.yaml photos out c", "c: is too much; m2f-batch segment takes INPUT OUTPUT\n"),
    ("segment model=yolo11n-seg.pt source=photos", "model=yolo11n-seg.pt: is no argument; did you mean --model yolo11"),
    ("segment source=photos out --model M", "source=photos: is no argument; give INPUT without a name: m2f-batch"),
    (
        "finetune data.json epochs=10",
        "did you mean --set train.epochs=10?; a place of that name is written ./epochs=10\n",
    ),
    ("verify run run", "run: is too much; m2f-batch verify takes RUN"),
    ("evaluate run --ground-truth truth.json --metrics pq miou", "miou: is too much; did you mean --metrics pq,miou?"),
    ("lint truth.json --ignore a, b c", "b c: are too much; did you mean --ignore a,b,c?"),
    ("segment photos out --overwrite=true", "--overwrite: takes no value; give --overwrite alone, or leave it out"),
    ("segment photos out --s 5", "--s: may be --size or --score-threshold or --set; type the whole name"),
    # values
    ("segment photos out --model M --task panoptik", "allowed: instance, semantic or panoptic; did you mean panoptic?"),
    ("segment photos out --model M --device gpu", "compute.device: 'gpu' is not allowed; allowed: auto, cpu or cuda"),
    *(
        (f"segment photos out --model M --task {word}", "did you mean instance?")
        for word in ("segment", "detect", "seg", "inst")
    ),
    ("segment photos out --model M --task sem", "did you mean semantic?"),
    ("segment photos out --model M --task pan", "did you mean panoptic?"),
    ("segment photos out --model M --device cuda:0", "did you mean cuda?"),
    ("segment photos out --model M --actors 0", "allowed: a whole number from 1, or two of them, [min, max]; for"),
    (
        "segment photos out --model M --size 640",
        "{height, width}; for example --size '{shortest_edge: 800, longest_edge: 1333}'",
    ),
    ("segment photos out --model M --size {", "--size: '{' is not YAML; quote it: '{height: 512, width: 512}'"),
    (
        "segment photos out --model M --score-threshold 50",
        "allowed: a number from 0 to 1; for example --score-threshold 0.5",
    ),
    ("segment photos out --model M --score-threshold 50%", "'50%' is not allowed (no number); allowed: a number from"),
    ("segment photos out --model M --retry all", "'all' is not allowed; allowed: errors, errors=REASON or tiff"),
    ("segment photos out --model M --task ''", "--task: '' is no value; give --task TASK, or leave --task out"),
    ("segment photos out --model M --task null", "--task: 'null' is no value; give --task TASK, or leave --task out"),
    ("segment photos out --model ''", "--model: '' is no value; give --model M, or leave --model out"),
    ("segment '' out --model M", "INPUT: '' is no value; give INPUT"),
    ("status ''", "RUN: '' is no value; give RUN"),
    ("evaluate run --ground-truth ''", "--ground-truth: '' is no value; give --ground-truth FILE|DIR\n"),
    ("evaluate run --ground-truth truth.json --metrics ''", "--metrics: '' is no value; give --metrics M,..., or"),
    ("segment photos out --model M --score-threshold ''", "'' is no value; give --score-threshold SCORE, or leave"),
    ("segment photos out --model M --actors=", "--actors: '' is no value; give --actors N, or leave --actors out"),
    ("lint truth.json --split ''", "--split: '' is no value; give --split SHARE, or leave --split out"),
    ("lint truth.json --ignore ''", "--ignore: '' is no value; give --ignore KIND,..., or leave --ignore out"),
    ("convert truth.json out --from coco --to yolo --ignore ''", "--ignore: '' is no value; give --ignore KIND,..., o"),
    ("demo --task all", "--task: 'all' is not known; allowed: instance, semantic, panoptic"),
    ("demo --task segment", "allowed: instance, semantic, panoptic; did you mean instance?"),
    ("export run coco.json --format COCO", "did you mean coco?"),
    ("convert truth.json out --from COCO --to yolo", "did you mean coco?"),
    ("convert truth.json out --from coco --to YOLO", "did you mean yolo?"),
    ("evaluate run --ground-truth truth.json --metrics mIoU", "did you mean miou?"),
    ("evaluate run --ground-truth truth.json --metrics map", "allowed: pq, miou, dice, boundary-iou"),
    ("export run coco.json --format yolov8", "--format: 'yolov8' is not known; allowed: coco, coco-results"),
    ("convert truth.json out --from coco --to voc", "--to: 'voc' is not known; allowed: coco, yolo"),
    ("convert truth.json out --from yolo --to coco", "SRC: 'truth.json' looks like COCO: give --from coco"),
    ("convert truth.json out --from coco --to yolo --seed x", "--seed: 'x' is not a whole number"),
    ("convert truth.json out --from coco --to yolo --split 8:2", "not a number; give --split SHARE, share of the"),
    ("lint truth.json --split 2", "data.split: 2 is not allowed (it must be less than 1); allowed: a number above 0"),
    ("lint photos", "data.train: 'photos' looks like a folder of mask PNGs: give --format semantic-png"),
    ("submit segment s3://b/i s3://b/o --model nets/m/best", "or a hub id (owner/name)"),
    (
        "submit segment s3://b/i photos --model a/b",
        "has; allowed: an absolute path on storage that all nodes share, or an object-store URI\n",
    ),
    ("submit segment photos s3://b/o --model a/b", "an object-store URI; copy it there first"),
    ("submit segment photos /o --model a/b", "allowed: an absolute path on storage that all nodes share, or an obj"),
    # config keys
    ("segment photos out --model M --set precision=bf16", "unknown key (value 'bf16'); did you mean model.precision?"),
    ("segment photos out --model M --set model.precision=float8", "allowed: fp32, bf16 or fp16"),
    ("segment photos out --model M --set model.precision", "must be dotted.key=value, e.g. --set model.precision=bf16"),
    ("segment photos out --model M --set postprocess.stuff_ids=[0,5", "the value is not YAML; quote it: --set 'key=[0"),
    ("segment photos out --model M --set compute.batchsize=8", "did you mean compute.batch_size?"),
    ("segment photos out --model M --set compute.batch_size=", "has no value; give one, --set compute.batch_size=null"),
    ("segment photos out --model M --set compute.device=", "compute.device=: has no value; give one or leave it out"),
    ("segment photos out --model M --set compute.batchsize=", "unknown key (value None); did you mean compute.batch_s"),
    ("segment photos out --model M --set storage.allow=photos", "--set 'storage.allow=[photos/, s3://bucket/labels/]'"),
    (
        "segment photos out --model M --set preprocess.normalize=imagenet",
        "example --set 'preprocess.normalize={mean: [0.",
    ),
    (
        "segment photos out --model M --set compute.batch_size=0",
        "allowed: a whole number from 1; for example --set compute.b",
    ),
    (
        "segment photos out --model M --set preprocess.window=512",
        "512 is not allowed (no mapping); allowed: {size, str",
    ),
    ("segment photos out --model M --set output.images_per_file=9999", "allowed: a whole number from 1 to 4096; for"),
    (
        "segment photos out --model M --set compute=cpu",
        "allowed: a mapping of compute.address, compute.device, compute.",
    ),
    ("segment photos out --model M --set classes=3", "classes: unknown key (value 3); known sections: input, model"),
    ("segment photos out --model M --set weights=x", "weights: unknown key (value 'x'); did you mean model.uri?"),
    ("segment photos out --model M --set source=x", "source: unknown key (value 'x'); did you mean input.uri?"),
    (
        "finetune d out --set train.steps=5 --set output_dir=x",
        "output_dir: unknown key (value 'x'); did you mean output.uri?",
    ),
    ("segment photos out --model M --set zebra=3", "known sections: input, model, preprocess, postprocess, compute"),
    ("segment photos out --model M --set input.max_error_fraction=5", "a number from 0 to 1; the default is 0.05"),
    ("finetune d out --set train.steps=5 --set train.lr=1", "did you mean train.learning_rate?"),
    ("finetune d out --set train.steps=5 --set train.batch_size=many", "a whole number from 1; the default is 16"),
    ("finetune d out --set train.steps=5 --set data.format=voc", "allowed: coco, coco-panoptic, instance-png, label"),
    ("segment --config nowhere.yaml", "--config nowhere.yaml: cannot be read (No such file or directory); give a YAML"),
    ("segment --config job.yaml", "model.precison: unknown key (value 'bf16'); did you mean model.precision?"),
    (
        "segment photos out --model M --config yolo.yaml",
        "(it holds path, train, val, names, nc); known sections: input, ",
    ),
    (
        "finetune yolo.yaml out --config yolo.yaml",
        "is no config of this command (it holds path, train, val, names, nc); ",
    ),
    ("lint yolo.yaml --config yolo.yaml", "; a dataset's YAML is no config: give it as DATASET"),
    (
        "lint yolo.yaml --config split.yaml",
        "(it holds path, train, val, names); a dataset's YAML is no config: give it as",
    ),
    ("finetune a out --config nc.yaml", "(it holds train, val, nc); a dataset's YAML is no config: give it as DATASET"),
    (
        "segment photos out --model M --config flat.yaml",
        "batch_size: unknown key (value 8); did you mean compute.batch_",
    ),
    (
        "segment photos out --model M --config deep.yaml",
        "segment: unknown key (value {'input': {'uri': 'a'}}); known sec",
    ),
    ("segment photos out --config transformers.yaml", "(it holds a, b, c, d, e, f, g, h, ...); known sections: input"),
    (
        "finetune empty out --set train.steps=5",
        "/empty: is a folder, not a file; give the file in it, or data.format for",
    ),
    (
        "finetune photos out --set train.steps=5",
        "looks like a folder of mask PNGs: give --set data.format=semantic-png",
    ),
    ("segment --config bad.yaml", "--config bad.yaml: is not YAML (line 2, column 1: expected ',' or ']'"),
    ("segment --config run/run.json", "--config run/run.json: is what a job wrote, and no config; copy what it holds"),
    (
        "segment photos out --model M --config many.yaml",
        f"zebra: unknown key (value {'x' * 59!r}"[:-1] + "...); known sections: input, ",
    ),
    # places
    ("status photos", "RUN: photos holds no run.json; give the OUTPUT of 'm2f-batch segment'"),
    ("evaluate nowhere --ground-truth truth.json", "RUN: nowhere is no folder; give the OUTPUT of"),
    ("export truth.json run", "RUN: truth.json is no folder; give the OUTPUT of"),
    ("evaluate run --ground-truth nowhere.json", "nowhere.json: no such file"),
    ("export run photos", "DEST: 'photos' is a folder; give the name of a file in it"),
    ("convert-checkpoint nowhere out", "SRC: 'nowhere' is no directory here, no hub id (owner/name) and no object-s"),
    ("lint truth.json --images nowhere", "data.train_images: 'nowhere': there is no such folder"),
    ("segment photos out --model best.pt", "model.uri: 'best.pt' is a file (.pt), which is not read; give a Hugging F"),
    ("segment photos out --model weights/best.pt", "model.uri: 'weights/best.pt' is a file (.pt), which is not read"),
    (
        "convert-checkpoint best.pt out",
        "which is not read; give a Hugging Face directory with config.json and pytorch_",
    ),
    (f"segment gs:// out --model {BUNDLED}", "input.uri: gs://...: wanted gs://BUCKET/KEY"),
    (f"segment photos gcs:// --model {BUNDLED}", "output.uri: gcs://...: wanted gcs://BUCKET/KEY"),
    ("segment photos out --model abfs://data/m", "wanted abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/KEY"),
    (f"segment photos run --model {BUNDLED}", "output.uri: run holds a run over /photos, and input.uri is photos; "),
    (f"segment notes.txt out --model {BUNDLED}", "/notes.txt' names no file that can be seen, nor an image by its ext"),
    ("export run notes.txt", "DEST: 'notes.txt' is there already, and is no earlier export; remove it, or choose anot"),
    ("export run truth.json", "DEST: 'truth.json' is there already, and is no earlier export; remove it, or choose an"),
    ("demo mine", "DIR: mine holds images/cat.png, which the demo does not draw; give another directory"),
]


CONFIGS = {"segment": SegmentConfig, "finetune": FinetuneConfig}
HINT = re.compile(r"(-\S+): is no option; did you mean (.+)\?$")


def instead(words: list[str], wrong: str) -> list[str]:
    """The words without an option that is none, and without its value."""
    place = next(place for place, word in enumerate(words) if word.partition("=")[0] == wrong)
    has_value = "=" not in words[place] and words[place + 1 : place + 2] and not words[place + 1].startswith("-")
    return words[:place] + words[place + (2 if has_value else 1) :]


def is_taken(hint: str, words: list[str]) -> bool:
    """Whether a command takes what was said to be meant, whatever else is wrong with its config."""
    option, *value = shlex.split(hint)
    options = new_parser(find_commands(), words[0]).parse_args([*words, option, *value])
    if words[0] not in CONFIGS or "..." in hint:
        return True
    keys = find_commands()[words[0]].KEYS
    key = (
        value[0].partition("=")[0] if option == "--set" else {word: key for key, word in words_of(keys).items()}[option]
    )
    try:
        config_of(CONFIGS[words[0]], options, keys)
    except UsageError as error:
        return f"{key}: " not in str(error)
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fresh")
    make_run(folder / "run", [[Picture("/p/a.jpg", SIZE, [(0, 0.9, box_mask(SIZE, 1, 1, 3, 3))])]])
    (folder / "photos").mkdir()
    Image.new("RGB", (16, 12)).save(folder / "photos" / "a.png")
    (folder / "truth.json").write_text(json.dumps(TRUTH))
    (folder / "job.yaml").write_text("input: {uri: photos}\nmodel: {uri: M, precison: bf16}\noutput: {uri: out}\n")
    (folder / "bad.yaml").write_text("input: [photos\n")
    (folder / "yolo.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat}\nnc: 1\n")
    (folder / "split.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n- cat\n")
    (folder / "nc.yaml").write_text("train: images/train\nval: images/val\nnc: 1\n")
    (folder / "flat.yaml").write_text("batch_size: 8\n")
    (folder / "deep.yaml").write_text("segment: {input: {uri: a}}\n")
    (folder / "many.yaml").write_text(f"input: {{uri: a}}\nzebra: {'x' * 99}\n")
    (folder / "transformers.yaml").write_text("".join(f"{key}: 1\n" for key in "abcdefghij"))
    (folder / "empty").mkdir()
    (folder / "best.pt").touch()
    (folder / "weights").mkdir()
    (folder / "weights" / "best.pt").touch()
    (folder / "notes.txt").write_text("Call the printer about the posters.\nBuy milk\n")
    (folder / "mine" / "images").mkdir(parents=True)
    (folder / "mine" / "images" / "cat.png").touch()
    return folder


@pytest.mark.parametrize(("line", "said"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line_that_says_what_to_do(
    line: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    before = sorted(folder.rglob("*"))
    assert main(shlex.split(line)) == 2
    out, errors = capsys.readouterr()
    assert said in errors and out == ""
    assert errors.startswith("m2f-batch") and errors.count("\n") == 1 and "Traceback" not in errors
    assert sorted(folder.rglob("*")) == before
    if hint := HINT.search(errors):
        assert is_taken(hint[2], instead(shlex.split(line), hint[1]))


@pytest.mark.parametrize("command", ["segment a b --model M", "finetune a b"])
def test_each_value_that_is_said_to_be_meant_is_taken(command: str) -> None:
    words = command.split()
    keys = find_commands()[words[0]].KEYS
    settings = [key for key, _ in fields_of(CONFIGS[words[0]])]
    fixed = {target.replace("%", "640") for targets in WORDS.values() for target in targets if "=" in target}
    for target in sorted(fixed):
        name, _, value = target.partition("=")
        if name in settings:
            assert is_taken(f"--set {shlex.quote(target)}", words), target
        elif name in words_of(keys).values():
            assert is_taken(f"{name} {shlex.quote(value)}", words), target
    assert not is_taken("--set compute.device=gpu", words)
