"""Fixtures that many tests share: where the real data is, the demo model, one Ray session, and small models."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_servers import ceph_s3, ceph_server, moto_s3, moto_server, s3_endpoint  # noqa: F401  fixtures for all tests

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"
DEMO_MODEL = PROJECT / "m2f_batch" / "demo" / "model"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and awkward files, where the folder is beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED / "data"


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests: starting it costs seconds, its workers' imports more."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


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
