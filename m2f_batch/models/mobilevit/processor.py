"""Reads what a preprocessor_config.json of a MobileViT says of its training: edges, scale and order of channels."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from m2f_batch.config.section import Pixels
from m2f_batch.config.segment import AspectSize, ExactSize
from m2f_batch.errors import UsageError
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.models.processor import LoneEdge, processors_of

PROCESSORS = processors_of("MobileViT")
STRIDES = (8, 16, 32)
PUBLISHED_EDGE = 512  # of the tests of both versions


class CropProcessor(BaseModel):
    """The settings that count. Missing keys take the defaults of ``MobileViTImageProcessor``."""

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    size: Pixels | ExactSize | AspectSize | LoneEdge = LoneEdge(shortest_edge=224)
    do_center_crop: bool = True
    crop_size: Pixels | ExactSize = ExactSize(height=256, width=256)
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(gt=0)] = 1 / 255
    do_flip_channel_order: bool = True

    @classmethod
    def of(cls, processor: Mapping[str, Any]) -> "CropProcessor":
        """Read a preprocessor_config.json. Raises UsageError for another processor, or edges that mean nothing."""
        try:
            settings = cls.model_validate({key: value for key, value in processor.items() if value is not None})
        except ValidationError as error:
            fault = error.errors()[0]
            key = str(fault["loc"][0])
            raise UsageError(
                f"the image processor's {key} {str(processor.get(key))[:100]!r} is not allowed ({fault['msg']})",
                field="model.uri",
                hint="mend its preprocessor_config.json",
            ) from None
        kind = settings.image_processor_type or settings.feature_extractor_type or ""
        if kind and kind not in PROCESSORS:
            allowed = ", ".join(sorted(PROCESSORS))
            raise UsageError(f"image processor {kind!r} is not known", field="model.uri", allowed=allowed)
        return settings

    @property
    def edges(self) -> tuple[int, int]:
        """Height and width that the model was trained on: the crop, else the size, of which one edge is a square."""
        size = self.crop_size if self.do_center_crop else self.size
        if isinstance(size, ExactSize):
            return size.height, size.width
        edge = size if isinstance(size, int) else size.shortest_edge
        return edge, edge

    def plan(self, size: ExactSize | AspectSize) -> PreprocessPlan:
        """Make the plan that sees an image at a size, and normalizes nothing."""
        return PreprocessPlan(
            size=size,
            divisor=1,
            round_content=False,
            resample=2,
            rescale_factor=self.rescale_factor if self.do_rescale else None,
            mean=None,
            std=None,
            pad_size=None,
        )


def stride_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the output stride of a config.json."""
    stride = config.get("output_stride", 32)
    if stride not in STRIDES:
        yield f"output_stride must be {', '.join(map(str, STRIDES[:-1]))} or {STRIDES[-1]}, not {stride!r}"
