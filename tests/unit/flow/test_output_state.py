"""What OUTPUT holds, and what a command may do with it: go on, start anew, label again, or be refused in words."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import DEMO_MODEL
from support.engines import config_of
from support.output_jobs import done, job_of, label

from m2f_batch.errors import RunError, UsageError
from m2f_batch.flow.attempt.output_state import (
    Decision,
    check_output_state,
    decide,
    differences,
    read_output_state,
    work_of,
)
from m2f_batch.flow.attempt.plan_text import plan_lines
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.flow.job import check, run
from m2f_batch.ray_session.resources import Resources
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.index import IndexEntry, write_index
from m2f_batch.runs.plan import pending
from m2f_batch.storage.store import Unreachable

FACTS: dict[str, Any] = {
    **{"model": "a" * 64, "task": "panoptic", "cpu_threads": 1, "precision": "fp32"},
    **{"postprocess": {"score_threshold": 0.8, "stuff_ids": [1, 2]}},
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six files that look like images to a listing."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(b"x" * (number + 1))
    return folder


def test_differences_are_said_in_words() -> None:
    assert differences(FACTS, FACTS) == []
    ours = FACTS | {"model": "b" * 64, "precision": "bf16", "postprocess": {"score_threshold": 0.3, "stuff_ids": [1]}}
    assert differences(FACTS, ours) == [
        f'model.uri (its weights or processor) is "{"a" * 17}...{"a" * 17}" there and "{"b" * 17}...{"b" * 17}" here',
        'model.precision is "fp32" there and "bf16" here',
        "postprocess.score_threshold is 0.8 there and 0.3 here",
        "postprocess.stuff_ids is [1, 2] there and [1] here",
    ]
    assert differences(FACTS, FACTS | {"new": 1}) == ["new is None there and 1 here"]
    assert differences(None, FACTS) == ["it does not say what its labels were decided by"]


def test_fewer_gpus_or_none_may_finish_a_run() -> None:
    on_gpu = FACTS | {"cpu_threads": None}
    assert differences(FACTS, on_gpu) == differences(on_gpu, FACTS) == differences(on_gpu, on_gpu) == []
    threads = "compute.threads_per_actor is 1 there and 2 here"
    assert differences(FACTS, FACTS | {"cpu_threads": 2}) == [threads]
    assert differences(FACTS, on_gpu | {"task": "semantic"}) == ['model.task is "panoptic" there and "semantic" here']


def test_a_new_run_an_unfinished_one_and_a_finished_one(images: Path) -> None:
    job = job_of(images)
    state = read_output_state(job.run)
    assert (state.info, state.plan, state.run_id) == (None, None, None)
    work = work_of(job, state, "cpu")
    assert work.is_new and not work.over and work.change.new == 6 and work.info["attempts"] == 1
    assert not (images.parent / "run").exists()
    label(job, work, files=1)
    state = read_output_state(job.run)
    again = work_of(job, state, "cuda")
    assert not again.is_new and again.plan is state.plan and again.change.said() == "no change"
    assert (again.info["run_id"], again.info["attempts"]) == (work.info["run_id"], 2)
    assert [len(unit.refs) for unit in pending(again.plan, state.there)] == [2, 2]
    assert not Decision(state, again).is_nothing_to_do
    label(job, again)
    state = read_output_state(job.run)
    assert Decision(state, work_of(job, state, "cpu")).is_nothing_to_do


def test_what_makes_a_finished_run_worth_a_look(images: Path) -> None:
    job = done(images)
    state = read_output_state(job.run)
    work = work_of(job, state, "cpu")
    name, *_ = state.there
    assert Decision(state, work).is_nothing_to_do
    cases = [
        replace(state, is_finished=False),
        replace(state, there={file: entry for file, entry in state.there.items() if file != name}),
        replace(state, there={**state.there, "0" * 32: state.there[name]}),
        replace(state, dirty=(name,)),
    ]
    for case in cases:
        assert not Decision(case, work_of(job, case, "cpu")).is_nothing_to_do
    (images / "6.png").write_bytes(b"x")
    more = job_of(images)
    assert not Decision(state, work_of(more, state, "cpu")).is_nothing_to_do


def refusals(images: Path) -> dict[str, tuple[Any, str]]:
    run = images.parent / "run"
    (images / "more").mkdir()
    (images / "more" / "x.png").write_bytes(b"x")
    other = {"postprocess": {"score_threshold": 0.3}}
    elsewhere = config_of(images / "more", run, DEMO_MODEL, output={"images_per_file": 2})

    def damage(name: str, data: bytes) -> Job:
        (run / name).write_bytes(data)
        return job_of(images)

    def forget(name: str) -> Job:
        (run / name).unlink()
        return job_of(images)

    cannot = r"output\.uri: .*/run holds a run that cannot be gone on with; give another OUTPUT, or --overwrite"
    return {
        "fingerprint": (
            lambda: job_of(images, **other),
            r"fingerprint [0-9a-f]{12}, and this command's is [0-9a-f]{12}: postprocess\.score_threshold is 0\.8 there "
            r"and 0\.3 here; give the same settings, give another OUTPUT, or --overwrite to delete it",
        ),
        "input": (
            lambda: replace(job_of(images), config=elsewhere),
            r"a run over .*/images, and input\.uri is .*/images/more; give an",
        ),
        "run.json": (lambda: damage("run.json", b"{"), cannot),
        "another run.json": (lambda: damage("run.json", b"[1]"), cannot),
        "manifest": (lambda: damage("_state/manifest.parquet", b"PAR1"), cannot),
        "no manifest": (lambda: forget("_state/manifest.parquet"), cannot),
        "nobody's": (lambda: forget("run.json"), r"annotations without a run\.json, e\.g\. .*\.parquet; give another"),
    }


@pytest.mark.parametrize(
    "case", ["fingerprint", "input", "run.json", "another run.json", "manifest", "no manifest", "nobody's"]
)
def test_refusals_and_the_way_out(images: Path, case: str) -> None:
    done(images)
    act, message = refusals(images)[case]
    job = act()
    before = {path: path.read_bytes() for path in (images.parent / "run").rglob("*") if path.is_file()}
    for look_at in (check_output_state, work_of):
        with pytest.raises(UsageError, match=message):
            look_at(job, read_output_state(job.run), "cpu")
    over = replace(job, config=replace_output(job, overwrite=True))
    if case == "nobody's":
        with pytest.raises(UsageError, match=message):
            work_of(over, read_output_state(job.run), "cpu")
    else:
        work = work_of(over, read_output_state(job.run), "cpu")
        assert work.over and work.is_new and work.info["attempts"] == 1
    assert {path: path.read_bytes() for path in (images.parent / "run").rglob("*") if path.is_file()} == before


def test_a_run_over_another_input_is_refused_before_ray_starts(images: Path) -> None:
    run = done(images).run
    (images / "more").mkdir()
    (images / "more" / "x.png").write_bytes(b"x")
    with pytest.raises(
        UsageError, match=r"^output\.uri: .*/run holds a run over .*, and input\.uri is .*/images/more; "
    ):
        check(config_of(images / "more", run.uri, DEMO_MODEL))
    job = check(config_of(images / "more", run.uri, DEMO_MODEL, output={"overwrite": True}))
    assert work_of(job, read_output_state(job.run), "cpu").over


def replace_output(job: Job, **settings: Any) -> Any:
    return job.config.model_copy(update={"output": job.config.output.model_copy(update=settings)})


def test_a_store_that_cannot_be_reached_says_nothing_about_the_run(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or ``--overwrite``, given to go on after a kill, would delete all that is done."""
    job = done(images)
    for name in ("read_info", "read_plan"):
        with monkeypatch.context() as patch:

            def fail(_: RunDirectory) -> None:
                raise Unreachable("the S3 endpoint cannot be reached")

            patch.setattr(RunDirectory, name, fail)
            with pytest.raises(Unreachable):
                read_output_state(job.run)
            with pytest.raises(RunError, match=r"output\.uri: the S3 endpoint.*may succeed later"):
                decide(job_of(images), "cpu")


