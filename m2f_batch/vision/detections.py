"""Makes detections of the package ``supervision`` of segments, for its annotators, trackers, zones and metrics."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from m2f_batch.records import Segment, of_one_image

if TYPE_CHECKING:
    from supervision import Detections


def to_supervision(segments: Sequence[Segment]) -> "Detections":
    """Return the ``supervision.Detections`` of one image's ``segments``, in their order.

    ``xyxy`` is float32 [N, 4], the box of each mask in pixels: left, top, right and bottom. ``mask`` is bool [N, H, W]
    at the size of the image. ``confidence`` is float32 [N], ``class_id`` int64 [N], and ``data["class_name"]`` str [N].
    No segments are ``Detections.empty()``. Raises ArgumentError for what are no segments of one image, and ImportError
    where supervision is not installed. Source: the fields of ``Detections`` in supervision 0.31.2, and the key
    ``class_name`` of its own connectors.

        to_supervision(segments)[0].xyxy
        # array([[93., 77., 151., 136.]], dtype=float32)
    """
    segments = of_one_image(segments)
    try:
        from supervision import Detections
    except ImportError as error:
        raise ImportError("to_supervision needs a package that is not installed: pip install supervision") from error
    if not segments:
        return Detections.empty()
    boxes = np.array([segment.bbox for segment in segments], np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return Detections(
        xyxy=boxes,
        mask=np.stack([segment.mask() for segment in segments]),
        confidence=np.array([segment.score for segment in segments], np.float32),
        class_id=np.array([segment.category_id for segment in segments], np.int64),
        data={"class_name": np.array([segment.category for segment in segments])},
    )
