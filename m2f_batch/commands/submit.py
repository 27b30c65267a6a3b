"""``m2f-batch submit JOB`` sends a job to a Ray cluster and follows it from here."""

import argparse
import re
import sys

from m2f_batch.commands.shared.keys import add_result
from m2f_batch.commands.shared.parser import Example, Parser
from m2f_batch.commands.shared.registry import JobCommand, add_command, add_quiet, find_commands
from m2f_batch.messages.terminal import is_quiet, printable
from m2f_batch.result import tell_outcome

SUMMARY = "send a job to a Ray cluster, follow its log, and end with its exit code"
EXAMPLES = (
    (
        "label a bucket on a cluster, and follow it from here",
        "m2f-batch submit segment s3://bucket/photos/ s3://bucket/labels --model M --address http://head:8265",
    ),
    (
        "look at a job that was submitted before",
        "m2f-batch submit follow labels-tonight --address http://head:8265",
    ),
)
DESCRIPTION = f"{SUMMARY[0].upper()}{SUMMARY[1:]}. Ctrl-C asks whether to stop it; 130 when it was stopped or left."
CLIENT = "m2f-batch-client"
HEAD = "http://head:8265"
FOLLOWING = (
    ("see what a job does that was submitted before", f"m2f-batch submit follow labels-tonight --address {HEAD}"),
    (
        "the same, with how it ends as JSON",
        f"m2f-batch submit follow labels-tonight --address {HEAD} --result e.json",
    ),
)
ADDRESS = "the cluster's Jobs API, http://HOST:8265 [RAY_API_SERVER_ADDRESS]"
ID = (
    "its id, which makes the same command safe to repeat: a job of this id that runs or is done is followed, one that "
    "was stopped or failed with neither 2 nor 3 goes on as ID-2, one of other settings is refused; a cluster that does "
    "not answer is asked again for 3 minutes"
)


def add_arguments(parser: Parser) -> None:
    """Add each command that can be a job, with its own arguments, and ``follow``."""
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    for name, command in find_commands().items():
        if not isinstance(command, JobCommand):
            continue
        job = add_command(jobs, name, command, conflicts="resolve")
        job.examples = [_submitted(each, job.prog) for each in job.examples]
        job.add_argument("--address", metavar="RAY", help=ADDRESS)  # in place of that of its own Ray
        if hasattr(command, "add_job_arguments"):
            command.add_job_arguments(job)
        job.add_argument("--no-wait", action="store_true", help="print its id, and do not follow it")
        job.add_argument("--submission-id", metavar="ID", help=ID)
    text = "follow a job that was submitted before, from the beginning of its log"
    follow = jobs.add_parser("follow", help=text, description=f"{text[0].upper()}{text[1:]}.")
    follow.examples = [Example(*each) for each in FOLLOWING]
    follow.add_argument("submission_id", metavar="ID", help="the id that submit has said")
    follow.add_argument("--address", metavar="RAY", help=ADDRESS)
    add_result(follow)
    add_quiet(follow)


def _submitted(example: Example, prog: str) -> Example:
    """Return an example of a command as one of the job: places in a bucket, because the cluster has other disks."""
    _, _, words = example.line.split(" ", 2)
    places = [f"s3://bucket/{word}" if re.fullmatch(r"[\w./-]+(/|\.json)", word) else word for word in words.split(" ")]
    return Example(example.meaning, f"{prog} {' '.join(places)} --address {HEAD}")


def run(options: argparse.Namespace) -> int:
    """Submit or follow the job, and print its log."""
    from m2f_batch.submit.command import follow_submitted, submit
    from m2f_batch.submit.following import Console
    from m2f_batch.submit.interrupts import what_to_do

    console, address, job_id = Console(_say, _write, what_to_do), options.address, options.submission_id
    if options.job == "follow":
        outcome = follow_submitted(job_id, address, console, report=tell_outcome)
    else:
        command = find_commands()[options.job]
        assert isinstance(command, JobCommand)
        job, is_followed = command.job(options), not options.no_wait
        outcome = submit(job, address, console, submission_id=job_id, is_followed=is_followed, report=tell_outcome)
        if not is_followed and outcome.submission_id:
            print(outcome.submission_id, flush=True)
    tell_outcome(outcome)
    return outcome.exit_code


def _write(text: str) -> None:
    """Write a part of the job's log to our standard output."""
    if is_quiet():
        return
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    print(printable(f"m2f-batch submit: {text}"), file=sys.stderr, flush=True)
