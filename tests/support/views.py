"""Images that are seen as one view, and pixel values of those that are."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2f_batch.models.preprocess_plan import PreprocessPlan, SizeHW
from m2f_batch.vision.cuts.view import View, Window
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.pixels.prepared import Prepared
from m2f_batch.vision.pixels.preprocess import pixel_values


def one_view(content: NDArray[np.uint8], canvas_hw: SizeHW, output_hw: SizeHW) -> Prepared:
    """An image of ``output_hw`` that is seen whole."""
    content_hw = (content.shape[0], content.shape[1])
    return Prepared((content,), (View(Window(0, 0, *output_hw), content_hw, canvas_hw),), output_hw)


def view_of(image: Prepared) -> View:
    """The one view of an image."""
    (view,) = image.views
    return view


def frame_of(image: Prepared) -> Frame:
    """Where the logits of an image lie that is seen whole."""
    view = view_of(image)
    return Frame(view.canvas_hw, view.content_hw, image.output_hw)


def values_of(images: Sequence[Prepared], plan: PreprocessPlan, device: str = "cpu") -> Tensor:
    """Pixel values of images that are seen whole, on equal canvases."""
    (canvas_hw,) = {view_of(image).canvas_hw for image in images}
    contents = [content for image in images for content in image.contents]
    return pixel_values(contents, canvas_hw, plan, torch.device(device))
