"""``m2f-batch demo [DIR]`` runs the segment job on bundled scenes with the bundled model."""

import argparse
from typing import get_args

from m2f_batch.commands.shared.parser import Parser
from m2f_batch.config.segment import Task
from m2f_batch.messages.events import Events, print_line
from m2f_batch.messages.terminal import say, say_error

SUMMARY = "segment bundled scenes with the bundled model, offline, and draw a contact sheet"
EXAMPLES = (
    (
        "label 24 scenes and draw them, without network",
        "m2f-batch demo",
    ),
    (
        "the same with the masks of single objects, in another directory",
        "m2f-batch demo instance-run --task instance",
    ),
)


def add_arguments(parser: Parser) -> None:
    """Add DIR and the task."""
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        default="demo-run",
        help="directory that takes the scenes and the run [%(default)s]",
    )
    text = f"what to find: {', '.join(get_args(Task))} [%(default)s]"
    parser.add_argument("--task", metavar="TASK", choices=get_args(Task), default="panoptic", help=text)


def run(options: argparse.Namespace) -> int:
    """Run the job and draw the sheet."""
    from m2f_batch.demo.command import demo

    done = demo(options.directory, options.task, Events(show=print_line))
    say(f"        {done.sheet}")
    say_error("demo", done.outcome.error)
    return done.outcome.exit_code
