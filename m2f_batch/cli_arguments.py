"""Every command's arguments, and nothing of what it does."""

import argparse
from typing import TYPE_CHECKING, NoReturn, get_args

from m2f_batch.config.data import DataFormat
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import fields_of
from m2f_batch.config.segment import Section, SegmentConfig, Task
from m2f_batch.result import VARIABLE, tell

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


class Parser(argparse.ArgumentParser):
    """One whose complaint stands in the result, too."""

    def error(self, message: str) -> NoReturn:
        """Complain and end with 2."""
        tell(error=message)
        super().error(message)


def new_parser() -> argparse.ArgumentParser:
    """The whole command line; the namespace's ``command`` names the command."""
    parser: argparse.ArgumentParser = Parser(
        prog="m2f-batch", description="Batch segmentation with Mask2Former on Ray: one correct row per image."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_segment(commands)
    _add_finetune(commands)
    _add_demo(commands)
    _add_export(commands)
    _add_evaluate(commands)
    _add_explain(commands)
    _add_convert(commands)
    _add_convert_checkpoint(commands)
    _add_lint(commands)
    _add_submit(commands)
    for name, text in (
        ("status", "what is done, what failed and why, what is left"),
        ("verify", "prove from storage alone that nothing is lost or doubled"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_segment(commands: "Commands", address: str = "compute.address") -> None:
    command = commands.add_parser(
        "segment",
        help="segment images into one row each",
        description="Segment every image of INPUT into exactly one row in OUTPUT.",
        epilog="config keys:\n" + _key_table(SegmentConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("input", metavar="INPUT", nargs="?", help="input.uri")
    _add_job(command, "model.uri", address)
    command.add_argument("--retry", metavar="ERRORS", help="run.retry")
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan and, from a few images, what it would take; write nothing",
    )


def _add_finetune(commands: "Commands", address: str = "compute.address") -> None:
    command = commands.add_parser(
        "finetune",
        help="train a model on annotated images",
        description="Train on DATASET and leave the tuned model, a Hugging Face directory, in OUTPUT.",
        epilog="config keys:\n" + _key_table(FinetuneConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("dataset", metavar="DATASET", nargs="?", help="data.train")
    _add_job(command, "model.uri; a new model if not given", address)


def _add_job(command: argparse.ArgumentParser, model: str, address: str) -> None:
    """What both jobs take beside their input."""
    command.add_argument("output", metavar="OUTPUT", nargs="?", help="output.uri")
    command.add_argument("--model", metavar="M", help=model)
    command.add_argument("--task", metavar="TASK", help="model.task: instance, semantic or panoptic")
    command.add_argument("--address", metavar="RAY", help=address)
    command.add_argument("--overwrite", action="store_true", default=None, help="output.overwrite")
    command.add_argument("--config", metavar="FILE.yaml", help="config file; flags and --set win over it")
    command.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one config key (repeatable)")
    _add_result(command)


def _add_result(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--result",
        metavar="FILE",
        help="write totals, OUTPUT, run_id and exit code there as JSON, whatever the end; a file of this machine such "
        f"as /dev/termination-log, or - for the last line of stdout [{VARIABLE}]",
    )


def _key_table(config: type[Section]) -> str:
    lines = []
    for key, field in fields_of(config):
        default = "" if field.is_required() or field.default is None else f" [{field.default}]"
        lines.append(f"  {key:28} {field.description}{default}")
    return "\n".join(lines).replace("%", "%%")


def _add_demo(commands: "Commands") -> None:
    text = "segment bundled scenes with the bundled model, offline, and draw a contact sheet"
    command = commands.add_parser("demo", help=text, description=text)
    command.add_argument("directory", metavar="DIR", nargs="?", default="demo-run", help="run directory [demo-run]")
    command.add_argument("--task", choices=get_args(Task), default="panoptic", help="what to find [panoptic]")


def _add_export(commands: "Commands") -> None:
    text = "write a run's rows in another format"
    command = commands.add_parser("export", help=text, description=text)
    command.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    command.add_argument("dest", metavar="DEST", help="file to write")
    command.add_argument("--format", metavar="F", default="coco", help="coco or coco-results [coco]")
    command.add_argument("--ground-truth", metavar="FILE", help="COCO JSON whose image and category ids to take")


def _add_of_masks(command: argparse.ArgumentParser) -> None:
    """How mask PNGs are found and what their values are called."""
    command.add_argument("--names", metavar="FILE|NAMES", help="data.names: a file, or e.g. '[road, car]'")
    command.add_argument("--mask-suffix", metavar="TEXT", help="data.mask_suffix, e.g. _mask")
    command.add_argument(
        "--palette", metavar="FILE|COLORS", help="data.palette: a file, or e.g. '{road: [9, 64, 128]}'"
    )


def _add_evaluate(commands: "Commands") -> None:
    text = "measure a run's rows against annotated images: mask AP, PQ, mIoU, Dice, boundary IoU, by class"
    command = commands.add_parser("evaluate", help=text, description=text)
    command.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    command.add_argument(
        "--ground-truth",
        metavar="FILE|DIR",
        required=True,
        help="COCO JSON, COCO panoptic JSON, data.yaml of YOLO, folder of labelme JSONs or of class PNGs",
    )
    command.add_argument("--format", metavar="F", help="a data.format of finetune; found out if not given")
    command.add_argument("--images", metavar="DIR", help="folder of the annotated images, as data.val_images")
    command.add_argument("--masks", metavar="DIR", help="folder of PNGs, as data.val_masks")
    command.add_argument("--ignore-index", metavar="N", type=int, help="data.ignore_index")
    command.add_argument("--do-reduce-labels", action="store_true", help="data.do_reduce_labels")
    command.add_argument("--crowd-as-object", action="store_true", help="data.crowd_as_object")
    _add_of_masks(command)
    command.add_argument("--max-pixels", metavar="N", type=int, help="data.max_pixels: of one image or mask")
    command.add_argument("--part", metavar="NAME", default="val", help="which part of a data.yaml [val]")
    command.add_argument(
        "--metrics", metavar="M,...", help="some of ap, pq, miou, dice, boundary-iou [those of the run's task]"
    )
    command.add_argument("--json", metavar="FILE", help="write all figures there, - for stdout")
    command.add_argument("--partial", action="store_true", help="measure a run that is not finished")
    _add_result(command)


def _add_explain(commands: "Commands") -> None:
    text = "re-run one image of a run and write every picture and number on the way to its row"
    command = commands.add_parser("explain", help=text, description=text)
    command.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    command.add_argument("uri", metavar="URI", help="the image, as rows spell it, or relative to here or to INPUT")
    command.add_argument("dest", metavar="DEST", nargs="?", help="directory to write [explain-NAME]")


def _add_convert(commands: "Commands") -> None:
    text = "write annotated images of any format as COCO or YOLO, whole or split into train and val"
    command = commands.add_parser("convert", help=text, description=text)
    command.add_argument("source", metavar="SRC", help="the annotations: data.train of the format")
    command.add_argument("dest", metavar="DEST", help="folder to write; of COCO without --split also the JSON itself")
    command.add_argument("--from", metavar="F", dest="form", required=True, help=f"{', '.join(get_args(DataFormat))}")
    command.add_argument("--to", metavar="T", required=True, help="coco or yolo")
    command.add_argument("--images", metavar="DIR", help="folder of the images, as data.train_images")
    command.add_argument("--masks", metavar="DIR", help="folder of the mask PNGs, as data.train_masks")
    command.add_argument("--part", metavar="NAME", default="train", help="which part of a data.yaml [train]")
    command.add_argument("--ignore-index", metavar="N", type=int, help="data.ignore_index, a value of mask PNGs")
    command.add_argument("--do-reduce-labels", action="store_true", help="data.do_reduce_labels of semantic PNGs")
    command.add_argument("--crowd-as-object", action="store_true", help="data.crowd_as_object of COCO")
    _add_of_masks(command)
    command.add_argument("--max-pixels", metavar="N", type=int, help="data.max_pixels: of one image or mask")
    command.add_argument("--split", metavar="SHARE", type=float, help="share of the images to train on, e.g. 0.8")
    command.add_argument("--seed", metavar="N", type=int, help="which images are on which side [0]")
    command.add_argument("--stratify", action="store_true", help="keep the share of every class on both sides")
    command.add_argument(
        "--group-by",
        metavar="GROUP",
        help="what stays on one side: folder, pattern:REGEX with one group (searched in the uri), or column:NAME",
    )
    command.add_argument(
        "--groups", metavar="FILE", help="table with 'uri' or 'file_name' and the column of --group-by"
    )
    command.add_argument(
        "--drop-faulty",
        action="store_true",
        help="leave out each image that lint finds a fault with, and list them beside DEST, in left-out.csv",
    )
    command.add_argument("--queries", metavar="N", type=int, help="with --drop-faulty: queries of the model [100]")
    command.add_argument("--ignore", metavar="KIND,...", help="with --drop-faulty: kinds that are no fault, as of lint")


def _add_convert_checkpoint(commands: "Commands") -> None:
    text = "write a model whose weights are pickled (pytorch_model.bin) as safetensors, which segment reads"
    command = commands.add_parser(
        "convert-checkpoint",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. They are read in a process without network, keys and memory without "
        "end, where nothing but tensors is taken, and no service is asked.",
    )
    command.add_argument("source", metavar="SRC", help="Hugging Face directory, hub id (id@revision), or bucket URI")
    command.add_argument("dest", metavar="DEST", help="directory or bucket URI to write, new or empty")


def _add_lint(commands: "Commands") -> None:
    text = "find what ruins training in annotated images: exit code 0 when there is none, 1 when there is"
    command = commands.add_parser("lint", help=text, description=text)
    command.add_argument("dataset", metavar="DATASET", nargs="?", help="data.train")
    command.add_argument("--format", metavar="F", help=f"data.format: {', '.join(get_args(DataFormat))} [coco]")
    command.add_argument("--images", metavar="DIR", help="data.train_images")
    command.add_argument("--masks", metavar="DIR", help="data.train_masks")
    command.add_argument("--val", metavar="DATASET", help="data.val")
    command.add_argument("--val-images", metavar="DIR", help="data.val_images")
    command.add_argument("--val-masks", metavar="DIR", help="data.val_masks")
    command.add_argument("--ignore-index", metavar="N", type=int, help="data.ignore_index")
    command.add_argument("--do-reduce-labels", action="store_true", default=None, help="data.do_reduce_labels")
    command.add_argument("--crowd-as-object", action="store_true", default=None, help="data.crowd_as_object")
    _add_of_masks(command)
    command.add_argument("--max-pixels", metavar="N", type=int, help="data.max_pixels: of one image or mask")
    command.add_argument("--split", metavar="SHARE", type=float, help="data.split")
    command.add_argument("--split-seed", metavar="N", type=int, help="data.split_seed")
    command.add_argument("--stratify", action="store_true", default=None, help="data.stratify")
    command.add_argument("--group-by", metavar="GROUP", help="data.group_by: folder, or pattern:REGEX with one group")
    command.add_argument(
        "--queries", metavar="N", type=int, help="queries of the model [model.config.num_queries: 100]"
    )
    command.add_argument("--config", metavar="FILE.yaml", help="config of finetune; flags win over it")
    command.add_argument("--ignore", metavar="KIND,...", default="", help="kinds that leave the exit code 0")
    command.add_argument("--json", metavar="FILE", help="write all that was found there, - for stdout")


def _add_submit(commands: "Commands") -> None:
    text = "send a job to a Ray cluster, follow its log, and end with its exit code"
    command = commands.add_parser(
        "submit",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Ctrl-C asks whether to stop it; 130 when it was stopped or left.",
    )
    jobs = command.add_subparsers(dest="job", required=True, metavar="JOB")
    address = "the cluster's Jobs API, http://HOST:8265 [RAY_API_SERVER_ADDRESS]"
    _add_segment(jobs, address)
    _add_finetune(jobs, address)
    _add_evaluate(jobs)
    evaluate = jobs.choices["evaluate"]
    evaluate.add_argument("--address", metavar="RAY", help=address)
    evaluate.add_argument(
        "--allow-no-token", action="store_true", help="as compute.allow_no_token of the jobs that have a config"
    )
    for job in jobs.choices.values():
        job.add_argument("--no-wait", action="store_true", help="print its id, and do not follow it")
        job.add_argument(
            "--submission-id",
            metavar="ID",
            help="its id, which makes the same command safe to repeat: a job of this id that runs or is done is "
            "followed, one that was stopped or failed with neither 2 nor 3 goes on as ID-2, one of other settings is "
            "refused; a cluster that does not answer is asked again for 3 minutes",
        )
    text = "follow a job that was submitted before, from the beginning of its log"
    follow = jobs.add_parser("follow", help=text, description=text)
    follow.add_argument("submission_id", metavar="ID", help="what submit has said")
    follow.add_argument("--address", metavar="RAY", help=address)
    _add_result(follow)
