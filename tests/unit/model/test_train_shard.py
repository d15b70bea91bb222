"""Two processes that share weights and clips learn what one process learns.

The processes are started once and do everything; the tests then look at what they found.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from model import initial
from model.checkpoint import Files, load_dit, write_dit
from model.dit import DiT
from model.parallel import shard
from model.training import checkpoints
from model.training.conditions import Velocity
from talkbench.errors import TalkbenchError
from tests.unit.model import tiny_training as tiny
from tests.unit.model import training_runs as runs
from tests.unit.model.processes import run


def empty(recipe: Any, mesh: Any, *, trained: bool = True) -> Velocity:
    with torch.device("meta"):
        net = Velocity(DiT(runs.MODEL.dit))
    return shard.distribute(net, recipe, mesh, tiny.CPU, trained=trained)


def member(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Do everything that takes several processes."""
    mesh = shard.connect(tiny.CPU)
    assert mesh is not None
    assert mesh.size() == size
    recipe = runs.recipe(checkpoint_activations=True, ema_decay=0.9)
    trained = runs.Run(recipe, mesh).go(0, 2)
    checkpoints.save(folder / "run", trained.state, 2, keep_last=2)
    trained.go(2, 3)
    resumed = runs.Run(recipe, mesh, seed=9)
    step = checkpoints.load(folder / "run", resumed.state)
    resumed.go(step, 3)
    write_dit(trained.net.dit, folder / "exported", torch.float64)
    weights = trained.weights
    with trained.state.averages["generator"].applied(trained.net):
        averages = trained.weights
    assert runs.difference(trained.weights, weights) == 0
    read = empty(recipe, mesh)
    shard.load_released(read, folder / "exported")
    taken = empty(recipe, mesh, trained=False)
    checkpoints.load_weights(folder / "run", taken, recipe, "generator", averaged=True)
    return {
        "weights": weights,
        "norms": trained.norms,
        "averages": averages,
        "resumed": runs.difference(resumed.weights, weights),
        "read": runs.difference(runs.whole(dict(read.named_parameters())), weights),
        "taken": runs.whole(dict(taken.named_parameters())),
        "frozen": [parameter.requires_grad for parameter in taken.parameters()],
        "own": sum(shard.local(parameter).numel() for parameter in trained.net.parameters()),
        "distilled": runs.distilled(mesh),
        "mixed": mixed(mesh),
        "full_disk": full_disk(folder / "full", trained.state, rank),
    }


def mixed(mesh: Any) -> dict[str, Any]:
    """Take a pass in bfloat16; return the precisions of what is kept."""
    recipe = runs.recipe(precision="bfloat16", checkpoint_activations=True)
    trained, teacher = (
        shard.distribute(runs.velocity(), recipe, mesh, tiny.CPU, trained=each) for each in (True, False)
    )
    runs.sft.loss(trained, tiny.sample(), recipe, runs.Draws(0, 0, 0), 0, tiny.null_text().float()).loss.backward()
    return {
        "trained": {each.dtype for each in trained.parameters()},
        "gradients": {each.grad.dtype for each in trained.parameters() if each.grad is not None},
        "teacher": {each.dtype for each in teacher.parameters()},
    }


def full_disk(folder: Path, state: checkpoints.TrainState, rank: int) -> str:
    """Have the second process run out of space; return what this one is told."""
    checkpoints.save(folder, state, 1, keep_last=2)
    before = checkpoints.FileSystemWriter.write_data
    if rank == 1:

        def fail(*_: Any) -> Any:
            raise OSError(28, "No space left on device")

        checkpoints.FileSystemWriter.write_data = fail  # type: ignore[method-assign]
    try:
        checkpoints.save(folder, state, 2, keep_last=2)
    except TalkbenchError as error:
        return str(error)
    finally:
        checkpoints.FileSystemWriter.write_data = before  # type: ignore[method-assign]
    return "saved"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def world(folder: Path) -> list[dict[str, Any]]:
    return run(member, 2, folder, folder, timeout_seconds=300)


@pytest.fixture(scope="module")
def alone() -> runs.Run:
    return runs.Run(runs.recipe(ema_decay=0.9)).go(0, 3)


def test_two_processes_with_recomputed_blocks_learn_what_one_learns(
    world: list[dict[str, Any]], alone: runs.Run
) -> None:
    for found in world:
        assert runs.difference(found["weights"], alone.weights) < 1e-12
        assert found["norms"] == pytest.approx(alone.norms, rel=1e-12)
    assert min(alone.norms) > 0.5, "nothing was clipped"
    assert runs.difference(alone.weights, dict(runs.velocity().named_parameters())) > 1e-3, "nothing was learnt"


def test_averages_of_two_processes_are_those_of_one(world: list[dict[str, Any]], alone: runs.Run) -> None:
    averages = alone.state.averages["generator"].averages
    assert runs.difference(averages, alone.weights) > 1e-5
    for found in world:
        assert runs.difference(found["averages"], averages) < 1e-12


def test_each_process_keeps_half_of_the_weights(world: list[dict[str, Any]], alone: runs.Run) -> None:
    total = sum(parameter.numel() for parameter in alone.net.parameters())
    assert sum(found["own"] for found in world) == total
    assert max(found["own"] for found in world) < 0.6 * total


