"""Short runs of both stages at the smallest size, on one process or as one of several; float64."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from model import initial
from model.dit import DiT
from model.parallel import shard
from model.training import dmd, sft
from model.training.checkpoints import TrainState
from model.training.conditions import Velocity
from model.training.config import DistillConfig, SftConfig, TrainRecipe
from model.training.draws import Draws
from model.training.ema import Ema
from tests.unit.model import tiny_training as tiny

MODEL = replace(tiny.MODEL, dit=replace(tiny.MODEL.dit, num_layers=2))
BATCH = 4


def recipe(stage: SftConfig | DistillConfig | None = None, **changes: Any) -> TrainRecipe:
    """Return a recipe in float64; of stage 1 unless told."""
    found = TrainRecipe(
        "test", "for tests", MODEL, stage or SftConfig(), precision="float64", checkpoint_activations=False
    )
    return replace(found, **changes)


def velocity(seed: int = 0) -> Velocity:
    """Return a network of seeded random numbers."""
    return Velocity(initial.made(partial(DiT, MODEL.dit), seed, tiny.CPU, torch.float64))


class Run:
    """Stage 1 with AdamW, clipping and, if the recipe says so, averages; step by step."""

    def __init__(self, recipe: TrainRecipe, mesh: DeviceMesh | None = None, seed: int = 0) -> None:
        self.recipe, self.mesh = recipe, mesh
        self.net = shard.distribute(velocity(seed), recipe, mesh, tiny.CPU, trained=True)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), 1e-3)
        averages = {} if recipe.ema_decay is None else {"generator": Ema(self.net, recipe.ema_decay)}
        self.state = TrainState(recipe, {"generator": self.net}, {"generator": self.optimizer}, averages)
        self.norms: list[float] = []

    def go(self, first: int, last: int) -> Run:
        """Take the steps `first` to `last - 1`."""
        for step in range(first, last):
            own = share(range(BATCH), self.mesh)
            for number, clip in enumerate(own):
                shard.synchronise(self.net, last=number == len(own) - 1)
                terms = sft.loss(
                    self.net, tiny.sample(f"clip-{clip}", seed=clip), self.recipe, Draws(0, step, 0), step,
                    tiny.null_text(),
                )  # fmt: skip
                (terms.loss / len(own)).backward()
            update(self.net, self.optimizer, self.norms)
            for average in self.state.averages.values():
                average.update(self.net)
        self.state.position = {"step": last}
        return self

    @property
    def weights(self) -> dict[str, Tensor]:
        """All of the weights, on every process."""
        return whole(dict(self.net.named_parameters()))


def distilled(mesh: DeviceMesh | None, steps: int = 3) -> dict[str, dict[str, Tensor]]:
    """Return generator and fake score after steps of stage 2, plain descent, k and exit step drawn."""
    stage = DistillConfig(max_chunks=2, generator_every=2, text_scale=2.0)
    told = recipe(stage, checkpoint_activations=True)
    generator, fake, real = (
        shard.distribute(velocity(seed), told, mesh, tiny.CPU, trained=seed < 2) for seed in range(3)
    )
    encoders = tiny.encoders()
    optimizers = [torch.optim.SGD(net.parameters(), 0.1) for net in (generator, fake)]
    for step in range(steps):
        draws = Draws(0, step, 0)
        clips = [tiny.sample(f"clip-{clip}", seed=clip) for clip in share(range(2), mesh)]
        if step % stage.generator_every == 0:
            for clip in clips:
                found = dmd.generator_loss(
                    generator, fake, real, encoders, clip, told, draws, step, tiny.null_text()
                )  # fmt: skip
                (found.loss / len(clips)).backward()
            update(generator, optimizers[0], [])
        for clip in clips:
            (dmd.fake_loss(generator, fake, encoders, clip, told, draws, step).loss / len(clips)).backward()
        update(fake, optimizers[1], [])
    return {name: whole(dict(net.named_parameters())) for name, net in (("generator", generator), ("fake", fake))}


def update(net: Velocity, optimizer: torch.optim.Optimizer, norms: list[float]) -> None:
    """Clip, step and forget the gradients."""
    norms.append(shard.clip_gradients(net, 0.5))
    optimizer.step()
    optimizer.zero_grad()


def share(clips: range, mesh: DeviceMesh | None) -> list[int]:
    """Return the clips that fall to this process."""
    return list(clips if mesh is None else clips[mesh.get_rank() :: mesh.size()])


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors gathered from all processes."""
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone() for name, t in tensors.items()}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference of tensors of the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).detach().abs().max()) for name in one)
