"""Config: four sources in their order, every mistake in one readable line, transformers' words."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.configs import NEEDED, load, mistakes, write
from support.hand_made import make_model

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import check_config, fields_of, load_config, takes_text
from m2f_batch.config.segment import (
    ModelConfig,
    PostprocessConfig,
    PreprocessConfig,
    SegmentConfig,
)
from m2f_batch.errors import UsageError
from m2f_batch.messages.notes import notes_to
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.vision.label_settings import settle


def test_precedence_is_flag_set_file_default(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.yaml",
        "model: {precision: bf16, compile: true, task: instance}\ninput: {max_pixels: 5}\ncompute:\n",
    )
    config = load("model.precision=fp16", "model.task=semantic", file=file, model__task="panoptic")
    assert (config.model.task, config.model.precision, config.model.compile) == ("panoptic", "fp16", True)
    assert (config.input.max_pixels, config.input.max_error_fraction, config.compute.threads_per_actor) == (5, 0.05, 2)
    assert load("model.task=semantic", "model.task=instance", model__task=None).model.task == "instance"
    assert config.input.uri == "photos"


@pytest.mark.parametrize("kind", [SegmentConfig, FinetuneConfig])
def test_an_empty_value_is_refused_and_null_offered_where_the_key_takes_it(
    kind: type[SegmentConfig | FinetuneConfig],
) -> None:
    def said(key: str, value: str) -> str:
        with pytest.raises(UsageError) as caught:
            load_config(kind, overrides=[f"{key}={value}", "no.key=1"])
        return str(caught.value)

    offered = {key: f"--set {key}=null for none" in said(key, "") for key, _ in fields_of(kind)}
    for key, field in fields_of(kind):
        if takes_text(field.annotation):
            assert f"{key}: '' is not allowed" in said(key, ""), key
        elif key != "model.config":  # of any keys, null is none of them
            assert offered[key] is (f"{key}: None is not allowed" not in said(key, "null")), key
    assert {*offered.values()} == {True, False}
    if kind is SegmentConfig:  # by transformers' name, too
        assert "--set postprocess.threshold=null for none" in said("postprocess.threshold", "")
    else:
        assert "--set model.config.ignore_value=null for none" in said("model.config.ignore_value", "")


def test_what_is_needed_may_come_from_any_source(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "input: {uri: a}\nmodel: {uri: b}\n")
    config = load_config(SegmentConfig, file=file, overrides=["output.uri=c"])
    assert (config.input.uri, config.model.uri, config.output.uri) == ("a", "b", "c")


def test_every_mistake_is_told_at_once_with_field_value_and_what_is_allowed() -> None:
    lines = mistakes(
        "input.max_pixels=0",
        "model.compile=maybe",
        "postprocess.score_treshold=0.3",
        "no_equals",
        "model.task=[1",
        "compute.device=tpu",
        "model.precision=fp8",
        "zebra=1",
        output__uri="",
    )
    by_field = {line.partition(":")[0]: line for line in lines}
    assert len(lines) == len(by_field) == 9
    assert by_field["--set no_equals"].endswith("must be dotted.key=value, e.g. --set model.precision=bf16")
    assert "the value is not YAML" in by_field["--set model.task=[1"]
    assert by_field["input.max_pixels"].startswith("input.max_pixels: 0 is not allowed (it must be greater than")
    assert "; allowed: a whole number from 1; the default is 200000000" in by_field["input.max_pixels"]
    assert by_field["model.compile"].startswith("model.compile: 'maybe' is not allowed")
    assert "'tpu'" in by_field["compute.device"] and "allowed: auto, cpu or cuda" in by_field["compute.device"]
    assert "'fp8'" in by_field["model.precision"] and "fp32, bf16 or fp16" in by_field["model.precision"]
    assert by_field["postprocess.score_treshold"] == (
        "postprocess.score_treshold: unknown key (value 0.3); did you mean postprocess.score_threshold?"
    )
    assert by_field["zebra"] == (
        "zebra: unknown key (value 1); known sections: input, model, preprocess, postprocess, compute, output, run, "
        "storage"
    )
    assert "''" in by_field["output.uri"]


def test_a_flag_wins_over_set_and_says_so() -> None:
    heard: list[str] = []
    with notes_to(heard.append):
        flags = {**NEEDED, "postprocess.score_threshold": 0.3, "model.task": None}
        config = load_config(SegmentConfig, overrides=["postprocess.threshold=0.5", "model.task=instance"], flags=flags)
        assert heard == ["warning: postprocess.score_threshold is given twice: its flag (0.3) wins over --set (0.5)"]
        assert (config.postprocess.score_threshold, config.model.task) == (0.3, "instance")
        load_config(SegmentConfig, overrides=["postprocess.score_threshold=0.3"], flags=flags)
    assert len(heard) == 1, "the same twice is no matter"


def test_missing_fields_are_named_one_by_one() -> None:
    with pytest.raises(UsageError) as caught:
        load_config(SegmentConfig, overrides=["model.precision=fp16"])
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["input.uri", "model.uri", "output.uri"]
    assert lines[1].startswith("model.uri: is not given; it takes the model: a Hugging Face directory")


def test_unknown_keys_of_a_section_list_that_section() -> None:
    (line,) = mistakes("output.zzz=1")
    assert line == "output.zzz: unknown key (value 1); known keys: output.uri, output.overwrite, output.images_per_file"
    assert mistakes("inptu.uri=1") == ["inptu: unknown key (value {'uri': 1}); did you mean input?"]
    assert mistakes("top_k=1") == ["top_k: unknown key (value 1); did you mean postprocess.top_k?"]
    (line,) = mistakes("model.foo.bar=1")
    assert line.startswith("model.foo: unknown key (value {'bar': 1});")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "is not YAML"),
        ("- a\n- b", "must hold a mapping"),
        ("just text", "must hold a mapping"),
        ("[]", "must hold a mapping"),
        ("a: 2024-13-45", "is not YAML (month must be in 1..12)"),
        ("model: {uri: a}\nmodel: {uri: b}", "model: given twice"),
        ("? [a]\n: b", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("!!python/object/apply:os.system [ls]", "is not YAML"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, told: str) -> None:
    (line,) = mistakes(file=write(tmp_path / "c.yaml", text))
    assert line.startswith(f"--config {tmp_path}/c.yaml: ") and told in line


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert mistakes(file=str(tmp_path / "none.yaml")) == [
        f"--config {tmp_path}/none.yaml: cannot be read (No such file or directory); give a YAML file"
    ]
    assert "cannot be read (Is a directory)" in mistakes(file=str(tmp_path))[0]
    (tmp_path / "latin.yaml").write_bytes(b"input: {uri: \xe9}")
    assert "is not YAML" in mistakes(file=str(tmp_path / "latin.yaml"))[0]


def test_an_empty_file_and_empty_sections_are_no_mistake(tmp_path: Path) -> None:
    assert load(file=write(tmp_path / "a.yaml", "")) == load()
    assert load("model.compile=true", file=write(tmp_path / "b.yaml", "model:\n# none\noutput:\n")).model.compile


def test_a_value_where_a_section_belongs_is_told_though_flags_lie_over_it(tmp_path: Path) -> None:
    (line,) = mistakes(file=write(tmp_path / "c.yaml", "input: photos"))
    assert line.startswith("input: 'photos' is not allowed; allowed: a mapping of input.uri, input.root")
    (line,) = mistakes("compute=5")
    assert line.startswith("compute: 5 is not allowed; allowed: a mapping of compute.address, compute.device")


def test_keys_that_are_no_texts_are_told(tmp_path: Path) -> None:
    (line,) = mistakes(file=write(tmp_path / "c.yaml", "1: 2"))
    assert line.startswith("1: ")


ALIASES = [
    ("label_ids_to_fuse", "stuff_ids", "[1, 2]", frozenset({1, 2})),
    ("threshold", "score_threshold", "0.25", 0.25),
    ("overlap_mask_area_threshold", "overlap_threshold", "0.125", 0.125),
]


@pytest.mark.parametrize(("alias", "key", "text", "value"), ALIASES)
def test_key_aliases(tmp_path: Path, alias: str, key: str, text: str, value: Any) -> None:
    assert getattr(load(f"postprocess.{alias}={text}").postprocess, key) == value
    file = write(tmp_path / "c.yaml", f"postprocess: {{{alias}: {text}}}")
    assert getattr(load(file=file).postprocess, key) == value
    assert getattr(check_config(PostprocessConfig, {alias: value}), key) == value  # Segmenter.from_pretrained(...)
    other = "[]" if key == "stuff_ids" else "0.75"
    above = load(f"postprocess.{key}={other}", file=file).postprocess  # two sources: plain precedence
    assert getattr(above, key) == (frozenset() if key == "stuff_ids" else 0.75)
    (line,) = mistakes(f"postprocess.{alias}={text}", f"postprocess.{key}={text}")
    assert line == (f"postprocess.{key} and its alias postprocess.{alias} are both given in --set: keep one of them")
    both = write(tmp_path / "both.yaml", f"postprocess: {{{key}: {text}, {alias}: {text}}}")
    assert f"are both given in --config {both}" in mistakes(file=both)[0]
    with pytest.raises(UsageError, match=f"{key} and its alias {alias}"):
        check_config(PostprocessConfig, {alias: value, key: value})


@pytest.mark.parametrize(("word", "ours"), [("float32", "fp32"), ("bfloat16", "bf16"), ("float16", "fp16")])
def test_precision_aliases(tmp_path: Path, word: str, ours: str) -> None:
    assert load(f"model.precision={word}").model.precision == ours
    assert load(file=write(tmp_path / "c.yaml", f"model: {{precision: {word}}}")).model.precision == ours
    assert check_config(ModelConfig, {"uri": "m", "precision": word}).precision == ours


def test_checking_leaves_the_callers_tree_alone() -> None:
    tree = {"threshold": 0.5}
    check_config(PostprocessConfig, tree)
    assert tree == {"threshold": 0.5}


def test_numbers_in_text_fields_of_a_file_are_told(tmp_path: Path) -> None:
    (line,) = mistakes(file=write(tmp_path / "c.yaml", "model: {revision: 2024}"))
    assert line.startswith("model.revision: 2024 is not allowed (no text); allowed: a text (which version of a")


def test_every_field_says_what_is_allowed() -> None:
    assert all(field.description for _, field in fields_of(SegmentConfig))


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        ("semantic", {"score_threshold": 0.5, "top_k": 5, "stuff_ids": [1]}),
        ("instance", {"overlap_threshold": 0.5}),
        ("panoptic", {"top_k": 5}),
    ],
)
def test_keys_that_do_not_apply_to_the_task(tmp_path: Path, task: str, wrong: dict[str, Any]) -> None:
    checkpoint = read_checkpoint(make_model(tmp_path / "m", task="panoptic"), "m")
    model = check_config(ModelConfig, {"uri": "m", "task": task})
    with pytest.raises(UsageError) as caught:
        settle(checkpoint, model, PreprocessConfig(), check_config(PostprocessConfig, wrong))
    lines = str(caught.value).splitlines()
    assert len(lines) == len(wrong)
    for key in wrong:
        (line,) = [line for line in lines if line.startswith(f"postprocess.{key}: ")]
        assert f"does not apply to task {task}; allowed: " in line
    settle(checkpoint, model, PreprocessConfig(), PostprocessConfig(top_k=None, overlap_threshold=None))


def test_settled_values_are_the_papers_unless_given(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(make_model(tmp_path / "m", task="panoptic", label_ids_to_fuse=[2]), "m")

    def settled(task: str, **given: Any) -> tuple[dict[str, Any], str]:
        model = check_config(ModelConfig, {"uri": "m", "task": task})
        labeling = settle(checkpoint, model, PreprocessConfig(), check_config(PostprocessConfig, given))
        return labeling.postprocess, labeling.stuff_ids_from

    assert settled("instance") == (
        {"score_threshold": 0.5, "mask_threshold": 0.5, "top_k": 100, "stuff_ids": frozenset({2})},
        "checkpoint",
    )
    assert settled("panoptic", score_threshold=0, stuff_ids=[]) == (
        {"score_threshold": 0.0, "mask_threshold": 0.5, "overlap_threshold": 0.8, "stuff_ids": frozenset()},
        "config",
    )
    assert settled("semantic")[0] == {}
    with pytest.raises(UsageError, match=r"postprocess.stuff_ids: \[3, 9\] are no labels of m; allowed: 0 to 2"):
        settled("panoptic", stuff_ids=[3, 9, 1])


def test_a_mapping_is_what_a_file_would_hold(tmp_path):
    tree = {"input": {"uri": "a"}, "output": {"uri": "b"}, "model": {"uri": "m"}, "postprocess": {"threshold": 0.5}}
    (tmp_path / "a.yaml").write_text(json.dumps(tree))
    flags = {"postprocess.overlap_mask_area_threshold": 0.25, "model.precision": "bfloat16", "compute.actors": None}
    of_file, of_mapping = (
        load_config(SegmentConfig, file=file, flags=flags) for file in (str(tmp_path / "a.yaml"), tree)
    )
    assert of_file == of_mapping and of_file.model.precision == "bf16"
    assert (of_file.postprocess.score_threshold, of_file.postprocess.overlap_threshold) == (0.5, 0.25)
    over = load_config(SegmentConfig, file=tree, flags={"postprocess.score_threshold": 0.125})
    assert over.postprocess.score_threshold == 0.125 and tree["postprocess"] == {"threshold": 0.5}


@pytest.mark.parametrize(
    "section, problem",
    [
        ({"postprocess": 3}, "postprocess: 3 is not allowed; allowed: a mapping of postprocess.score_threshold, "),
        (
            {"postprocess.top_k": 3},
            r"'postprocess.top_k': unknown key; sections are nested: postprocess: {top_k: ...}$",
        ),
        ({"preprocess.window.size": 3}, "'preprocess.window.size': unknown key; .* preprocess: {window: {size: ...}}$"),
    ],
)
def test_a_section_is_a_mapping(section, problem):
    tree = {"input": {"uri": "a"}, "output": {"uri": "b"}, "model": {"uri": "m"}, **section}
    with pytest.raises(UsageError, match=f"^{problem}"):
        load_config(SegmentConfig, file=tree, flags={"postprocess.score_threshold": 0.3})


def test_a_mistake_in_one_field_has_its_parts():
    with pytest.raises(UsageError) as raised:
        check_config(PostprocessConfig, {"score_threshold": 3})
    error = raised.value
    assert (error.field, error.value) == ("score_threshold", 3)
    assert error.problem.startswith("is not allowed (") and error.allowed == "a number from 0 to 1"
