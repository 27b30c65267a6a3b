"""``m2f-batch verify RUN`` proves that a run holds what it should, or says what is wrong."""

import argparse

from m2f_batch.commands.shared.parser import Parser
from m2f_batch.messages.terminal import say, say_json

SUMMARY = "prove from storage alone that nothing is lost or doubled"
EXAMPLES = (
    (
        "prove that a run is whole",
        "m2f-batch verify labels/",
    ),
    (
        "the same for a script: the exit code is 0 or 1",
        "m2f-batch verify s3://bucket/labels --quiet",
    ),
)


def add_arguments(parser: Parser) -> None:
    """Add RUN."""
    parser.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of lines")


def run(options: argparse.Namespace) -> int:
    """Print the problems that a run has."""
    from m2f_batch.runs.inspect.verify import verified_lines, verify_run

    found = verify_run(options.run_uri)
    if options.json:
        say_json(found)
    else:
        say(*verified_lines(found), is_error=bool(found["problems"]))
    return 1 if found["problems"] else 0
