"""The logits of every family, as wide and as deep as published ones, beside transformers' in float32 and float64.

    python -m benchmarks.families.logits [--quick] [--only oneformer,eomt]

Weights are random. ``tests/integration/test_every_family.py`` asks the same of tiny models. Writes
results/family-logits.md. With ``--only`` the others' lines stay as they were.
"""

import gc
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import BatchNorm2d
from torch.nn.functional import interpolate
from transformers.models.oneformer.modeling_oneformer import OneFormerTransformerDecoderLayer
from transformers.utils.logging import disable_progress_bar

from benchmarks.families.cases import ALL, Case
from benchmarks.families.families import chosen_cases
from benchmarks.families.models import TEXT_LENGTH
from benchmarks.families.parts import GRID, apart, our_logits
from benchmarks.families.peers import logits_of
from benchmarks.lib.results import Line, lines_of
from benchmarks.lib.timing import parser, publish, say, short_commit, table
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.models.loading import load_model
from m2f_batch.models.oneformer.transformers_model import task_ids
from tests.support.tiny.weights import awaken, move_constants

NAME = "family-logits"
THREADS = 2
SCENE = 7
MORE_SCENES = range(SCENE, SCENE + 8)  # where a bit may differ in one and in another not
LEAST = 0.1  # of the largest logit
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-9}
CPU = torch.device("cpu")
MASKED = ("oneformer",)  # whose layers are transformers' own, and so can be given other masks
NOTE = """A difference is the largest of any logit, divided by the largest logit of its tensor, or by 1 if that is less.
The *largest logit* shows that the weights, though random, do not answer with zeros. Both sides see the same pixels of a
drawn scene, in its own size where a model takes any, which changes no width and no depth, else as the square that the
model was made for. Ours is the forward pass that a run uses, fast parts included. The bounds are 1e-5 in float32 and
1e-9 in float64. A query of OneFormer looks only where its mask of the layer before is above 0, so a mask logit near 0
that rounds to the other side changes what the query sees, and so all that follows. *their masks* is the largest
difference in float32, of eight scenes, when each layer of ours is given the masks of transformers: what is left is
rounding. *bits* are the places of the masks, of all layers, where ours would have been others there. *float32* of that
line is the largest of the eight scenes, too, and *within* is of *their masks* there."""
SQUARES = ("eomt", "eomt_dinov3", "rf_detr")  # which run on the square of their configuration alone
CONVOLUTIONAL = ("mobilevit", "mobilevitv2")
LAYER_SCALES = ("lambda", "layer_scale", "gamma")  # as initialized, some leave a layer's work out


@dataclass(frozen=True)
class Compared:
    """What one precision gave: the largest relative difference, and the largest logit of transformers."""

    apart: float
    largest: float


@dataclass(frozen=True)
class Masked:
    """What several scenes gave: the largest differences with our attention masks and with theirs, and the bits."""

    own: float
    given: float
    differ: int
    places: int


