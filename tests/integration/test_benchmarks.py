"""Every part of the benchmarks at tiny size, and that their comparisons fail when an answer is wrong."""

import dataclasses
import itertools
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import PROJECT
from support import reference

from benchmarks.families import documents, families
from benchmarks.families import parts as family_parts
from benchmarks.families.cases import ALL
from benchmarks.families.models import save
from benchmarks.lib import agreement, photos, timing
from benchmarks.lib.peers import DENSE, shipped
from benchmarks.lib.work import SQUARE, make_work
from benchmarks.parts import forward, gpu, job, megapixels, memory, postprocess, preprocess
from m2f_batch.config.segment import AspectSize
from m2f_batch.models.predictions import QueryLogits
from m2f_batch.vision.masks.rle import encode_mask
from m2f_batch.vision.segmenter import pinned_threads

ONCE = timing.Rounds(1, 1)
SMALL = AspectSize(shortest_edge=90, longest_edge=160)  # padded canvases
TASKS = ["instance", "panoptic", "semantic"]


@pytest.fixture(params=["photographs", "no photographs"])
def data(request, monkeypatch, tmp_path):
    """With the shared data and without."""
    photos._annotations.cache_clear()
    where = request.getfixturevalue("shared_data") if request.param == "photographs" else tmp_path
    monkeypatch.setattr(photos, "DATA", where)
    yield
    photos._annotations.cache_clear()


def tiny(task):
    return make_work(task, (120, 170), 8, classes=20, size=SMALL, queries=16)


@pytest.mark.parametrize("task", TASKS)
def test_regions_made_plane_by_plane_are_the_oracles(task, data):
    work = tiny(task)
    made = agreement.expected(work)
    dense = getattr(reference, task)(work.class_logits, work.mask_logits, **work.sizes, **work.options)
    assert [(r.category_id, pytest.approx(r.score, abs=1e-6)) for r in dense] == [
        (r.category_id, r.score) for r in made
    ]
    for a, b in zip(made, dense, strict=True):
        assert (a.mask == b.mask).all()
        assert (a.doubtful == b.doubtful).all()
    agreement.check_same(DENSE[task](work), made)


