"""``m2f-batch evaluate RUN`` measures the rows of a run against annotated images."""

import argparse
import sys
from typing import TYPE_CHECKING

from m2f_batch.commands.shared.completion import offers
from m2f_batch.commands.shared.dataset import MASK_KEYS, READING_KEYS, reading_of
from m2f_batch.commands.shared.json_file import json_writer
from m2f_batch.commands.shared.keys import add_keys, add_result
from m2f_batch.commands.shared.parser import Parser
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.formats import read_formats
from m2f_batch.messages.terminal import say
from m2f_batch.result import STDOUT, tell

if TYPE_CHECKING:
    from m2f_batch.submit.jobs import Job

SUMMARY = "measure a run's rows against annotated images: mask AP, PQ, mIoU, Dice, boundary IoU, by class"
EXAMPLES = (
    (
        "measure a run against a COCO JSON",
        "m2f-batch evaluate labels/ --ground-truth instances_val2017.json",
    ),
    (
        "mIoU against PNG masks, also as JSON",
        "m2f-batch evaluate labels/ --ground-truth masks/ --format semantic-png --metrics miou --json miou.json",
    ),
)


def add_arguments(parser: Parser) -> None:
    """Add RUN and the options, which a submitted job is given in this order."""
    parser.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    parser.add_argument(
        "--ground-truth",
        metavar="FILE|DIR",
        required=True,
        help=f"what was annotated: {', '.join(known.help for known in read_formats().values())}",
    )
    text = f"format of the ground truth, found out if not given: {', '.join(read_formats())}"
    offers(parser.add_argument("--format", metavar="F", help=text), read_formats)
    add_keys(parser, FinetuneConfig, READING_KEYS, has_config=False)
    parser.add_argument("--part", metavar="NAME", default="val", help="which part of a data.yaml is read [%(default)s]")
    add_keys(parser, FinetuneConfig, MASK_KEYS, has_config=False)
    text = "what to measure, some of ap, pq, miou, dice, boundary-iou [those of the run's task]"
    parser.add_argument("--metrics", metavar="M,...", help=text)
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE as JSON, - for stdout")
    parser.add_argument(
        "--partial", action="store_true", help="measure a run that is not finished, by the images that have a row"
    )
    add_result(parser)


def run(options: argparse.Namespace) -> int:
    """Print the figures."""
    from m2f_batch.evaluation.command import evaluate
    from m2f_batch.evaluation.ground_truth import GroundTruth
    from m2f_batch.evaluation.table import lines_of
    from m2f_batch.runs.reader import open_run

    truth = GroundTruth(uri=options.ground_truth, form=options.format, **reading_of(options))
    tell(output=options.run_uri)
    metrics = [name.strip() for name in options.metrics.split(",")] if options.metrics else None
    opened = open_run(options.run_uri)
    read = [truth.uri, truth.images, truth.masks, options.names, options.palette]
    write = json_writer(options.json, ("run_id", "metrics"), run=opened, read=read)
    report = evaluate(opened, truth, metrics=metrics, is_partial=options.partial)
    tell(run_id=report["run_id"], totals={"rows": report["rows"], "metrics": report["metrics"]})
    say(*lines_of(report), file=sys.stderr if options.json == STDOUT else None)
    write(report)
    return 0


def add_job_arguments(parser: Parser) -> None:
    """Add what a config says of the jobs that have one."""
    text = "as the config key compute.allow_no_token of other jobs: send it to a cluster that asks for no token"
    parser.add_argument("--allow-no-token", action="store_true", help=text)


def job(options: argparse.Namespace) -> "Job":
    """Return what is submitted, with every option of the command but ``--result``, which is of this machine."""
    from m2f_batch.submit.jobs import evaluate_job

    tell(output=options.run_uri)
    given = {name: getattr(options, name.strip("-").replace("-", "_")) for name in option_names()}
    return evaluate_job(options.run_uri, given, allow_no_token=options.allow_no_token)


def option_names() -> list[str]:
    """Return the options of a submitted job, in the order in which it is given them."""
    parser = Parser(add_help=False)
    add_arguments(parser)
    names = [action.option_strings[0] for action in parser._actions if action.option_strings]
    return [name for name in names if name != "--result"]
