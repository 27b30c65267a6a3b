"""Every family in ``models/families`` computes what transformers computes, and its rows depend on the image alone.

``tests/support/tiny`` has a file for each, or more (``upernet.py``, ``upernet_convnext.py``), with two functions:
``build(directory)`` saves a tiny model, and ``logits(model, pixel_values)`` are what the class of transformers gives,
in the order of the tensors of the family's prediction.
"""

import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from conftest import LONG
from PIL import Image
from support.engines import config_of, in_process, on_ray, rows_of
from support.needless import calls_of
from support.tiny.weights import move_constants
from torch import Tensor

from m2f_batch.config.segment import POSTPROCESS_KEYS, ModelConfig, PostprocessConfig, PreprocessConfig, Task
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.models.checkpoint import Checkpoint, read_checkpoint
from m2f_batch.models.family import all_families
from m2f_batch.models.loading import load_model
from m2f_batch.models.predictions import PixelLogits, Predictor
from m2f_batch.vision.label_settings import settle
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare

TINY = Path(__file__).parents[1] / "support" / "tiny"
NAMES = sorted(path.stem for path in TINY.glob("*.py") if path.stem != "weights")
CPU = torch.device("cpu")
EVERYTHING = {"score_threshold": 0.0, "overlap_threshold": 0.0}  # random weights are sure of little


class Tiny(NamedTuple):
    """A tiny model: its checkpoint, and what gives transformers' logits."""

    checkpoint: Checkpoint
    logits: Callable[[Any, Tensor], tuple[Tensor, ...]]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the model."""
        checkpoint = self.checkpoint
        return tuple(checkpoint.family.tasks.able(checkpoint.config, checkpoint.trained_task, checkpoint.label_set))

    def values(self, count: int) -> Tensor:
        """Pixel values of as many scenes on one canvas, as a run makes them."""
        task = ModelConfig(uri="m", task=self.tasks[0])
        labeling = settle(self.checkpoint, task, PreprocessConfig(), PostprocessConfig())
        scenes = [
            prepare(draw_scene(seed).image[:96, :150], labeling.preprocess, labeling.cut) for seed in range(count)
        ]
        contents = [scene.contents[0] for scene in scenes]
        return pixel_values(contents, scenes[0].views[0].canvas_hw, labeling.preprocess, CPU)


@pytest.fixture(scope="module", params=NAMES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    module = import_module(f"support.tiny.{request.param}")
    directory = tmp_path_factory.mktemp(request.param) / "model"
    with torch.random.fork_rng():
        module.build(directory)
    yield Tiny(read_checkpoint(directory, request.param), module.logits)


def test_every_family_has_a_tiny_model() -> None:
    assert {family.model_type for family in all_families().values()} <= set(NAMES)


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_logits_are_those_of_transformers(tiny: Tiny, dtype: torch.dtype, most: float) -> None:
    values = tiny.values(2).to(dtype)
    theirs = getattr(transformers, tiny.checkpoint.family.class_name).from_pretrained(tiny.checkpoint.directory)
    expected = tiny.logits(theirs.to(dtype).eval(), values)
    got = _loaded(tiny).to(dtype)(values).tensors
    for ours, reference in zip(got, expected, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == reference.shape
        assert _apart(ours, reference) <= most, tiny.checkpoint.name


@torch.inference_mode()
def test_logits_tell_whether_a_bias_or_a_norm_is_left_out(tiny: Tiny, tmp_path: Path) -> None:
    theirs = getattr(transformers, tiny.checkpoint.family.class_name).from_pretrained(tiny.checkpoint.directory)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        move_constants(theirs)
    moved = shutil.copytree(tiny.checkpoint.directory, tmp_path / "model")
    theirs.save_pretrained(moved)
    values = tiny.values(1).double()
    expected = tiny.logits(theirs.double().eval(), values)
    for ours, reference in zip(
        load_model(moved, CPU, task=tiny.tasks[0]).double()(values).tensors, expected, strict=True
    ):
        assert _apart(ours, reference) <= 1e-9, tiny.checkpoint.name


@torch.inference_mode()
def test_logits_of_a_batch_are_those_of_its_images(tiny: Tiny) -> None:
    model, values = _loaded(tiny), tiny.values(8)
    alone = [model(values[i : i + 1]) for i in range(8)]
    for size in (3, 8):
        batch = model(values[:size])
        for i in range(size):
            for ours, reference in zip(batch.of_image(i).tensors, alone[i].of_image(0).tensors, strict=True):
                assert _apart(ours, reference) <= 1e-5, (size, i)


def test_nothing_is_computed_that_no_logit_needs(tiny: Tiny) -> None:
    """No hidden state, auxiliary output or loss of transformers."""
    calls, needless = calls_of(_loaded(tiny), tiny.values(1))
    assert len(calls) > 30
    assert needless == []


def test_what_no_logit_needs_is_found() -> None:
    class Wasteful(Predictor):
        def __init__(self) -> None:
            super().__init__()
            self.needed, self.unread, self.mask = (torch.nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, pixel_values: Tensor) -> PixelLogits:
            self.unread(pixel_values)
            return PixelLogits(self.needed(pixel_values).where(self.mask(pixel_values) < 0, 0))

    calls, needless = calls_of(Wasteful(), torch.randn(1, 3, 8, 8))
    assert calls == [("unread", "conv2d"), ("needed", "conv2d"), ("mask", "conv2d")]
    assert needless == [("unread", "conv2d")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes of different sizes, and two lists of them, there and back."""
    folder = tmp_path_factory.mktemp("images")
    uris = [str(folder / f"{number}.png") for number in range(4)]
    for number, (height, width) in enumerate([(96, 150), (150, 96), (64, 64), (40, 190)]):
        Image.fromarray(draw_scene(number).image[:height, :width]).save(uris[number])
    (folder / "there.txt").write_text("\n".join(uris))
    (folder / "back.txt").write_text("\n".join(reversed(uris)))
    return folder


def test_rows_of_another_replica_in_another_order_are_equal(tiny: Tiny, images: Path, tmp_path: Path) -> None:
    for task in tiny.tasks:
        there, back = tmp_path / f"there-{task}", tmp_path / f"back-{task}"
        for output in (there, back):
            source = images / f"{output.name.partition('-')[0]}.txt"
            assert in_process(config_of(source, output, tiny.checkpoint.directory, **_sections(task))) == 0
        rows = rows_of(there)
        assert all(row["status"] == "ok" and row["segments"] for row in rows), rows
        assert rows_of(back) == rows, task


@LONG
def test_rows_of_two_actors_are_equal(tiny: Tiny, images: Path, tmp_path: Path, ray_session: None) -> None:
    sections, model = _sections(tiny.tasks[0]), tiny.checkpoint.directory
    assert in_process(config_of(images / "there.txt", tmp_path / "one", model, **sections)) == 0
    assert on_ray(config_of(images / "back.txt", tmp_path / "two", model, **sections, compute={"actors": 2})) == 0
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")


def _sections(task: Task) -> dict[str, dict[str, Any]]:
    return {
        "model": {"task": task},
        "postprocess": {key: value for key, value in EVERYTHING.items() if key in POSTPROCESS_KEYS[task]},
        "run": {"images_per_unit": 1},
    }


def _loaded(tiny: Tiny) -> Predictor:
    return load_model(tiny.checkpoint.directory, CPU, task=tiny.tasks[0])


def _apart(ours: Tensor, reference: Tensor) -> float:
    """The largest difference, of the largest value or of 1."""
    return float((ours - reference).abs().max() / reference.abs().max().clamp(min=1))
