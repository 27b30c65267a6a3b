"""OUTPUT is read once before the lease, and under it again only as far as it has changed."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DEMO_MODEL
from support.engines import config_of
from support.protocol import rows_of_unit

from m2f_batch.errors import RunError, UsageError
from m2f_batch.flow.attempt.hold_output import held
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import Decision, Work, decide, read_output_state
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.flow.job import check
from m2f_batch.messages.events import Events
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.plan import pending
from m2f_batch.runs.writing.commit import commit
from m2f_batch.storage.local import LocalStore
from m2f_batch.storage.store import Denied, StoreUnavailable, Unreachable

MANIFEST = "_state/manifest.parquet"
# run.json, the list of files and the mark of success, once under the lease and once before it
BOTH_TIMES = {"read run.json": 2, "list annotations/": 2, "stat _SUCCESS": 2}
# before INPUT is listed
CHECK = {"stat .": 1, "read run.json": 1, "list annotations/": 1}
RESUME = {"stat " + MANIFEST: 2, "read " + MANIFEST: 1, "read _state/dirty.json": 2}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The requests that read OUTPUT so far, but for those of the lease itself."""
    counted: Counter[str] = Counter()
    output = str(tmp_path / "run")

    def count(method: str, word: str) -> None:
        before: Callable[..., Any] = getattr(LocalStore, method)

        def counting(store: LocalStore, uri: str, *rest: Any, **more: Any) -> Any:
            if uri.startswith(output) and "/_state/lease" not in uri:
                counted[f"{word} {uri.removeprefix(output).removeprefix('/') or '.'}"] += 1
            return before(store, uri, *rest, **more)

        monkeypatch.setattr(LocalStore, method, counting)

    for method, word in (("read_entry", "read"), ("stat", "stat"), ("list", "list")):
        count(method, word)
    return counted


Act = Callable[[RunDirectory, Work], object]


def job_of(folder: Path) -> Job:
    return check(config_of(folder / "images", folder / "run", DEMO_MODEL, output={"images_per_file": 2}))


def command(folder: Path, asked: Counter[str], act: Act | None = None, *, is_done: bool = False) -> Counter[str]:
    """Give a command that is killed after ``act``; returns what it has read when it knows what there is to do."""
    asked.clear()
    job = job_of(folder)
    decision = decide(job, "cpu")
    with held(job, decision, "cpu", Events("text")) as attempt:
        told = Counter(asked)
        assert attempt.decision.is_nothing_to_do == decision.is_nothing_to_do == is_done
        if act is not None:
            act(attempt.run, attempt.work)
    return told


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / f"images/{number}.png").write_bytes(b"x" * (number + 1))
    return tmp_path


def test_a_first_start_and_a_dry_run_of_it(images: Path, asked: Counter[str]) -> None:
    first = command(images, asked)
    assert first == Counter(BOTH_TIMES) + Counter(CHECK)
    asked.clear()
    job = job_of(images)
    decide(job, "cpu")
    dry = Counter(dict.fromkeys(BOTH_TIMES, 1))
    assert asked == dry + Counter(CHECK)


def test_a_resume_reads_the_plan_once(images: Path, asked: Counter[str]) -> None:
    command(images, asked, begin)
    assert command(images, asked) == Counter(BOTH_TIMES) + Counter(CHECK) + Counter(RESUME)


def test_nothing_to_do_reads_the_plan_once(images: Path, asked: Counter[str]) -> None:
    command(images, asked, finish)
    assert command(images, asked, is_done=True) == Counter(BOTH_TIMES) + Counter(CHECK) + Counter(RESUME)


def test_a_plan_that_changed_before_the_lease_is_read_again(images: Path, asked: Counter[str]) -> None:
    command(images, asked, begin)
    job = job_of(images)
    decision = decide(job, "cpu")
    (images / "images" / "3.png").write_bytes(b"xxxxx")
    command(images, asked, begin)
    with held(job, decision, "cpu", Events("text")) as attempt:
        assert attempt.decision.state.plan_version != decision.state.plan_version
        assert attempt.work.info["attempts"] == decision.work.info["attempts"] + 1 == 3
        assert attempt.work.change.changed == 1, "for this command listed the image as it was before"


def label(run: RunDirectory, work: Work, files: int | None = None) -> None:
    """Label so many more files of the plan, or all."""
    for unit in [*pending(work.plan, run.committed())][:files]:
        commit(run, unit.name, rows_of_unit(unit))


