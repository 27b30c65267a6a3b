"""The command line: parse, load the config, call one function, answer with its exit code."""

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn, get_args

from m2f_batch.config import SegmentConfig, Task
from m2f_batch.config_loading import fields_of, load_config
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.finetune_config import DataFormat

STOPPED = 130
SEGMENT_FLAGS = {
    "input": "input.uri",
    "output": "output.uri",
    "model": "model.uri",
    "task": "model.task",
    "address": "compute.address",
    "overwrite": "output.overwrite",
    "retry": "run.retry",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one message and exit code 2, never a traceback."""
    signal.signal(signal.SIGTERM, _stop)
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (UsageError, RunError) as error:
        print(f"m2f-batch {options.command}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except TransientError as error:
        print(f"m2f-batch {options.command}: {error}; try again later", file=sys.stderr, flush=True)
        return RunError.exit_code
    except KeyboardInterrupt:
        print(f"m2f-batch {options.command}: stopped; what was committed is kept", file=sys.stderr, flush=True)
        return STOPPED


def evaluate_main(arguments: Sequence[str] | None = None) -> int:
    """``jobs/evaluate.py``: the evaluate command by itself."""
    return main(["evaluate", *(sys.argv[1:] if arguments is None else arguments)])


def segment_main(arguments: Sequence[str] | None = None) -> int:
    """``jobs/segment.py``: the segment command by itself."""
    return main(["segment", *(sys.argv[1:] if arguments is None else arguments)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="m2f-batch", description="Batch segmentation with Mask2Former on Ray: one correct row per image."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_segment(commands)
    _add_demo(commands)
    _add_export(commands)
    _add_evaluate(commands)
    _add_explain(commands)
    _add_convert(commands)
    for name, run, text in (
        ("status", _status, "what is done, what failed and why, what is left"),
        ("verify", _verify, "prove from storage alone that nothing is lost or doubled"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
        command.set_defaults(run=run)
    return parser


def _add_segment(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "segment",
        help="segment images into one row each",
        description="Segment every image of INPUT into exactly one row in OUTPUT.",
        epilog="config keys:\n" + _key_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("input", metavar="INPUT", nargs="?", help="input.uri")
    command.add_argument("output", metavar="OUTPUT", nargs="?", help="output.uri")
    command.add_argument("--model", metavar="M", help="model.uri")
    command.add_argument("--task", metavar="TASK", help="model.task: instance, semantic or panoptic")
    command.add_argument("--address", metavar="RAY", help="compute.address")
    command.add_argument("--overwrite", action="store_true", default=None, help="output.overwrite")
    command.add_argument("--retry", metavar="ERRORS", help="run.retry")
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan and, from a few images, what it would take; write nothing",
    )
    command.add_argument("--config", metavar="FILE.yaml", help="config file; flags and --set win over it")
    command.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one config key (repeatable)")
    command.set_defaults(run=_segment)


def _key_table() -> str:
    lines = []
    for key, field in fields_of(SegmentConfig):
        default = "" if field.is_required() or field.default is None else f" [{field.default}]"
        lines.append(f"  {key:28} {field.description}{default}")
    return "\n".join(lines).replace("%", "%%")


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "segment bundled scenes with the bundled model, offline, and draw a contact sheet"
    command = commands.add_parser("demo", help=text, description=text)
    command.add_argument("directory", metavar="DIR", nargs="?", default="demo-run", help="run directory [demo-run]")
    command.add_argument("--task", choices=get_args(Task), default="panoptic", help="what to find [panoptic]")
    command.set_defaults(run=_demo)


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "write a run's rows in another format"
    command = commands.add_parser("export", help=text, description=text)
    command.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    command.add_argument("dest", metavar="DEST", help="file to write")
    command.add_argument("--format", metavar="F", required=True, help="coco or coco-results")
    command.add_argument("--ground-truth", metavar="FILE", help="COCO JSON whose image and category ids to take")
    command.set_defaults(run=_export)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    command.add_argument("--part", metavar="NAME", default="val", help="which part of a data.yaml [val]")
    command.add_argument(
        "--metrics", metavar="M,...", help="some of ap, pq, miou, dice, boundary-iou [those of the run's task]"
    )
    command.add_argument("--json", metavar="FILE", help="write all figures there")
    command.add_argument("--partial", action="store_true", help="measure a run that is not finished")
    command.set_defaults(run=_evaluate)


def _add_explain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "re-run one image of a run and write every picture and number on the way to its row"
    command = commands.add_parser("explain", help=text, description=text)
    command.add_argument("run_uri", metavar="RUN", help="the OUTPUT of a run")
    command.add_argument("uri", metavar="URI", help="the image, as rows spell it, or relative to here or to INPUT")
    command.add_argument("dest", metavar="DEST", nargs="?", help="directory to write [explain-NAME]")
    command.set_defaults(run=_explain)


def _add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    command.set_defaults(run=_convert)


def _segment(options: argparse.Namespace) -> int:
    flags = {key: getattr(options, name) for name, key in SEGMENT_FLAGS.items()}
    config = load_config(SegmentConfig, file=options.config, overrides=options.set, flags=flags)
    from m2f_batch.flow.job import segment

    return segment(config, is_dry_run=options.dry_run)


def _demo(options: argparse.Namespace) -> int:
    from m2f_batch.demo.command import demo

    return demo(options.directory, options.task)


def _export(options: argparse.Namespace) -> int:
    from m2f_batch.export.command import export

    return export(options.run_uri, options.dest, options.format, options.ground_truth)


def _evaluate(options: argparse.Namespace) -> int:
    from m2f_batch.evaluation.command import evaluate
    from m2f_batch.evaluation.ground_truth import GroundTruth

    truth = GroundTruth(
        uri=options.ground_truth,
        form=options.format,
        images=options.images,
        masks=options.masks,
        ignore_index=options.ignore_index,
        do_reduce_labels=options.do_reduce_labels,
        part=options.part,
    )
    metrics = [name.strip() for name in options.metrics.split(",")] if options.metrics else None
    return evaluate(options.run_uri, truth, metrics=metrics, json_file=options.json, is_partial=options.partial)


def _explain(options: argparse.Namespace) -> int:
    from m2f_batch.explain.command import explain

    return explain(options.run_uri, options.uri, options.dest)


def _convert(options: argparse.Namespace) -> int:
    from m2f_batch.datasets.convert import SplitOptions, convert

    return convert(
        options.source,
        options.dest,
        options.form,
        options.to,
        images=options.images,
        masks=options.masks,
        ignore_index=options.ignore_index,
        do_reduce_labels=options.do_reduce_labels,
        part=options.part,
        split=SplitOptions(options.split, options.seed, options.stratify, options.group_by, options.groups),
    )


def _status(options: argparse.Namespace) -> int:
    from m2f_batch.status import status

    return status(options.run_uri)


def _verify(options: argparse.Namespace) -> int:
    from m2f_batch.verify import verify_command

    return verify_command(options.run_uri)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
