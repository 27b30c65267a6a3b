"""``m2f-batch demo [DIR]`` runs the segment job on bundled scenes with the bundled model."""

import argparse
from typing import get_args

from m2f_batch.config.segment import Task
from m2f_batch.messages.events import Events, print_line
from m2f_batch.messages.terminal import say

SUMMARY = "segment bundled scenes with the bundled model, offline, and draw a contact sheet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add DIR and the task."""
    parser.add_argument("directory", metavar="DIR", nargs="?", default="demo-run", help="run directory [%(default)s]")
    parser.add_argument("--task", choices=get_args(Task), default="panoptic", help="what to find [%(default)s]")


def run(options: argparse.Namespace) -> int:
    """Run the job and draw the sheet."""
    from m2f_batch.demo.command import demo

    done = demo(options.directory, options.task, Events(show=print_line))
    say(f"        {done.sheet}")
    return done.exit_code