@pytest.mark.parametrize("task", TASKS)
def test_postprocess_runs_and_finds_what_is_there(task, data):
    line = postprocess.measure(postprocess.Cell(task, (120, 170), 8, 20), SQUARE, ONCE)
    assert line["same"] >= 5
    assert line["rounds"] == 1


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("wrong", ["pixel", "class", "score", "missing", "transformers"])
def test_a_wrong_answer_fails(task, wrong):
    def answer(work):
        segments = postprocess.ours(work)
        first = segments[0]
        if wrong == "pixel":
            mask = first.mask()
            sure = np.argwhere(mask & ~agreement.expected(work)[0].doubtful)
            mask[tuple(sure[len(sure) // 2])] = False
            code = encode_mask(mask)
            segments[0] = dataclasses.replace(first, counts=code.counts, area=code.area)
        elif wrong == "class":
            segments[0] = dataclasses.replace(first, category_id=first.category_id + 1)
        elif wrong == "score":
            segments[0] = dataclasses.replace(first, score=first.score + 1e-4)
        elif wrong == "missing":
            segments.pop()
        else:
            return shipped(work)
        return segments

    with pytest.raises(AssertionError):
        postprocess.measure(postprocess.Cell(task, (120, 170), 8, 20), SQUARE, ONCE, answer)


def test_preprocess_runs_and_a_wrong_pixel_fails(data):
    line = preprocess.measure((60, 80), preprocess.SETTINGS[0], 2, ONCE)
    assert line["images"] == 2
    values = [torch.zeros(1, 3, 4, 4)]
    with pytest.raises(AssertionError):
        preprocess.check_equal(values, [values[0] + 1e-6])


def test_megapixels_cost_more_the_more_there_are():
    small, large = (megapixels.measure(size, 1, 1) for size in ((60, 80), (600, 800)))
    assert (small["megapixels"], large["megapixels"]) == ("0.0", "0.5")
    assert small.keys() == large.keys() and len([name for name in small if name.startswith("postprocess, ")]) == 3


def test_forward_runs_and_a_wrong_logit_fails(monkeypatch):
    monkeypatch.setattr(forward, "GEMM", 128)
    model = PROJECT / "m2f_batch" / "demo" / "model"
    line = forward.measure(model, (64, 64), ONCE, torch.device("cpu"), False)
    assert line["within 1e-4"] == "2 of 2"
    assert forward.check_double(model, 1) <= 1e-9
    right = forward.forward

    def wrong(*inputs):
        return QueryLogits(*(logits + 1e-8 for logits in right(*inputs).tensors))

    monkeypatch.setattr(forward, "forward", wrong)
    with pytest.raises(AssertionError):
        forward.check_double(model, 1)


def test_rows_that_differ_fail():
    segments = postprocess.ours(tiny("instance"))
    assert "byte for byte" in job.same_rows({"a": segments}, {"a": segments}, exact=True)
    with pytest.raises(AssertionError):
        job.same_rows({"a": segments[1:]}, {"a": segments}, exact=True)
    assert gpu.match([segments], [segments]) == ([1.0] * len(segments), 0.0)
    matched, unmatched = gpu.match([segments[1:]], [segments])
    assert len(matched) < len(segments) or unmatched > 0


def test_memory_runs():
    with pinned_threads(1):
        grown = {way: memory.growth_mib("instance", way, (480, 640), 20) for way in memory.WAYS}
    assert all(grown[way] > 20 * 480 * 640 * 4 / 2**20 for way in memory.WAYS[1:]), "dense masks are that large"


def test_memory_measures_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(memory, "WAYS", ("ours",))
    assert memory.measure("instance", (120, 160), 5)["kept"] == 5


def test_ways_take_turns_and_ratios_are_per_round():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds, _ = timing.take_turns(ways, timing.Rounds(3, 3))
    assert "".join(calls) == "abbaab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert timing.ratio_of([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == (3.0, 2.0, 4.0)
    assert timing.table([{"x": 1, "y": "b"}]) == "| x | y |\n| --- | --- |\n| 1 | b |"


def test_speeds_of_families_are_the_measured():
    """``python -m benchmarks.families.documents`` writes them."""
    text = documents.DOCUMENT.read_text()
    assert documents.with_speeds(text, documents.figures()) == text


def test_a_measured_family_is_in_the_table():
    text, segformer = documents.DOCUMENT.read_text(), next(case for case in ALL if case.row == "segformer")
    measured = {
        "forward": {"transformers / ours": [1.26, 1, 2]},
        "post": [{"transformers / ours": [11.4, 1, 2]}, {"transformers / ours": [9.96, 1, 2]}],
        "job": {"one by one / ours": [3.14, 1, 2], "batched / ours": [2.72, 1, 2]},
    }
    written = documents.with_speeds(text, {segformer.name: measured})
    assert documents.with_speeds(written, {}) == documents.with_speeds(text, {}), "the column is written anew"
    lines = written.splitlines()
    (head,) = (at for at, line in enumerate(lines) if documents.COLUMN in line)
    table = [*itertools.takewhile(lambda line: line.startswith("|"), lines[head:])]
    (line,) = (line for line in table if "`segformer`" in line)
    assert "| SegFormer, B0, 512x512: forward 1.3, post-processing 10 to 11, whole job 2.7 |" in line
    assert len({line.count("|") for line in table}) == 1
    assert {line.split("`")[1] for line in table[2:]} == {case.row for case in ALL}, "every family is measured"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder for what is measured, and a copy of the document."""
    for module in (documents, timing):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    document = tmp_path / "models.md"
    document.write_text(documents.with_speeds(documents.DOCUMENT.read_text(), {}))
    monkeypatch.setattr(documents, "DOCUMENT", document)
    return tmp_path


def made_up(forward):
    ways = {"ours": 1.0, "rounds": 3}
    both = {name: [each, 1, 9] for name, each in (("one by one / ours", 3.0), ("batched / ours", 2.0))}
    job = ways | both | {"images": 2, "segments": 4, "one by one": 3.0, "batched": 2.0}
    time = ways | {"transformers": forward, "transformers / ours": [forward, 1, 9]}
    return {"forward": time | {"canvas": "64x64", "attention": "sdpa", "difference": 1e-6}, "post": [], "job": job}


def test_what_is_measured_of_one_family_keeps_the_others(results, monkeypatch, capsys):
    """One that fails keeps what was measured before, too, and ends the command with 1."""

    def run(speed, *options):
        monkeypatch.setattr(families, "measure", lambda case, device, quick: made_up(speed[case.row]))
        monkeypatch.setattr(sys, "argv", ["families", *options])
        return families.main()

    assert run({"segformer": 1.5, "beit": 2.5}, "--only", "segformer,beit") == 0
    assert run({"beit": 4.0}, "--only", "beit,segformer") == 1
    assert "not measured, because of the errors above: SegFormer" in capsys.readouterr().err
    (beit,) = (case.name for case in ALL if case.row == "beit")
    text, document = (results / "families.md").read_text(), (results / "models.md").read_text()
    assert "Measured before, and kept: SegFormer, B0, 512x512." in text and "| 4 (1-9) |" in text
    assert "| SegFormer, B0, 512x512: forward 1.5, whole job 2.0 |" in document
    assert f"| {beit}: forward 4.0, whole job 2.0 |" in document
    assert document.count(documents.UNMEASURED) == len({case.row for case in ALL}) - 2

    cuda = torch.device("cuda")
    for name in ("segformer", "beit"):
        families.write(families.measure_all(families.chosen_cases(name), cuda, quick=False) or {}, cuda, quick=False)
    assert documents.figures("cuda").keys() == {beit}, "those of a CPU are not a GPU's"
    families.keep({"SegFormer, B0, 512x512": made_up(8.0)}, cuda)
    assert {name: found["forward"]["transformers"] for name, found in documents.figures("cuda").items()} == {
        **{beit: 4.0, "SegFormer, B0, 512x512": 8.0}
    }
    assert (results / "models.md").read_text() == document, "the document says what a CPU does"
    assert "float32 on cuda" in (results / "families-cuda.md").read_text()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.key)
def test_each_family_that_is_measured_can_be_built(case):
    """UperNet on ConvNeXt could not, and its tiny model could."""
    with torch.device("meta"):
        model = getattr(transformers, case.model)(case.config())
    assert hasattr(model.get_submodule(case.head), "weight")
    assert hasattr(transformers, case.processor)


def test_unknown_families_are_refused():
    assert [case.row for case in families.chosen_cases("beit,segformer")] == ["segformer", "beit"]
    with pytest.raises(SystemExit, match=r"--only nothing: there are mask2former, .*, mobilevitv2"):
        families.chosen_cases("nothing")


def test_a_wrong_logit_of_a_family_fails():
    logits = (torch.ones(1, 2, 4, 4), torch.full((1, 3), 10.0))
    assert family_parts.apart(logits, logits) == 0
    assert family_parts.apart((logits[0] + 0.5, logits[1]), logits) == 0.5
    assert family_parts.apart((logits[0], logits[1] + 0.5), logits) == pytest.approx(0.05)


@pytest.mark.slow  # a model is made, and run 20 times on photographs
def test_a_family_is_measured():
    case = next(case for case in ALL if case.row == "rf_detr")
    found = families.measure(case, torch.device("cpu"), quick=True)
    assert found["forward"]["difference"] < 1e-5
    assert found["job"]["segments"] >= 1
    (post,) = found["post"]
    assert post["overlap"] > 0.9
    text = "\n".join(families.tables({case.name: found}))
    assert text.count(f"| {case.name} | ") == 3


@pytest.mark.slow  # a model is made for each, of which only the processor is used
@pytest.mark.parametrize(("row", "task"), [("oneformer", "semantic"), ("eomt", "panoptic"), ("eomt", "instance")])
def test_post_processing_of_families_is_that_of_their_processors(row, task, tmp_path):
    """OneFormer's of the other tasks loses whole objects, and gives several the same id."""
    case = next(case for case in ALL if case.row == row)
    save(case, tmp_path / "model", quick=True)
    line = family_parts.measure_post(case, tmp_path / "model", task, (120, 170), ONCE)
    assert line["segments"] > 3
    assert line["overlap"] > 0.5


@pytest.mark.parametrize("part", [postprocess, preprocess, megapixels, forward, job, memory, gpu, families])
def test_commands_explain_themselves(part, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit) as end:
        part.main()
    assert end.value.code == 0
    assert "--quick" in capsys.readouterr().out
