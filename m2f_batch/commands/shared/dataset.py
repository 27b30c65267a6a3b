"""Names the options of commands that read annotated images without the config of a training."""

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
