"""Submitting: what is refused before anything is sent, what is sent, and whose exit code a followed job ends with."""

import io
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import DEMO_MODEL, PROJECT
from support.jobs_api import Cluster, serving

from m2f_batch.cli import main
from m2f_batch.commands import submit as submit_command
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import check_config, load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import RunError, UsageError
from m2f_batch.installed import MODULES
from m2f_batch.ray_session.forwarded import forwarded_names
from m2f_batch.submit import command, following, interrupts
from m2f_batch.submit.address import find_token, parse_address
from m2f_batch.submit.client import Unanswered
from m2f_batch.submit.jobs import CONFIG_FILE, STOP_WAIT, evaluate_job, finetune_job, segment_job
from m2f_batch.submit.package import entrypoint, working_dir

TOKEN = "secret-token"
SEGMENT = ("segment", "s3://bucket/images", "s3://bucket/labels", "--model", "s3://bucket/model")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token and no settings of this machine; a cluster is asked again at once."""
    for name in (*forwarded_names(), "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    for module in (command, following):
        monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving(Cluster(log="one\ntwo\nthree\n")) as there:
        yield there


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message of a command that ends with 2."""
    assert main(["submit", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    return said.err


def submit(cluster: Cluster, *arguments: str) -> int:
    return main(["submit", *(arguments or SEGMENT), "--address", cluster.url])


# ---- the address and the token


@pytest.mark.parametrize(
    "address", ["auto", "ray://head:10001", "head:8265", "http://", "http://h:99999", "http://h/?a=b", "http://[::1"]
)
def test_an_address_that_is_no_url_of_a_jobs_api(address: str) -> None:
    with pytest.raises(UsageError, match="--address"):
        parse_address(address)


def test_an_address_with_a_password_is_refused_without_saying_it() -> None:
    with pytest.raises(UsageError) as error:
        parse_address("http://me:hunter22@head:8265")
    assert "hunter22" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8265", True),
        ("http://127.3.2.1:8265", True),
        ("https://[::1]:8265/ray/", True),
        ("http://10.0.0.1:8265", False),
        ("http://localhost.example.com:8265", False),
        ("http://127.0.0.1.nip.io:8265", False),
    ],
)
def test_what_is_this_machine(url: str, expected: bool) -> None:
    assert parse_address(url).is_loopback is expected


