"""Requests to a bucket that a run costs beyond those for the images themselves, by operation.

    python -m benchmarks.scale.s3_requests [--quick]

The job in one process around ``benchmarks.lib.stubs``, its OUTPUT in a bucket of a moto server, with units of 32
images and
files of different sizes. INPUT is a manifest on a disk, so what is counted is planning, leases, committing and
verifying; a real INPUT adds a GET for each image, and its listing.
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lib.stubs import StubSegmenter, prepare, uris
from benchmarks.lib.timing import PROJECT, parser, publish, say, table
from m2f_batch.messages.events import Events, print_line
from m2f_batch.runs.plan import Unit
from m2f_batch.storage.places import open_store

MODEL = PROJECT / "m2f_batch" / "demo" / "model"
SIZES = ((1024, 32), (8192, 32), (8192, 512), (8192, 4096))  # images, images per file


def measure(images: int, images_per_file: int) -> dict[str, Any]:
    """One line: requests by operation of one run."""
    from m2f_batch.config.segment import SegmentConfig
    from m2f_batch.flow import job
    from m2f_batch.flow.unit.stages import commit_unit, label_unit
    from m2f_batch.flow.unit.units import DoneUnit, unit_table
    from m2f_batch.runs.directory import open_directory
    from m2f_batch.runs.held_folder import Fence

    bucket = f"s3://runs-{images}-{images_per_file}"
    client: Any = open_store(bucket)._client  # type: ignore[attr-defined]
    client.create_bucket(Bucket=bucket.removeprefix("s3://"))
    requests: Counter[str] = Counter()
    client.meta.events.register("request-created.s3", lambda operation_name, **_: requests.update([operation_name]))
    with tempfile.TemporaryDirectory(prefix="m2f-") as scratch:
        manifest = Path(scratch) / "in.parquet"
        pq.write_table(pa.table({"uri": pa.array(uris(images))}), manifest)
        config = SegmentConfig.model_validate(
            {
                "input": {"uri": str(manifest)},
                "output": {"uri": f"{bucket}/run", "images_per_file": images_per_file},
                "model": {"uri": str(MODEL), "task": "instance"},
            }
        )
        checked = job.check(config)

        def stream(units: Iterable[Unit]) -> Generator[DoneUnit, None, None]:
            for unit in units:
                labeled = label_unit(prepare(unit_table(unit)), StubSegmenter(0.0, None))
                # fenced, as a replica: the first lease is the only one
                yield from commit_unit(labeled, run=open_directory(checked.run.uri, Fence(1, ""))).to_pylist()

        assert job.run(checked, "cpu", stream, events=Events(show=print_line)).exit_code == 0
    total = sum(requests.values())
    return {
        "images": f"{images:,}",
        "images per file": images_per_file,
        "requests": f"{total:,}",
        "per image": f"{total / images:.3f}",
        **{name: f"{requests[name]:,}" for name in ("PutObject", "GetObject", "HeadObject", "ListObjectsV2")},
        "DeleteObject(s)": f"{requests['DeleteObject'] + requests['DeleteObjects']:,}",
    }


def main() -> int:
    """Measure, print and write the table."""
    chosen = parser(__doc__).parse_args()
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    lines = []
    try:
        for images, per_file in SIZES[:1] if chosen.quick else SIZES:
            lines.append(measure(images, per_file))
            say(", ".join(f"{name} {value}" for name, value in lines[-1].items()))
    finally:
        server.stop()
    publish("s3_requests", "Requests of a run", [table(lines)], threads=1, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
