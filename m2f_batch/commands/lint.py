"""``m2f-batch lint DATASET`` finds the faults of annotated images that training would suffer from."""

import argparse
import sys
from collections.abc import Iterable

from m2f_batch.commands.shared.dataset import MASK_KEYS, READING_KEYS
from m2f_batch.commands.shared.json_file import json_writer
from m2f_batch.commands.shared.keys import add_keys, flags_of, typed_of, words_of
from m2f_batch.commands.shared.parser import Parser
from m2f_batch.config.finetune import FinetuneConfig, LintConfig
from m2f_batch.config.formats import read_formats
from m2f_batch.config.loading import load_config
from m2f_batch.errors import RunError, TransientError, UsageError, renamed
from m2f_batch.messages.terminal import is_quiet, say
from m2f_batch.models.family import new_queries
from m2f_batch.result import STDOUT

SUMMARY = "find what ruins training in annotated images: exit code 0 when there is none, 1 when there is"
EXAMPLES = (
    (
        "look through a COCO JSON before training",
        "m2f-batch lint train.json --images photos/",
    ),
    (
        "a YOLO data set with its validation, as JSON for a machine",
        "m2f-batch lint data.yaml --format yolo --val data.yaml --json findings.json",
    ),
)
KEYS = {
    "DATASET": "data.train",
    "--format F": "data.format",
    **READING_KEYS,
    "--val DATASET": "data.val",
    "--val-images DIR": "data.val_images",
    "--val-masks DIR": "data.val_masks",
    **MASK_KEYS,
    "--split SHARE": "data.split",
    "--split-seed N": "data.split_seed",
    "--stratify": "data.stratify",
    "--group-by GROUP": "data.group_by",
}


def add_arguments(parser: Parser) -> None:
    """Add DATASET, the keys of the data section, and what counts as a fault."""
    add_keys(parser, FinetuneConfig, KEYS)
    text = f"how many queries the model has, and so objects it can find in an image [{new_queries()}]"
    parser.add_argument("--queries", metavar="N", type=int, help=text)
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="config of a finetune, whose data is looked at; flags win over it"
    )
    parser.add_argument("--ignore", metavar="KIND,...", help="kinds of findings that leave the exit code 0")
    parser.add_argument("--json", metavar="FILE", help="write all that was found to FILE as JSON, - for stdout")


def run(options: argparse.Namespace) -> int:
    """Print what was found."""
    flags = flags_of(options, KEYS) | {"output.uri": "-"}
    config = load_config(LintConfig, file=options.config, flags=flags, typed=typed_of(KEYS))
    from m2f_batch.datasets.lint.command import Tally, document_of, finding_lines, lint
    from m2f_batch.datasets.lint.kinds import ignored_kinds
    from m2f_batch.datasets.lint.warnings import check_queries

    ignored = ignored_kinds(options.ignore or "")
    check_queries(options.queries)
    read = [config.data.train, config.data.val, config.data.train_masks, config.data.val_masks]
    read += [config.data.train_images, config.data.val_images]
    write = json_writer(options.json, ("data", "faults", "findings"), read=read, indent=1, to_ascii=False)
    tally, out = Tally(), sys.stderr if options.json == STDOUT else None
    try:
        linted = lint(config, options.queries, tally)
    except (UsageError, RunError, TransientError, KeyboardInterrupt) as error:
        # what ends the command hides nothing that was found before
        say(*in_flags(finding_lines(tally, ignored, only_faults=is_quiet())), file=out, is_error=True)
        if isinstance(error, UsageError):
            raise error.in_words(_flags()).with_field(error.field) from error
        raise
    is_faulty = bool(tally.faults(ignored))
    say(*in_flags(linted.lines(ignored, only_faults=is_quiet())), file=out, is_error=is_faulty)
    if options.json is not None:
        write(document_of(config, linted, ignored))
    return 1 if is_faulty else 0


def in_flags(lines: Iterable[str]) -> list[str]:
    """Return what was found with the flags of keys, which win over those of a config."""
    return [renamed(line, _flags()) for line in lines]


def _flags() -> dict[str, str]:
    formats = {f"data.format={form}": f"--format {form}" for form in read_formats()}
    values = {"data.crowd_as_object: true": "--crowd-as-object", "data.group_by: folder": "--group-by folder"}
    return {**words_of(KEYS), **values, **formats}
