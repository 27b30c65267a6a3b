"""One attempt at a job: OUTPUT is held by a lease while it is worked on, and by nobody else."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from m2f_batch.errors import UsageError
from m2f_batch.flow.attempt.output_state import Standing, Work, look, work_of
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.messages.events import Events
from m2f_batch.result import tell
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.held_folder import Fence
from m2f_batch.runs.hold import held_folder
from m2f_batch.runs.lease import Lease
from m2f_batch.storage.retries import retry_before_run


@dataclass(frozen=True)
class Attempt:
    """A job whose OUTPUT is held: what it held then, what there is to do, and a fenced way of writing there."""

    job: Job
    standing: Standing
    work: Work
    run: RunDirectory
    fence: Fence
    lease: Lease
    events: Events

    def write_log(self) -> None:
        """Write the log, once the run has begun, if something has happened since."""
        if self.run.holds_run():
            name = f"_state/log/{self.fence.token:09d}.jsonl"
            self.events.save(lambda lines: self.run.write(name, lines))


@contextmanager
def held(job: Job, device: str, events: Events) -> Iterator[Attempt]:
    """The attempt that holds OUTPUT. Raises UsageError when another run does; then nothing was written.

    What may be refused for other reasons was looked at before, since this writes a lease.
    """
    store = job.run.store
    if not store.is_exclusive:
        events.say(
            f"warning: {job.run.uri} is on storage without conditional writes: nothing keeps a second run from "
            "writing there at the same time",
            "no_lease",
        )
    with held_folder(
        job.run, job.config.run.lease_seconds, lambda text: events.say(text, "waiting"), job.run.holds_run
    ) as lease:
        yield _attempt(job, device, events, lease)


def _attempt(job: Job, device: str, events: Events, lease: Lease) -> Attempt:
    standing = retry_before_run(lambda: look(job.run))
    if standing.run_id != job.held and job.config.output.overwrite:
        raise UsageError(f"output.uri: another run has just begun in {job.run.uri}; give another OUTPUT")
    work = work_of(job, standing, device)
    work = replace(work, info=work.info | {"token": lease.token})
    fence = Fence(lease.token, work.plan.plan_id)
    events.bind(work.info["run_id"], work.info["attempts"])
    tell(run_id=work.info["run_id"])
    return Attempt(job, standing, work, replace(job.run, fence=fence), fence, lease, events)
