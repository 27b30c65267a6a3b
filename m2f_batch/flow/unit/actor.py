"""An actor holds a Segmenter, and checks that its pixel values are those of the checkpoint's own processor."""

from dataclasses import dataclass

import pyarrow as pa

from m2f_batch.errors import RunError
from m2f_batch.flow.unit.labeler import Labeler
from m2f_batch.flow.unit.stages import label_unit
from m2f_batch.models.source import ModelSource, local_directory
from m2f_batch.vision.label_settings import Labeling


@dataclass(frozen=True)
class ActorSettings:
    """An actor loads its model by these. They travel to every node."""

    source: ModelSource
    labeling: Labeling
    device: str
    threads: int
    batch_size: int | None  # found by trying when None


def load_segmenter(settings: ActorSettings) -> Labeler:
    """Return the model on its device, ready to label."""
    import torch

    from m2f_batch.vision.device.checked_model import load_checked
    from m2f_batch.vision.segmenter import Segmenter

    device, labeling = torch.device(settings.device), settings.labeling
    model, checked = load_checked(
        local_directory(settings.source),
        device,
        task=labeling.task,
        precision=labeling.precision,
        threads=settings.threads,
        compile_model=labeling.compile,
        as_published=labeling.as_published,
    )
    return Segmenter(model, labeling, device, threads=settings.threads, batch_size=settings.batch_size, checked=checked)


class SegmentActor:
    """One model replica: units in, the same units with rows out. Called from several threads at once.

    Their images share micro-batches, and one unit is packed and unpacked while another computes.
    """

    def __init__(self, settings: ActorSettings) -> None:
        self.segmenter: Labeler = load_segmenter(settings)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Label one prepared unit."""
        return label_unit(table, self.segmenter)


def check_processor(settings: ActorSettings) -> None:
    """Hold our preprocessing against the checkpoint's own image processor, in this node's transformers.

    Raises RunError when it gives other pixel values than ours.
    """
    import torch

    from m2f_batch.models.loading import processor_pixel_values
    from m2f_batch.vision.pixels.preprocess import pixel_values, prepare

    plan = settings.labeling.preprocess
    if not plan.round_content:
        return  # a size of ours: the processor has no say
    image = torch.randint(0, 256, (67, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    ours_instead: dict[str, object] = {}
    if settings.labeling.own_normalization:
        ours_instead = {"do_rescale": True, "rescale_factor": plan.rescale_factor, "do_normalize": True}
        ours_instead |= {"image_mean": plan.mean, "image_std": plan.std}
    theirs = processor_pixel_values(local_directory(settings.source), image, **ours_instead)
    if theirs is None:
        return
    prepared = prepare(image, plan)
    ours = pixel_values(prepared.contents, prepared.views[0].canvas_hw, plan, torch.device("cpu"))
    if ours.shape != theirs.shape or not torch.equal(ours, theirs):
        raise RunError(
            f"the image processor of {settings.source.uri} gives other pixel values than ours",
            field="model.uri",
            hint="give preprocess.size, or report its preprocessor_config.json",
        )
