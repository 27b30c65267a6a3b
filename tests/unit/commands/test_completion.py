"""What a shell is told at TAB, and the script that makes it ask."""

import io
import os
import sys
from functools import partial
from pathlib import Path

import argcomplete
import pytest

from m2f_batch.cli import main, new_parser
from m2f_batch.commands.shared.completion import SHELLS
from m2f_batch.commands.shared.registry import find_commands


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seg", ["segment"]),
        ("segment in out --dev", ["--device"]),
        ("segment in out --device ", ["auto", "cpu", "cuda"]),
        ("segment in out --task p", ["panoptic"]),
        ("segment --set model.pre", ["model.precision=fp32", "model.precision=bf16", "model.precision=fp16"]),
        ("segment --set model.comp", ["model.compile=true", "model.compile=false"]),
        ("finetune --set train.lear", ["train.learning_rate="]),
        ("export run dest --format coco-", ["coco-results"]),
        ("convert a b --from lab", ["labelme"]),
        ("submit segment --no", ["--no-wait"]),
        ("submit fo", ["follow"]),
    ],
)
def test_words_that_fit(line: str, words: list[str], monkeypatch: pytest.MonkeyPatch):
    ask(line, monkeypatch)
    told = io.StringIO()
    argcomplete.autocomplete(new_parser(find_commands()), output_stream=told, exit_method=lambda code: None)
    assert told.getvalue().split("\n") == words


def ask(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what a shell sets at TAB behind ``m2f-batch LINE``."""
    typed = f"m2f-batch {line}"
    variables = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "COMP_TYPE": "9"}
    for name, value in {**variables, "COMP_LINE": typed, "COMP_POINT": str(len(typed))}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "fdopen", lambda *_: sys.__stderr__)  # its debugging takes file 9, which is pytest's


def test_the_command_answers_a_shell_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ask("status labels/ --j", monkeypatch)
    monkeypatch.setenv("_ARGCOMPLETE_STDOUT_FILENAME", str(tmp_path / "told"))
    monkeypatch.setattr(argcomplete, "autocomplete", partial(argcomplete.autocomplete, exit_method=sys.exit))
    with pytest.raises(SystemExit) as ended:
        main([])  # as the shell starts it
    assert (ended.value.code, (tmp_path / "told").read_text()) == (0, "--json")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell(shell: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert ended.value.code == 0 and "_ARGCOMPLETE" in script and "m2f-batch" in script
    assert {"bash": "complete -o", "zsh": "#compdef", "fish": "complete --command m2f-batch"}[shell] in script


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["--print-completion", "cmd"]) == 2
    assert "--print-completion: 'cmd' is not known; allowed: bash, zsh, fish" in capsys.readouterr().err
