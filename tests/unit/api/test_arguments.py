"""Wrong arguments are answered with the right ones, and with values as Python has them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DEMO_MODEL

import m2f_batch

LOAD = m2f_batch.Segmenter.from_pretrained
# a call with a folder that is empty, and what it says
MISTAKES: list[tuple[Callable[[Path], object], str]] = [
    (lambda _: LOAD(DEMO_MODEL, devise="cpu"), "devise: is no argument; did you mean device?"),
    (lambda _: LOAD(DEMO_MODEL, device_mp="auto"), "device_mp: is no argument; did you mean device?"),
    (lambda _: LOAD(DEMO_MODEL, torch_dtype="x"), "torch_dtype: is no argument; did you mean precision?"),
    (lambda _: LOAD(DEMO_MODEL, precison="bf16"), "precison: is no argument; did you mean precision?"),
    (lambda _: LOAD(DEMO_MODEL, num_workers=2), "num_workers: is no argument; there is no such setting"),
    (lambda _: LOAD(DEMO_MODEL, actors=2), "actors: is no argument; arguments: model, task, device, revision, precisi"),
    (lambda _: LOAD(DEMO_MODEL, verbose=True), "verbose: is no argument; arguments: model, task, "),
    (lambda _: LOAD(DEMO_MODEL, task="segment"), "did you mean instance?"),
    (lambda at: m2f_batch.segment(at, at / "x", model="M", task="detect"), "did you mean instance?"),
    (lambda at: m2f_batch.segment(at, at / "x", model="M", device="gpu"), "; for example device='cuda'"),
    (
        lambda at: m2f_batch.segment(at, at / "x", model="M", size=640),
        "; for example size={'shortest_edge': 800, 'longest_edge': 1333}",
    ),
    (lambda at: m2f_batch.segment(at, at / "x", model="M", torch_dtype="x"), "did you mean precision?"),
    (lambda at: m2f_batch.segment(at, at / "x", model="M", image="x"), "did you mean images?"),
    (
        lambda at: m2f_batch.segment(at, at / "x", config={"config": {"input": {"uri": "a"}}, "attempts": 1}),
        "config: is what a job wrote, and no config; copy what it holds below config",
    ),
    (lambda at: m2f_batch.lint(at / "a.json", image="x"), "image: is no argument; did you mean train_images?"),
    (lambda at: m2f_batch.lint(at / "a.json", ignore=5), "ignore: is of type int; allowed: a name, or a list of names"),
    (
        lambda at: m2f_batch.evaluate(at, at / "a.json", metrics=5),
        "metrics: is of type int; allowed: one or a list of ap, dice, boundary-iou, pq, miou",
    ),
    (lambda at: m2f_batch.evaluate(None, at), "run: is of type NoneType; allowed: a path, a URI, or a Run of open_run"),
]


@pytest.mark.parametrize(("call", "said"), MISTAKES, ids=[said[:30] for _, said in MISTAKES])
def test_a_wrong_argument_is_answered_with_the_right_one(
    call: Callable[[Path], object], said: str, off_ray: None, tmp_path: Path
) -> None:
    with pytest.raises(m2f_batch.ArgumentError, match=re.escape(said)) as raised:
        call(tmp_path)
    assert "\n" not in str(raised.value)
    assert not [*tmp_path.iterdir()], "nothing was written"
