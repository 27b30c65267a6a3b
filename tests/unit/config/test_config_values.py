"""Values of config keys, in files and in ``--set``: how they are read, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from support.configs import load, mistakes, write

from m2f_batch.config.loading import load_config
from m2f_batch.config.segment import AspectSize, ExactSize, SegmentConfig


@pytest.mark.parametrize("text", ["2024", "a: b", "true", "null", "1e-5", "[x", "é ü", "#1", "  ", "a=b=c", "'q'"])
def test_set_takes_texts_verbatim(text: str) -> None:
    config = load_config(
        SegmentConfig, overrides=[f"{key}={text}" for key in ("input.uri", "input.root", "model.uri", "output.uri")]
    )
    assert (config.input.uri, config.input.root, config.model.uri, config.output.uri) == (text,) * 4
    assert load(f"model.revision={text}").model.revision == text


def test_numbers_lists_and_nothing_in_set() -> None:
    config = load(
        "postprocess.score_threshold=1e-5",
        "postprocess.stuff_ids=[0, 5]",
        "input.max_pixels=2e8",
        "input.max_error_fraction=1",
        "compute.gpus_per_actor=.5",
        "model.task=null",
        "model.allowed_licenses=[mit, apache-2.0]",
        "output.overwrite=true",
    )
    assert config.postprocess.score_threshold == 1e-5 and config.postprocess.stuff_ids == {0, 5}
    assert config.input.max_pixels == 200_000_000 and config.input.max_error_fraction == 1.0
    assert config.compute.gpus_per_actor == 0.5 and config.model.task is None
    assert config.model.allowed_licenses == ("mit", "apache-2.0") and config.output.overwrite is True


def test_numbers_with_exponents_in_a_file(tmp_path: Path) -> None:
    config = load(file=write(tmp_path / "c.yaml", "postprocess: {score_threshold: 1e-5}\ninput: {max_pixels: 1E+6}"))
    assert (config.postprocess.score_threshold, config.input.max_pixels) == (1e-5, 1_000_000)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("checkpoint", "checkpoint"),
        ("paper", "paper"),
        ("{shortest_edge: 800, longest_edge: 1333}", AspectSize(shortest_edge=800, longest_edge=1333)),
        ("{height: 384, width: 512}", ExactSize(height=384, width=512)),
    ],
)
def test_sizes(text: str, size: Any) -> None:
    assert load(f"preprocess.size={text}").preprocess.size == size


@pytest.mark.parametrize(
    "text",
    [
        *("papr", "384", "[384, 384]", "true", "null", "{}", "{height: 384}", "{shortest_edge: 800}"),
        *("{height: 0, width: 5}", "{height: a, width: 5}", "{height: true, width: 5}", "{height: 1.5, width: 2}"),
        "{height: 3, width: 4, shortest_edge: 5, longest_edge: 6}",
    ],
)
def test_bad_sizes_are_one_readable_line(text: str) -> None:
    import yaml

    (line,) = mistakes(f"preprocess.size={text}")
    assert line == (
        f"preprocess.size: {yaml.safe_load(text)!r} is not allowed; allowed: checkpoint or paper, or {{shortest_edge, "
        "longest_edge}, or {height, width}; "
        + (
            "did you mean paper?"
            if text == "papr"
            else "for example --set 'preprocess.size={shortest_edge: 800, longest_edge: 1333}'"
        )
    )


def test_a_size_is_replaced_whole(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "preprocess: {size: {height: 3, width: 4}}")
    edges = "preprocess.size={shortest_edge: 5, longest_edge: 6}"
    assert load(edges, file=file).preprocess.size == AspectSize(shortest_edge=5, longest_edge=6)
    dotted = ["preprocess.size.shortest_edge=5", "preprocess.size.longest_edge=6"]
    assert load(*dotted, file=file).preprocess.size == AspectSize(shortest_edge=5, longest_edge=6)
    assert load(file=file).preprocess.size == ExactSize(height=3, width=4)
    (line,) = mistakes("preprocess.size=paper", "preprocess.size.height=5")
    assert line == "--set preprocess.size.height=5: size was given a value before, and cannot hold height too"


@pytest.mark.parametrize(("text", "actors"), [("4", 4), ("[1, 8]", (1, 8)), ("[2, 2]", (2, 2)), ("null", None)])
def test_actors(text: str, actors: Any) -> None:
    assert load(f"compute.actors={text}").compute.actors == actors


@pytest.mark.parametrize(
    "text", ["0", "-1", "true", "[8, 1]", "[0, 4]", "[1]", "[1, 2, 3]", "many", "1.5", "[true, 2]"]
)
def test_bad_actors(text: str) -> None:
    (line,) = mistakes(f"compute.actors={text}")
    assert line.startswith("compute.actors: ") and " is not allowed" in line
    assert line.endswith(
        "allowed: a whole number from 1, or two of them, [min, max]; for example --set compute.actors=4"
    )


@pytest.mark.parametrize(
    "override",
    [
        *("model.compile=maybe", "model.compile=2", "model.task=detection", "model.allowed_licenses=mit"),
        *("input.max_pixels=0", "input.max_pixels=true", "input.max_pixels=many", "input.max_pixels=1.5"),
        *("input.max_error_fraction=1.01", "input.max_error_fraction=-0.1", "input.max_error_fraction=.nan"),
        *("input.max_error_fraction=true", "input.fetch_threads=257", "input.fetch_threads=null"),
        *("postprocess.mask_threshold=0", "postprocess.mask_threshold=1", "postprocess.mask_threshold=false"),
        *("postprocess.score_threshold=true", "postprocess.score_threshold=50%", "postprocess.top_k=0"),
        *("postprocess.stuff_ids=[-1]", "postprocess.stuff_ids=[a, b]", "postprocess.stuff_ids=[true]"),
        *("postprocess.stuff_ids=5", "compute.gpus_per_actor=0", "compute.gpus_per_actor=.inf"),
        *("compute.threads_per_actor=0", "compute.batch_size=0", "compute.batch_size=true", "compute.device=gpu"),
        *("output.images_per_file=4097", "output.images_per_file=0", "output.overwrite=perhaps"),
    ],
)
def test_strictness(override: str) -> None:
    (line,) = mistakes(override)
    assert line.startswith(f"{override.partition('=')[0]}: ") and " is not allowed" in line and "; allowed: " in line
