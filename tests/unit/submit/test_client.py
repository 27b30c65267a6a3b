"""m2f-batch-client, installed by itself: its size, what it submits, and what it says where it cannot go on."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT
from support.client_venv import Client, build, install
from support.hand_made import Picture, box_mask
from support.jobs_api import Cluster, serving
from support.planned_runs import planned_run

from m2f_batch.commands import verify
from m2f_batch.commands.shared.registry import find_commands
from m2f_batch.installed import CLIENT, MODULES, WHOLE
from m2f_batch.submit.jobs import evaluate_job
from m2f_batch.submit.package import working_dir
from m2f_batch.version import VERSION

pytestmark = pytest.mark.slow  # wheels are built, and run in processes of their own

MOST_BYTES = 40_000_000
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret-token"}
MODULE_OF = {"pillow": "PIL", "pyyaml": "yaml"}
# what a user would type, after the command's name
ARGUMENTS = {
    "segment": ["/images", "/labels", "--model", "owner/name"],
    "finetune": ["/data.json", "/tuned", "--set", "train.steps=1"],
    "evaluate": ["/labels", "--ground-truth", "/truth.json"],
    "export": ["/labels", "/coco.json"],
    "explain": ["/labels", "/photo.jpg"],
    "convert": ["/data.json", "/yolo", "--from", "coco", "--to", "yolo"],
    "convert-checkpoint": ["owner/name", "/model"],
    "lint": ["/data.json"],
    "verify": ["/labels"],
    "status": ["/labels"],
    "demo": [],
}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving(Cluster(log="one\ntwo\n")) as there:
        yield there


def project(file: str) -> dict:
    return tomllib.loads((PROJECT / file).read_text())["project"]


def names_of(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", each)[0] for each in requirements}


# ---- what is in it


def test_it_is_small_and_holds_what_submit_needs(client: Client):
    sizes = {file: file.stat().st_size for file in client.packages.rglob("*") if file.is_file()}
    assert 10_000_000 < sum(sizes.values()) < MOST_BYTES
    there = {file.name.partition(".")[0] for file in client.packages.iterdir()}
    assert {"m2f_batch", "aiohttp", "pydantic", "yaml"} <= there and not there & MODULES
    assert not [file for file in sizes if file.suffix == ".safetensors"]


def test_it_sends_the_same_code(client: Client):
    """The archive's name is a hash of it: what a client sends, and a whole installation, is byte for byte the same."""
    code = (
        "import json; from m2f_batch.submit.jobs import evaluate_job as job; "
        "from m2f_batch.submit.package import working_dir; "
        "print(json.dumps(working_dir(job('/run', {'--ground-truth': '/truth'}))[0]))"
    )
    assert client.python(code) == working_dir(evaluate_job("/run", {"--ground-truth": "/truth"}))[0]