def test_too_many_vanished_images(images: Path) -> None:
    done(images)
    for number, allowed in ((1, 0.17), (2, 1 / 3), (3, 0.5)):
        (images / f"{number}.png").unlink()
        job = job_of(images, input={"max_removed_fraction": allowed})
        change = work_of(job, read_output_state(job.run), "cpu").change
        assert (change.vanished, change.said()) == (number, f"{number} vanished")
        job = job_of(images, input={"max_removed_fraction": allowed - 0.01})
        with pytest.raises(UsageError, match=rf"input\.uri: {number} of the 6 images .* input\.max_removed_fraction"):
            work_of(job, read_output_state(job.run), "cpu")
    os.utime(images / "0.png", (1, 1))  # changed, and not vanished
    job = job_of(images, input={"max_removed_fraction": 0.5})
    assert work_of(job, read_output_state(job.run), "cpu").change.said() == "1 changed, 3 vanished"


@pytest.mark.parametrize(
    ("retry", "numbers"),
    [
        ("errors", [1, 3, 5]),
        ("errors=decode", [1, 5]),
        ("errors=NotFound", [3]),
        ("errors=fetch/NotFound", [3]),
        ("errors=decode/NotFound", []),
        ("errors=Decode", []),
    ],
)
def test_which_errors_are_tried_again(images: Path, retry: str, numbers: list[int]) -> None:
    run = done(images).run
    job = job_of(images, run={"retry": retry})
    work = work_of(job, read_output_state(run), "cpu")
    units = [*pending(work.plan, read_output_state(run).there)]
    assert [Path(ref.uri).stem for unit in units for ref in unit.refs] == [str(number) for number in numbers]
    assert work.change.retried == len(numbers) == len(work.change.dirty)
    label(job, work)
    assert sorted(row["uri"] for uri in run.annotation_files() for row in run.read_annotations(uri).to_pylist()) == [
        str(images / f"{number}.png") for number in range(6)
    ]