def finish(run: RunDirectory, work: Work) -> None:
    begin(run, work)
    label(run, work)
    run.mark_success()


def begin_all(run: RunDirectory, work: Work) -> None:
    begin(run, work)
    label(run, work)


def want_dirty(run: RunDirectory, work: Work) -> None:
    dirty = {"plan": work.plan.plan_id, "files": work.plan.names()[:1]}
    run.store.write(run.path("_state/dirty.json"), json.dumps(dirty).encode())


def attempt_again(run: RunDirectory, _: Work) -> None:
    run.store.write(run.path("run.json"), json.dumps(run.read_info() | {"token": 7, "attempts": 7}).encode())


def test_a_plan_of_the_same_version_is_read_again_with_another_run_json(
    images: Path, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some disks keep whole seconds, and two plans of a second may have the same size."""
    monkeypatch.setattr(RunDirectory, "plan_version", lambda _: "1000-0")
    command(images, asked, begin)
    before = read_output_state(job_of(images).run)
    (images / "images" / "3.png").write_bytes(b"xxxxx")
    command(images, asked, begin)
    run = job_of(images).run
    now, plan = read_output_state(run, before), run.read_plan()
    assert now.plan_version == before.plan_version and now.plan is not None and plan is not None
    assert now.plan.table.equals(plan.table) and now.info is not None and now.info["plan"] == now.plan.plan_id


Facts = tuple[bool, int, int, int]  # nothing to do, files to label, files to clean, attempts


@pytest.mark.parametrize(
    ("before", "change", "decided", "wanted"),
    [
        (begin, lambda run, work: label(run, work, 1), (False, 2, 0, 2), (False, 1, 0, 2)),
        (begin_all, lambda run, _: run.mark_success(), (False, 0, 0, 2), (True, 0, 0, 2)),
        (finish, lambda run, _: run.store.delete([run.path("_SUCCESS")]), (True, 0, 0, 2), (False, 0, 0, 2)),
        (finish, want_dirty, (True, 0, 0, 2), (False, 0, 1, 2)),
        (begin, attempt_again, (False, 2, 0, 2), (False, 2, 0, 8)),
    ],
    ids=["a file", "success", "no success", "dirty.json", "run.json"],
)
def test_what_changes_before_the_lease_decides_anew(
    images: Path, asked: Counter[str], before: Act, change: Act, decided: Facts, wanted: Facts
) -> None:
    """Each case changes one thing, because the lease may have been another attempt's until then."""

    def facts(found: Decision) -> Facts:
        left = [*pending(found.work.plan, found.state.there)]
        return found.is_nothing_to_do, len(left), len(found.work.change.dirty), found.work.info["attempts"]

    command(images, asked, before)
    job = job_of(images)
    decision = decide(job, "cpu")
    assert facts(decision) == decided
    change(job.run, decision.work)
    with held(job, decision, "cpu", Events("text")) as attempt:
        assert facts(attempt.decision) == wanted


DENIED, NO_BUCKET, AWAY = Denied("m: access denied"), StoreUnavailable("m: no such bucket"), Unreachable("m: no server")


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (DENIED, UsageError, "output.uri: m: access denied"),
        (NO_BUCKET, UsageError, "output.uri: m: no such bucket"),
        (AWAY, RunError, "output.uri: m: no server; the same command may succeed later"),
    ],
    ids=["denied", "no bucket", "away"],
)
@pytest.mark.parametrize("name", ["plan_version", "read_plan", "read_dirty", "committed", "is_finished"])
def test_output_that_cannot_be_read_is_refused_only_before_the_lease(
    images: Path,
    asked: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    fault: Exception,
    kind: type[Exception],
    text: str,
) -> None:
    """Exit code 2 says that nothing was written, and the lease is a file."""
    command(images, asked, begin)
    job = job_of(images)
    decision = decide(job, "cpu")
    job.run.write_info(job.run.read_info() | {"attempts": 7})  # so that the plan is read again

    def fail(_: RunDirectory) -> None:
        raise fault

    monkeypatch.setattr(RunDirectory, name, fail)
    with pytest.raises(kind) as refused:
        decide(job, "cpu")
    assert (type(refused.value), str(refused.value)) == (kind, text)
    with pytest.raises(RunError) as failed, held(job, decision, "cpu", Events("text")):
        pass
    assert (type(failed.value), str(failed.value)) == (RunError, text)