class TheirMasks:
    """The attention masks that each decoder layer is given: noted with one model, and given to another."""

    def __init__(self) -> None:
        self.noted: list[Tensor] = []
        self.differ = 0

    @property
    def places(self) -> int:
        """Count the places of those that were noted."""
        return sum(_of_one_head(each).numel() for each in self.noted)

    def note(self, model: nn.Module) -> None:
        """Note the masks of each layer in its next forward pass."""
        for layer in _layers(model):
            layer.register_forward_pre_hook(self._note, with_kwargs=True)

    def give(self, model: nn.Module) -> None:
        """Count where the model's own masks differ in its next forward pass, and give it those that were noted."""
        layers = _layers(model)
        for layer, mask in zip(layers, self.noted, strict=True):
            layer.register_forward_pre_hook(partial(self._give, mask), with_kwargs=True)

    def _note(self, _: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        self.noted.append(given["attention_mask"].clone())  # a layer writes into it

    def _give(
        self, mask: Tensor, _: nn.Module, args: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.differ += int((_of_one_head(given["attention_mask"]) != _of_one_head(mask)).sum())
        return args, {**given, "attention_mask": mask.clone()}


def _of_one_head(mask: Tensor) -> Tensor:
    """Return the part of the first head of [heads, Q, N], because one mask of one image is repeated for all."""
    return mask[:1]


def _layers(model: nn.Module) -> list[nn.Module]:
    return [each for each in model.modules() if isinstance(each, OneFormerTransformerDecoderLayer)]


def name_of(case: Case) -> str:
    """The family and how large it is, without the size of images."""
    return case.name.rpartition(",")[0]


@torch.no_grad()
def build(case: Case, directory: Path, *, quick: bool) -> int:
    """Save a model of random weights, of which each layer passes on what it is given. Returns its parameters."""
    torch.manual_seed(2)
    config = (case.tiny if quick else case.config)()
    config.id2label = {i: f"class {i}" for i in range(case.classes)}
    config.label2id = {name: i for i, name in config.id2label.items()}
    model = getattr(transformers, case.model)(config)
    awaken(model, gain=1.0)
    move_constants(model)
    for name, parameter in model.named_parameters():
        if any(part in name for part in LAYER_SCALES):
            parameter.uniform_(0.7, 1.3)
    if hasattr(model, "attn_mask_probs"):
        model.attn_mask_probs.zero_()  # as deployed weights have it
    if case.row == "oneformer":
        model.model.task_encoder.task_mlp.layers[0].get_submodule("0").weight.mul_(1e-4)  # of ids up to 49407
    if case.row in CONVOLUTIONAL:  # whose random layers make a signal fade, unless their norms know how large it is
        for norm in (each for each in model.modules() if isinstance(each, BatchNorm2d)):
            norm.momentum = 1.0
        model.train()(torch.randn(4, 3, 2 * GRID, 2 * GRID))
    model.save_pretrained(directory)
    return sum(each.numel() for each in model.parameters())


def values_of(case: Case, directory: Path, scene: int) -> Tensor:
    """Pixel values [1, 3, Hc, Wc] of a drawn scene, normalized."""
    config = transformers.AutoConfig.from_pretrained(directory)
    pixels = torch.from_numpy(draw_scene(scene).image).permute(2, 0, 1)[None].float() / 255
    if case.row in SQUARES:
        edge = getattr(config, "image_size", None) or config.backbone_config.image_size
        pixels = interpolate(pixels, size=(edge, edge), mode="bilinear", antialias=True)
    height, width = (length // GRID * GRID for length in pixels.shape[-2:])
    return ((pixels - 0.45) / 0.225)[..., :height, :width].contiguous()


@torch.inference_mode()
def compare(
    case: Case, directory: Path, values: Tensor, dtype: torch.dtype, masks: TheirMasks | None = None
) -> Compared:
    """Both forward passes in one precision, one model in memory at a time. With ``masks``, ours is given theirs."""
    others: dict[str, Tensor] = {}
    if case.row == "oneformer":
        others = {"task_inputs": task_ids(case.task, TEXT_LENGTH).to(dtype)}
    kind: Any = getattr(transformers, case.model)
    model = kind.from_pretrained(directory, local_files_only=True).to(dtype).eval()
    if masks:
        masks.note(model)
    theirs = logits_of(model(pixel_values=values.to(dtype), **others))
    del model
    gc.collect()
    mine = load_model(directory, CPU, task=case.task).to(dtype)
    if masks:
        masks.give(mine)
    ours = our_logits(case, mine, values.to(dtype))
    assert {each.dtype for each in (*ours, *theirs)} == {dtype}
    return Compared(apart(ours, theirs), max(float(each.abs().max()) for each in theirs))


def compare_masked(case: Case, directory: Path) -> Masked:
    """Compare in float32 over several scenes: the largest differences, and the bits of all."""
    found = Masked(0.0, 0.0, 0, 0)
    for scene in MORE_SCENES:
        values, masks = values_of(case, directory, scene), TheirMasks()
        own = compare(case, directory, values, torch.float32).apart
        given = compare(case, directory, values, torch.float32, masks).apart
        found = Masked(
            max(found.own, own), max(found.given, given), found.differ + masks.differ, found.places + masks.places
        )
    return found


def measure(case: Case, *, quick: bool) -> dict[str, Any]:
    """One line of the table. Raises AssertionError where float64 does not hold its bound."""
    with tempfile.TemporaryDirectory(prefix="m2f-bench-") as folder:
        directory = Path(folder) / "model"
        parameters = build(case, directory, quick=quick)
        values = values_of(case, directory, SCENE)
        found = {dtype: compare(case, directory, values, dtype) for dtype in BOUNDS}
        masked = compare_masked(case, directory) if case.row in MASKED else None
    single, double = found[torch.float32], found[torch.float64]
    assert double.apart <= BOUNDS[torch.float64], f"{case.name}: {double.apart:.1e} in float64"
    assert masked is None or masked.differ or masked.own <= BOUNDS[torch.float32], f"{case.name}: no bit differs"
    line = {
        "family": name_of(case),
        "parameters": f"{parameters / 1e6:.1f} M",
        "canvas": f"{values.shape[2]}x{values.shape[3]}",
        "task": case.task,
        "largest logit": f"{single.largest:.1f}",
        "float32": f"{masked.own if masked else single.apart:.1e}",
        "their masks": f"{masked.given:.1e}" if masked else "",
        "bits": f"{masked.differ:,} of {masked.places:,}" if masked else "",
        "within 1e-5": "yes" if (masked.given if masked else single.apart) <= BOUNDS[torch.float32] else "no",
        "float64": f"{double.apart:.1e}",
        "commit": short_commit(),
    }
    say(", ".join(f"{key} {value}" for key, value in line.items()))
    assert single.largest > LEAST, f"{case.name} answers with zeros"
    return line


def kept_lines() -> dict[str, Line]:
    """The lines of the newest result, by family. Empty before there is one."""
    try:
        return {line["family"]: line for line in lines_of(NAME, "float64")}
    except FileNotFoundError:
        return {}


def main() -> int:
    """Compare, print and write."""
    options = parser(__doc__)
    options.add_argument("--only", help="families to compare, with commas between them")
    chosen = options.parse_args()
    torch.set_num_threads(THREADS)
    disable_progress_bar()
    lines: dict[str, Any] = {} if chosen.quick or not chosen.only else dict(kept_lines())
    for case in chosen_cases(chosen.only):
        lines[name_of(case)] = measure(case, quick=chosen.quick)
    columns = [*lines[name_of(chosen_cases(chosen.only)[0])]]  # kept lines may have others
    kept = [lines[name_of(each)] for each in ALL if name_of(each) in lines]
    ordered = [{column: line.get(column, "") for column in columns} for line in kept]
    publish(NAME, "Logits of every family", [table(ordered), NOTE], threads=THREADS, quick=chosen.quick)
    return int(any(line["within 1e-5"] == "no" for line in ordered))


if __name__ == "__main__":
    sys.exit(main())
