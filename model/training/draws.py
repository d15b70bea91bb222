"""What a training step draws at random, as functions of names: nothing to save, to send or to replay.

    draws = Draws(seed=0, step=17, micro=0)
    chunks = draws.integer("chunks", 1, 5)                    # the same on every rank
    time = draws.of(sample.id).uniform("time")                # the clip's own, whichever rank has it

What decides which passes are run (chunks, exit step) must be equal on all ranks, or their collectives no longer match;
what belongs to a clip depends on the clip and the step only, so that the number of ranks changes no result.
Source: ours; `model/README.md` lists what the report leaves open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from talkbench.errors import TalkbenchError


@dataclass(frozen=True)
class Draws:
    """The random numbers of one micro-step, or of one clip.

    Attributes:
        seed: Of the run.
        step: Of the optimiser.
        micro: Micro-step within it, or the name of a clip.
    """

    seed: int
    step: int
    micro: int | str

    def of(self, sample_id: str) -> Draws:
        """Return the draws of a clip in this step; they do not depend on the micro-step that it falls into."""
        return Draws(self.seed, self.step, sample_id)

    def uniform(self, name: str) -> float:
        """Return a number in [0, 1), always the same for a name."""
        return (_digest(self.seed, self.step, self.micro, name) >> (128 - 53)) / (1 << 53)

    def integer(self, name: str, low: int, high: int) -> int:
        """Return a whole number from low to high, both included, with equal chance.

        Raises:
            ValueError: If there is none.
        """
        if high < low:
            raise ValueError(f"{name}: no whole number lies between {low} and {high}")
        return low + int(self.uniform(name) * (high - low + 1))


def noise(
    seed: int,
    step: int,
    sample_id: str,
    number: int,
    shape: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return standard normal noise that is the same on every device and any number of ranks.

    Args:
        seed: Of the run.
        step: Of the optimiser.
        sample_id: Clip that it is for.
        number: Which of the clip's draws.
        shape: Of the result.
        device: Where the result is; the numbers are drawn on the host, in float64.
        dtype: Of the result; the same numbers, rounded.
    """
    # Not torch's generator: on a CPU it keeps 32 bits of its seed.
    bits = np.random.Philox(key=_digest(seed, step, sample_id, number))
    return torch.from_numpy(np.random.Generator(bits).standard_normal(tuple(shape))).to(dtype).to(device)


def require_same_on_all_ranks(**decisions: int) -> None:
    """Stop all ranks if they are about to run different passes; without a process group there is nothing to compare.

    Raises:
        TalkbenchError: If a decision differs; names it and each rank's value. On every rank, before anything is run.
    """
    if not dist.is_initialized():
        return
    everyone: list[dict[str, int]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, decisions)
    for name in decisions:
        values = [other.get(name) for other in everyone]
        if len(set(values)) > 1:
            raise TalkbenchError(
                f"ranks 0 to {len(values) - 1} drew {name} = {values}; they must agree, or they wait for each other "
                "for ever. Start all ranks with the same recipe, seed and checkpoint."
            )


def _digest(*parts: int | str) -> int:
    """Return 128 bits that belong to these parts."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
