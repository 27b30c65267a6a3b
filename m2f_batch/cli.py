"""The command line: parse, load the config, call one function, answer with its exit code."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import NoReturn

from m2f_batch.cli_arguments import new_parser
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.installed import check_installation, what_to_install
from m2f_batch.messages.masking import redact
from m2f_batch.messages.terminal import printable
from m2f_batch.processes import let_threads_sleep
from m2f_batch.result import Result, tell

STOPPED = 130
FINETUNE_FLAGS = {
    "dataset": "data.train",
    "output": "output.uri",
    "model": "model.uri",
    "task": "model.task",
    "address": "compute.address",
    "overwrite": "output.overwrite",
}
LINT_FLAGS = {
    "dataset": "data.train",
    "format": "data.format",
    "images": "data.train_images",
    "masks": "data.train_masks",
    "val": "data.val",
    "val_images": "data.val_images",
    "val_masks": "data.val_masks",
    "ignore_index": "data.ignore_index",
    "do_reduce_labels": "data.do_reduce_labels",
    "crowd_as_object": "data.crowd_as_object",
    "names": "data.names",
    "mask_suffix": "data.mask_suffix",
    "palette": "data.palette",
    "max_pixels": "data.max_pixels",
    "split": "data.split",
    "split_seed": "data.split_seed",
    "stratify": "data.stratify",
    "group_by": "data.group_by",
}
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
    let_threads_sleep()
    signal.signal(signal.SIGTERM, _stop)
    sys.excepthook = _on_bug
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    result = Result(given)
    try:
        code = _run(given, result)
    except BaseException as error:  # argparse's, or a bug
        status = error.code if isinstance(error, SystemExit) else None
        _end(result, status if isinstance(status, int) else RunError.exit_code)
        raise
    _end(result, code)
    return code


def _run(arguments: list[str], result: Result) -> int:
    options = new_parser().parse_args(arguments)
    try:
        result.begin(getattr(options, "result", None))
        if doubt := check_installation():
            _say(options, doubt)
        return RUN[options.command](options)
    except (UsageError, RunError) as error:
        _complain(options, str(error))
        return error.exit_code
    except TransientError as error:
        _complain(options, f"{error}; try again later")
        return RunError.exit_code
    except ModuleNotFoundError as error:
        if (text := what_to_install(options.command, error)) is None:
            raise
        _complain(options, text)
        return UsageError.exit_code
    except BrokenPipeError:  # whoever read our output has gone away, as ``| head`` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return RunError.exit_code
    except KeyboardInterrupt:
        tell(error="stopped; what was committed is kept")
        print(f"m2f-batch {options.command}: stopped; what was committed is kept", file=sys.stderr, flush=True)
        return STOPPED


def _end(result: Result, code: int) -> None:
    try:
        result.end(code)
    except OSError as error:
        print(f"m2f-batch: --result: cannot be written ({error.strerror})", file=sys.stderr, flush=True)


def _complain(options: argparse.Namespace, text: str) -> None:
    tell(error=text)
    _say(options, text)


def _say(options: argparse.Namespace, text: str) -> None:
    print(f"m2f-batch {options.command}: {printable(text)}", file=sys.stderr, flush=True)


def _on_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback, without keys that may stand in its last line."""
    print(redact("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, flush=True)


def evaluate_main(arguments: Sequence[str] | None = None) -> int:
    """``jobs/evaluate.py``: the evaluate command by itself."""
    return main(["evaluate", *(sys.argv[1:] if arguments is None else arguments)])


def finetune_main(arguments: Sequence[str] | None = None) -> int:
    """``jobs/finetune.py``: the finetune command by itself."""
    return main(["finetune", *(sys.argv[1:] if arguments is None else arguments)])


def segment_main(arguments: Sequence[str] | None = None) -> int:
    """``jobs/segment.py``: the segment command by itself."""
    return main(["segment", *(sys.argv[1:] if arguments is None else arguments)])


def _segment(options: argparse.Namespace) -> int:
    config = _segment_config(options, SEGMENT_FLAGS)
    from m2f_batch.flow.job import segment

    return segment(config, is_dry_run=options.dry_run)


def _segment_config(options: argparse.Namespace, names: dict[str, str]) -> SegmentConfig:
    flags = {key: getattr(options, name) for name, key in names.items()}
    tell(output=options.output)
    config = load_config(SegmentConfig, file=options.config, overrides=options.set, flags=flags)
    tell(output=config.output.uri)
    return config


def _finetune(options: argparse.Namespace) -> int:
    config = _finetune_config(options, FINETUNE_FLAGS)
    from m2f_batch.train.command import finetune

    return finetune(config)


def _finetune_config(options: argparse.Namespace, names: dict[str, str]) -> FinetuneConfig:
    flags = {key: getattr(options, name) for name, key in names.items()}
    tell(output=options.output)
    config = load_config(FinetuneConfig, file=options.config, overrides=options.set, flags=flags)
    tell(output=config.output.uri)
    return config


def _submit(options: argparse.Namespace) -> int:
    from m2f_batch.submit.command import follow_submitted, submit
    from m2f_batch.submit.jobs import EVALUATE_OPTIONS, evaluate_job, finetune_job, segment_job

    if options.job == "follow":
        return follow_submitted(options.submission_id, options.address)
    if options.job == "evaluate":
        tell(output=options.run_uri)
        given = {name: getattr(options, name.strip("-").replace("-", "_")) for name in EVALUATE_OPTIONS}
        job = evaluate_job(options.run_uri, given, allow_no_token=options.allow_no_token)
    elif options.job == "finetune":
        job = finetune_job(_finetune_config(options, _without_address(FINETUNE_FLAGS)))
    else:
        config = _segment_config(options, _without_address(SEGMENT_FLAGS))
        job = segment_job(config, is_dry_run=options.dry_run)
    return submit(job, options.address, submission_id=options.submission_id, is_followed=not options.no_wait)


def _without_address(names: dict[str, str]) -> dict[str, str]:
    """The flags of a job that is submitted: its --address is the cluster's Jobs API."""
    return {name: key for name, key in names.items() if name != "address"}


def _demo(options: argparse.Namespace) -> int:
    from m2f_batch.demo.command import demo

    return demo(options.directory, options.task)


def _export(options: argparse.Namespace) -> int:
    from m2f_batch.exports.command import export

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
        crowd_as_object=options.crowd_as_object,
        names=options.names,
        mask_suffix=options.mask_suffix,
        palette=options.palette,
        max_pixels=options.max_pixels,
        part=options.part,
    )
    tell(output=options.run_uri)
    metrics = [name.strip() for name in options.metrics.split(",")] if options.metrics else None
    return evaluate(options.run_uri, truth, metrics=metrics, json_file=options.json, is_partial=options.partial)


def _explain(options: argparse.Namespace) -> int:
    from m2f_batch.explain.command import explain

    return explain(options.run_uri, options.uri, options.dest)


def _convert(options: argparse.Namespace) -> int:
    from m2f_batch.datasets.convert import SplitOptions, convert
    from m2f_batch.datasets.lint.faultless import dropping_of

    return convert(
        options.source,
        options.dest,
        options.form,
        options.to,
        images=options.images,
        masks=options.masks,
        ignore_index=options.ignore_index,
        do_reduce_labels=options.do_reduce_labels,
        crowd_as_object=options.crowd_as_object,
        names=options.names,
        mask_suffix=options.mask_suffix,
        palette=options.palette,
        max_pixels=options.max_pixels,
        part=options.part,
        split=SplitOptions(options.split, options.seed, options.stratify, options.group_by, options.groups),
        dropping=dropping_of(options.drop_faulty, options.queries, options.ignore),
    )


def _convert_checkpoint(options: argparse.Namespace) -> int:
    from m2f_batch.models.conversion.command import convert_checkpoint

    return convert_checkpoint(options.source, options.dest)


def _lint(options: argparse.Namespace) -> int:
    flags = {key: getattr(options, name) for name, key in LINT_FLAGS.items()}
    # nothing is trained: what only training asks for is given
    flags |= {"output.uri": "-"} if options.config else {"output.uri": "-", "train.steps": 1}
    config = load_config(FinetuneConfig, file=options.config, flags=flags)
    from m2f_batch.datasets.lint.command import lint
    from m2f_batch.datasets.lint.kinds import ignored_kinds

    return lint(config, options.queries, ignored=ignored_kinds(options.ignore), json_file=options.json)


def _status(options: argparse.Namespace) -> int:
    from m2f_batch.runs.inspect.status import status

    return status(options.run_uri, is_json=options.json)


def _verify(options: argparse.Namespace) -> int:
    from m2f_batch.runs.inspect.verify import verify_command

    return verify_command(options.run_uri, is_json=options.json)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "segment": _segment,
    "finetune": _finetune,
    "demo": _demo,
    "export": _export,
    "evaluate": _evaluate,
    "explain": _explain,
    "convert": _convert,
    "convert-checkpoint": _convert_checkpoint,
    "lint": _lint,
    "submit": _submit,
    "status": _status,
    "verify": _verify,
}

if __name__ == "__main__":
    sys.exit(main())
