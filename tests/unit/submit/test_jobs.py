"""What is submitted: what is refused before anything is sent, and how a job arrives."""

import io
import subprocess
import sys
import zipfile

import pytest
import yaml
from conftest import DEMO_MODEL, PROJECT
from support.submitting import SEGMENT, TOKEN, flags_of, refused, submit

from m2f_batch.cli import main
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import check_config, load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import UsageError
from m2f_batch.ray_session.forwarded import forwarded_names
from m2f_batch.submit.jobs import CONFIG_FILE, STOP_WAIT, evaluate_job, finetune_job, segment_job
from m2f_batch.submit.package import entrypoint, working_dir

pytestmark = pytest.mark.usefixtures("as_anybody")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("segment", "photos", "/out", "--model", "/m"), "input.uri"),
        (("segment", "/photos", "out", "--model", "/m"), "output.uri"),
        (("segment", "/photos", "/out", "--model", "./m"), "model.uri"),
        (("segment", "/photos", "/out", "--model", "a/b/c"), "model.uri"),
        (("segment", "/photos", "/out", "--model", "here/model"), "model.uri"),
        (("segment", "/p.json", "/out", "--model", "o/n", "--set", "input.root=photos"), "input.root"),
        (("segment", "/p", "/out", "--model", "o/n", "--set", "compute.address=ray://x:1"), "compute.address"),
        (("segment", "s3://a:b@c/d", "/out", "--model", "o/n"), "input.uri"),
        (("segment", "gs://b/p?access_key=AKIAIOSFODNN7EXAMPLE", "/out", "--model", "o/n"), "input"),
        (("finetune", "train.json", "/out", "--set", "train.steps=1"), "data.train"),
        (("finetune", "/t.json", "/out", "--set", "train.steps=1", "--set", "data.val=v.json"), "data.val"),
        (("finetune", "/t.json", "/out", "--set", "train.steps=1", "--set", "model.backbone=../b"), "model.backbone"),
        (("evaluate", "run", "--ground-truth", "/t"), "RUN"),
        (("evaluate", "/run", "--ground-truth", "t"), "--ground-truth"),
        (("evaluate", "/run", "--ground-truth", "/t", "--json", "figures.json"), "--json"),
        (("segment", "--set", "x=1"), "input.uri"),
    ],
)
def test_what_the_cluster_could_not_do_is_refused_here(arguments, field, cluster, capsys, monkeypatch, tmp_path):
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, *arguments, "--address", cluster.url)
    assert field in said and "a:b" not in said and "AKIAIOSFODNN7EXAMPLE" not in said
    assert not cluster.submitted and not cluster.packages


INSIDE = ("s3://b/in/", "s3://b/out")

ALLOW = ("--set", f"storage.allow={[*INSIDE, '/nowhere', 'https://host/in/', str(DEMO_MODEL)]}")

MODEL = ("--model", str(DEMO_MODEL))

NO_PATHS = ("--set", f"storage.allow={[*INSIDE]}")

LISTED = (*MODEL, *ALLOW)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("segment", "s3://b/in", "s3://b/in", *MODEL), "output.uri: 's3://b/in' is, or lies inside, input.uri"),
        (("segment", "/in", "/in/labels", *MODEL), "output.uri: '/in/labels' is, or lies inside, input.uri '/in'"),
        (("segment", "https://h/a.csv", "/out", *MODEL, *NO_PATHS), "input.uri: https://h/a.csv: lies outside storage"),
        (("segment", "https://host/in/", "/nowhere/out", *LISTED), "input.uri: 'https://host/in/': the web cannot"),
        (("segment", "s3://b/in", "https://host/in/out", *LISTED), "output.uri: 'https://host/in/out': nothing can"),
        (("segment", "s3://b/in-2/x*", "s3://b/out", *LISTED), "input.uri: s3://b/in-2/x*: lies outside storage."),
        (("segment", "s3://b/in/", "s3://b/labels", *LISTED), "output.uri: s3://b/labels: lies outside storage."),
        (("segment", *INSIDE, "--model", "https://host/in/m", *ALLOW), "model.uri: 'https://host/in/m': models are"),
        (("segment", *INSIDE, "--model", "https://h/m", *ALLOW), "model.uri: 'https://h/m': models are not read from"),
        (("segment", *INSIDE, "--model", "https://h/m"), "model.uri: 'https://h/m': models are not read from the web"),
        (("segment", *INSIDE, "--model", "o/n@abc", *ALLOW), "model.uri: hf://o/n: lies outside storage.allow"),
        (("segment", *INSIDE, "--model", "s3://b/m/", *ALLOW), "model.uri: s3://b/m: lies outside storage.allow"),
        (("segment", "/t", "s3://b/out", *MODEL, *NO_PATHS), "input.uri: /t: lies outside storage.allow; allowed: s3"),
        (("finetune", "s3://c/t", "s3://b/out", "--set", "train.steps=1", *ALLOW), "data.train: s3://c/t: lies out"),
    ],
)
def test_what_the_job_would_refuse_at_once_is_refused_here(arguments, said, cluster, capsys, monkeypatch) -> None:
    monkeypatch.setenv("M2F_BATCH_ALLOW", "s3://of-this-machine")  # which does not run the job
    here = refused(capsys, *arguments, "--address", cluster.url)
    assert said in here and not cluster.submitted and not cluster.packages
    monkeypatch.delenv("M2F_BATCH_ALLOW")
    assert main([*arguments]) == 2
    there = capsys.readouterr().err
    assert here.removeprefix("m2f-batch submit: ") == there.removeprefix(f"m2f-batch {arguments[0]}: ")


