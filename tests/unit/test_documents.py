"""Commands that the documents tell people to type, and those of the schedulers' recipes, exist, with their options."""

import argparse
import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT

from m2f_batch.cli import new_parser
from m2f_batch.commands.shared.registry import find_commands

DOCUMENTS = [
    *(
        PROJECT / "README.md",
        *PROJECT.glob("docs/**/*.md"),
        *PROJECT.glob("infra/**/*.md"),
        *PROJECT.glob("jobs/**/*.yaml"),
    ),
    *sorted(file for file in PROJECT.glob("infra/schedulers/*") if file.is_file()),
]
COMMAND = re.compile(r"(?:`|^ {4}|^\$ |^#\s+|\.venv/bin/)m2f-batch ([a-z]+(?: [a-z]+)?)(\b[^`\n]*)", re.MULTILINE)


def commands(document: Path) -> set[tuple[str, str]]:
    """Each command named, and the options that stand behind it."""
    text = re.sub(r"\\\n[#\s]*", " ", document.read_text())
    for block in re.findall(r"^```sh\n.*?^```$", text, re.MULTILINE | re.DOTALL):
        text = text.replace(block, re.sub(r"^", "    ", block, flags=re.MULTILINE))
    found = COMMAND.findall(text)
    if document.suffix == ".py":  # a command is a text of its own
        texts = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        of_code = [
            " ".join(each.split()) for each in texts if isinstance(each, str) and each.strip().startswith("m2f-")
        ]
        found += COMMAND.findall("\n".join(f"`{each}`" for each in of_code))
    return {
        (words, option)
        for words, rest in found
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]+", rest.partition(" #")[0]) or [""]
    }


@cache
def parser() -> argparse.ArgumentParser:
    return new_parser(find_commands())


@cache
def options_of(*command: str) -> frozenset[str]:
    """The options of a command, as it is typed. Raises KeyError where there is no such command."""
    found = parser()
    for word in command:
        (subparsers,) = [each for each in found._actions if isinstance(each, argparse._SubParsersAction)]
        found = subparsers.choices[word]
    return frozenset(found._option_string_actions)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_commands_exist_with_their_options(document: Path) -> None:
    for words, option in commands(document):
        first, _, second = words.partition(" ")
        known = options_of(first, *([second] if first == "submit" and second else []))
        assert option in known or not option, f"{words} {option}"


def test_an_option_is_known_by_its_whole_name() -> None:
    assert "--images" in options_of("evaluate") and "--image" not in options_of("evaluate")


def test_the_readme_names_commands() -> None:
    named = {words.partition(" ")[0] for words, _ in commands(PROJECT / "README.md")}
    assert {"segment", "submit", "evaluate", "lint", "explain", "verify", "status", "export"} <= named


@pytest.mark.parametrize("recipe", ["airflow_nightly.py", "argo_nightly.py", "dagster_nightly.py", "nightly.sh"])
def test_each_recipe_submits_under_an_id_and_asks_for_its_result(recipe: str) -> None:
    named = commands(PROJECT / "infra" / "schedulers" / recipe)
    wanted = ("--config", "--submission-id", "--result")
    assert named >= {("submit segment", option) for option in wanted}, "the same id makes a repeat safe"


@pytest.mark.parametrize(
    "recipe",
    [
        *("schedulers/airflow_nightly.py", "schedulers/argo_nightly.py", "schedulers/dagster_nightly.py"),
        *("schedulers/nightly.sh", "schedulers/crontab", "kubernetes/overlays/nightly/cronjob.yaml"),
    ],
)
def test_each_recipe_says_in_which_order_a_night_is_ended(recipe: str) -> None:
    text = " ".join((PROJECT / "infra" / recipe).read_text().replace("#", " ").split())
    ended = r"`m2f-batch submit follow (ID|NAME)[^`]*` and Ctrl-C.{,9}\."
    order = r" In that order: a job that is stopped while .{,40} goes on"
    assert re.search(ended + order, text), "a job that is stopped alone is taken up again as ID-2"


def test_the_recipes_pod_is_the_one_of_the_cron_job() -> None:
    nightly = PROJECT / "infra" / "kubernetes" / "overlays" / "nightly"
    cron_job = yaml.safe_load((nightly / "cronjob.yaml").read_text())
    recipe = yaml.safe_load((PROJECT / "infra" / "schedulers" / "pod.yaml").read_text())
    wanted, given = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"], recipe["spec"]
    (theirs,), (ours,) = wanted.pop("containers"), given.pop("containers")
    image = {each["name"]: each for each in yaml.safe_load((nightly / "kustomization.yaml").read_text())["images"]}
    built = image[theirs["image"]]
    assert ours["image"] == f"{built['newName']}:{built['newTag']}"
    for name in ("securityContext", "resources", "volumeMounts"):
        assert ours[name] == theirs[name], name
    assert ours["env"] == [each for each in theirs["env"] if each["name"] not in ("NIGHT", "M2F_BATCH_RESULT")]
    assert {**given, "volumes": None} == {**wanted, "volumes": None}
    assert [each["name"] for each in given["volumes"]] == [each["name"] for each in wanted["volumes"]]
