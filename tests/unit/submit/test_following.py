"""A job that is followed: its log through lost connections, and whose exit code the command ends with."""

import json
import os

import pytest
from support.submitting import SEGMENT, TOKEN, flags_of, refused, submit

from m2f_batch.cli import main
from m2f_batch.config.loading import check_config, load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import RunError
from m2f_batch.submit import command, following
from m2f_batch.submit.address import find_token
from m2f_batch.submit.client import Unanswered
from m2f_batch.submit.jobs import segment_job

pytestmark = pytest.mark.usefixtures("as_anybody")


def test_the_log_is_written_once_through_lost_connections(cluster, capsys) -> None:
    cluster.script = [["one\n", "cut"], ["one\ntw", "cut"], ["one\ntwo\n", "three\n"]]
    cluster.jobs["mine"] = {"status": "RUNNING"}
    assert main(["submit", "follow", "mine", "--address", cluster.url]) == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_cluster_that_is_gone_for_a_while(cluster, capsys) -> None:
    cluster.script = [["one\n"], ["one\ntwo\nthree\n"]]
    cluster.jobs["mine"] = {"status": "RUNNING"}
    real = following.JobsApi.tail

    async def tail(api, job_id):
        async for text in real(api, job_id):
            yield text
        cluster.failures = [500, 502, 503]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following.JobsApi, "tail", tail)
        assert main(["submit", "follow", "mine", "--address", cluster.url]) == 0
    said = capsys.readouterr()
    assert said.out == "one\ntwo\nthree\n"
    assert "trying again" in said.err and "answers again" in said.err and "Traceback" not in said.err


def test_a_cluster_that_stays_away(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(command, "PATIENCE_SECONDS", 0.05)
    cluster.jobs["mine"] = {"status": "RUNNING"}
    cluster.script = [["one\n"], ["never"]]
    real = following.JobsApi.tail

    async def tail(api, job_id):
        async for text in real(api, job_id):
            yield text
        cluster.failures = [503] * 1000

    monkeypatch.setattr(following.JobsApi, "tail", tail)
    assert main(["submit", "follow", "mine", "--address", cluster.url]) == 1
    assert f"m2f-batch submit follow mine --address {cluster.url}" in capsys.readouterr().err


def after_submission(monkeypatch, becomes) -> None:
    """Let something become of a cluster once it has taken a job, before that is followed."""
    real = following.JobsApi.submit

    async def submit(api, *job):
        await real(api, *job)
        becomes()

    monkeypatch.setattr(following.JobsApi, "submit", submit)


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 429, 502])
@pytest.mark.parametrize("path", ["/api/authentication_mode", "/api/version", "/api/jobs/"])
def test_a_proxy_answers_in_its_place_for_a_while(path, status, cluster, capsys, monkeypatch) -> None:
    after_submission(monkeypatch, lambda: cluster.proxy.update({path: [status]}))
    assert submit(cluster) == 0
    said = capsys.readouterr()
    assert said.out == cluster.log and cluster.proxy == {path: []}
    assert len(cluster.submitted) == 1 and not cluster.without_token
    is_of_old_ray = path == "/api/authentication_mode" and status in (200, 404)  # the version is asked, with the token
    assert ("trying again for 600 s" in said.err) is not is_of_old_ray
    assert ("has let us in before" in said.err) is (status in (401, 403))


@pytest.mark.parametrize("status", [302, 401, 404, 503])
def test_a_proxy_that_goes_on_answering(status, cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "PATIENCE_SECONDS", 0.05)
    after_submission(monkeypatch, lambda: cluster.proxy.update({"/api/": [status] * 1000}))
    assert (
        submit(cluster, *SEGMENT, "--submission-id", "night") == 1
    )  # the job runs: not 2, which ends a night for good
    said = capsys.readouterr().err
    assert f"answers {status}" in said and f"m2f-batch submit follow night --address {cluster.url}" in said


@pytest.mark.parametrize("path", ["/api/authentication_mode", "/api/version", "/api/jobs/"])
def test_a_head_that_starts_is_waited_for_where_an_id_is_given(path, cluster, capsys) -> None:
    cluster.proxy[path] = [503, 404, 503]
    assert submit(cluster, *SEGMENT, "--submission-id", "night") == 0
    said = capsys.readouterr().err
    assert "trying again for 180 s" in said and "answers again" in said
    assert [sent["submission_id"] for sent in cluster.submitted] == ["night"]


def test_an_address_that_leads_to_a_login(cluster, capsys) -> None:
    cluster.proxy["/api/authentication_mode"] = [302]
    assert "answers 302" in refused(capsys, *SEGMENT, "--address", cluster.url) and not cluster.tokens_seen


