"""What a training says while it goes on: how far, how fast, the loss and its parts, and once what is normal."""

import sys

import pytest
import torch
from support.train_models import layer_logits

from benchmarks.training.small_training import small_model
from m2f_batch.result import unheard
from m2f_batch.train.data.stream import Span
from m2f_batch.train.loop.progress import SMOOTHED, Progress, first_loss


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def told(clock: Clock, losses: list[float], *, first: int = 0, seconds: float = 10.0) -> list[str]:
    """The lines of steps of 4 images and ``seconds`` each, 300 in all; a quarter of a loss is the class's."""
    lines: list[str] = []
    progress = Progress(Span(first, 300, 4, 1, 0, 1), lines.append, clock=clock)
    for at, loss in enumerate(losses, start=first + 1):
        clock.now += seconds
        progress.step(at, loss, {"class": loss / 4, "mask": loss / 4, "dice": loss / 2})
    progress.close()
    return lines


def test_lines_tell_the_mean_of_the_last_steps(clock):
    lines = told(clock, [40.0, 30.0, 20.0])
    assert lines == ["train   step 3 of 300, loss 30 (class 7.5, mask 7.5, dice 15), 0.4 images/s, 49 min 30 s left"]


def test_old_steps_are_forgotten(clock):
    lines = told(clock, [1000.0] * SMOOTHED + [10.0] * SMOOTHED, seconds=31.0 / SMOOTHED)
    assert "loss 1e+03 (" in lines[0] and "loss 10 (class 2.5, mask 2.5, dice 5), " in told(Clock(), [10.0] * 4)[0]
    clock.now = 0.0
    last = told(clock, [1000.0] + [10.0] * SMOOTHED, seconds=30.0 / (SMOOTHED + 1) + 1e-9)
    assert last == ["train   step 21 of 300, loss 10 (class 2.5, mask 2.5, dice 5), 2.8 images/s, 6 min 39 s left"]


def test_a_resumed_training_counts_from_where_it_was(clock):
    (line,) = told(clock, [20.0] * 3, first=100)
    assert line.startswith("train   step 103 of 300, loss 20 (") and line.endswith("0.4 images/s, 32 min 50 s left")


def test_steps_that_were_skipped_are_not_in_the_mean(clock):
    nan = float("nan")
    assert "loss 20 (class 5, mask 5, dice 10)" in told(clock, [20.0, nan, 20.0])[0]
    assert told(Clock(), [nan] * 3) == ["train   step 3 of 300, 0.4 images/s, 49 min 30 s left"]


def on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


def test_a_terminal_has_a_table_with_the_loss(clock, monkeypatch, capsys):
    on_a_terminal(monkeypatch)
    assert told(clock, [40.0, 20.0], first=298) == []
    said = capsys.readouterr().err
    assert "step 300 of 300, 0.4 images/s, 0 s left" in said and "30 (class 7.5, mask 7.5, dice 15)" in said


def test_what_is_normal_follows_from_the_outputs_of_the_decoder():
    """20 to 60 for the ten of Mask2Former, as public reports have it (NielsRogge/Transformers-Tutorials#299)."""
    assert "10 outputs, so 20 to 60 is normal" in first_loss(47.0, 10)
    model = small_model()
    classes, masks = layer_logits(model, torch.zeros(1, 3, 64, 64))
    assert len(classes) == len(masks) == model.config.decoder_layers, "what is told is the number of addends"


@pytest.mark.parametrize(("say", "is_drawn"), [(print, True), (unheard, False)])
def test_a_table_is_drawn_for_who_listens_alone(say, is_drawn, clock, monkeypatch, capsys):
    on_a_terminal(monkeypatch)
    progress = Progress(Span(0, 300, 4, 1, 0, 1), say, clock=clock)
    progress.step(1, 4.0, {"class": 4.0})
    progress.close()
    drawn = capsys.readouterr().err
    assert ("step 1 of 300" in drawn) is is_drawn and bool(drawn) is is_drawn
