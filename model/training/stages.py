"""The two stages as what the loop in `train.py` needs of either: networks, optimisers, and one step.

A step's clips are shared by the processes; each takes one clip at a time and adds the gradients up. What decides which
passes are run (chunks, exit step) is drawn once for all clips of a step, as it is for the report's 32 GPUs with a
clip each, so that any number of processes does the same.

Source: arXiv 2512.23379, section 3.2; for the order of updates Self-Forcing, `trainer/distillation.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..data.dataset import Dataset, Order
from ..data.sample import Sample
from ..parallel import shard
from ..pipeline import Codec
from . import dmd, sft
from .conditions import Velocity
from .config import DistillConfig, OptimizerConfig, SftConfig, TrainRecipe
from .draws import Draws
from .watch import TRAINED_PASSES, Limits, Watch, average

OPTIONAL_TERMS = ("motion_alignment", "background_consistency")
"""Of the generator's loss, by the names of their weights; told where these are not 0."""


@dataclass(frozen=True)
class Place:
    """This process among all.

    Attributes:
        rank: Its number.
        world: How many there are.
        device: Where it computes.
    """

    rank: int
    world: int
    device: torch.device


@dataclass(frozen=True)
class Term:
    """What a clip contributes to an update.

    Attributes:
        loss: To be minimised.
        told: What to log; means over clips are.
        passes: Forward passes that were run, a trained one counting `TRAINED_PASSES`.
    """

    loss: Tensor
    told: Mapping[str, float]
    passes: float


@dataclass(frozen=True)
class Done:
    """What a step did.

    Attributes:
        told: Means over the clips of all processes.
        passes: Forward passes of all processes.
        updated: Networks that were.
    """

    told: dict[str, float]
    passes: float
    updated: tuple[str, ...]


class Stage(Protocol):
    """What the loop runs.

    Attributes:
        nets: Trained networks by name; a run is for its `generator`.
        optimizers: Theirs, by the same names.
        limits: Which of its terms tell of divergence.
    """

    nets: dict[str, Velocity]
    optimizers: dict[str, torch.optim.Optimizer]
    limits: Limits

    def step(self, step: int, watch: Watch) -> Done:
        """Take one optimiser step.

        Raises:
            TrainingStopped: If a number is not finite or a loss leaves its range; the weights stay.
        """


class Sft:
    """Stage 1."""

    limits = Limits(terms=("loss",))

    def __init__(self, generator: Velocity, recipe: TrainRecipe, dataset: Dataset, place: Place) -> None:
        assert isinstance(recipe.stage, SftConfig)  # noqa: S101 - `train.py` chooses by it
        self._recipe, self._dataset, self._place = recipe, dataset, place
        self._order = Order(dataset, recipe.stage.batch, recipe.seed)
        self._trainer = _Trainer("generator", generator, recipe.stage.optimizer, recipe, place)
        self._null_text_LC = dataset.null_text_LC.to(place.device)
        self.nets = {"generator": generator}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"generator": self._trainer.optimizer}

    def step(self, step: int, watch: Watch) -> Done:
        """Take one step of flow matching."""
        draws = Draws(self._recipe.seed, step, 0)

        def term(sample: Sample) -> Term:
            found = sft.loss(self._trainer.net, sample, self._recipe, draws, step, self._null_text_LC)
            return Term(found.loss, {"loss": float(found.loss.detach())}, TRAINED_PASSES)

        samples = _clips(self._dataset, self._order, step, self._place)
        return self._trainer.update(step, samples, term, watch)


