"""``m2f-batch explain RUN URI [DEST]`` shows why an image of a run got its row."""

import argparse

from m2f_batch.commands.shared.parser import Parser
from m2f_batch.messages.terminal import say

SUMMARY = "re-run one image of a run and write every picture and number on the way to its row"
EXAMPLES = (
    (
        "why a photograph got its segments",
        "m2f-batch explain labels/ photo.jpg",
    ),
    (
        "the same for an image in a bucket, into a directory of your own",
        "m2f-batch explain s3://bucket/labels s3://bucket/photos/1.jpg why/",
    ),
)


def add_arguments(parser: Parser) -> None:
    """Add RUN, URI and DEST."""
    parser.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    parser.add_argument("uri", metavar="URI", help="the image, as rows spell it, or relative to here or to INPUT")
    parser.add_argument("dest", metavar="DEST", nargs="?", help="directory for the pictures and numbers [explain-NAME]")


def run(options: argparse.Namespace) -> int:
    """Label the image again and say what came of it."""
    from m2f_batch.explain.command import explain

    comparison = explain(options.run_uri, options.uri, options.dest, say=say)
    return 0 if comparison["same"] else 1