def test_tiffs_of_an_older_release_go_on_and_can_be_labelled_again(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run without TIFFs nothing is said, and no run is refused: which TIFFs were misread only their bytes say."""
    monkeypatch.setattr("m2f_batch.flow.attempt.plan_text.present", lambda: [{"CPU": 2.0}])
    resources = Resources("cpu", (1, 1), 1.0, 0.0, 1.0)

    def said(job: Job) -> list[str]:
        lines = plan_lines(job, resources, decide(job, "cpu"))
        return [line for line in lines if "TIFF" in line]

    for number, name in ((1, "1.tif"), (4, "4.TIFF")):
        (images / f"{number}.png").rename(images / name)
    job = done(images)
    assert job.run.read_info()["decoder"] == 2 and said(job) == []
    old = job.run.read_info()
    del old["decoder"]
    job.run.write_info(old)
    state = read_output_state(job.run)
    assert Decision(state, work_of(job, state, "cpu")).is_nothing_to_do
    assert said(job) == [
        "        note: an older release, which read some layouts of TIFF wrong (16-bit planes, big-endian floats), may"
        " have labeled the 2 that are here; --retry tiff labels them again"
    ]
    (images / "7.png").write_bytes(b"x")
    assert work_of(job_of(images), read_output_state(job.run), "cpu").info["decoder"] == 1, "its rows are still there"
    again = job_of(images, run={"retry": "tiff"})
    work = work_of(again, read_output_state(job.run), "cpu")
    assert work.change.said() == "1 new, 2 tried again"
    label(again, work)
    assert job.run.read_info()["decoder"] == 2 and said(job_of(images)) == []


def test_files_that_hold_no_error_are_not_read(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = done(images).run
    there = run.committed()
    first, second, third = there
    entries = {
        first: IndexEntry(there[first].version, 2, 0, 0, {}),
        second: IndexEntry(there[second].version, 1, 1, 0, {"fetch/NotFound": 1}),
        third: IndexEntry("of an older file", 2, 0, 0, {}),
    }
    write_index(run, entries)
    read, real = [], RunDirectory.read_annotations

    def read_annotations(self: RunDirectory, uri: str, columns: Any = None) -> Any:
        read.append(uri)
        return real(self, uri, columns)

    monkeypatch.setattr(RunDirectory, "read_annotations", read_annotations)
    job = job_of(images, run={"retry": "errors"})
    assert work_of(job, read_output_state(run), "cpu").change.retried == 2
    assert sorted(read) == sorted(there[name].uri for name in (second, third))


def test_a_plan_says_what_it_waits_for(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[dict[str, float]] = [{}]
    monkeypatch.setattr("m2f_batch.flow.attempt.plan_text.present", lambda: nodes)
    job = job_of(images)

    def said(resources: Resources) -> list[str]:
        lines = [*plan_lines(job, resources, decide(job, "cpu"))]
        return [line for line in lines if "waits for" in line or "GPU is up" in line or "can take all" in line]

    on_gpus = Resources("cuda", (1, 8), 1.0, 1.0, 1.0, starts_nodes=True)
    assert said(on_gpus) == [
        "        waits for nodes: a replica takes 1 CPU and 1 GPU on one node, and what fetches and decodes for it 1"
        " CPU more"
    ]
    on_cpus = Resources("cpu", (1, 8), 0.0, 2.0, 1.0, starts_nodes=True)
    assert said(on_cpus) == [
        "        waits for nodes: a replica takes 2 CPUs on one node, and what fetches and decodes for it 1 CPU more",
        "        note: no GPU is up, so the model runs on CPUs; to wait for one, set compute.device: cuda",
    ]
    nodes.append({"CPU": 4.0, "GPU": 1.0})
    assert said(on_gpus) == []
    nodes[1] = {"CPU": 2.0, "GPU": 2.0}
    assert said(on_gpus) == [
        "        note: the replicas can take all 2 CPUs, and then what fetches and decodes for them waits for a node"
        " with a free one; give GPU nodes more CPUs than GPUs, or set a lower compute.actors"
    ]
    assert said(replace(on_gpus, starts_nodes=False)) == []
    nodes[1] = {"CPU": 4.0, "GPU": 1.0}
    assert said(replace(on_cpus, starts_nodes=False)) == []


def test_images_without_a_row_are_an_internal_error_that_names_the_log(images: Path) -> None:
    def nothing(_: object) -> Iterator[Any]:
        yield from ()

    job = job_of(images)
    with pytest.raises(RunError) as caught:
        run(job, "cpu", nothing)
    assert str(caught.value) == (
        "internal error: 6 of 6 listed images have no row. Nothing is lost: run the same command again. Please report "
        f"this with {images.parent}/run/_state/log/000000001.jsonl"
    )
    assert (images.parent / "run/_state/log/000000001.jsonl").exists()
