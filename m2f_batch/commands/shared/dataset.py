"""Names the options of commands that read annotated images without the config of a training."""

import argparse
from typing import TypedDict

from m2f_batch.commands.shared.keys import Keys

READING_KEYS: Keys = {
    "--images DIR": "data.train_images",
    "--masks DIR": "data.train_masks",
    "--ignore-index N": "data.ignore_index",
    "--do-reduce-labels": "data.do_reduce_labels",
}
MASK_KEYS: Keys = {
    "--crowd-as-object": "data.crowd_as_object",
    "--names FILE|NAMES": "data.names",
    "--mask-suffix TEXT": "data.mask_suffix",
    "--palette FILE|COLORS": "data.palette",
    "--max-pixels N": "data.max_pixels",
}


class Reading(TypedDict):
    """The values of these options and of ``--part``, as functions take them."""

    images: str | None
    masks: str | None
    ignore_index: int | None
    do_reduce_labels: bool
    crowd_as_object: bool
    names: str | None
    mask_suffix: str | None
    palette: str | None
    max_pixels: int | None
    part: str


def reading_of(options: argparse.Namespace) -> Reading:
    """Return what was typed of how annotated images are read."""
    return Reading(
        images=options.images,
        masks=options.masks,
        ignore_index=options.ignore_index,
        do_reduce_labels=bool(options.do_reduce_labels),
        crowd_as_object=bool(options.crowd_as_object),
        names=options.names,
        mask_suffix=options.mask_suffix,
        palette=options.palette,
        max_pixels=options.max_pixels,
        part=options.part,
    )
