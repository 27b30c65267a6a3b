"""How the tests start a Ray of their own."""

from m2f_batch.processes import FOR_START

# Ray runs its workers at nice 15: beside other busy processes they get a thirtieth of a core, and time out.
OF_TESTS = {**FOR_START, "RAY_worker_niceness": "0"}
