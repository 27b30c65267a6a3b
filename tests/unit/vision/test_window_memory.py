"""Memory of 150 classes over an image of 32 megapixels in 171 overlapping windows, in a process of its own."""

import subprocess
import sys

from conftest import LONG

PROGRAM = """
import numpy as np
import torch
from torch.nn.functional import avg_pool2d
from m2f_batch.models.label_sets import Category
from m2f_batch.models.predictions import PixelLogits, Predictor
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.vision.cuts.windows import Windows
from m2f_batch.vision.label_settings import Labeling
from m2f_batch.vision.segmenter import Segmenter

class Colors(Predictor):
    weights = 30 * torch.randn(150, 3, generator=torch.Generator().manual_seed(0))

    def forward(self, pixel_values):
        return PixelLogits(torch.einsum("kc,bchw->bkhw", self.weights, avg_pool2d(pixel_values, 4)))

def photo(height, width):
    squares = np.random.default_rng(0).integers(0, 256, (height // 100, width // 100, 3), dtype=np.uint8)
    return np.repeat(np.repeat(squares, 100, 0), 100, 1)

def peak():  # of this program alone: ru_maxrss begins with that of the process which forked it
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20

plan, cut = PreprocessPlan(None, 1, False, 2, 1 / 255, None, None, None), Windows(640, 426)
categories = tuple(Category(i, str(i), True, None) for i in range(150))
labeling = Labeling("semantic", plan, {}, "fp32", False, categories, "none", cut=cut)
segmenter = Segmenter(Colors(), labeling, torch.device("cpu"), threads=1)
segmenter([photo(200, 300)])
image = photo(4000, 8000)
assert len(cut.views(plan, (4000, 8000))) == 9 * 19
before = peak()
(segments,) = segmenter([image])
assert sum(segment.area for segment in segments) == 4000 * 8000
print(peak() - before)
"""


@LONG
def test_many_classes_over_a_large_image_stay_below_three_gibibytes() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 3, "GiB above the model"