def test_the_token_comes_from_where_ray_looks(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-home\n")
    (tmp_path / "file").write_text(" of-file\n")
    path = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file")}
    assert find_token({}, tmp_path) == "of-home"
    assert find_token(path, tmp_path) == "of-file"
    assert find_token({**path, "RAY_AUTH_TOKEN": "of-variable"}, tmp_path) == "of-variable"
    assert find_token({**path, "RAY_AUTH_MODE": "disabled"}, tmp_path) is None
    assert find_token({}, tmp_path / "file") is None


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"RAY_AUTH_MODE": "token"}, "there is no token"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "cannot be read"),
        ({"RAY_AUTH_TOKEN_PATH": "/dev/null"}, "is empty"),
        ({"RAY_AUTH_TOKEN": "two\nlines"}, "is no token"),
    ],
)
def test_a_token_that_cannot_be_one(environ: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as error:
        find_token(environ, tmp_path)
    assert "lines" not in str(error.value)


def test_another_machine_without_a_token(capsys, monkeypatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    address = ("--address", "http://192.0.2.1:8265")  # of documentation: nobody answers there
    said = refused(capsys, *SEGMENT, *address)
    assert "192.0.2.1" in said and "--set compute.allow_no_token=true" in said and "RAY_AUTH_TOKEN" in said
    said = refused(capsys, "evaluate", "/run", "--ground-truth", "/truth.json", *address)
    assert "--allow-no-token" in said


def test_another_machine_whose_cluster_asks_for_none(cluster, capsys, monkeypatch) -> None:
    cluster.token = None
    monkeypatch.setattr("m2f_batch.submit.address._is_loopback", lambda host: False)
    assert "whoever reaches" in refused(capsys, *SEGMENT, "--address", cluster.url)
    assert not cluster.submitted and not cluster.packages and not cluster.tokens_seen
    assert submit(cluster, *SEGMENT, "--set", "compute.allow_no_token=true") == 0
    assert len(cluster.submitted) == 1 and not cluster.tokens_seen  # who does not ask for it does not get it


def test_a_token_in_clear_to_another_machine_is_said(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr("m2f_batch.submit.address._is_loopback", lambda host: False)
    assert submit(cluster) == 0
    said = capsys.readouterr().err
    assert "unencrypted" in said and TOKEN not in said


def test_a_missing_or_wrong_token(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-another-cluster")
    said = refused(capsys, *SEGMENT, "--address", cluster.url)
    assert "403" in said and "of-another-cluster" not in said
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert "asks for a token, and there is none" in refused(capsys, *SEGMENT, "--address", cluster.url)
    assert not cluster.submitted and not cluster.packages


def test_nobody_there(capsys) -> None:
    with serving(Cluster()) as gone:
        pass
    assert main(["submit", *SEGMENT, "--address", gone.url]) == 1
    said = capsys.readouterr().err
    assert f" {gone.url} cannot be reached (Connection refused); is the head up, and its dashboard's port" in said
    assert main(["submit", "follow", "some-id", "--address", gone.url]) == 1


@pytest.mark.parametrize(
    ("scheme", "host", "status", "said"),
    [
        (
            "https",
            None,
            None,
            "(TLS: wrong version number); where that port speaks no TLS, its address begins with http:",
        ),
        ("http", "no-such.invalid", None, "); is the host's name right, and known on this machine?"),
        (
            "http",
            None,
            404,
            "answers 404 <html>of a proxy</html>; is its path right? The Jobs API's is http://HOST:8265",
        ),
        (
            "http",
            None,
            502,
            "answers 502 <html>of a proxy</html>; that is what a proxy says where no head is behind it",
        ),
    ],
)
def test_what_to_look_at_where_nobody_has_answered(scheme, host, status, said, cluster, capsys) -> None:
    cluster.proxy["/api/"] = [status] * 10 if status else []
    address = cluster.url.replace("http:", f"{scheme}:").replace("127.0.0.1", host or "127.0.0.1")
    assert main(["submit", *SEGMENT, "--address", address]) == 1
    assert said in capsys.readouterr().err


def test_a_head_that_takes_no_connection(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr("m2f_batch.submit.client.ANSWER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "http://{}:{}".format(*silent.getsockname())
        assert main(["submit", *SEGMENT, "--address", address]) == 1
    assert "(no answer in time); does a firewall or a network policy stand between?" in capsys.readouterr().err


# ---- what is refused and what is sent


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
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {entrypoint(job)}"], capture_output=True, text=True, timeout=10)
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


def flags_of(arguments) -> dict[str, str]:
    return {"input.uri": arguments[1], "output.uri": arguments[2], "model.uri": arguments[4]}


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


def test_the_readme_names_what_travels() -> None:
    _, _, section = (PROJECT / "README.md").read_text().partition("## Submit to a cluster")
    ours = [name for name in (*forwarded_names(), STOP_WAIT) if not name.startswith("AWS_")]
    assert [name for name in ours if f"`{name}`" not in section.partition("\n## ")[0]] == []


def test_an_endpoint_with_a_password_does_not_travel(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter22@minio:9000")
    said = refused(capsys, *SEGMENT, "--address", cluster.url)
    assert "AWS_ENDPOINT_URL" in said and "hunter22" not in said
    assert not cluster.submitted


# ---- following


def test_the_log_is_written_once_through_lost_connections(cluster, capsys) -> None:
    cluster.script = [["one\n", "cut"], ["one\ntw", "cut"], ["one\ntwo\n", "three\n"]]
    cluster.jobs["mine"] = {"status": "RUNNING"}
    assert main(["submit", "follow", "mine", "--address", cluster.url]) == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_cluster_that_is_gone_for_a_while(cluster, capsys) -> None:
    cluster.script = [["one\n"], ["one\ntwo\nthree\n"]]
    cluster.jobs["mine"] = {"status": "RUNNING"}
    real = following.JobsApi.tail

    async def tail(api, job_id):
        async for text in real(api, job_id):
            yield text
        cluster.failures = [500, 502, 503]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following.JobsApi, "tail", tail)
        assert main(["submit", "follow", "mine", "--address", cluster.url]) == 0
    said = capsys.readouterr()
    assert said.out == "one\ntwo\nthree\n"
    assert "trying again" in said.err and "answers again" in said.err and "Traceback" not in said.err


def test_a_cluster_that_stays_away(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(command, "PATIENCE_SECONDS", 0.05)
    cluster.jobs["mine"] = {"status": "RUNNING"}
    cluster.script = [["one\n"], ["never"]]
    real = following.JobsApi.tail

    async def tail(api, job_id):
        async for text in real(api, job_id):
            yield text
        cluster.failures = [503] * 1000

    monkeypatch.setattr(following.JobsApi, "tail", tail)
    assert main(["submit", "follow", "mine", "--address", cluster.url]) == 1
    assert f"m2f-batch submit follow mine --address {cluster.url}" in capsys.readouterr().err


def after_submission(monkeypatch, becomes) -> None:
    """Let something become of a cluster once it has taken a job, before that is followed."""
    real = following.JobsApi.submit

    async def submit(api, *job):
        await real(api, *job)
        becomes()

    monkeypatch.setattr(following.JobsApi, "submit", submit)


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 429, 502])
@pytest.mark.parametrize("path", ["/api/authentication_mode", "/api/version", "/api/jobs/"])
def test_a_proxy_answers_in_its_place_for_a_while(path, status, cluster, capsys, monkeypatch) -> None:
    after_submission(monkeypatch, lambda: cluster.proxy.update({path: [status]}))
    assert submit(cluster) == 0
    said = capsys.readouterr()
    assert said.out == cluster.log and cluster.proxy == {path: []}
    assert len(cluster.submitted) == 1 and not cluster.without_token
    is_of_old_ray = path == "/api/authentication_mode" and status in (200, 404)  # the version is asked, with the token
    assert ("trying again for 600 s" in said.err) is not is_of_old_ray
    assert ("has let us in before" in said.err) is (status in (401, 403))


@pytest.mark.parametrize("status", [302, 401, 404, 503])
def test_a_proxy_that_goes_on_answering(status, cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "PATIENCE_SECONDS", 0.05)
    after_submission(monkeypatch, lambda: cluster.proxy.update({"/api/": [status] * 1000}))
    assert (
        submit(cluster, *SEGMENT, "--submission-id", "night") == 1
    )  # the job runs: not 2, which ends a night for good
    said = capsys.readouterr().err
    assert f"answers {status}" in said and f"m2f-batch submit follow night --address {cluster.url}" in said


@pytest.mark.parametrize("path", ["/api/authentication_mode", "/api/version", "/api/jobs/"])
def test_a_head_that_starts_is_waited_for_where_an_id_is_given(path, cluster, capsys) -> None:
    cluster.proxy[path] = [503, 404, 503]
    assert submit(cluster, *SEGMENT, "--submission-id", "night") == 0
    said = capsys.readouterr().err
    assert "trying again for 180 s" in said and "answers again" in said
    assert [sent["submission_id"] for sent in cluster.submitted] == ["night"]


def test_an_address_that_leads_to_a_login(cluster, capsys) -> None:
    cluster.proxy["/api/authentication_mode"] = [302]
    assert "answers 302" in refused(capsys, *SEGMENT, "--address", cluster.url) and not cluster.tokens_seen


def test_a_head_that_does_not_start(cluster, capsys, monkeypatch) -> None:
    cluster.proxy["/api/"] = [503] * 1000
    assert submit(cluster) == 1
    assert "trying again" not in capsys.readouterr().err and len(cluster.proxy["/api/"]) == 999
    monkeypatch.setattr(command, "SUBMIT_SECONDS", 0.05)
    assert submit(cluster, *SEGMENT, "--submission-id", "night") == 1
    assert "answers 503" in capsys.readouterr().err and not cluster.submitted


def test_a_cluster_that_is_lost_with_the_job(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "SUBMIT_SECONDS", 0.05)

    def gone() -> None:
        cluster.proxy["/api/"] = [503] * 1000
        raise Unanswered("lost")

    after_submission(monkeypatch, gone)
    assert submit(cluster) == 1
    (job_id,) = cluster.jobs
    assert f"m2f-batch submit follow {job_id} --address {cluster.url}" in capsys.readouterr().err


@pytest.mark.parametrize(("lost", "advice"), [("submit", "if it was submitted already"), ("tail", "the job may go on")])
def test_what_follows_a_lost_job_is_a_hint_of_the_error(lost, advice, cluster, monkeypatch) -> None:
    monkeypatch.setattr(command, "SUBMIT_SECONDS", 0)
    monkeypatch.setattr(command, "PATIENCE_SECONDS", 0.001)

    async def gone(*_, **__) -> None:
        raise Unanswered("lost", hint="is the head up?")

    monkeypatch.setattr(*((following.JobsApi, "submit") if lost == "submit" else (command, "follow")), gone)
    with pytest.raises(RunError, match=r"^lost; is the head up\?; ") as raised:
        command.submit(
            segment_job(load_config(SegmentConfig, flags=flags_of(SEGMENT))), cluster.url, following.Console()
        )
    assert raised.value.hint.startswith(f"is the head up?; {advice}") and "submit follow" in raised.value.hint


def test_as_many_attempts_as_are_said(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "MOST_ATTEMPTS", 3)
    cluster.after = {"status": "FAILED", "driver_exit_code": 1}
    night = (*SEGMENT, "--submission-id", "night")
    assert [submit(cluster, *night) for _ in range(3)] == [1, 1, 1]
    assert [sent["submission_id"] for sent in cluster.submitted] == ["night", "night-2", "night-3"]
    assert submit(cluster, *night) == 2
    assert "night was tried 3 times" in capsys.readouterr().err and len(cluster.submitted) == 3


@pytest.mark.parametrize(
    ("job", "code", "again"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0, False),
        ({"status": "FAILED", "driver_exit_code": 1}, 1, True),
        ({"status": "FAILED", "driver_exit_code": 2}, 2, False),
        ({"status": "FAILED", "driver_exit_code": 3}, 3, False),
        ({"status": "FAILED", "driver_exit_code": 130}, 130, True),
        ({"status": "FAILED", "driver_exit_code": -9}, 137, True),
        ({"status": "FAILED", "driver_exit_code": None, "message": "runtime_env setup failed: x"}, 1, True),
        ({"status": "STOPPED", "driver_exit_code": None}, 130, True),
    ],
)
def test_the_jobs_own_exit_code_is_ours(job, code, again, cluster, capsys) -> None:
    cluster.after = job
    assert submit(cluster, *SEGMENT, "--submission-id", "night") == code
    said = capsys.readouterr()
    assert said.out == cluster.log and (job.get("message") or "") in said.err
    # the same command again follows what cannot go on, and goes on with what can
    cluster.after = {"status": "SUCCEEDED", "driver_exit_code": 0}
    assert submit(cluster, *SEGMENT, "--submission-id", "night") == (0 if again else code)
    assert [sent["submission_id"] for sent in cluster.submitted] == (["night", "night-2"] if again else ["night"])


@pytest.mark.parametrize("options", [(), ("--submission-id", "night")])
def test_a_lost_answer_of_a_job_that_fails_at_once(options, cluster, capsys) -> None:
    cluster.lose_answer, cluster.at_once = True, {"status": "FAILED", "driver_exit_code": 1}
    assert submit(cluster, *SEGMENT, *options) == 1
    assert len(cluster.submitted) == 1 and "ended with exit code 1" in capsys.readouterr().err


@pytest.mark.parametrize("is_running", [True, False])
def test_an_id_of_a_job_with_other_settings(is_running, cluster, capsys) -> None:
    cluster.after = {"status": "RUNNING"} if is_running else {"status": "FAILED", "driver_exit_code": 1}
    main(["submit", *SEGMENT, "--address", cluster.url, "--submission-id", "night", "--no-wait"])
    cluster.jobs["night"] |= cluster.after
    capsys.readouterr()
    said = refused(capsys, *SEGMENT, "--overwrite", "--submission-id", "night", "--address", cluster.url)
    assert "night is another job" in said and "m2f-batch submit follow night" in said
    assert [sent["submission_id"] for sent in cluster.submitted] == ["night"]


def test_a_job_that_another_program_submitted_is_followed(cluster) -> None:
    cluster.jobs["night"] = {"status": "RUNNING", "metadata": {"job_submission_id": "night"}}
    assert submit(cluster, *SEGMENT, "--submission-id", "night") == 0 and not cluster.submitted


def test_settings_are_those_of_the_job_not_of_its_words() -> None:
    jobs = [
        segment_job(
            check_config(SegmentConfig, {"input": {"uri": "/i"}, "model": {"uri": "/m"}, "output": {"uri": out}})
        )
        for out in ("/o", "/o", "/p")
    ]
    here = {"AWS_ENDPOINT_URL": "https://here", "AWS_REGION": "x"}
    settings = [job.settings(here) for job in jobs]
    assert settings[0] == settings[1] != settings[2]
    assert jobs[0].settings(here | {"AWS_REGION": "y"}) == settings[0]
    assert jobs[0].settings({"AWS_ENDPOINT_URL": "https://there"}) != settings[0], "other buckets"


def test_an_id_that_somebody_else_takes_meanwhile(cluster, capsys, monkeypatch) -> None:
    real = following.JobsApi.submit

    async def submit(api, job_id, *job):
        cluster.jobs[job_id] = {"status": "RUNNING", "metadata": {command.SETTINGS: "others"}}
        await real(api, job_id, *job)

    monkeypatch.setattr(following.JobsApi, "submit", submit)
    assert "night is another job" in refused(capsys, *SEGMENT, "--submission-id", "night", "--address", cluster.url)
    assert not cluster.submitted


@pytest.mark.parametrize("status", [302, 400, 403, 404, 426, 502])
def test_a_proxy_without_websockets(status, cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(following, "WHOLE_SECONDS", 0.02)
    looks = []
    real = following.JobsApi.log

    async def log(api, job_id):
        looks.append(job_id)
        cluster.log += "four\n"
        if len(looks) == 3:
            cluster.jobs[job_id] |= cluster.after
        return await real(api, job_id)

    monkeypatch.setattr(following.JobsApi, "log", log)
    after_submission(monkeypatch, lambda: cluster.no_websockets.extend([status] * 100))
    cluster.after = {"status": "FAILED", "driver_exit_code": 3}
    assert submit(cluster) == 3
    said = capsys.readouterr()
    assert said.out == cluster.log and len(looks) == 4
    assert said.err.count(f"answers {status} to WebSockets") == 1 and "trying again" not in said.err


def test_what_a_proxy_says_is_masked(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "PATIENCE_SECONDS", 0.05)
    cluster.proxy_says = f"<p>Authorization: Bearer {TOKEN}</p>"
    after_submission(monkeypatch, lambda: cluster.proxy.update({"/api/": [502] * 1000}))
    assert submit(cluster) == 1
    said = capsys.readouterr().err
    assert "answers 502" in said and TOKEN not in said


def test_a_user_without_a_home(monkeypatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert find_token({}) is None


def test_a_lost_answer_submits_nothing_twice(cluster) -> None:
    cluster.lose_answer = True
    assert submit(cluster) == 0
    assert len(cluster.submitted) == 1


def test_no_wait_prints_the_id(cluster, capsys) -> None:
    assert submit(cluster, *SEGMENT, "--no-wait") == 0
    said, (job_id,) = capsys.readouterr(), cluster.jobs
    assert said.out.split() == [job_id] and f"m2f-batch submit follow {job_id} --address {cluster.url}" in said.err


def test_a_job_that_nobody_knows(cluster, capsys) -> None:
    assert "knows no job no-such; give one that submit has said" in refused(
        capsys, "follow", "no-such", "--address", cluster.url
    )
    assert main(["submit", "follow", "no-such", "--address", "http://127.0.0.1:9"]) == 1
    assert "may go on" not in capsys.readouterr().err, "nobody has said that there is such a job"
    assert "not allowed" in refused(capsys, "follow", "../../x", "--address", cluster.url)


# ---- Ctrl-C and SIGTERM


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def interrupted(monkeypatch, cluster: Cluster, interrupt: type[KeyboardInterrupt], answers: str | None) -> int:
    """The exit code of following a job whose first connection ends with an interrupt, on a terminal or not."""
    real, calls = following.JobsApi.tail, []

    async def tail(api, job_id):
        calls.append(job_id)
        if len(calls) == 1:
            raise interrupt
        async for text in real(api, job_id):
            yield text

    monkeypatch.setattr(following.JobsApi, "tail", tail)
    if answers is not None:
        monkeypatch.setattr(sys, "stdin", Terminal(answers))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    cluster.jobs["mine"] = {"status": "RUNNING"}
    return main(["submit", "follow", "mine", "--address", cluster.url])


@pytest.mark.parametrize(
    ("interrupt", "answers", "code", "stopped"),
    [
        (KeyboardInterrupt, "s\n", 130, ["mine"]),
        (KeyboardInterrupt, "what?\nl\n", 130, []),
        (KeyboardInterrupt, "g\n", 0, []),
        (KeyboardInterrupt, "", 130, []),  # nobody is there any more
        (KeyboardInterrupt, None, 130, []),
        (interrupts.Terminated, "s\n", 130, []),
    ],
)
def test_what_becomes_of_the_job(interrupt, answers, code, stopped, cluster, capsys, monkeypatch) -> None:
    assert interrupted(monkeypatch, cluster, interrupt, answers) == code
    said = capsys.readouterr()
    assert cluster.stopped == stopped
    if code == 130 and not stopped:
        assert f"m2f-batch submit follow mine --address {cluster.url}" in said.err
    else:
        assert said.out == cluster.log  # to its end


@pytest.mark.parametrize(
    ("answers", "left"),
    [
        (None, "mine may go on without us: the cluster does not answer"),
        ("s\n", "mine may not have been asked to stop: the cluster has not answered"),
    ],
)
def test_what_is_said_of_a_job_whose_cluster_has_fallen_silent(answers, left, cluster, capsys, monkeypatch) -> None:
    said = submit_command._say

    def interrupting(text: str) -> None:
        said(text)
        if "trying again" in text:
            raise KeyboardInterrupt

    async def lost(api, job_id):
        cluster.proxy["/api/jobs/mine"] = [502] * 99
        if answers is not None:
            raise KeyboardInterrupt  # is answered by asking for its end
        yield ""

    monkeypatch.setattr(submit_command, "_say", interrupting)
    monkeypatch.setattr(following.JobsApi, "tail", lost)
    if answers is not None:
        monkeypatch.setattr(sys, "stdin", Terminal(answers))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    cluster.jobs["mine"] = {"status": "RUNNING"}
    assert main(["submit", "follow", "mine", "--address", cluster.url]) == 130
    assert f"{left}; this follows it again:" in capsys.readouterr().err and not cluster.stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_real_signal_without_a_terminal_leaves_the_job(number, cluster, tmp_path) -> None:
    cluster.jobs["mine"] = {"status": "RUNNING"}
    cluster.script = [["one\n", *["wait"] * 60]]
    follower = subprocess.Popen(
        [sys.executable, "-m", "m2f_batch.cli", "submit", "follow", "mine", "--address", cluster.url],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout.readline() == "one\n"
        follower.send_signal(number)
        _, said = follower.communicate(timeout=60)
    finally:
        follower.kill()
    assert follower.returncode == 130 and not cluster.stopped
    assert (
        f"mine goes on without us; this follows it again:\n    m2f-batch submit follow mine --address {cluster.url}"
        in said
    )
    assert "Traceback" not in said


def test_a_quiet_log_is_no_lost_connection(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr("m2f_batch.submit.client.ANSWER_SECONDS", 0.5)
    cluster.jobs["mine"] = {"status": "RUNNING"}
    cluster.script = [["one\n", "wait", "wait", "two\nthree\n"]]
    assert main(["submit", "follow", "mine", "--address", cluster.url]) == 0
    said = capsys.readouterr()
    assert said.out == cluster.log and "trying again" not in said.err


def test_the_nightly_command_of_kubernetes(cluster, capsys, monkeypatch) -> None:
    overlay = PROJECT / "infra" / "kubernetes" / "overlays" / "nightly" / "cronjob.yaml"
    pod = yaml.safe_load(overlay.read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = {
        "$(NIGHT)": "m2f-batch-nightly-29876543",
        "/etc/m2f-batch/nightly.yaml": str(PROJECT / "jobs/nightly.yaml"),
    }
    words = [values.get(word, word) for word in (*container["command"], *container["args"])]
    assert words[0] == "m2f-batch" and "http://m2f-batch-head-svc:8265" in words
    monkeypatch.setattr("m2f_batch.submit.address._is_loopback", lambda host: False)
    words[words.index("http://m2f-batch-head-svc:8265")] = cluster.url
    assert main(words[1:]) == 0
    assert list(cluster.jobs) == ["m2f-batch-nightly-29876543"]
    variables = {variable["name"] for variable in container["env"]}
    assert {"NIGHT", "RAY_AUTH_TOKEN", "HOME"} <= variables


def test_run_error_of_a_refusal_is_one_line(cluster) -> None:
    import asyncio

    from m2f_batch.submit.client import JobsApi

    async def twice() -> None:
        async with JobsApi(parse_address(cluster.url), TOKEN) as api:
            await api.authenticate()
            await api.submit("mine", "true", {}, {})
            await api.submit("mine", "true", {}, {})

    with pytest.raises(RunError, match=r"answers 500 ValueError: Job already exists\.$"):
        asyncio.run(twice())


def test_submitting_needs_nothing_but_what_the_client_brings() -> None:
    imports = "".join(
        f"import m2f_batch.{name}\n" for name in ("cli", "submit.command", "submit.jobs", "submit.package")
    )
    code = f"import sys\nsys.modules.update(dict.fromkeys({sorted(MODULES)}))\n{imports}"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, timeout=60)