class Distill:
    """Stage 2: an update of the fake score every step, and one of the generator before every fifth of them."""

    limits = Limits(terms=("fake_loss",), factor=100.0)
    """Wide: the loss of one clip spans a factor of thirty between times near the data and times near noise."""

    def __init__(
        self,
        generator: Velocity,
        fake: Velocity,
        real: Velocity,
        codec: Codec,
        recipe: TrainRecipe,
        dataset: Dataset,
        place: Place,
    ) -> None:
        assert isinstance(recipe.stage, DistillConfig)  # noqa: S101 - `train.py` chooses by it
        stage = recipe.stage
        self._stage, self._recipe, self._dataset, self._place = stage, recipe, dataset, place
        self._real, self._codec = real, codec
        # Generator and fake score learn from different clips.
        self._orders = {"generator": Order(dataset, stage.batch, recipe.seed),
                        "fake": Order(dataset, stage.batch, recipe.seed + 1_000_003)}  # fmt: skip
        self._generator = _Trainer("generator", generator, stage.generator, recipe, place, "generator_")
        self._fake = _Trainer("fake", fake, stage.fake, recipe, place, "fake_")
        self._null_text_LC = dataset.null_text_LC.to(place.device)
        self.nets = {"generator": generator, "fake": fake}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": self._generator.optimizer,
            "fake": self._fake.optimizer,
        }

    def step(self, step: int, watch: Watch) -> Done:
        """Update the generator if it is its turn, then the fake score."""
        done = Done({}, 0, ())
        if step % self._stage.generator_every == 0:
            done = self._updated(self._generator, self._generator_term, step, watch)
        fake = self._updated(self._fake, self._fake_term, step, watch)
        return Done(done.told | fake.told, done.passes + fake.passes, done.updated + fake.updated)

    def _updated(self, trainer: _Trainer, term: Callable[[Sample, int], Term], step: int, watch: Watch) -> Done:
        samples = _clips(self._dataset, self._orders[trainer.name], step, self._place)
        return trainer.update(step, samples, lambda sample: term(sample, step), watch)

    def _generator_term(self, sample: Sample, step: int) -> Term:
        found = dmd.generator_loss(
            self._generator.net, self._fake.net, self._real, self._codec, sample, self._recipe,
            Draws(self._recipe.seed, step, 0), step, self._null_text_LC,
        )  # fmt: skip
        values = {"loss": found.loss, "score_gap": found.gradient_norm, "normaliser": found.normaliser}
        values |= {name: getattr(found, name) for name in OPTIONAL_TERMS if getattr(self._stage, name)}
        told = {name: float(value.detach()) for name, value in values.items()} | {"chunks": float(found.k)}
        scores = 3 if self._stage.text_scale == 1 else 4
        return Term(found.loss, told, self._rolled(found.k) + found.exit_step - 1 + scores + TRAINED_PASSES)

    def _fake_term(self, sample: Sample, step: int) -> Term:
        found = dmd.fake_loss(
            self._generator.net, self._fake.net, self._codec, sample, self._recipe,
            Draws(self._recipe.seed, step, 0), step,
        )  # fmt: skip
        told = {"loss": float(found.loss.detach()), "chunks": float(found.k)}
        return Term(found.loss, told, self._rolled(found.k) + found.exit_step + TRAINED_PASSES)

    def _rolled(self, k: int) -> int:
        """Return the forward passes of the chunks before the last."""
        return (k - 1) * self._recipe.model.sampler.num_steps


class _Trainer:
    """A network, its optimiser, and how a batch is worked through."""

    def __init__(
        self,
        name: str,
        net: Velocity,
        config: OptimizerConfig,
        recipe: TrainRecipe,
        place: Place,
        prefix: str = "",
    ) -> None:
        self.name = name
        self.net, self._config, self._num_steps = net, config, recipe.stage.steps
        self._place, self._prefix, self._seed = place, prefix, recipe.seed
        self.optimizer = torch.optim.AdamW(
            net.parameters(), lr=config.rate, betas=config.betas, weight_decay=config.weight_decay
        )

    def update(self, step: int, samples: Sequence[Sample], term: Callable[[Sample], Term], watch: Watch) -> Done:
        """Add up the gradients of this process's clips, look at what they tell, and step."""
        told: dict[str, float] = {}
        passes = 0.0
        for number, sample in enumerate(samples):
            shard.synchronise(self.net, last=number == len(samples) - 1)
            found = term(sample)
            (found.loss / len(samples)).backward()
            passes += found.passes
            for name, value in found.told.items():
                told[self._prefix + name] = told.get(self._prefix + name, 0.0) + value / len(samples)
        norm = shard.clip_gradients(self.net, self._config.clip_norm)
        means = average(told, self._place.device) | {f"{self._prefix}grad_norm": norm}
        watch.check(step, means, samples, {"seed": self._seed, "step": step})
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Done(means, passes * self._place.world, (self.name,))

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step: constant, then falling to zero at the end of the run."""
        start = self._config.decay_from * self._num_steps
        if step < start:
            return self._config.rate
        return self._config.rate * (self._num_steps - step) / (self._num_steps - start)


def _clips(dataset: Dataset, order: Order, step: int, place: Place) -> list[Sample]:
    """Return the clips of a step that fall to a process."""
    return [dataset.sample(index) for index in order.for_rank(step, place.rank, place.world)]