def test_distilling_three_sharded_networks_equals_one_process(world: list[dict[str, Any]]) -> None:
    expected = runs.distilled(None)
    for name, seed in (("generator", 0), ("fake", 1)):
        assert runs.difference(expected[name], dict(runs.velocity(seed).named_parameters())) > 1e-4
        for found in world:
            assert runs.difference(found["distilled"][name], expected[name]) < 1e-12


def test_two_processes_resume_to_the_last_bit(world: list[dict[str, Any]]) -> None:
    assert [found["resumed"] for found in world] == [0, 0]


def test_a_checkpoint_of_two_processes_goes_on_in_one(
    world: list[dict[str, Any]], folder: Path, alone: runs.Run
) -> None:
    resumed = runs.Run(runs.recipe(ema_decay=0.9), seed=9)
    assert checkpoints.load(folder / "run", resumed.state) == 2
    assert resumed.state.position == {"step": 2}
    resumed.go(2, 3)
    assert runs.difference(resumed.weights, alone.weights) < 1e-12
    mine, theirs = (each.state.averages["generator"].averages for each in (resumed, alone))
    assert runs.difference(mine, theirs) < 1e-12


def test_shards_are_exported_as_one_network_and_read_back_in_parts(
    world: list[dict[str, Any]], folder: Path, alone: runs.Run
) -> None:
    dit = initial.made_empty(partial(DiT, runs.MODEL.dit), tiny.CPU, torch.float64)
    load_dit(dit, folder / "exported")
    assert runs.difference(dict(Velocity(dit).named_parameters()), alone.weights) < 1e-12
    assert [found["read"] for found in world] == [0, 0]


def test_a_frozen_network_takes_the_averages_of_a_run(world: list[dict[str, Any]]) -> None:
    two_steps = runs.Run(runs.recipe(ema_decay=0.9)).go(0, 2)
    for found in world:
        assert runs.difference(found["taken"], two_steps.state.averages["generator"].averages) < 1e-12
        assert not any(found["frozen"])


def test_in_bfloat16_weights_and_gradients_stay_float32_and_the_teacher_does_not(world: list[dict[str, Any]]) -> None:
    for found in world:
        told = found["mixed"]
        assert (told["trained"], told["gradients"], told["teacher"]) == (
            {torch.float32}, {torch.float32}, {torch.bfloat16}
        )  # fmt: skip


def test_a_full_disk_on_one_process_stops_both_and_leaves_the_checkpoint_before(
    world: list[dict[str, Any]], folder: Path
) -> None:
    for found in world:
        assert "step 2 could not be saved" in found["full_disk"]
        assert "process 1: OSError: [Errno 28] No space left on device. step-1 is as it was." in found["full_disk"]
    assert checkpoints.find(folder / "full").name == "step-1"
    assert sorted(path.name for path in (folder / "full").iterdir()) == ["latest", "step-1"]


def test_recomputing_blocks_changes_no_gradient() -> None:
    found = []
    for recompute in (False, True):
        recipe = runs.recipe(checkpoint_activations=recompute)
        net = shard.distribute(runs.velocity(), recipe, None, tiny.CPU, trained=True)
        calls = count_calls(net)
        terms = runs.sft.loss(net, tiny.sample(), runs.recipe(), runs.Draws(0, 0, 0), 0, tiny.null_text())
        terms.loss.backward()
        found.append(({name: each.grad for name, each in net.named_parameters()}, calls))
    (kept, once), (recomputed, twice) = found
    assert runs.difference(kept, recomputed) == 0
    assert (len(once), len(twice)) == (2, 4)


def count_calls(net: Velocity) -> list[int]:
    calls: list[int] = []
    for number, block in enumerate(net.dit.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    return calls


def test_clipping_is_that_of_torch() -> None:
    ours, theirs = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    for max_norm in (0.1, 100.0):
        for net in (ours, theirs):
            net.weight.grad, net.bias.grad = torch.ones(2, 3), torch.full((2,), 2.0)
        norm = shard.clip_gradients(ours, max_norm)
        assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)))
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_a_norm_that_is_not_finite_is_returned_and_scales_nothing() -> None:
    net = torch.nn.Linear(2, 1, bias=False)
    net.weight.grad = torch.tensor([[1.0, float("inf")]])
    assert shard.clip_gradients(net, 1.0) == float("inf")
    assert net.weight.grad.tolist() == [[1.0, float("inf")]]


def test_clipping_before_a_backward_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="no gradients to clip"):
        shard.clip_gradients(torch.nn.Linear(2, 1), 1.0)


def test_one_process_in_full_precision_needs_no_process_group() -> None:
    assert shard.connect(tiny.CPU) is None
    recipe = replace(runs.recipe(), precision="float32")
    net = shard.distribute(runs.velocity(), recipe, None, tiny.CPU, trained=True)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert not dist.is_initialized()


def test_a_network_on_the_meta_device_gets_memory_where_it_is_told_without_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # of no interest to a run on the CPU
    source = runs.velocity(seed=3)
    write_dit(source.dit, Files.below(tmp_path).model, torch.float64)
    net = empty(runs.recipe(), None)
    shard.load_released(net, Files.below(tmp_path).model)
    assert {parameter.device for parameter in net.parameters()} == {tiny.CPU}
    assert runs.difference(dict(net.named_parameters()), dict(source.named_parameters())) == 0
