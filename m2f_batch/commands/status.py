"""``m2f-batch status RUN`` says how far a run is."""

import argparse

from m2f_batch.commands.shared.parser import Parser
from m2f_batch.messages.terminal import say, say_json

SUMMARY = "show what is done, what failed and why, what is left"
EXAMPLES = (
    (
        "how far a run is, from any machine",
        "m2f-batch status labels/",
    ),
    (
        "the same for a script",
        "m2f-batch status s3://bucket/labels --json",
    ),
)
CLIENT = "m2f-batch-client[status]"


def add_arguments(parser: Parser) -> None:
    """Add RUN."""
    parser.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of lines")


def run(options: argparse.Namespace) -> int:
    """Print the state of a run that exists."""
    from m2f_batch.runs.inspect.status import read_status, status_lines

    state = read_status(options.run_uri)
    if options.json:
        say_json(state)
    else:
        say(*status_lines(state))
    return 0
