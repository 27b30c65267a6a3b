"""What Ray's errors mean to a command."""

from ray.exceptions import ActorDiedError, OwnerDiedError, RayTaskError

from m2f_batch.errors import RunError, TransientError
from m2f_batch.ray_session.errors import run_error


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("prepare_unit", "Traceback ...", cause)


def test_our_own_error_comes_out_of_rays():
    ours = RunError("the bucket is gone")
    assert run_error(task_error(ours)) is ours
    assert run_error(task_error(ours).as_instanceof_cause()) is ours


def test_what_is_transient_arrives_as_itself():
    ours = TransientError("the bucket asks to slow down")
    assert run_error(task_error(ours)) is ours


def test_a_lost_worker_is_a_failed_run_and_a_bug_stays_a_bug():
    assert isinstance(run_error(ActorDiedError()), RunError)
    assert isinstance(run_error(task_error(OwnerDiedError("00", None, ""))), RunError)
    bug = task_error(KeyError("no such key"))
    assert run_error(bug) is bug
