"""``m2f-batch status RUN`` says how far a run is."""

import argparse

from m2f_batch.messages.terminal import say, say_json

SUMMARY = "what is done, what failed and why, what is left"
CLIENT = "m2f-batch-client[status]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RUN."""
    parser.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the state of a run that exists."""
    from m2f_batch.runs.inspect.status import read_status, status_lines

    state = read_status(options.run_uri)
    if options.json:
        say_json(state)
    else:
        say(*status_lines(state))
    return 0
