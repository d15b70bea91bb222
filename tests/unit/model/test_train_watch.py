"""A run's record survives a kill and a resume, and a run with a bad number stops with its batch on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model import flops
from model.training import watch as watches
from model.training.watch import Limits, TrainingStopped, Watch
from talkbench.errors import PrerequisiteError
from tests.unit.model import tiny_training as tiny
from tests.unit.model import training_runs as runs

RECIPE = runs.recipe()


@pytest.fixture
def open_watch(tmp_path: Path) -> Iterator[Callable[..., Watch]]:
    opened: list[Watch] = []

    def make(**changes: Any) -> Watch:
        while opened:
            opened.pop().close()
        opened.append(Watch(tmp_path, RECIPE, **changes))
        return opened[-1]

    yield make
    for watch in opened:
        watch.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_step_is_on_the_disk_before_the_next(open_watch: Callable[..., Watch], tmp_path: Path) -> None:
    watch = open_watch()
    watch.step(0, {"loss": 0.5, "grad_norm": 2.0}, clips=4, passes=12)
    (line,) = lines(tmp_path)
    assert (line["step"], line["loss"], line["grad_norm"]) == (0, 0.5, 2.0)
    assert line["tokens_per_second"] == pytest.approx(12 * RECIPE.model.num_tokens / line["seconds"])
    assert line["clips_per_second"] == pytest.approx(4 / line["seconds"])
    assert "utilisation" not in line


def test_the_line_tells_step_terms_and_throughput(open_watch: Callable[..., Watch]) -> None:
    line = open_watch().step(41, {"loss": 0.12345}, clips=4, passes=12)
    assert line.startswith("step 42/1000  loss 0.1235")
    assert "clips/s" in line
    assert "tokens/s" in line
    assert "peak" not in line


def test_utilisation_is_told_on_a_device_with_a_data_sheet(open_watch: Callable[..., Watch], tmp_path: Path) -> None:
    line = open_watch(num_processes=8, device_name="NVIDIA H200").step(0, {"loss": 1.0}, clips=8, passes=24)
    (told,) = lines(tmp_path)
    expected = 24 * flops.dit_flops(RECIPE.model) / told["seconds"] / (8 * 989e12)
    assert told["utilisation"] == pytest.approx(expected)
    assert line.endswith("% of peak")


def test_steps_that_are_run_again_replace_those_of_the_interrupted_run(
    open_watch: Callable[..., Watch], tmp_path: Path
) -> None:
    watch = open_watch()
    for step in range(3):
        watch.step(step, {"loss": float(step)}, clips=1, passes=3)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "lo')  # a process killed while it wrote
    open_watch(first_step=2).step(2, {"loss": 20.0}, clips=1, passes=3)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(0, 0.0), (1, 1.0), (2, 20.0)]


def test_a_full_disk_is_named_with_what_goes_on(
    open_watch: Callable[..., Watch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    watch = open_watch()
    monkeypatch.setattr(watches.atomic.AppendFile, "append", fail)
    with pytest.raises(PrerequisiteError, match=r"metrics\.jsonl cannot be written: .*No space.*goes on from"):
        watch.step(0, {"loss": 1.0}, clips=1, passes=3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_stops_the_run_with_the_batch_saved(
    open_watch: Callable[..., Watch], tmp_path: Path, value: float
) -> None:
    batch = [tiny.sample("clip-a"), tiny.sample("clip-b", seed=1)]
    with pytest.raises(
        TrainingStopped, match=rf"step 7 of test: grad_norm is {value}.*bad-step-7.*stage.optimizer.rate="
    ):
        open_watch().check(7, {"loss": 1.0, "grad_norm": value}, batch, {"k": 3, "exit_step": 2})
    told = json.loads((tmp_path / "bad-step-7" / "rank-0.json").read_text(encoding="utf-8"))
    assert (told["samples"], told["draws"], told["seed"]) == (["clip-a", "clip-b"], {"k": 3, "exit_step": 2}, 0)
    assert told["terms"] == {"loss": "1.0", "grad_norm": repr(value)}
    tensors = load_file(tmp_path / "bad-step-7" / "rank-0.safetensors")
    assert torch.equal(tensors["1.latents_CThw"], batch[1].latents_CThw)


def test_a_loss_far_above_its_median_stops_the_run_and_one_below_does_not(open_watch: Callable[..., Watch]) -> None:
    watch = open_watch(limits=Limits(factor=3.0, window=10, after=5))
    for step in range(4):
        watch.check(step, {"loss": 100.0 if step == 1 else 1.0}, [])
    watch.check(4, {"loss": 50.0}, [])  # too early to tell
    watch.check(5, {"loss": 2.9}, [])
    with pytest.raises(TrainingStopped, match=r"loss is 5.9, more than 3 times the median 1.95 of the last 6 steps"):
        watch.check(6, {"loss": 5.9}, [])


def test_terms_that_are_not_watched_may_grow(open_watch: Callable[..., Watch]) -> None:
    watch = open_watch(limits=Limits(terms=("loss",), after=1))
    for step, value in enumerate((1.0, 1.0, 1e6)):
        watch.check(step, {"loss": 1.0, "grad_norm": value}, [])


def test_a_resumed_run_knows_its_median(open_watch: Callable[..., Watch]) -> None:
    watch = open_watch()
    for step in range(5):
        watch.step(step, {"loss": 1.0}, clips=1, passes=3)
    with pytest.raises(TrainingStopped, match="median 1 of the last 5"):
        open_watch(first_step=5, limits=Limits(factor=3.0, after=5)).check(5, {"loss": 4.0}, [])


def test_one_process_is_its_own_average() -> None:
    assert watches.average({"loss": 2.0}) == {"loss": 2.0}


def test_that_tensorboard_is_absent_is_said_once(
    open_watch: Callable[..., Watch], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "find_spec", lambda _: None)
    with caplog.at_level("WARNING", logger=watches.__name__):
        watch = open_watch()
        for step in range(3):
            watch.step(step, {"loss": 1.0}, clips=1, passes=3)
    assert [record.message.partition(":")[0] for record in caplog.records] == ["TensorBoard is not installed"]
