"""Reads what a preprocessor_config.json of a MobileViT says of its training: the crop, and the order of channels."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from m2f_batch.config.section import Pixels
from m2f_batch.config.segment import ExactSize
from m2f_batch.errors import UsageError

PROCESSORS = frozenset(
    f"MobileViT{kind}" for kind in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
)
STRIDES = (8, 16, 32)


class CropProcessor(BaseModel):
    """The settings that count. Missing keys take the defaults of ``MobileViTImageProcessor``."""

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    crop_size: Pixels | ExactSize = ExactSize(height=256, width=256)
    do_flip_channel_order: bool = True

    @classmethod
    def of(cls, processor: Mapping[str, Any]) -> "CropProcessor":
        """Read a preprocessor_config.json. Raises UsageError for another processor, or a crop that means nothing."""
        try:
            settings = cls.model_validate(processor)
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
    def crop(self) -> tuple[int, int]:
        """Height and width that transformers cuts out, which is what the model was trained on."""
        size = self.crop_size
        return (size, size) if isinstance(size, int) else (size.height, size.width)


def stride_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the output stride of a config.json."""
    stride = config.get("output_stride", 32)
    if stride not in STRIDES:
        yield f"output_stride must be {', '.join(map(str, STRIDES[:-1]))} or {STRIDES[-1]}, not {stride!r}"
