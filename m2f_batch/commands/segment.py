"""``m2f-batch segment INPUT OUTPUT`` makes one row of every image.

Its flags stand for config keys. Their names are here and in ``shared/keys``, what they mean in ``config/segment``.
"""

import argparse
from typing import TYPE_CHECKING

from m2f_batch.commands.shared.keys import JOB_KEYS, add_config, add_keys, add_result, config_of, without_address
from m2f_batch.commands.shared.parser import Parser
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.messages.events import Events, print_line
from m2f_batch.messages.terminal import say_error
from m2f_batch.result import tell_outcome

if TYPE_CHECKING:
    from m2f_batch.submit.jobs import Job

SUMMARY = "segment images into one row each"
EXAMPLES = (
    (
        "label a folder of photographs, or what is new in it since the last time",
        "m2f-batch segment photos/ labels/ --model facebook/mask2former-swin-tiny-coco-instance",
    ),
    (
        "a bucket on eight GPUs, at the size of the paper",
        "m2f-batch segment s3://bucket/photos/ s3://bucket/labels --model M --task panoptic "
        "--size paper --actors 8 --device cuda",
    ),
)
DESCRIPTION = "Segment every image of INPUT into exactly one row in OUTPUT."
KEYS = {
    "INPUT": "input.uri",
    **JOB_KEYS,
    "--size SIZE": "preprocess.size",
    "--score-threshold SCORE": "postprocess.score_threshold",
    "--device DEVICE": "compute.device",
    "--actors N": "compute.actors",
    "--retry ERRORS": "run.retry",
}


def add_arguments(parser: Parser) -> None:
    """Add INPUT, OUTPUT, the flags and the config."""
    add_keys(parser, SegmentConfig, KEYS)
    text = "print the plan and, from a few images, what it would take; write nothing"
    parser.add_argument("--dry-run", action="store_true", help=text)
    add_config(parser, SegmentConfig)
    add_result(parser)


def run(options: argparse.Namespace) -> int:
    """Run the job, and print its plan, its progress and its end."""
    config = config_of(SegmentConfig, options, KEYS)
    from m2f_batch.flow.dry_run import forecast_lines
    from m2f_batch.flow.job import forecast, segment

    events = Events(config.run.log, show=print_line)
    if options.dry_run:
        for line in forecast_lines(forecast(config, events=events)):
            events.say(line, "dry_run")
        return 0
    outcome = segment(config, events=events, report=tell_outcome)
    tell_outcome(outcome)
    say_error("segment", outcome.error)
    return outcome.exit_code


def job(options: argparse.Namespace) -> "Job":
    """Return what is submitted."""
    config = config_of(SegmentConfig, options, without_address(KEYS))
    from m2f_batch.submit.jobs import segment_job

    return segment_job(config, is_dry_run=options.dry_run)
