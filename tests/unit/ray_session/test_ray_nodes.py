"""Whether a cluster gets nodes by itself, as the GCS tells."""

import pytest

from m2f_batch.ray_session.nodes import AUTOSCALER_V2, starts_nodes


@pytest.mark.parametrize(
    ("kept", "starts"),
    [
        ({}, False),
        ({b"__autoscaler_v2_enabled": b"1"}, True),
        ({b"__autoscaler_v2_enabled": b"0"}, False),
        # the first version, on every head: nodes that somebody started have no kind
        ({"__autoscaling_status": b'{"autoscaler_report": {"active_nodes": {"node_ffff01": 1}}}'}, False),
        ({"__autoscaling_status": b'{"autoscaler_report": {"active_nodes": {"head": 1, "gpu": 2}}}'}, True),
        ({"__autoscaling_status": b'{"load_metrics_report": {}}'}, False),
    ],
)
def test_whether_an_autoscaler_is_there_is_read_from_the_gcs(kept, starts, monkeypatch):
    monkeypatch.setattr("m2f_batch.ray_session.nodes._internal_kv_get", lambda key, namespace=None: kept.get(key))
    assert starts_nodes() is starts


def test_the_mark_of_the_second_autoscaler_is_rays():
    from ray._raylet import GCS_AUTOSCALER_STATE_NAMESPACE, GCS_AUTOSCALER_V2_ENABLED_KEY

    assert (GCS_AUTOSCALER_V2_ENABLED_KEY.encode(), GCS_AUTOSCALER_STATE_NAMESPACE.encode()) == AUTOSCALER_V2
