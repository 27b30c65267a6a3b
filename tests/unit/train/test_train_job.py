"""What travels to the nodes of a training, and which images each worker validates."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import DEMO_MODEL
from support.train_models import CATEGORIES

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.datasets.dataset import Dataset, dataset_of
from m2f_batch.demo.dataset import write_dataset
from m2f_batch.errors import RunError
from m2f_batch.models.source import ModelSource
from m2f_batch.train.loop.validation import share_of
from m2f_batch.train.start.job import TrainJob, plan_job


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, train=2, val=1)
    return folder


def planned(scenes: Path, model: str) -> TrainJob:
    data = {"format": "coco-panoptic", "train": str(scenes / "train.json")}
    data |= {f"train_{kind}": str(scenes / "train" / kind) for kind in ("images", "masks")}
    tree = {"data": data, "model": {"uri": model}, "train": {"steps": 1}, "output": {"uri": str(scenes / "out")}}
    return plan_job(FinetuneConfig.model_validate(tree))


def test_a_node_that_lacks_the_model_fetches_it(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command's cache is not on another node: what travels is where the model comes from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    fetched: list[ModelSource] = []

    def local_directory(source: ModelSource) -> Path:
        fetched.append(source)
        folder = tmp_path / "there" / str(source.revision)
        shutil.copytree(DEMO_MODEL, folder)
        return folder

    job = planned(scenes, str(DEMO_MODEL))
    there: TrainJob = pickle.loads(pickle.dumps(replace(job, source=ModelSource("s3://bucket/m", "bucket", "abc"))))
    monkeypatch.setattr("m2f_batch.train.start.job.local_directory", local_directory)
    assert there.checkpoint() == tmp_path / "there" / "abc"
    assert fetched == [ModelSource("s3://bucket/m", "bucket", "abc")]


def test_a_directory_that_another_node_lacks_is_named(scenes: Path, tmp_path: Path):
    shutil.copytree(DEMO_MODEL, tmp_path / "model")
    job = planned(scenes, str(tmp_path / "model"))
    assert job.checkpoint() == tmp_path / "model"
    shutil.rmtree(tmp_path / "model")  # as on another node
    with pytest.raises(RunError, match=r"model\.uri: the directory .*/model is not on node .*; on several nodes use"):
        pickle.loads(pickle.dumps(job)).checkpoint()


def test_every_image_is_validated_by_one_worker_even_where_some_have_none():
    segments = [{"category": 0, "iscrowd": False, "counts": "22"}]
    rows = [{"image_id": i, "uri": f"/{i}.png", "height": 2, "width": 2, "segments": segments} for i in range(3)]
    dataset = dataset_of(CATEGORIES, rows)
    shares = [[row["image_id"] for row in share_of(dataset, rank, 5).rows()] for rank in range(5)]
    assert shares == [[0], [1], [2], [], []]
    assert [row["image_id"] for row in share_of(dataset, 1, 2).rows()] == [1]
    assert isinstance(share_of(dataset, 0, 1), Dataset)
