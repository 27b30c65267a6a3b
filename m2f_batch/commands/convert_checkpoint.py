"""``m2f-batch convert-checkpoint SRC DEST`` writes a model with pickled weights as safetensors."""

import argparse

from m2f_batch.commands.shared.parser import Parser
from m2f_batch.messages.terminal import say

SUMMARY = "write a model whose weights are pickled (pytorch_model.bin) as safetensors, which segment reads"
EXAMPLES = (
    (
        "a model of the hub that has pytorch_model.bin alone",
        "m2f-batch convert-checkpoint facebook/maskformer-swin-tiny-ade models/maskformer",
    ),
    (
        "a directory with pickled weights, into a bucket",
        "m2f-batch convert-checkpoint old-model/ s3://bucket/models/mine",
    ),
)
DESCRIPTION = (
    f"{SUMMARY[0].upper()}{SUMMARY[1:]}. They are read in a process that has no network, no keys, and little memory. "
    "It takes nothing but tensors, and asks no service."
)


def add_arguments(parser: Parser) -> None:
    """Add SRC and DEST."""
    parser.add_argument("source", metavar="SRC", help="Hugging Face directory, hub id (id@revision), or bucket URI")
    parser.add_argument("dest", metavar="DEST", help="directory or bucket URI to write, new or empty")


def run(options: argparse.Namespace) -> int:
    """Write DEST and say what was read and written."""
    from m2f_batch.models.conversion.command import convert_checkpoint

    say(*convert_checkpoint(options.source, options.dest))
    return 0
