"""Reads the state of OUTPUT of a training and decides whether a command starts, resumes or replaces it there."""

from m2f_batch.errors import Plain, RunError, UsageError
from m2f_batch.runs.held_folder import HeldFolder, open_folder
from m2f_batch.storage.retries import retry_before_run
from m2f_batch.train.layout import CHECKPOINTS, MARKER
from m2f_batch.train.output.training_info import TrainingInfo, read_info
from m2f_batch.train.start.job import TrainJob


def check_place(job: TrainJob) -> TrainingInfo | None:
    """Read the training in OUTPUT, None where there is none. ``goes_on`` decides what becomes of it.

    Raises UsageError where OUTPUT holds anything that this command must not delete.
    """
    uri = job.config.output.uri
    place = open_folder(uri)
    try:
        info = retry_before_run(lambda: read_info(place))
        others = [] if info is not None else retry_before_run(lambda: _foreign(place))
        # Before its first checkpoint there is nothing to lose, so a late mistake is corrected in the same OUTPUT.
        is_kept = info is not None and (info.is_finished or bool(retry_before_run(lambda: list_markers(place))))
    except RunError as error:  # a file in its way, no bucket, wrong keys
        raise UsageError.about("output.uri", error) from None
    if others:
        raise UsageError(
            "is there, and is no training of ours",
            field="output.uri",
            value=Plain(others[0]),
            hint="give another OUTPUT",
        )
    if info is None or job.config.output.overwrite or info.is_removed:
        return info
    if is_kept and (different := info.differences(job)):
        raise UsageError(
            f"holds a training with other settings ({', '.join(different)})",
            field="output.uri",
            value=Plain(uri),
            hint="give another OUTPUT, the settings in its finetune.json, or output.overwrite to start anew",
        )
    return info


def goes_on(info: TrainingInfo | None, job: TrainJob) -> bool:
    """Return whether the command resumes the training of ``info``. Otherwise it deletes it and begins a new one."""
    if info is None or info.is_removed or info.differences(job):
        return False
    # with overwrite it is the same command only if it overwrote the last time, too, and was killed
    return not job.config.output.overwrite or (not info.is_finished and info.overwrites)


def is_finished(info: TrainingInfo | None, job: TrainJob) -> bool:
    """Return whether there is nothing to do."""
    return info is not None and info.is_finished and goes_on(info, job)


def list_markers(place: HeldFolder) -> list[str]:
    """List the files that make folders whole checkpoints."""
    entries = place.store.list(f"{place.path(CHECKPOINTS)}/")
    return [entry.uri for entry in entries if entry.uri.endswith(f"/{MARKER}")]


def _foreign(place: HeldFolder) -> list[str]:
    """List one file in OUTPUT that no training wrote. A lease may be there already."""
    ours = place.path("_state/")
    return [entry.uri for entry in place.store.list(f"{place.uri}/") if not entry.uri.startswith(ours)][:1]
