"""Holds OUTPUT of a run by a lease while an attempt works on it.

``runs/hold`` does so for runs and trainings alike, by the leases of ``runs/lease``. That of a training is held in
``train/output/hold_output``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from m2f_batch.errors import UsageError
from m2f_batch.flow.attempt.output_state import Decision, Work, decide_again
from m2f_batch.flow.attempt.run_info import Job, begun_now
from m2f_batch.messages.events import Events
from m2f_batch.result import Outcome, Report, unheard
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.held_folder import Fence
from m2f_batch.runs.hold import hold_folder
from m2f_batch.runs.info import RunTotals, totals_of
from m2f_batch.runs.lease import Lease
from m2f_batch.storage.json_text import JsonObject


@dataclass(frozen=True)
class Attempt:
    """A job whose OUTPUT is held.

    decision: what OUTPUT held when the lease was taken, and what there is to do.
    run: OUTPUT with the fence of this attempt.
    report: is handed how far the attempt is, every few seconds.
    """

    job: Job
    decision: Decision
    run: RunDirectory
    fence: Fence
    lease: Lease
    events: Events
    report: Report[RunTotals] = unheard

    @property
    def work(self) -> Work:
        """The work of the decision."""
        return self.decision.work

    def outcome(self, info: JsonObject | None = None) -> Outcome[RunTotals]:
        """Return how far the attempt is by the tree of a run.json, None before anything is counted."""
        run_id = self.work.info["run_id"] if info is None else info["run_id"]
        return Outcome(self.job.config.output.uri, run_id, None if info is None else totals_of(info))

    def write_log(self) -> None:
        """Write the log, once the run has begun, if something has happened since."""
        if self.run.holds_run():
            name = f"_state/log/{self.fence.token:09d}.jsonl"
            self.events.save(lambda lines: self.run.write(name, lines))


@contextmanager
def held(
    job: Job, decision: Decision, device: str, events: Events, report: Report[RunTotals] = unheard
) -> Iterator[Attempt]:
    """Hold OUTPUT for an attempt that does what was decided. Raises UsageError when another run holds it.

    The decision comes first, because what is refused writes nothing, and this writes a lease.
    """
    if not job.run.store.is_exclusive:
        events.say(
            f"warning: {job.run.uri} is on storage without conditional writes: nothing keeps a second run from "
            "writing there at the same time",
            "no_lease",
        )

    def say(text: str) -> None:
        events.say(text, "waiting")

    with hold_folder(job.run, job.config.run.lease_seconds, say, job.run.holds_run) as lease:
        attempt = _attempt(job, decision, device, events, lease, report)
        report(attempt.outcome())
        yield attempt


def _attempt(
    job: Job, decision: Decision, device: str, events: Events, lease: Lease, report: Report[RunTotals]
) -> Attempt:
    # OUTPUT is read once more, because its last holder may have written until the lease was ours
    decision = decide_again(job, device, decision)
    if decision.state.run_id != job.held and job.config.output.overwrite:
        raise UsageError(f"another run has just begun in {job.run.uri}", field="output.uri", hint="give another OUTPUT")
    info = begun_now(job, decision.work.info, None if decision.work.is_new else decision.state.info)
    work = replace(decision.work, info=info | {"token": lease.token})
    fence = Fence(lease.token, work.plan.plan_id)
    events.bind(work.info["run_id"], work.info["attempts"])
    return Attempt(job, replace(decision, work=work), replace(job.run, fence=fence), fence, lease, events, report)
