"""Families are found by listing their folder, and a file that is not whole is named."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.toy_family import TOY, save_toy_model

from m2f_batch.errors import RunError, UsageError
from m2f_batch.models import families
from m2f_batch.models.checkpoint import choose_task, read_checkpoint
from m2f_batch.models.family import all_families, default_family, family_of, new_queries


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A second folder of families, which lies behind the package's own."""
    place = tmp_path / "families"
    place.mkdir()
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(place)])
    all_families.cache_clear()
    yield place
    all_families.cache_clear()


def test_a_family_is_found_by_its_model_type(folder: Path) -> None:
    (folder / "toy_found.py").write_text(TOY)
    assert {"mask2former", "toy"} <= all_families().keys()
    assert family_of({"model_type": "toy"}, "m").name == "Toy"


def test_another_architecture_is_refused_by_the_names_of_all_families(folder: Path) -> None:
    (folder / "toy_named.py").write_text(TOY)
    supported = ", ".join(map(repr, sorted(all_families())))
    assert "'mask2former'" in supported and "'toy'" in supported
    with pytest.raises(UsageError, match=f"^model.uri: m is a 'other' model; only {supported} models can be used$"):
        family_of({"model_type": "other"}, "m")
    with pytest.raises(UsageError, match=r"^model.uri: config.json of m says no model_type; only "):
        family_of({}, "m")
    with pytest.raises(UsageError, match=r"is a \['toy'\] model"):
        family_of({"model_type": ["toy"]}, "m")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "FAMILY is None, but each file of this folder must define FAMILY = Family"),
        ("FAMILY = 'toy'\n", "FAMILY is 'toy', but each file of this folder must define FAMILY = Family"),
        ("import no_such_module\n", r"cannot be imported \(ModuleNotFoundError: No module named 'no_such_module'\)"),
        (TOY.replace('"toy"', '"mask2former"'), "model_type 'mask2former', which Mask2Former is for already"),
    ],
)
def test_a_file_that_is_not_whole_is_named(folder: Path, text: str, told: str, request: pytest.FixtureRequest) -> None:
    name = f"toy_broken_{abs(hash(text))}"
    (folder / f"{name}.py").write_text(text)
    with pytest.raises(RunError, match=rf"^models/families/{name}\.py.*{told}"):
        all_families()


NEW = TOY.replace("head=", "new_model=NewModel({}, queries=7), head=").replace("Network,", "Network, NewModel,")


def test_one_family_is_that_of_a_new_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (default_family().name, new_queries()) == ("Mask2Former", 100)
    (folder / "toy_new.py").write_text(NEW)
    all_families.cache_clear()
    with pytest.raises(RunError, match=r"^models/families: .* a new_model, but mask2former\.py, toy_new\.py has it$"):
        all_families()
    monkeypatch.setattr(families, "__path__", [str(folder)])
    assert (default_family().name, new_queries()) == ("Toy", 7)


def test_no_family_of_a_new_model_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "__path__", [str(folder)])
    with pytest.raises(RunError, match=r"^models/families: exactly one FAMILY .* a new_model, but no file has it$"):
        all_families()


def test_the_rules_of_a_family_decide_what_a_directory_may_hold(folder: Path, tmp_path: Path) -> None:
    (folder / "toy_rules.py").write_text(TOY)
    model = save_toy_model(tmp_path / "m")
    checkpoint = read_checkpoint(model, "m")
    assert choose_task(checkpoint, None) == "semantic", "the only task of the family"
    with pytest.raises(UsageError, match=r"'panoptic' is not what m can do, as all of Toy; .* model: semantic$"):
        choose_task(checkpoint, "panoptic")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"id2label": {"0": "dark"}}))
    with pytest.raises(UsageError, match=r"m names 1 labels in config.json, but its weights know 2"):
        read_checkpoint(model, "m")