def test_both_wheels_hold_the_package_less_the_demos_model_in_one(client: Client, tmp_path: Path):
    files = [file for file in (PROJECT / "m2f_batch").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    package = {file.relative_to(PROJECT).as_posix() for file in files}
    with zipfile.ZipFile(build(tmp_path, PROJECT)) as whole, zipfile.ZipFile(client.wheel) as small:
        ours, theirs = ({name for name in wheel.namelist() if ".dist-info/" not in name} for wheel in (whole, small))
    model = {name for name in package if name.startswith("m2f_batch/demo/model/")}
    assert len(model) == 4 and ours == package and theirs == package - model


def test_both_distributions_agree(client: Client):
    ours, theirs = project("pyproject.toml"), project("infra/client/pyproject.toml")
    assert (ours["name"], theirs["name"]) == (WHOLE, CLIENT)
    for key in ("requires-python", "scripts", "license", "dynamic"):
        assert ours[key] == theirs[key], key
    assert {*theirs["dependencies"], *theirs["optional-dependencies"]["status"]} <= {*ours["dependencies"]}
    beyond = names_of(ours["dependencies"]) - names_of(theirs["dependencies"])
    assert {MODULE_OF.get(name, name) for name in beyond} == MODULES
    assert client.wheel.name.startswith(f"m2f_batch_client-{VERSION}-")
    licence = (PROJECT / "LICENSE").read_text()
    assert [file.read_text() for file in client.packages.glob("m2f_batch_client*/licenses/LICENSE")] == [licence]


# ---- what it does


def test_it_submits_and_follows(client: Client, cluster: Cluster, tmp_path: Path):
    result = {"event": "result", "output": "s3://bucket/labels", "run_id": "r1", "totals": {"segments": 7}}
    cluster.log = f"working\n{json.dumps(result)}\n"
    cluster.after = {"status": "FAILED", "driver_exit_code": 3}
    config, told = tmp_path / "job.yaml", tmp_path / "termination-log"
    config.write_text("input: {uri: s3://bucket/in}\nmodel: {uri: owner/name}\noutput: {uri: s3://bucket/labels}\n")
    told.touch()
    inode = told.stat().st_ino
    told_by = {**TOKEN, "M2F_BATCH_RESULT": str(told), "HOME": str(tmp_path)}
    job = ("--config", str(config), "--submission-id", "night", "--address", cluster.url)
    done = client.run("submit", "segment", *job, **told_by)
    assert (done.returncode, done.stdout) == (3, cluster.log), done.stderr
    assert "submitted: night" in done.stderr and "Traceback" not in done.stderr
    found = json.loads(told.read_text())
    assert {name: found[name] for name in ("command", "exit_code", "run_id", "totals", "submission_id")} == {
        "command": "submit",
        "exit_code": 3,
        "run_id": "r1",
        "totals": {"segments": 7},
        "submission_id": "night",
    }
    assert told.stat().st_ino == inode  # a mount could not be replaced
    again = client.run("submit", "follow", "night", "--address", cluster.url, "--result", "-", **TOKEN)
    assert again.returncode == 3 and again.stdout.startswith(cluster.log)
    assert json.loads(again.stdout.splitlines()[-1])["run_id"] == "r1"
    (sent,) = cluster.submitted
    assert sent["entrypoint"] == "python -m m2f_batch.cli segment --config job.yaml"


def test_its_own_mistakes_are_told_as_ours_are(client: Client, tmp_path: Path):
    told = tmp_path / "result.json"
    done = client.run("submit", "segment", "in", "/labels", "--model", "o/n", "--result", str(told), **TOKEN)
    assert done.returncode == 2 and done.stderr.startswith("m2f-batch submit: input.uri: 'in' is a path below this ")
    assert json.loads(told.read_text())["exit_code"] == 2


def test_every_other_command_says_in_one_line_what_to_install(client: Client):
    assert {*ARGUMENTS} == {*find_commands()} - {"submit"}
    code = (
        "import contextlib, io, json, sys\nfrom m2f_batch.cli import main\nsaid = {}\n"
        f"for name, arguments in {ARGUMENTS!r}.items():\n"
        "    for given in ([], arguments, ['--help']):\n"
        "        with contextlib.redirect_stderr(io.StringIO()) as errors:\n"
        "            said[f'{name} {given}'] = [main([name, *given]), errors.getvalue()]\n"
        "print(json.dumps(said))"
    )
    said = client.python(code)
    assert isinstance(said, dict)
    assert len(said) == 3 * len(ARGUMENTS) - 1  # the demo is given no arguments
    for given, (code, text) in said.items():
        name = given.partition(" ")[0]
        assert code == 2, (given, text)
        if name == "status":
            assert re.fullmatch(
                r"m2f-batch status: needs boto3, numpy, pyarrow, urllib3, which m2f-batch-client leaves out for their "
                r"size; to add: pip install 'm2f-batch-client\[status\]'\n",
                text,
            )
            continue
        assert re.fullmatch(
            rf"m2f-batch {name}: is no command of m2f-batch-client, which has status and submit; install m2f-batch in "
            r"an environment of its own\n",
            text,
        ), text


def test_its_help_lists_what_it_can_run(client: Client):
    done = client.run("--help")
    assert done.returncode == 0
    listed = re.findall(r"^    (\S+)", done.stdout, re.MULTILINE)
    assert listed == ["submit"]
    jobs = client.run("submit", "--help").stdout
    assert {*re.findall(r"^    (\S+)", jobs, re.MULTILINE)} == {"segment", "finetune", "evaluate", "follow"}


def test_a_shell_is_told_its_words(client: Client, tmp_path: Path):
    typed, told = "m2f-batch submit fo", tmp_path / "told"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(told), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    done = client.run(**asked, COMP_LINE=typed, COMP_POINT=str(len(typed)), COMP_TYPE="9")
    assert (done.returncode, told.read_text()) == (0, "follow"), done.stderr


def test_status_where_what_it_reads_with_is_there(tmp_path: Path):
    client = install(tmp_path, "status")
    assert {*re.findall(r"^    (\S+)", client.run("--help").stdout, re.MULTILINE)} == {"status", "submit"}
    size = (6, 5)
    pictures = [Picture(f"/p/{name}", size, [(0, 0.5, box_mask(size, 0, 0, 2, 2))]) for name in "ab"]
    run = planned_run(tmp_path / "run", [pictures])
    here = subprocess.run(
        [sys.executable, "-m", "m2f_batch.cli", "status", run.uri, "--json"], capture_output=True, cwd=PROJECT
    )
    there = client.run("status", run.uri, "--json")
    assert (there.returncode, there.stderr) == (0, "")
    ours, theirs = json.loads(here.stdout), json.loads(there.stdout)
    assert {**theirs, "age": 0} == {**ours, "age": 0} and theirs["images"]["ok"] == 2


# ---- installations that do not fit


def also_installed(folder: Path, name: str, version: str) -> str:
    """A folder for PYTHONPATH that says that another distribution is installed."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
    return str(folder)


def test_two_owners_of_the_same_files_are_refused(client: Client, tmp_path: Path):
    both = also_installed(tmp_path, WHOLE, "0.0.9")
    done = client.run("submit", "follow", "night", "--address", "http://127.0.0.1:1", PYTHONPATH=both)
    assert (done.returncode, done.stderr) == (
        2,
        f"m2f-batch submit: m2f-batch 0.0.9 and m2f-batch-client {VERSION} are both installed here and own the same "
        "files, so that each breaks the other: pip uninstall m2f-batch m2f-batch-client, and install one of them "
        "again\n",
    )


def test_code_of_another_version_than_the_libraries_is_told(tmp_path: Path):
    older = also_installed(tmp_path, WHOLE, "0.0.9")
    done = subprocess.run(
        [sys.executable, "-m", "m2f_batch.cli", "status", str(tmp_path / "none")],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": older},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    first, second = done.stderr.splitlines()
    assert re.fullmatch(
        rf"m2f-batch status: this code is m2f-batch {re.escape(VERSION)}, and the libraries on \S+ are those of "
        r"m2f-batch 0\.0\.9; where they do not fit, install the same version on both sides",
        first,
    )
    assert done.returncode == 2 and "none" in second  # it goes on


def test_a_machine_without_the_package_says_what_it_lacks(capsys, monkeypatch):
    """As of a cluster whose nodes have Ray alone."""
    from m2f_batch import cli, installed

    monkeypatch.setattr(installed, "version_of", lambda distribution: None)
    monkeypatch.setattr(installed.socket, "gethostname", lambda: "head")
    for missing, said in {"pyarrow.parquet": True, "m2f_batch.gone": False, "leftpad": False}.items():

        def lacks(options, missing=missing):
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

        monkeypatch.setattr(verify, "run", lacks)
        if said:
            assert cli.main(["verify", "/labels"]) == 2
            text = "m2f-batch verify: needs pyarrow, which is not installed on head; install m2f-batch there\n"
            assert capsys.readouterr().err == text
        else:  # a bug, or what no distribution of ours would bring
            with pytest.raises(ModuleNotFoundError):
                cli.main(["verify", "/labels"])
