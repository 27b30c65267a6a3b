"""Fixtures that many tests share: where the real data is, the demo model, one Ray session, and small models."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.client_venv import client  # noqa: F401  a fixture for all tests
from support.off_ray import off_ray  # noqa: F401  a fixture for all tests
from support.ray_start import OF_TESTS
from support.s3_gates import gate  # noqa: F401  a fixture for all tests
from support.s3_servers import ceph_s3, ceph_server, moto_s3, moto_server, s3_endpoint  # noqa: F401  fixtures for all tests
from support.submitting import as_anybody, jobs_cluster  # noqa: F401  fixtures for all tests

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"
DEMO_MODEL = PROJECT / "m2f_batch" / "demo" / "model"
# what takes minutes: not in every test run
LONG = pytest.mark.skipif(os.environ.get("CHAOS") != "all", reason="takes minutes: CHAOS=all and make chaos run it")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
for name, value in OF_TESTS.items():
    os.environ.setdefault(name, value)

# A shell that starts tests in the background has SIGINT ignored, which they and all that they start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# folders of tests that start servers, trainings or other processes
SLOW_FOLDERS = ("integration", "behavior", "chaos")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what ``make test-fast`` leaves out by its folder, or since it starts a Ceph gateway."""
    for item in items:
        is_on_ceph = "ceph_server" in getattr(item, "fixturenames", ()) or "ceph" in item.name.partition("[")[2]
        if is_on_ceph or any(item.path.is_relative_to(PROJECT / "tests" / folder) for folder in SLOW_FOLDERS):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    """Give the process back what a test's command line takes for itself: SIGTERM, and the hook of errors."""
    on_stop, on_bug = signal.getsignal(signal.SIGTERM), sys.excepthook
    yield
    signal.signal(signal.SIGTERM, on_stop)
    sys.excepthook = on_bug


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and awkward files, where the folder is beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Small inputs after public reports, where the folder is beside the checkout."""
    if not (SHARED / "cases").is_dir():
        pytest.skip("the shared cases folder is not beside this checkout")
    return SHARED / "cases"


@pytest.fixture(scope="session")
def ray_session(three_nodes: str | None) -> Iterator[None]:
    """One Ray session for all tests: starting it costs seconds, its workers' imports more."""
    import ray

    own = {"address": "local", "num_cpus": 4, "include_dashboard": False}  # not a Ray that runs here already
    options = {"address": three_nodes} if three_nodes else own
    ray.init(log_to_driver=False, logging_level="ERROR", **options)
    yield
    ray.shutdown()


@pytest.fixture(scope="session", autouse=True)
def three_nodes() -> Iterator[str | None]:
    """The address of a three-node Ray on this machine, which commands join too, where M2F_BATCH_TEST_NODES=3 asks."""
    if os.environ.get("M2F_BATCH_TEST_NODES") != "3":
        yield None
        return
    from ray.cluster_utils import Cluster

    # keys belong to the nodes, and moto takes any
    keys = {"AWS_ACCESS_KEY_ID": "node", "AWS_SECRET_ACCESS_KEY": "node"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        # a head that does no work, as on a real cluster
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(2):
            cluster.add_node(num_cpus=2)
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster.address
    del os.environ["RAY_ADDRESS"]
    cluster.shutdown()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn scenes in a folder, two of them in a folder below, and one broken file."""
    from PIL import Image

    from m2f_batch.demo.scenes import VAL_SEED, draw_scene

    folder = tmp_path_factory.mktemp("scenes")
    (folder / "more").mkdir()
    for number in range(12):
        place = folder / "more" if number >= 10 else folder
        Image.fromarray(draw_scene(VAL_SEED + number).image).save(place / f"scene {number:02d}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder / "notes.txt").write_text("skipped")
    return folder


@pytest.fixture
def one_scene(tmp_path: Path) -> Path:
    """A folder with one drawn scene, a.png."""
    from PIL import Image

    from m2f_batch.demo.scenes import draw_scene

    (tmp_path / "in").mkdir()
    Image.fromarray(draw_scene(3).image).save(tmp_path / "in" / "a.png")
    return tmp_path / "in"
