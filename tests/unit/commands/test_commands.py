"""Commands are files: one more is one file, and what ``submit`` sends follows from the command."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

from m2f_batch.cli import main, new_parser
from m2f_batch.commands import evaluate
from m2f_batch.commands.shared.keys import JOB_KEYS, flags_of, without_address
from m2f_batch.commands.shared.registry import JobCommand, find_commands
from m2f_batch.result import VARIABLE

TOY = '''
"""``m2f-batch toy WORD``: the word again."""

from m2f_batch.commands.shared.keys import add_result

SUMMARY = "say a word"

def add_arguments(parser):
    parser.add_argument("word", metavar="WORD", help="any word")
    add_result(parser)

def run(options):
    print(options.word * 2)
    return 3
'''


@pytest.fixture
def typed(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs a command line of a copy of the package, in ``tmp_path``. Returns its exit code and what it printed."""
    shutil.copytree(
        PROJECT / "m2f_batch", tmp_path / "m2f_batch", ignore=shutil.ignore_patterns("__pycache__", "model")
    )

    def typed(*words: str, **variables: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "m2f_batch.cli", *words]
        environ = os.environ | {"PYTHONPATH": str(tmp_path)} | variables
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True)
        return done.returncode, done.stdout.decode() + done.stderr.decode()

    return typed


@pytest.mark.slow
def test_one_file_is_one_more_command(typed: Callable[..., tuple[int, str]], tmp_path: Path):
    (tmp_path / "m2f_batch/commands/toy.py").write_text(TOY)
    assert typed("toy", "ha") == (3, "haha\n")
    code, said = typed("--help")
    assert code == 0 and re.search(r"^    toy +say a word$", said, re.MULTILINE)
    code, said = typed("toy")
    assert code == 2 and "WORD: is not given" in said
    for words, variables, code in (
        (["ha", "--result", "r.json"], {}, 3),
        (["ha"], {VARIABLE: "r.json"}, 3),
        (["--result", "r.json"], {}, 2),  # without its WORD
        ([], {VARIABLE: "r.json"}, 2),
    ):
        assert typed("toy", *words, **variables)[0] == code
        told = json.loads((tmp_path / "r.json").read_text())
        assert (told["command"], told["exit_code"]) == ("toy", code)
        (tmp_path / "r.json").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SUMMARY = 1 / 0\n", "commands/toy.py cannot be imported (ZeroDivisionError: division by zero)\n"),
        (
            'SUMMARY = "a toy"\n',
            "commands/toy.py defines no add_arguments, but each file of this folder must define SUMMARY, "
            "add_arguments, run\n",
        ),
    ],
)
def test_a_file_that_is_no_command_is_one_line(typed: Callable[..., tuple[int, str]], tmp_path: Path, text, said):
    (tmp_path / "m2f_batch/commands/toy.py").write_text(text)
    assert typed("status", "x") == (1, f"m2f-batch status: {said}")
    assert typed("--help") == (1, f"m2f-batch --help: {said}")


@pytest.mark.slow
def test_a_format_that_cannot_be_imported_is_one_line(typed: Callable[..., tuple[int, str]], tmp_path: Path):
    (tmp_path / "m2f_batch/datasets/formats/toy.py").write_text("FORMAT = 1 / 0\n")
    said = "datasets/formats/toy.py cannot be imported (ZeroDivisionError: division by zero)\n"
    assert typed("status", "x") == (1, f"m2f-batch status: {said}")
    assert typed("--help") == (1, f"m2f-batch --help: {said}")
    assert typed() == (1, f"m2f-batch: {said}")


def test_every_command_says_what_it_does():
    for name, command in find_commands().items():
        assert command.SUMMARY.strip() and callable(command.run), name
    jobs = {name for name, command in find_commands().items() if isinstance(command, JobCommand)}
    assert jobs == {"segment", "finetune", "evaluate"}


def test_an_evaluation_is_submitted_with_each_option_in_the_order_that_its_settings_are_known_by():
    words = "submit evaluate /run --ground-truth /t --format coco --max-pixels 9 --allow-no-token --result f --partial"
    options = new_parser(find_commands()).parse_args([*words.split(), "--crowd-as-object", "--metrics", "ap,pq"])
    job = evaluate.job(options)
    assert job.arguments == (
        *("--ground-truth=/t", "--format=coco", "--part=val", "--crowd-as-object", "--max-pixels=9"),
        *("--metrics=ap,pq", "--partial", "--", "/run"),
    )
    assert job.allow_no_token


def test_flags_are_values_of_keys():
    options = new_parser(find_commands()).parse_args(
        [
            *("segment", "in", "--model", "m", "--retry", "tiff", "--overwrite"),
            *("--score-threshold", "0.5", "--actors", "[1, 8]"),
        ]
    )
    from m2f_batch.commands.segment import KEYS

    assert flags_of(options, KEYS) == {
        "input.uri": "in",
        "output.uri": None,
        "model.uri": "m",
        "model.task": None,
        "compute.address": None,
        "preprocess.size": None,
        "postprocess.score_threshold": 0.5,
        "compute.device": None,
        "compute.actors": [1, 8],
        "output.overwrite": True,
        "run.retry": "tiff",
    }
    assert {*JOB_KEYS.values()} - {*without_address(JOB_KEYS).values()} == {"compute.address"}


def test_of_commands_that_read_masks_numbers_are_numbers(capsys):
    options = new_parser(find_commands()).parse_args(
        ["evaluate", "r", "--ground-truth", "t", "--ignore-index", "255", "--do-reduce-labels"]
    )
    assert (options.ignore_index, options.do_reduce_labels, options.crowd_as_object) == (255, True, None)
    assert main(["lint", "d", "--split", "much"]) == 2
    assert "data.split: 'much' is not allowed (no number)" in capsys.readouterr().err


def test_arguments_and_options_come_in_any_order() -> None:
    for line in ("in --model M out -q", "--model M in out -q", "--model=M -q -- in out", "-q in out --mod M"):
        options = new_parser(find_commands()).parse_args(["segment", *line.split()])
        assert (options.input, options.output, options.model, options.quiet) == ("in", "out", "M", True), line
    options = new_parser(find_commands()).parse_args(["segment", "--", "--in", "-out"])
    assert (options.input, options.output) == ("--in", "-out")


@pytest.mark.parametrize(
    "line",
    [
        "segment photos ./run=5 --model M",
        "segment image=*/x.jpg out",
        "segment run=5/photos out",
        "segment photos -- threads=4",
        "explain run dir=3/frame.jpg",
        "explain run name=a.jpg",
        "convert --from coco --to yolo split=train/a.json out",
    ],
)
def test_a_place_may_be_called_like_a_setting(line: str) -> None:
    words = line.split()
    options = vars(new_parser(find_commands()).parse_args(words))
    assert next(word for word in words if "=" in word) in options.values()
