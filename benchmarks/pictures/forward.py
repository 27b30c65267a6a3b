"""Takes a scene of the demo through the bundled model once, so that pictures can show what is made of its logits."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from m2f_batch.config.segment import Task
from m2f_batch.demo.scenes import MODEL, SHOW_SEED, draw_scene
from m2f_batch.models.predictions import QueryLogits
from m2f_batch.vision.label_settings import Labeling
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare
from m2f_batch.vision.segmenter import Segmenter


class Seen(NamedTuple):
    """One scene as uint8 [H, W, 3], with its logits and all that turns them into segments."""

    image: NDArray[np.uint8]
    logits: QueryLogits  # of the one image: [Q, C + 1] and [Q, h, w]
    frame: Frame
    labeling: Labeling


def see(number: int, task: Task, enlarged: int = 1) -> Seen:
    """Label scene ``number`` of the demo, each edge ``enlarged`` times as long."""
    scene = Image.fromarray(draw_scene(SHOW_SEED + number).image)
    image = np.asarray(scene.resize((scene.width * enlarged, scene.height * enlarged), Image.Resampling.BICUBIC))
    segmenter = Segmenter.from_pretrained(str(MODEL), task=task)
    prepared = prepare(image, segmenter.labeling.preprocess)
    view = prepared.views[0]
    with torch.inference_mode():
        values = pixel_values(prepared.contents, view.canvas_hw, segmenter.labeling.preprocess, torch.device("cpu"))
        prediction = segmenter.model(values)
    assert isinstance(prediction, QueryLogits)
    frame = Frame(view.canvas_hw, view.content_hw, prepared.output_hw)
    return Seen(image, prediction.of_image(0), frame, segmenter.labeling)
