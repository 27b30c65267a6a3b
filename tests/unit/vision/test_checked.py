"""The fast forward pass is held against transformers' own modules, and a broken kernel labels nothing."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEMO_MODEL
from support.engines import config_of, forget_models, in_process

from m2f_batch.demo.dataset import write_dataset
from m2f_batch.demo.scenes import VAL_SEED, draw_scene
from m2f_batch.errors import RunError
from m2f_batch.flow.unit.actor import ActorSettings, load_segmenter
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.models.loading import OriginalPredictor, forward, load_model
from m2f_batch.models.mask2former import check, masked_decoder, pixel_decoder
from m2f_batch.models.mask2former.fast import FastMask2Former
from m2f_batch.models.mask2former.masked_decoder import FastDecoderLayer
from m2f_batch.models.source import find_model
from m2f_batch.runs.forward_kinds import Forwards, forward_lines
from m2f_batch.vision.device import checked_model as module
from m2f_batch.vision.device.checked_model import FLOAT32_LIMIT, HALF_LIMIT, Forward, load_checked
from m2f_batch.vision.segmenter import Segmenter

CPU = torch.device("cpu")
Break = Callable[[pytest.MonkeyPatch, float], None]


def checked(precision: Any = "fp32", **options: Any) -> tuple[Any, Forward]:
    return load_checked(DEMO_MODEL, CPU, task="panoptic", precision=precision, threads=2, **options)


def break_features(patch: pytest.MonkeyPatch, by: float) -> None:
    """The last feature map of the backbone."""
    real = FastMask2Former.features

    def features(self: FastMask2Former, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *others, last = real(self, values)
        return *others, last * (1 + by)

    patch.setattr(FastMask2Former, "features", features)


def break_sampling(patch: pytest.MonkeyPatch, by: float) -> None:
    """The kernel that is written in Triton."""
    real = pixel_decoder.deformable_attention
    patch.setattr(pixel_decoder, "deformable_attention", lambda *inputs: real(*inputs) * (1 + by))


def break_third_layer(patch: pytest.MonkeyPatch, by: float) -> None:
    """A kernel of the decoder, from its third layer on; each layer attends twice."""
    real, calls = FastDecoderLayer._attend, []

    def attend(self: FastDecoderLayer, *inputs: Any) -> Any:
        calls.append(1)
        return real(self, *inputs) * (1 + by if len(calls) > 4 else 1)

    patch.setattr(FastDecoderLayer, "_attend", attend)


def break_products(patch: pytest.MonkeyPatch, by: float) -> None:
    """The product of queries and mask features."""
    real = masked_decoder.batched_product
    patch.setattr(masked_decoder, "batched_product", lambda x, y: real(x, y) * (1 + by))


def break_classes(patch: pytest.MonkeyPatch, by: float) -> None:
    real = check.linear
    patch.setattr(check, "linear", lambda *inputs: real(*inputs) * (1 + by))


BREAKS: dict[str, tuple[Break, str]] = {
    "features": (break_features, "feature map 4 of the backbone"),
    "sampling": (break_sampling, "feature map 1 of the pixel decoder"),
    "decoder layer": (break_third_layer, "decoder layer 3"),
    "masks": (break_products, "the first mask logits"),
    "classes": (break_classes, "the class logits"),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sound_machine_is_fast(precision: str) -> None:
    model, how = checked(precision)
    assert isinstance(model, FastMask2Former)
    assert (how.kind, how.why, how.warning(), str(how)) == ("fast", None, None, "fast")
    assert 0 < how.seconds < 60


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_kernel_computes_nothing(name: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it, part = BREAKS[name]
    break_it(monkeypatch, 0.3)
    model, how = checked(precision)
    limit = {"fp32": FLOAT32_LIMIT, "bf16": HALF_LIMIT}[precision]
    assert how.kind == "slow" and how.why is not None
    named, _, rest = how.why.partition(": off by ")
    assert named == part
    difference, _, allowed = rest.partition(" where ")
    assert float(difference) > limit and allowed == f"{limit:g} is allowed in {precision}"
    assert how.warning() == f"the model goes on with transformers' own modules, which are slower: {how.why}"
    values = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    theirs = forward(load_model(DEMO_MODEL, CPU, fast=False), values, precision).tensors
    for ours, wanted in zip(forward(model, values, precision).tensors, theirs, strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("name", ["sampling", "decoder layer", "masks"])
def test_the_limits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding passes, and what is some times above it does not."""
    break_it, _ = BREAKS[name]
    for precision, by, kind in (("fp32", 1e-6, "fast"), ("fp32", 3e-3, "slow"), ("bf16", 3e-3, "fast")):
        with monkeypatch.context() as patch:
            break_it(patch, by)
            assert checked(precision)[1].kind == kind, (precision, by)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_too_far(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    break_sampling(monkeypatch, wrong)
    assert checked()[1].kind == "slow"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Triton Error [CUDA]: the provided PTX was compiled with an unsupported toolchain\nmore"),
        ImportError("libcuda.so.1: cannot open shared object file"),
        AssertionError(),
    ],
)
def test_a_kernel_that_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*inputs: Any) -> None:
        raise error

    monkeypatch.setattr(pixel_decoder, "deformable_attention", fails)
    model, how = checked()
    assert how.kind == "slow" and not isinstance(model, FastMask2Former)
    assert how.why == f"{type(error).__name__}: {next(iter(str(error).splitlines()), type(error).__name__)}"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_machine_without_room_says_nothing_of_kernels(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or whether a process is slow, and with it the rounding of a row, would depend on the moment."""

    def fails(*inputs: Any) -> None:
        raise error

    monkeypatch.setattr(pixel_decoder, "deformable_attention", fails)
    with pytest.raises(type(error)):
        checked()


def test_a_reference_that_raises_checks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*inputs: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(check, "observe", fails)
    model, how = checked()
    assert isinstance(model, FastMask2Former)
    assert str(how) == "fast: ValueError: no"
    assert how.warning() == "the model's forward pass could not be checked: ValueError: no"


def test_a_device_that_is_lost_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal access on CUDA nothing computes there any more."""
    real, moved = torch.nn.Module.to, []

    def to(self: torch.nn.Module, *arguments: Any) -> Any:
        moved.append(type(self).__name__)
        if moved.count("OriginalPredictor") > 4 and not isinstance(self, FastMask2Former):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return real(self, *arguments)

    break_sampling(monkeypatch, 0.3)
    monkeypatch.setattr(torch.nn.Module, "to", to)
    for at in range(1, 6):
        moved[:] = ["OriginalPredictor"] * at
        try:
            checked()
        except RunError as error:
            assert "the fast forward pass failed (feature map 1 of the pixel decoder: off by" in str(error)
            return
        except RuntimeError:
            continue
    raise AssertionError("no attempt lost the device after the check")


def test_a_device_that_is_lost_to_the_reference_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    real, lost = torch.nn.Module.to, []

    def fails(*inputs: Any) -> None:
        lost.append(True)
        raise RuntimeError("CUDA error: unspecified launch failure")

    def to(self: torch.nn.Module, *arguments: Any) -> Any:
        if lost:
            raise RuntimeError("CUDA error: the same again")
        return real(self, *arguments)

    monkeypatch.setattr(check, "observe", fails)
    monkeypatch.setattr(torch.nn.Module, "to", to)
    words = "^model.uri: cpu failed in the model's check \\(RuntimeError: CUDA error: unspecified launch failure\\)$"
    with pytest.raises(RunError, match=words):
        checked()


def test_the_reference_is_off_the_device_before_ours_is_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device never holds both."""
    real, places = torch.nn.Module.to, []

    def to(self: torch.nn.Module, device: Any) -> Any:
        places.append((isinstance(self, FastMask2Former), str(device)))
        return real(self, CPU)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(module, "image_values", lambda device, real=module.image_values: real(CPU))
    load_checked(DEMO_MODEL, torch.device("meta"), task="panoptic", precision="fp32", threads=2)
    assert places[-3:] == [(False, "meta"), (False, "cpu"), (True, "meta")]


@pytest.mark.slow
def test_compiled_is_what_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, how = checked(compile_model=True)
    assert type(compiled).__name__ == "OptimizedModule" and isinstance(compiled._orig_mod, FastMask2Former)
    break_sampling(monkeypatch, 0.3)
    compiled, how = checked(compile_model=True)
    assert how.kind == "slow" and isinstance(compiled._orig_mod, OriginalPredictor)


def test_the_same_machine_comes_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    break_sampling(monkeypatch, 0.3)
    torch.manual_seed(1)
    first = checked()[1].why
    torch.manual_seed(2)
    torch.randn(5)
    assert checked()[1].why == first


def test_an_actor_and_a_segmenter_go_on_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = Segmenter.from_pretrained(str(DEMO_MODEL), task="panoptic")
    image = draw_scene(VAL_SEED).image
    (expected,) = fast([image])
    assert fast.checked is not None and fast.checked.kind == "fast"
    break_third_layer(monkeypatch, 0.3)
    with pytest.warns(
        RuntimeWarning, match="goes on with transformers' own modules, which are slower: decoder layer 3"
    ):
        slow = Segmenter.from_pretrained(str(DEMO_MODEL), task="panoptic")
    settings = ActorSettings(find_model(str(DEMO_MODEL), None), slow.labeling, "cpu", 2, None)
    actor = load_segmenter(settings)
    assert str(actor.checked).startswith("slow: decoder layer 1: off by")  # it has attended before
    (found,) = actor([image])
    assert [(a.category, a.area) for a in found] == [(b.category, b.area) for b in expected]


def test_a_run_counts_both_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from m2f_batch.cli import main

    images, output = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    Image.fromarray(draw_scene(VAL_SEED).image).save(images / "a.png")
    config = config_of(images, output, DEMO_MODEL)

    def told() -> Any:
        return json.loads((output / "run.json").read_text())["forward"]

    with monkeypatch.context() as patch:
        break_features(patch, 0.3)
        forget_models()
        assert in_process(config) == 0
        (why,) = told()["why"]
        assert told() == {"fast": 0, "slow": 1, "why": {why: 1}}
        assert "of the backbone: off by" in why and why.endswith("where 0.0001 is allowed in fp32")
        said = capsys.readouterr().out
        me = f"process {os.uname().nodename}:{os.getpid()}"
        assert f"note    {me} goes on with transformers' own modules, which are slower: {why}" in said
        assert "        1 of 1 processes computed with transformers' own modules, whose rounding is another" in said
        main(["explain", str(output), "a.png", str(tmp_path / "why")])
        explained = capsys.readouterr().out
        assert f"the model goes on with transformers' own modules, which are slower: {why}" in explained
        assert json.loads((tmp_path / "why" / "explain.json").read_text())["forward"]["kind"] == "slow"
    Image.fromarray(draw_scene(VAL_SEED + 1).image).save(images / "b.png")
    forget_models()
    assert in_process(config) == 0
    assert told() == {"fast": 1, "slow": 1, "why": {why: 1}}
    capsys.readouterr()
    main(["status", str(output)])
    lines = capsys.readouterr().out.splitlines()
    assert "forward 1 of 2 processes computed with transformers' own modules, whose rounding is another" in lines
    assert f"forward 1 x {why}" in lines
    main(["explain", str(output), "a.png", str(tmp_path / "why")])
    assert "of the run, 1 of 2 processes computed with transformers' own modules" in capsys.readouterr().out


def test_counts_of_processes() -> None:
    counts = Forwards()
    assert counts.add({"replica": "a:1", "forward": "fast"}) is None
    line = counts.add({"replica": "a:2", "forward": "slow: decoder layer 1: off"})
    assert line == "note    process a:2 goes on with transformers' own modules, which are slower: decoder layer 1: off"
    assert counts.add({"replica": "a:2", "forward": "slow: decoder layer 1: off"}) is None, "said once"
    line = counts.add({"replica": "a:3", "forward": "fast: ValueError: no"})
    assert line == "note    process a:3 could not check its forward pass: ValueError: no"
    assert counts.add({"replica": None, "forward": None}) is None and counts.add({}) is None
    report = counts.report({"fast": 5, "slow": 1, "why": {"decoder layer 1: off": 1}})
    assert report == {"fast": 7, "slow": 2, "why": {"decoder layer 1: off": 2, "ValueError: no": 1}}
    assert [*forward_lines(report)] == [
        "2 of 9 processes computed with transformers' own modules, whose rounding is another",
        "2 x decoder layer 1: off",
        "1 x ValueError: no",
    ]
    assert [*forward_lines(None)] == [*forward_lines({"fast": 3, "slow": 0, "why": {}})] == []


def test_a_training_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from m2f_batch.datasets.reading import read_dataset
    from m2f_batch.train.loop.validation import validate

    write_dataset(tmp_path, 1, 2)
    folder = tmp_path / "val"
    sources = {"images": str(folder / "images"), "masks": str(folder / "masks")}
    dataset = read_dataset("coco-panoptic", str(tmp_path / "val.json"), **sources)
    labels = {label: label for label in read_checkpoint(DEMO_MODEL, "m").id2label}
    arguments = (DEMO_MODEL, dataset, "panoptic", labels, "cpu", 2, 10**8)
    fast = validate(*arguments)
    break_features(monkeypatch, 0.3)
    slow = validate(*arguments)
    assert fast["warning"] is None
    assert slow["warning"].startswith("the model goes on with transformers' own modules, which are slower: feature map")
    assert slow["metrics"]["PQ"] == pytest.approx(fast["metrics"]["PQ"], abs=0.02)
