"""The few-step stochastic sampler, plainly.

Source: `generate` of `flash_talk/src/pipeline/flash_talk_pipeline.py`, SoulX-FlashTalk at commit 688982e, described.

Legend: C channels, T latent frames, h w latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
Draw = Callable[[torch.dtype], Tensor]


def times(num_steps: int, shift: float) -> list[float]:
    """Return the times given to the network and a closing 0; 1000 is pure noise."""
    if num_steps == 4:
        fractions = [1.0, 0.75, 0.5, 0.25]
    elif num_steps == 2:
        fractions = [1.0, 0.5]
    else:
        fractions = [float(u) / 1000 for u in torch.linspace(1000, 1, num_steps, dtype=torch.float32)]
    return [1000 * shift * u / (1 + (shift - 1) * u) for u in fractions] + [0.0]


def sample(
    velocity: Velocity,
    motion_CThw: Tensor,
    draw: Draw,
    *,
    num_steps: int,
    shift: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the latents of one chunk in float32 (float64 if `dtype` is).

    Args:
        velocity: The network: noisy latent and time to noise minus data.
        motion_CThw: Clean first latent frames, put back after every change of the state.
        draw: A fresh normal draw `[C, T, h, w]` of a type; called once for the start and once per step, the last
            step included.
        num_steps: Network calls.
        shift: Warps the times towards noise.
        dtype: Of the parameters, in which the first draw is made.
    """
    later = torch.float64 if dtype is torch.float64 else torch.float32
    num_motion = motion_CThw.shape[1]
    schedule = times(num_steps, shift)
    x = draw(dtype).clone()
    x[:, :num_motion] = motion_CThw.to(x.dtype)
    for time, next_time in pairwise(schedule):
        sigma, next_sigma = time / 1000, next_time / 1000
        clean = x.to(later) - sigma * velocity(x, time).to(later)
        x = (1 - next_sigma) * clean + next_sigma * draw(later)
        x[:, :num_motion] = motion_CThw.to(later)
    return x
