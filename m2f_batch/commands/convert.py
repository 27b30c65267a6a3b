"""``m2f-batch convert SRC DEST`` writes annotated images of one format in another."""

import argparse

from m2f_batch.commands.shared.completion import offers
from m2f_batch.commands.shared.dataset import MASK_KEYS, READING_KEYS, reading_of
from m2f_batch.commands.shared.keys import add_keys
from m2f_batch.commands.shared.parser import Parser
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.formats import read_formats
from m2f_batch.datasets.format import dataset_targets
from m2f_batch.messages.terminal import say
from m2f_batch.models.family import new_queries

SUMMARY = "write annotated images of any format as COCO or YOLO, whole or split into train and val"
EXAMPLES = (
    (
        "YOLO labels as one COCO JSON",
        "m2f-batch convert data.yaml coco/ --from yolo --to coco",
    ),
    (
        "a COCO JSON as YOLO, split for training, with images of one folder kept together",
        "m2f-batch convert labels.json yolo/ --images photos/ --from coco --to yolo --split 0.8 --group-by folder",
    ),
)


def add_arguments(parser: Parser) -> None:
    """Add SRC, DEST, both formats, and how images are split and left out."""
    parser.add_argument(
        "source", metavar="SRC", help="the annotations: a JSON, a data.yaml or a folder, as --from says"
    )
    parser.add_argument("dest", metavar="DEST", help="folder to write; for COCO without --split also the JSON itself")
    text = f"format of SRC: {', '.join(read_formats())}"
    offers(parser.add_argument("--from", metavar="F", dest="form", required=True, help=text), read_formats)
    text = f"format of DEST: {' or '.join(dataset_targets())}"
    offers(parser.add_argument("--to", metavar="T", required=True, help=text), dataset_targets)
    add_keys(parser, FinetuneConfig, {**READING_KEYS, **MASK_KEYS}, has_config=False)
    parser.add_argument(
        "--part", metavar="NAME", default="train", help="which part of a data.yaml is read [%(default)s]"
    )
    parser.add_argument("--split", metavar="SHARE", type=float, help="share of the images to train on, such as 0.8")
    parser.add_argument(
        "--seed", metavar="N", type=int, help="a number that decides which images are in which split [0]"
    )
    parser.add_argument("--stratify", action="store_true", help="keep the share of every class in both splits")
    text = (
        "images that stay in one split: those of a folder (folder), of one text in their uri (pattern:REGEX with one "
    )
    text += "group), or of one value in the table of --groups (column:NAME)"
    parser.add_argument("--group-by", metavar="GROUP", help=text)
    text = "table with the columns uri or file_name, and that of --group-by"
    parser.add_argument("--groups", metavar="FILE", help=text)
    text = "leave out each image that lint finds a fault with, and list them beside DEST, in left-out.csv"
    parser.add_argument("--drop-faulty", action="store_true", help=text)
    text = (
        f"with --drop-faulty: how many queries the model has, and so objects it can find in an image [{new_queries()}]"
    )
    parser.add_argument("--queries", metavar="N", type=int, help=text)
    text = "with --drop-faulty: kinds of findings that are no fault, as of lint"
    parser.add_argument("--ignore", metavar="KIND,...", help=text)


def run(options: argparse.Namespace) -> int:
    """Write DEST and say what is in each split."""
    from m2f_batch.datasets.convert import SplitOptions, convert
    from m2f_batch.datasets.lint.faultless import dropping_of

    done = convert(
        options.source,
        options.dest,
        options.form,
        options.to,
        **reading_of(options),
        split=SplitOptions(options.split, options.seed, options.stratify, options.group_by, options.groups),
        dropping=dropping_of(options.drop_faulty, options.queries, options.ignore),
    )
    say(*done.lines)
    return 0
