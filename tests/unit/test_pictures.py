"""The scripts that draw the documents' pictures, without the runs and models that they draw."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.lib.results import Span
from benchmarks.pictures import drawing, kill, speed, staircase


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder in place of that of the documents."""
    monkeypatch.setattr(drawing, "PROJECT", tmp_path)
    monkeypatch.setattr(drawing, "PICTURES", tmp_path)
    return tmp_path


def test_a_picture_that_is_too_large_is_not_written(pictures, monkeypatch):
    monkeypatch.setattr(drawing, "MOST_BYTES", 2000)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for name in ("noise.png", "noise.jpg"):
        with pytest.raises(ValueError, match=r"noise\.(png|jpg): [\d,]+ bytes are more than 2,000"):
            drawing.save_image(Image.fromarray(noise), name)
    assert list(pictures.iterdir()) == []


def test_what_is_committed_is_counted_in_whole_files_and_in_units(tmp_path):
    assert kill.committed(tmp_path) == 0
    for name, rows in (("annotations/a", 5), ("_state/parts/b/0", 3), ("_state/parts/b/1", 2), ("_state/parts/a/0", 5)):
        file = tmp_path / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image_id": range(rows)}), file)
    (tmp_path / "_state" / "listing.parquet").write_bytes(b"no part")
    assert kill.committed(tmp_path) == 10


def drawn_by(module, monkeypatch, *given):
    """The only axis that a module draws, in place of a file."""
    figures = []
    monkeypatch.setattr(module, "save", lambda figure, name: figures.append(figure))
    module.draw(*given)
    ((axis,),) = [figure.axes for figure in figures]
    return axis


def test_the_timeline_is_drawn_from_both_first_commits_on(monkeypatch):
    run = {"samples": [(0.0, 0), (2.0, 40), (7.0, 48), (9.0, 100)], "kill": 2.5, "again": 7.0}
    measured = {"images": 100, "undisturbed": [(0.0, 0), (4.0, 10), (8.0, 100)], "killed": run}
    whole, killed, *others = drawn_by(kill, monkeypatch, measured).lines
    assert whole.get_xydata().tolist() == [[0, 10], [4, 100]]
    assert killed.get_xydata().tolist() == [[0, 40], [5, 48], [7, 100]]
    assert [float(line.get_xdata()[0]) for line in others[:2]] == [0.5, 5.0]


def test_the_chart_of_speed_draws_each_bar_as_long_as_its_ratio(monkeypatch):
    parts = [speed.Bar("a", "1 s, not 9 s", Span(9.0, 8.0, 10.0)), speed.Bar("b", "1 s, not 2 s", Span(2.0, 1.5, 2.5))]
    axis = drawn_by(speed, monkeypatch, parts)
    assert [bar.get_width() for bar in axis.patches] == [9.0, 2.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert [text.get_text().split("(")[1] for text in axis.texts] == ["1 s, not 9 s)", "1 s, not 2 s)"]


def test_the_edge_that_is_enlarged_is_the_upper_right_one():
    mask = np.zeros((400, 500), bool)
    mask[100:301, 150:351] = np.hypot(*np.ogrid[-100:101, -100:101]) <= 100
    y, x = staircase.edge_of(mask)
    assert mask[y, x] and not mask[y - 1, x + 1]
    assert abs((200 - y) - (x - 250)) < 15
