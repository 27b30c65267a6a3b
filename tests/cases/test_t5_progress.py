"""Case T5: the loss and its parts on the progress line, and once what is normal."""

import json
import re

import pytest
from support.finetunes import config_file

from m2f_batch.cli import main
from m2f_batch.demo.dataset import write_dataset
from m2f_batch.train.loop import progress

LINE = re.compile(
    r"train   step (\d+) of 3, loss ([\d.]+) \(class ([\d.]+), mask ([\d.]+), dice ([\d.]+)\), [\d.]+ images/s, .* left"
)


@pytest.mark.slow
def test_the_loss_is_on_the_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    write_dataset(tmp_path / "dataset", train=4, val=2)
    config = config_file(tmp_path / "dataset", tmp_path, steps=3, batch_size=2, evaluate_every=3, checkpoint_every=1)
    command = ["finetune", "--config", str(config), "--set", f"output.uri={tmp_path / 'tuned'}"]
    assert main(command) == 0
    said = capsys.readouterr().out
    found = [[float(figure) for figure in match] for match in LINE.findall(said)]
    logged = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logged if line["kind"] == "train"]
    assert [step for step, *_ in found] == [1, 2], "of the last step the end says enough"
    for step, loss, *parts in found:
        assert loss == pytest.approx(sum(losses[: int(step)]) / step, rel=0.006), "three digits of the mean"
        assert sum(parts) == pytest.approx(loss, rel=0.01)
    (normal,) = [line for line in said.splitlines() if line.startswith("loss ")]
    assert normal == progress.first_loss(losses[0], outputs=2)
