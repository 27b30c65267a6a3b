"""A stage of somebody else's pipeline: an Arrow table in, the same rows with their segments out."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import DEMO_MODEL
from PIL import Image

import m2f_batch
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.records import SCHEMA, table_of
from m2f_batch.vision.batch_segmenter import ADDED, BatchSegmenter

SCENES = [np.ascontiguousarray(draw_scene(number).image[:160, :160]) for number in range(2)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for number, scene in enumerate(SCENES):
        Image.fromarray(scene).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def stage() -> BatchSegmenter:
    return BatchSegmenter(DEMO_MODEL, column="uri", task="instance")


def test_each_kind_of_column_gives_the_rows_of_a_run(
    files: list[Path], stage: BatchSegmenter, monkeypatch: pytest.MonkeyPatch
):
    """Places, bytes, and the tensors of Ray Data, of one size and of several."""
    from ray.data._internal.tensor_extensions.arrow import ArrowTensorArray

    wanted = table_of(stage.segmenter.rows(files)).select([*ADDED]).to_pylist()
    assert all(row["segments"] for row in wanted)
    columns = {
        "uri": pa.array([str(file) for file in files]),
        "bytes": pa.array([file.read_bytes() for file in files]),
        "image": ArrowTensorArray.from_numpy(np.stack(SCENES)),
    }
    table = pa.table({"key": [7, 8], **columns})
    for name in columns:
        monkeypatch.setattr(stage, "column", name)
        done = stage(table)
        assert done.column_names == ["key", *columns, *ADDED] and done["key"].to_pylist() == [7, 8]
        assert all(done.schema.field(each).type == SCHEMA.field(each).type for each in ADDED)
        assert done.select([*ADDED]).to_pylist() == wanted, name
    sizes = ArrowTensorArray.from_numpy(np.array([SCENES[0], SCENES[1][:100]], dtype=object))
    assert stage(pa.table({"image": sizes}))["height"].to_pylist() == [160, 100]


def test_what_cannot_be_read_is_a_row(stage: BatchSegmenter):
    done = stage(pa.table({"uri": pa.array([b"no image", None])})).to_pylist()
    assert [(row["status"], row["error"]["type"], row["segments"]) for row in done] == [
        ("error", "NotAnImage", []),
        ("error", "Empty", []),
    ]


def test_a_place_that_cannot_be_stops_no_pipeline(stage: BatchSegmenter):
    done = stage(pa.table({"uri": ["", "ftp://x/a.jpg"]})).to_pylist()
    assert [(row["status"], row["error"]["type"]) for row in done] == [("error", "BadUri")] * 2


@pytest.mark.parametrize(
    "batch, message",
    [
        ({"uri": np.array(["a"])}, "batch: is of type dict, and not an Arrow table; give map_batches batch_format="),
        (pa.table({"path": ["a"]}), "column: 'uri' is no column of the batch; allowed: path"),
        (pa.table({"uri": ["a"], "status": [1]}), "batch: has a column 'status' already; rename it"),
    ],
)
def test_another_batch_is_the_callers_mistake(batch: object, message: str, stage: BatchSegmenter):
    with pytest.raises(ValueError, match=message):
        stage(batch)  # type: ignore[arg-type]
    assert m2f_batch.BatchSegmenter is BatchSegmenter
