"""Self-forcing: a generator runs through k chunks as it will at inference, and one pass of the last is learnt from.

Every chunk starts from the frames of the one before, through pixels: decoded, brought to the picture's colours,
encoded. Of the last chunk only the steps up to the exit step are run, and only the exit step's pass is in the graph:
memory does not grow with k, and every pair of chunk and step counts the same.

Legend: C channels, F frames, H W pixels, T latent frames, h w latent rows and columns.
Source: arXiv 2512.23379, equation 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import color, flow
from ..data.sample import Sample
from ..pipeline import Codec
from .conditions import Velocity, given, precise, windows
from .config import DistillConfig, TrainRecipe
from .path import data_at

Field = Callable[[Tensor, float], Tensor]
"""State and time to velocity."""


@dataclass(frozen=True)
class Rolled:
    """The last chunk of a roll-out.

    Attributes:
        predicted_CThw: Clean latents as the exit step predicts them, motion positions included.
        motion_CThw: What the chunk was given to start from.
        chunk: Its number, from 0.
    """

    predicted_CThw: Tensor
    motion_CThw: Tensor
    chunk: int

    @property
    def num_motion(self) -> int:
        """Latent frames that were given (m)."""
        return self.motion_CThw.shape[1]

    @property
    def x0_CThw(self) -> Tensor:
        """The prediction with the given motion in front, as the chunk will be shown."""
        return self.starting_with(self.motion_CThw)

    def starting_with(self, motion_CThw: Tensor) -> Tensor:
        """Return the prediction with other motion latents, as many, in front."""
        return torch.cat((motion_CThw, self.predicted_CThw[:, self.num_motion :]), dim=1)


def distillation(recipe: TrainRecipe) -> DistillConfig:
    """Return the stage of a recipe of stage 2.

    Raises:
        TypeError: If it is of another stage.
    """
    if not isinstance(recipe.stage, DistillConfig):
        raise TypeError(f"recipe {recipe.name} is of {type(recipe.stage).__name__}; expected DistillConfig")
    return recipe.stage


def num_draws(recipe: TrainRecipe, k: int) -> int:
    """Return how many noises a roll-out of k chunks may ask for: 0 to this, excluded."""
    return k * (recipe.model.sampler.num_steps + 1)


def roll(
    generator: Velocity,
    codec: Codec,
    sample: Sample,
    recipe: TrainRecipe,
    k: int,
    exit_step: int,
    noise: Callable[[int], Tensor],
    grad: bool,
) -> Rolled:
    """Return the k-th chunk after `exit_step` steps.

    Args:
        generator: What is trained.
        codec: The autoencoder between chunks.
        sample: Picture, text and sound; its latents are not looked at.
        recipe: Of stage 2.
        k: Chunks, 1 or more.
        exit_step: From 1 to the sampler's steps.
        noise: Number of a draw, below `num_draws`, to `[16, T, h, w]` on the codec's device.
        grad: Whether the exit step is to be learnt from.

    Raises:
        TalkbenchError: If the sample's sound ends before the k-th chunk.
        TypeError: If the recipe is not of stage 2.
    """
    stage = distillation(recipe)
    dtype, sigmas = precise(recipe), flow.noise_levels(recipe.model.sampler)
    strength = recipe.model.stream.color_strength if stage.correct_color else 0.0
    known = given(sample, codec.device, dtype)

    def field(chunk: int) -> Field:
        windows_PFWLC = windows(sample, chunk, recipe).to(codec.device, dtype)
        return lambda x_CThw, time: known.ask(generator, x_CThw, time, windows_PFWLC)

    def noises(chunk: int) -> list[Tensor]:
        return [noise(chunk * len(sigmas) + number) for number in range(len(sigmas))]

    motion_CThw = sample.reference_CThw[:, :1].to(codec.device, dtype)
    if k > 1:
        colors = color.statistics(_picture(sample, codec), dtype)
    with torch.no_grad():
        for chunk in range(k - 1):
            clean_CThw = flow.sample(_by_step(field(chunk), sigmas), noises(chunk), motion_CThw, sigmas)
            tail_CFHW = color.correct(_tail(clean_CThw, codec), colors, strength, dtype)
            motion_CThw = codec.encode(tail_CFHW).to(dtype)
    last = k - 1
    return Rolled(truncated(field(last), noises(last), motion_CThw, sigmas, exit_step, grad=grad), motion_CThw, last)


def truncated(
    field: Field,
    noises: Sequence[Tensor],
    motion_CThw: Tensor,
    sigmas: Sequence[float],
    exit_step: int,
    *,
    grad: bool,
) -> Tensor:
    """Return the clean latents that the sampler's `exit_step`-th step predicts; only that pass is in the graph.

    Args:
        field: The network.
        noises: Start state, and one draw for each step before the last that is run.
        motion_CThw: Clean latents at the start; may be none.
        sigmas: Of `flow.noise_levels`.
        exit_step: From 1 to the number of steps.
        grad: Whether that pass is in the graph.
    """
    time = sigmas[exit_step - 1]
    with torch.no_grad():
        x_CThw = flow.sample(_by_step(field, sigmas), noises, motion_CThw, sigmas[:exit_step])
    with torch.set_grad_enabled(grad):
        return data_at(x_CThw, field(x_CThw, time), time)


def _by_step(field: Field, sigmas: Sequence[float]) -> Callable[[Tensor, int], Tensor]:
    """Return a network that is asked by the number of a step, as the sampler does."""
    return lambda x_CThw, step: field(x_CThw, sigmas[step])


def _tail(clean_CThw: Tensor, codec: Codec) -> Tensor:
    """Return a chunk's last frames `[3, F, H, W]`, with which the next begins."""
    num_frames = codec.recipe.stream.motion_frames
    tails = [video_CFHW[:, -num_frames:] for video_CFHW in codec.decode(clean_CThw)]
    return torch.cat(tails, dim=1)[:, -num_frames:]


@torch.no_grad()
def _picture(sample: Sample, codec: Codec) -> Tensor:
    """Return the picture `[3, H, W]`; a sample holds its code only."""
    code_BCThw = sample.reference_CThw[None, :, :1].to(codec.device)
    (picture_BCFHW,) = codec.vae.decode_groups(code_BCThw, (1,))
    return picture_BCFHW[0, :, 0]