@pytest.mark.parametrize(
    ("source", "target"), [("{0}/link", "{0}/real/out"), ("{0}/real", "{0}/link/out"), ("{0}/link", "{0}/real")]
)
def test_links_of_this_machine_say_nothing_of_the_cluster(source, target, cluster, tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    places = [place.format(tmp_path) for place in (source, target)]
    assert submit(cluster, "segment", *places, *MODEL, "--no-wait") == 0
    assert len(cluster.submitted) == 1


@pytest.mark.parametrize("names", [("link/in", "real"), ("other", "real")])
def test_local_places_of_a_list_are_left_to_the_job(names, cluster, tmp_path) -> None:
    """The cluster's links decide whether a path lies behind an entry, those of this machine do not."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    place, entry = (str(tmp_path / name) for name in names)
    allowed = ("--set", f"storage.allow={[entry, 's3://b/out']}")
    assert submit(cluster, "segment", place, "s3://b/out", "--model", place, *allowed, "--no-wait") == 0
    assert len(cluster.submitted) == 1


def test_the_web_is_left_to_the_list_of_the_cluster(cluster, monkeypatch) -> None:
    given = ("segment", "https://host/a.csv", "s3://b/out", "--model", "o/n")
    assert submit(cluster, *given, "--no-wait") == 0
    monkeypatch.setenv("M2F_BATCH_ALLOW", "s3://of-this-machine")
    assert submit(cluster, *given, "--no-wait") == 0
    assert len(cluster.submitted) == 2


@pytest.mark.parametrize("model", ["o/n", "o/n@abc", "p/q@abc", "s3://b/in/m/", "timm/resnet50"])
def test_what_a_list_names_is_submitted(model, cluster, monkeypatch) -> None:
    monkeypatch.setenv("M2F_BATCH_ALLOW", "s3://of-this-machine")
    allowed = ("--set", f"storage.allow={[*INSIDE, 'https://host/in/', 'hf://o/n', 'hf://p/q@abc', '/data']}")
    if model.startswith("timm/"):
        given = ("finetune", "/data/t.json", "s3://b/out", "--set", "train.steps=1", "--set", f"model.backbone={model}")
    else:
        given = ("segment", "https://host/in/list.csv", "s3://b/out", "--model", model)
    assert submit(cluster, *given, *allowed, "--no-wait") == 0
    assert len(cluster.submitted) == 1


def test_the_config_arrives_as_it_was_checked(tmp_path) -> None:
    overrides = ["postprocess.stuff_ids=[0, 5]", "compute.actors=[1, 8]", "run.log=json", "compute.address=auto"]
    flags = {"input.uri": "s3://b/ü '$(touch x)'", "model.uri": "owner/name@abc", "output.uri": "/shared/out"}
    config = load_config(SegmentConfig, overrides=overrides, flags=flags)
    job = segment_job(config, is_dry_run=True)
    assert entrypoint(job) == "python -m m2f_batch.cli segment --config job.yaml --dry-run"
    again = check_config(SegmentConfig, yaml.safe_load(job.config))
    assert again.compute.address is None
    assert again == config.model_copy(update={"compute": config.compute.model_copy(update={"address": None})})


@pytest.mark.parametrize(
    "text",
    [
        *("1e5", "123e4567", "-1E+3", ".5e1", "1:30", "0x1f", "007", "no", "~", "2026-11-21", "{a: b}"),
        *("\u2028\x85b", "ü😀", "many words " * 40),
    ],
)
def test_texts_arrive_as_texts(text, tmp_path) -> None:
    config = load_config(SegmentConfig, overrides=[f"model.revision={text}"], flags=flags_of(SEGMENT))
    assert config.model.revision == text
    file = tmp_path / CONFIG_FILE
    file.write_bytes(segment_job(config).config.encode())
    assert load_config(SegmentConfig, file=str(file)) == config


@pytest.mark.parametrize("preset", sorted(PROJECT.glob("jobs/finetune*.yaml")), ids=lambda file: file.name)
def test_presets_of_training_arrive_as_they_were_checked(preset) -> None:
    config = load_config(FinetuneConfig, file=str(preset))
    assert check_config(FinetuneConfig, yaml.safe_load(finetune_job(config).config)) == config


def test_evaluate_is_quoted() -> None:
    run = "/runs/it's; rm -rf $HOME"
    job = evaluate_job(run, {"--ground-truth": "/t.json", "--ignore-index": 255, "--partial": True, "--json": None})
    words = ["python", "-m", "m2f_batch.cli", "evaluate"]
    words += ["--ground-truth=/t.json", "--ignore-index=255", "--partial", "--", run]
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {entrypoint(job)}"], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == words
    # and the parser there reads it as it was given here
    from m2f_batch.cli import new_parser
    from m2f_batch.commands.shared.registry import find_commands

    options = new_parser(find_commands()).parse_args(words[3:])
    assert (options.run_uri, options.ignore_index, options.partial) == (run, 255, True)


def test_figures_of_an_evaluation_may_go_into_its_log() -> None:
    job = evaluate_job("s3://b/run", {"--ground-truth": "s3://b/t.json", "--json": "-"})
    assert entrypoint(job).endswith("evaluate --ground-truth=s3://b/t.json --json=- -- s3://b/run")
    with pytest.raises(UsageError, match="--json"):
        evaluate_job("s3://b/run", {"--ground-truth": "s3://b/t.json", "--json": "here.json"})


def test_the_package_runs_by_itself_and_is_the_same_each_time(tmp_path) -> None:
    job = evaluate_job("/nowhere", {"--ground-truth": "/nowhere.json"})
    (name, data), again = working_dir(job), working_dir(job)
    assert (name, data) == again and len(data) < 2_000_000
    assert name != working_dir(segment_job(load_config(SegmentConfig, flags=flags_of(SEGMENT))))[0]
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        packed.extractall(tmp_path)
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("__pycache__"))
    code = "import m2f_batch.cli, m2f_batch.ray_session.forwarded; print(m2f_batch.cli.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(str(tmp_path))


def test_only_endpoint_region_and_checksums_travel(cluster, monkeypatch) -> None:
    keys = {
        "AWS_ACCESS_KEY_ID": "AKIAI44QH8DHBEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
        "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2VjEBYaCXVzLWVhc3Q",
        "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz01234567",
    }
    for key, value in {**keys, "AWS_ENDPOINT_URL": "http://minio:9000", "AWS_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(key, value)
    assert submit(cluster) == 0
    ((name, data),) = cluster.packages.items()
    (sent,) = cluster.submitted
    assert sent["runtime_env"] == {
        "working_dir": f"gcs://{name}",
        "env_vars": {
            "AWS_ENDPOINT_URL": "http://minio:9000",
            "AWS_REGION": "eu-central-1",
            "RAY_JOB_STOP_WAIT_TIME_S": "60",
            "M2F_BATCH_RESULT": "-",  # the job's result as the last line of its log
        },
    }
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        texts = [str(sent), *(packed.read(entry).decode() for entry in packed.namelist())]
    assert CONFIG_FILE in packed.namelist()
    assert [value for value in (*keys.values(), TOKEN) for text in texts if value in text] == []


def test_the_guide_names_what_travels() -> None:
    _, _, section = (PROJECT / "docs" / "guides" / "ray-cluster.md").read_text().partition("## What travels with a job")
    ours = [name for name in (*forwarded_names(), STOP_WAIT) if not name.startswith("AWS_")]
    assert [name for name in ours if f"`{name}`" not in section.partition("\n## ")[0]] == []


def test_an_endpoint_with_a_password_does_not_travel(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter22@minio:9000")
    said = refused(capsys, *SEGMENT, "--address", cluster.url)
    assert "AWS_ENDPOINT_URL" in said and "hunter22" not in said
    assert not cluster.submitted
