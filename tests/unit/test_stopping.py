"""A signal stops a run even when its exception is swallowed."""

import os
import signal

import pytest

from m2f_batch.flow.stopping import noticed_stops


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_lost_exception_is_raised_by_the_check(number):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    try:
        with noticed_stops() as check:
            check()
            with pytest.raises(KeyboardInterrupt):  # as a library's callback loses it
                os.kill(os.getpid(), number)
            with pytest.raises(KeyboardInterrupt):
                check()
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noticed_stops() as check:
            os.kill(os.getpid(), signal.SIGINT)
            check()
    finally:
        signal.signal(signal.SIGINT, before)
