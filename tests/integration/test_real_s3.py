"""A run from a real S3 server to itself has the rows of one from disk to disk."""

from conftest import DEMO_MODEL
from support.engines import config_of, in_process, rows_of, same_but_for_their_names

from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.inspect.verify import verify


def test_real_s3_equals_disk(ceph_s3, scenes, tmp_path):
    assert in_process(config_of(scenes, tmp_path / "disk", DEMO_MODEL)) == 0
    files = [path for path in scenes.rglob("*") if path.is_file()]
    ceph_s3.put({f"in/{path.relative_to(scenes)}": path.read_bytes() for path in files})
    assert in_process(config_of(f"{ceph_s3.uri}/in", f"{ceph_s3.uri}/out", DEMO_MODEL)) == 0
    assert same_but_for_their_names(rows_of(f"{ceph_s3.uri}/out"), rows_of(tmp_path / "disk"))
    assert verify(open_directory(f"{ceph_s3.uri}/out"), "panoptic") == []
