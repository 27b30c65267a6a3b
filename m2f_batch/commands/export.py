"""``m2f-batch export RUN DEST`` writes the rows of a run in another format."""

import argparse

from m2f_batch.datasets.format import run_targets
from m2f_batch.messages.terminal import say

SUMMARY = "write a run's rows in another format"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RUN, DEST and the format."""
    parser.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    parser.add_argument("dest", metavar="DEST", help="file or folder to write")
    parser.add_argument("--format", metavar="F", default="coco", help=f"{', '.join(run_targets())} [%(default)s]")
    parser.add_argument("--ground-truth", metavar="FILE", help="COCO JSON whose image and category ids to take")


def run(options: argparse.Namespace) -> int:
    """Write DEST and say what is in it."""
    from m2f_batch.exports.command import export

    say(*export(options.run_uri, options.dest, options.format, options.ground_truth).lines())
    return 0
