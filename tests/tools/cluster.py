"""A stand-in for a cluster whose jobs end with the exit code that is given: prints its URL, ends with its stdin."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.jobs_api import Cluster, serving

TOTALS = {"images": {"listed": 4, "ok": 3, "error": 1, "remaining": 0}, "segments": 7}


def main(exit_code: int) -> None:
    """Serve until stdin ends."""
    error = f"it is {exit_code}" if exit_code else None
    told = {"event": "result", "output": "s3://my-bucket/labels", "run_id": "abc", "totals": TOTALS, "error": error}
    status = "STOPPED" if exit_code == 130 else "FAILED" if exit_code else "SUCCEEDED"
    after = {"status": status, "driver_exit_code": exit_code}
    with serving(Cluster(log=f"plan    4 images\n{json.dumps(told)}\n", after=after)) as cluster:
        print(cluster.url, flush=True)
        sys.stdin.read()
        print(json.dumps([body["submission_id"] for body in cluster.submitted]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