def test_a_head_that_does_not_start(cluster, capsys, monkeypatch) -> None:
    cluster.proxy["/api/"] = [503] * 1000
    assert submit(cluster) == 1
    assert "trying again" not in capsys.readouterr().err and len(cluster.proxy["/api/"]) == 999
    monkeypatch.setattr(command, "SUBMIT_SECONDS", 0.05)
    assert submit(cluster, *SEGMENT, "--submission-id", "night") == 1
    assert "answers 503" in capsys.readouterr().err and not cluster.submitted


def test_a_cluster_that_is_lost_with_the_job(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "SUBMIT_SECONDS", 0.05)

    def gone() -> None:
        cluster.proxy["/api/"] = [503] * 1000
        raise Unanswered("lost")

    after_submission(monkeypatch, gone)
    assert submit(cluster) == 1
    (job_id,) = cluster.jobs
    assert f"m2f-batch submit follow {job_id} --address {cluster.url}" in capsys.readouterr().err


@pytest.mark.parametrize(("lost", "advice"), [("submit", "if it was submitted already"), ("tail", "the job may go on")])
def test_what_follows_a_lost_job_is_a_hint_of_the_error(lost, advice, cluster, monkeypatch) -> None:
    monkeypatch.setattr(command, "SUBMIT_SECONDS", 0)
    monkeypatch.setattr(command, "PATIENCE_SECONDS", 0.001)

    async def gone(*_, **__) -> None:
        raise Unanswered("lost", hint="is the head up?")

    monkeypatch.setattr(*((following.JobsApi, "submit") if lost == "submit" else (command, "follow")), gone)
    with pytest.raises(RunError, match=r"^lost; is the head up\?; ") as raised:
        command.submit(
            segment_job(load_config(SegmentConfig, flags=flags_of(SEGMENT))), cluster.url, following.Console()
        )
    assert raised.value.hint.startswith(f"is the head up?; {advice}") and "submit follow" in raised.value.hint


def test_as_many_attempts_as_are_said(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "MOST_ATTEMPTS", 3)
    cluster.after = {"status": "FAILED", "driver_exit_code": 1}
    night = (*SEGMENT, "--submission-id", "night")
    assert [submit(cluster, *night) for _ in range(3)] == [1, 1, 1]
    assert [sent["submission_id"] for sent in cluster.submitted] == ["night", "night-2", "night-3"]
    assert submit(cluster, *night) == 2
    assert "night was tried 3 times" in capsys.readouterr().err and len(cluster.submitted) == 3


@pytest.mark.parametrize(
    ("job", "code", "again"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0, False),
        ({"status": "FAILED", "driver_exit_code": 1}, 1, True),
        ({"status": "FAILED", "driver_exit_code": 2}, 2, False),
        ({"status": "FAILED", "driver_exit_code": 3}, 3, False),
        ({"status": "FAILED", "driver_exit_code": 130}, 130, True),
        ({"status": "FAILED", "driver_exit_code": -9}, 137, True),
        ({"status": "FAILED", "driver_exit_code": None, "message": "runtime_env setup failed: x"}, 1, True),
        ({"status": "STOPPED", "driver_exit_code": None}, 130, True),
    ],
)
def test_the_jobs_own_exit_code_is_ours(job, code, again, cluster, capsys) -> None:
    cluster.after = job
    assert submit(cluster, *SEGMENT, "--submission-id", "night") == code
    said = capsys.readouterr()
    assert said.out == cluster.log and (job.get("message") or "") in said.err
    # the same command again follows what cannot go on, and goes on with what can
    cluster.after = {"status": "SUCCEEDED", "driver_exit_code": 0}
    assert submit(cluster, *SEGMENT, "--submission-id", "night") == (0 if again else code)
    assert [sent["submission_id"] for sent in cluster.submitted] == (["night", "night-2"] if again else ["night"])


def test_a_quiet_command_says_why_a_job_has_failed(cluster, capsys) -> None:
    cluster.log = f"working\n{json.dumps({'event': 'result', 'error': 'the bucket is gone'})}\n"
    cluster.after = {"status": "FAILED", "driver_exit_code": 1}
    assert submit(cluster, *SEGMENT, "--submission-id", "night", "--quiet") == 1
    said = capsys.readouterr()
    assert "night ended with exit code 1: the bucket is gone\n" in said.err and said.out == ""
    cluster.after = {"status": "SUCCEEDED", "driver_exit_code": 0}
    assert submit(cluster, *SEGMENT, "--submission-id", "other", "--quiet") == 0
    said = capsys.readouterr()
    assert "ended" not in said.err and said.out == ""


@pytest.mark.parametrize("options", [(), ("--submission-id", "night")])
def test_a_lost_answer_of_a_job_that_fails_at_once(options, cluster, capsys) -> None:
    cluster.lose_answer, cluster.at_once = True, {"status": "FAILED", "driver_exit_code": 1}
    assert submit(cluster, *SEGMENT, *options) == 1
    assert len(cluster.submitted) == 1 and "ended with exit code 1" in capsys.readouterr().err


