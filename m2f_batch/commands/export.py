"""``m2f-batch export RUN DEST`` writes the rows of a run in another format."""

import argparse

from m2f_batch.commands.shared.completion import offers
from m2f_batch.commands.shared.parser import Parser
from m2f_batch.datasets.format import run_targets
from m2f_batch.messages.terminal import say

SUMMARY = "write a run's rows in another format, COCO if none is named"
EXAMPLES = (
    (
        "all segments as a COCO JSON",
        "m2f-batch export labels/ coco.json",
    ),
    (
        "results for pycocotools, with the ids of a ground truth",
        "m2f-batch export labels/ results.json --format coco-results --ground-truth instances_val2017.json",
    ),
)


def add_arguments(parser: Parser) -> None:
    """Add RUN, DEST and the format."""
    parser.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    parser.add_argument("dest", metavar="DEST", help="file or folder to write")
    text = f"what DEST is to be: {', '.join(run_targets())} [%(default)s]"
    offers(parser.add_argument("--format", metavar="F", default="coco", help=text), run_targets)
    parser.add_argument(
        "--ground-truth", metavar="FILE", help="COCO JSON whose ids of images and categories the export takes"
    )


def run(options: argparse.Namespace) -> int:
    """Write DEST and say what is in it."""
    from m2f_batch.exports.command import export

    say(*export(options.run_uri, options.dest, options.format, options.ground_truth).lines())
    return 0
