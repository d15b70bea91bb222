"""The few-step sampler: predict the data, then add fresh noise for the next step.

Unlike an Euler or ODE step, every step starts from new noise; the motion latents are put back, clean, after each.
Legend: C channels, T latent frames, h w latent rows and columns.
Source: SoulX-FlashTalk, `flash_talk/src/pipeline/flash_talk_pipeline.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from .config import SamplerConfig

NUM_TRAIN_STEPS = 1000

TimeT = TypeVar("TimeT", float, Tensor)

_NAMED = {4: (1.0, 0.75, 0.5, 0.25), 2: (1.0, 0.5)}


def shifted(time: TimeT, shift: float) -> TimeT:
    """Return a time in [0, 1] warped towards noise; a shift of 1 leaves it."""
    return shift * time / (1 + (shift - 1) * time)


def noise_levels(config: SamplerConfig) -> tuple[float, ...]:
    """Return sigma before each step and after the last: 1 is noise, 0 is data; `num_steps + 1` values.

    Raises:
        ValueError: If there are no steps.
    """
    if config.num_steps < 1:
        raise ValueError(f"num_steps is {config.num_steps}; a sampler needs at least 1")
    if config.num_steps in _NAMED:
        even: Sequence[float] = _NAMED[config.num_steps]
    else:
        even = (torch.linspace(NUM_TRAIN_STEPS, 1, config.num_steps) / NUM_TRAIN_STEPS).tolist()
    return (*(shifted(time, config.shift) for time in even), 0.0)


def draw_noise(
    shape: Sequence[int], num_steps: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Return the start state, in the network's precision, and one draw per step, in float32 or better, as released.

    The last step's draw has no weight, but it moves the generator on, as in the released code.
    """
    device = generator.device
    start = torch.randn(*shape, dtype=dtype, device=device, generator=generator)
    # Drawing in float64 is for parity tests; a draw in another precision is another sequence.
    later = torch.float64 if dtype == torch.float64 else torch.float32
    return (
        start,
        *(torch.randn(*shape, dtype=later, device=device, generator=generator) for _ in range(num_steps)),
    )


def sample(
    velocity: Callable[[Tensor, int], Tensor],
    noises: Sequence[Tensor],
    motion_CThw: Tensor,
    sigmas: Sequence[float],
) -> Tensor:
    """Return the clean latents `[C, T, h, w]` of a chunk.

    Args:
        velocity: State and step number to velocity (noise minus data).
        noises: Of `draw_noise`.
        motion_CThw: Latents of the frames before the chunk, 1 or more; they stay as they are.
        sigmas: Of `noise_levels`.
    """
    num_motion = motion_CThw.shape[1]
    x_CThw = noises[0].clone()
    x_CThw[:, :num_motion] = motion_CThw
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        clean_CThw = x_CThw - sigma * velocity(x_CThw, step)
        x_CThw = (1 - following) * clean_CThw + following * noises[step + 1]
        x_CThw[:, :num_motion] = motion_CThw
    return x_CThw
