"""A run that is interrupted and resumed equals one that is not; anything else is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model import initial
from model.checkpoint import Files, write_dit
from model.parallel import shard
from model.pipeline import build
from model.training import checkpoints
from model.training.ema import Ema
from talkbench.errors import PrerequisiteError, TalkbenchError
from tests.unit.model import tiny_training as tiny
from tests.unit.model import training_runs as runs
from tests.unit.model.processes import RankError, outcomes

RECIPE = runs.recipe(ema_decay=0.5)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trained = runs.Run(RECIPE)
    for step in (1, 2, 3):
        checkpoints.save(folder, trained.go(step - 1, step).state, step, keep_last=2)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "run")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_interrupted_and_resumed_equals_uninterrupted_to_the_last_bit(folder: Path) -> None:
    whole = runs.Run(RECIPE).go(0, 5)
    resumed = runs.Run(RECIPE, seed=9)
    assert checkpoints.load(folder, resumed.state) == 3
    assert resumed.state.position == {"step": 3}
    resumed.go(3, 5)
    assert runs.difference(resumed.weights, whole.weights) == 0
    averages, expected = (each.state.averages["generator"].averages for each in (resumed, whole))
    assert runs.difference(averages, expected) == 0
    for mine, theirs in zip(resumed.optimizer.state.values(), whole.optimizer.state.values(), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def test_the_last_checkpoints_are_kept_and_latest_names_the_newest(folder: Path) -> None:
    assert names(folder) == ["latest", "step-2", "step-3"]
    assert checkpoints.find(folder) == folder / "step-3"
    assert checkpoints.find(folder / "step-2") == folder / "step-2"


def test_a_run_that_goes_back_replaces_what_came_later(folder: Path) -> None:
    resumed = runs.Run(RECIPE, seed=9)
    assert checkpoints.load(folder / "step-2", resumed.state) == 2
    checkpoints.save(folder, resumed.go(2, 3).state, 3, keep_last=1)
    assert names(folder) == ["latest", "step-3"]
    again = runs.Run(RECIPE, seed=9)
    assert checkpoints.load(folder, again.state) == 3
    assert runs.difference(again.weights, resumed.weights) == 0


def test_another_recipe_is_refused_with_every_differing_field(folder: Path) -> None:
    other = replace(
        RECIPE,
        stage=replace(RECIPE.stage, shift=3.0),
        model=replace(RECIPE.model, dit=replace(RECIPE.model.dit, ffn_dim=32)),
    )
    with pytest.raises(TalkbenchError, match="step-3 is a checkpoint of another recipe") as caught:
        checkpoints.load(folder, replace(runs.Run(RECIPE).state, recipe=other))
    assert "stage.shift is 5.0 there and 3.0 here" in str(caught.value)
    assert "model.dit.ffn_dim is 16 there and 32 here" in str(caught.value)


def test_a_checkpoint_of_the_other_stage_is_refused(folder: Path) -> None:
    other = replace(RECIPE, stage=runs.DistillConfig())
    with pytest.raises(TalkbenchError, match="stage is SftConfig there and DistillConfig here"):
        checkpoints.load(folder, replace(runs.Run(RECIPE).state, recipe=other))


def test_length_and_place_of_a_run_may_change(folder: Path) -> None:
    longer = replace(
        RECIPE, stage=replace(RECIPE.stage, steps=7), keep_last=9, checkpoint_activations=True, description="longer"
    )
    assert checkpoints.load(folder, runs.Run(longer).state) == 3


@pytest.mark.parametrize("pattern", ["*.distcp", ".metadata"])
def test_a_damaged_or_missing_file_is_named_with_the_checkpoints_that_are_left(folder: Path, pattern: str) -> None:
    state = runs.Run(RECIPE).state
    (file,) = (folder / "step-3").glob(pattern)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(TalkbenchError, match=rf"step-3/{file.name} is damaged.*: step-2\."):
        checkpoints.load(folder, state)
    file.unlink()
    with pytest.raises(TalkbenchError, match=rf"step-3/{file.name} is not there.*: step-2\."):
        checkpoints.load(folder, state)


def test_a_damaged_description_is_named(folder: Path) -> None:
    (folder / "step-3" / checkpoints.STATE).write_text("{", encoding="utf-8")
    with pytest.raises(TalkbenchError, match="state.json cannot be read"):
        checkpoints.load(folder, runs.Run(RECIPE).state)


def test_a_pointer_to_nothing_names_what_is_there(folder: Path) -> None:
    shutil.rmtree(folder / "step-3")
    with pytest.raises(TalkbenchError, match="names step-3, which is not there.*step-2"):
        checkpoints.find(folder)


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="holds no checkpoint"):
        checkpoints.find(tmp_path)


def test_a_full_disk_leaves_the_checkpoints_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = json.loads((folder / "step-3" / checkpoints.STATE).read_text(encoding="utf-8"))
    state = runs.Run(RECIPE).state
    monkeypatch.setattr(checkpoints.FileSystemWriter, "write_data", fail)
    with pytest.raises(PrerequisiteError, match="step 4 could not be saved.*No space left.*step-3 is as it was"):
        checkpoints.save(folder, state, 4, keep_last=2)
    monkeypatch.undo()
    monkeypatch.setattr(checkpoints.atomic, "write_text", fail)
    with pytest.raises(PrerequisiteError, match="step 4 could not be saved"):
        checkpoints.save(folder, state, 4, keep_last=2)
    assert names(folder) == ["latest", "step-2", "step-3"]
    assert checkpoints._digests(sorted(before["files"]), folder / "step-3") == before["files"]


def test_a_save_that_is_stopped_is_not_taken_for_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: Any) -> None:
        raise KeyboardInterrupt

    state = runs.Run(RECIPE).state
    monkeypatch.setattr(checkpoints.FileSystemWriter, "write_data", press)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(folder, state, 4, keep_last=2)
    assert checkpoints.find(folder).name == "step-3"


def killed(rank: int, _: int, folder: Path) -> None:
    """Save twice; the second process dies in the middle of the second save."""
    state = runs.Run(RECIPE, shard.connect(tiny.CPU)).state
    checkpoints.save(folder, state, 1, keep_last=2)
    if rank == 1:
        checkpoints.FileSystemWriter.write_data = lambda *_: os._exit(1)  # type: ignore[method-assign]
    checkpoints.save(folder, state, 2, keep_last=2)


def test_a_process_killed_during_a_save_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    found = outcomes(killed, 2, tmp_path, tmp_path / "run")
    assert all(isinstance(each, RankError) for each in found)
    assert checkpoints.find(tmp_path / "run").name == "step-1"
    state = runs.Run(RECIPE, seed=9).state
    assert checkpoints.load(tmp_path / "run", state) == 1
    checkpoints.save(tmp_path / "run", state, 2, keep_last=2)
    assert names(tmp_path / "run") == ["latest", "step-1", "step-2"]


def test_the_next_stage_starts_from_the_weights_or_the_averages_of_a_run(folder: Path) -> None:
    trained = runs.Run(RECIPE, seed=9)
    checkpoints.load(folder, trained.state)
    stage = replace(RECIPE, stage=runs.DistillConfig(), ema_decay=None)
    for averaged in (False, True):
        net = runs.velocity(seed=4)
        checkpoints.load_weights(folder, net, stage, "generator", averaged=averaged)
        expected = trained.state.averages["generator"].averages if averaged else trained.weights
        assert runs.difference(dict(net.named_parameters()), expected) == 0
    with pytest.raises(TalkbenchError, match="no network 'fake'; it has: generator"):
        checkpoints.load_weights(folder, runs.velocity(), stage, "fake")


def test_keeping_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last is 0"):
        checkpoints.save(tmp_path, runs.Run(RECIPE).state, 1, keep_last=0)


def test_an_exported_generator_is_what_the_pipeline_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    initial.write(tiny.MODEL, tmp_path, seed=4)
    net = tiny.velocity(7)
    monkeypatch.setattr("model.checkpoint.SHARD_BYTES", 20_000)
    shards = write_dit(net.dit, Files.below(tmp_path).model, torch.float64)
    assert len(shards) > 2
    assert sorted(Files.below(tmp_path).model.glob("*.safetensors")) == sorted(shards)
    built = build(replace(tiny.MODEL, weights_seed=None), tmp_path)
    assert runs.difference(dict(built.dit.named_parameters()), dict(net.dit.named_parameters())) == 0


def test_an_average_follows_the_weights_and_gives_them_back() -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 1.0)
    average = Ema(net, 0.75)
    torch.nn.init.constant_(net.weight, 5.0)
    average.update(net)
    with average.applied(net):
        assert net.weight.item() == 2.0
    assert (net.weight.item(), average.averages["weight"].item()) == (5.0, 2.0)


def test_a_decay_that_forgets_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="ema_decay is 1.0"):
        Ema(torch.nn.Linear(1, 1), 1.0)