@pytest.mark.parametrize("is_running", [True, False])
def test_an_id_of_a_job_with_other_settings(is_running, cluster, capsys) -> None:
    cluster.after = {"status": "RUNNING"} if is_running else {"status": "FAILED", "driver_exit_code": 1}
    main(["submit", *SEGMENT, "--address", cluster.url, "--submission-id", "night", "--no-wait"])
    cluster.jobs["night"] |= cluster.after
    capsys.readouterr()
    said = refused(capsys, *SEGMENT, "--overwrite", "--submission-id", "night", "--address", cluster.url)
    assert "night is another job" in said and "m2f-batch submit follow night" in said
    assert [sent["submission_id"] for sent in cluster.submitted] == ["night"]


def test_a_job_that_another_program_submitted_is_followed(cluster) -> None:
    cluster.jobs["night"] = {"status": "RUNNING", "metadata": {"job_submission_id": "night"}}
    assert submit(cluster, *SEGMENT, "--submission-id", "night") == 0 and not cluster.submitted


def test_settings_are_those_of_the_job_not_of_its_words() -> None:
    jobs = [
        segment_job(
            check_config(SegmentConfig, {"input": {"uri": "/i"}, "model": {"uri": "/m"}, "output": {"uri": out}})
        )
        for out in ("/o", "/o", "/p")
    ]
    here = {"AWS_ENDPOINT_URL": "https://here", "AWS_REGION": "x"}
    settings = [job.settings(here) for job in jobs]
    assert settings[0] == settings[1] != settings[2]
    assert jobs[0].settings(here | {"AWS_REGION": "y"}) == settings[0]
    assert jobs[0].settings({"AWS_ENDPOINT_URL": "https://there"}) != settings[0], "other buckets"


def test_an_id_that_somebody_else_takes_meanwhile(cluster, capsys, monkeypatch) -> None:
    real = following.JobsApi.submit

    async def submit(api, job_id, *job):
        cluster.jobs[job_id] = {"status": "RUNNING", "metadata": {command.SETTINGS: "others"}}
        await real(api, job_id, *job)

    monkeypatch.setattr(following.JobsApi, "submit", submit)
    assert "night is another job" in refused(capsys, *SEGMENT, "--submission-id", "night", "--address", cluster.url)
    assert not cluster.submitted


@pytest.mark.parametrize("status", [302, 400, 403, 404, 426, 502])
def test_a_proxy_without_websockets(status, cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(following, "WHOLE_SECONDS", 0.02)
    looks = []
    real = following.JobsApi.log

    async def log(api, job_id):
        looks.append(job_id)
        cluster.log += "four\n"
        if len(looks) == 3:
            cluster.jobs[job_id] |= cluster.after
        return await real(api, job_id)

    monkeypatch.setattr(following.JobsApi, "log", log)
    after_submission(monkeypatch, lambda: cluster.no_websockets.extend([status] * 100))
    cluster.after = {"status": "FAILED", "driver_exit_code": 3}
    assert submit(cluster) == 3
    said = capsys.readouterr()
    assert said.out == cluster.log and len(looks) == 4
    assert said.err.count(f"answers {status} to WebSockets") == 1 and "trying again" not in said.err


def test_what_a_proxy_says_is_masked(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "PATIENCE_SECONDS", 0.05)
    cluster.proxy_says = f"<p>Authorization: Bearer {TOKEN}</p>"
    after_submission(monkeypatch, lambda: cluster.proxy.update({"/api/": [502] * 1000}))
    assert submit(cluster) == 1
    said = capsys.readouterr().err
    assert "answers 502" in said and TOKEN not in said


def test_a_user_without_a_home(monkeypatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert find_token({}) is None


def test_a_lost_answer_submits_nothing_twice(cluster) -> None:
    cluster.lose_answer = True
    assert submit(cluster) == 0
    assert len(cluster.submitted) == 1


def test_no_wait_prints_the_id(cluster, capsys) -> None:
    assert submit(cluster, *SEGMENT, "--no-wait") == 0
    said, (job_id,) = capsys.readouterr(), cluster.jobs
    assert said.out.split() == [job_id] and f"m2f-batch submit follow {job_id} --address {cluster.url}" in said.err


def test_a_job_that_nobody_knows(cluster, capsys) -> None:
    assert "knows no job no-such; give one that submit has said" in refused(
        capsys, "follow", "no-such", "--address", cluster.url
    )
    assert main(["submit", "follow", "no-such", "--address", "http://127.0.0.1:9"]) == 1
    assert "may go on" not in capsys.readouterr().err, "nobody has said that there is such a job"
    assert "not allowed" in refused(capsys, "follow", "../../x", "--address", cluster.url)
