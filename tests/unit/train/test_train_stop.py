"""Ctrl-C of a training whose OUTPUT does not answer: storage that stalls is what people stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NoReturn

from m2f_batch.cli import main
from m2f_batch.storage.store import StoreUnavailable
from m2f_batch.train import command


def test_a_stop_while_storage_is_away_is_still_a_stop(monkeypatch, capsys, tmp_path) -> None:
    def interrupted(place: object) -> None:
        raise KeyboardInterrupt

    asked: list[object] = []

    def gone(*what: object) -> NoReturn:
        asked.append(what)
        raise StoreUnavailable("s3://bucket: cannot be reached")

    @contextmanager
    def held(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(is_finished=False, place=SimpleNamespace(store=SimpleNamespace(read=gone), path=str))

    images = SimpleNamespace(table=SimpleNamespace(num_rows=4))
    job = {"steps": 9, "task": "instance", "train": images, "val": None}
    stubs = {
        "plan_job": lambda config, report: SimpleNamespace(config=config, **job),
        "check_images": lambda job: None,
        "check_place": lambda job: None,
        "plan_lines": lambda job: [],
        "is_finished": lambda *_: False,
        "_here": lambda job, say: interrupted,
        "held": held,
        "complete": gone,
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(command, name, stub)
    keys = ("--model", "/m", "--set", "train.steps=9", "--set", "data.format=coco")
    assert main(["finetune", str(tmp_path / "train.json"), str(tmp_path / "tuned"), *keys]) == 130
    said = capsys.readouterr()
    assert "the same command goes on from the last checkpoint" in said.out and "cannot be reached" not in said.err
    assert len(asked) == 1, "nobody wants a result, so storage is asked once"
