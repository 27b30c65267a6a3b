"""``m2f-batch finetune DATASET OUTPUT`` trains a model on annotated images."""

import argparse
from typing import TYPE_CHECKING

from m2f_batch.commands.shared.keys import JOB_KEYS, add_config, add_keys, add_result, config_of, without_address
from m2f_batch.commands.shared.parser import Parser
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.formats import read_formats
from m2f_batch.errors import UsageError
from m2f_batch.messages.terminal import say
from m2f_batch.result import is_wanted, tell_outcome

if TYPE_CHECKING:
    from m2f_batch.submit.jobs import Job

SUMMARY = "train a model on annotated images"
EXAMPLES = (
    (
        "tune a published model on your own COCO JSON for 1000 steps",
        "m2f-batch finetune train.json tuned/ --model facebook/mask2former-swin-tiny-coco-instance "
        "--set train.steps=1000",
    ),
    (
        "train on two workers with a part of the images kept for validation",
        "m2f-batch finetune train.json tuned/ --model M --set train.epochs=10 "
        "--set data.split=0.9 --set train.workers=2",
    ),
)
DESCRIPTION = "Train on DATASET and leave the tuned model, a Hugging Face directory, in OUTPUT."
KEYS = {"DATASET": "data.train", **JOB_KEYS}


def add_arguments(parser: Parser) -> None:
    """Add DATASET, OUTPUT, the flags and the config."""
    add_keys(parser, FinetuneConfig, KEYS)
    add_config(parser, FinetuneConfig)
    add_result(parser)


def run(options: argparse.Namespace) -> int:
    """Run the job, and print its plan, its progress and its end."""
    config = config_of(FinetuneConfig, options, KEYS)
    from m2f_batch.train.command import finetune

    # a report reads storage, which may stall and hold up a stop once more
    try:
        outcome = finetune(config, say=say, report=tell_outcome if is_wanted() else None)
    except UsageError as error:  # of annotations of another format, which is no flag here
        names = {f"data.format={form}": f"--set data.format={form}" for form in read_formats()}
        raise error.in_words(names) from error
    tell_outcome(outcome)
    return outcome.exit_code


def job(options: argparse.Namespace) -> "Job":
    """Return what is submitted."""
    config = config_of(FinetuneConfig, options, without_address(KEYS))
    from m2f_batch.submit.jobs import finetune_job

    return finetune_job(config)
