"""Stage 1: flow matching on a clip's latents, given the first of them clean.

Legend: C channels, T latent frames, h w latent rows and columns, L text tokens, P speakers, F frames, W window.
Source: arXiv 2512.23379, section 3.2; `model/README.md` lists what it leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..data.sample import Sample
from ..flow import shifted
from .conditions import Velocity, given, precise, silence, windows
from .config import SftConfig, TrainRecipe
from .draws import Draws, noise
from .path import between, flow_loss

Dropped = Literal["nothing", "text", "text and sound"]


@dataclass(frozen=True)
class SftTerms:
    """What a clip contributes.

    Attributes:
        loss: Mean squared error of the velocity after the motion latents.
        time: 0 (data) to 1 (noise).
        num_motion: Clean latent frames at the start (m).
        dropped: What the network was not told.
    """

    loss: Tensor
    time: float
    num_motion: int
    dropped: Dropped


def loss(
    velocity: Velocity, sample: Sample, recipe: TrainRecipe, draws: Draws, step: int, null_text_LC: Tensor
) -> SftTerms:
    """Return the loss of one clip; a batch's is the mean over its clips.

    Args:
        velocity: What is trained.
        sample: The clip.
        recipe: Of stage 1.
        draws: Of the micro-step.
        step: Of the optimiser, for the noise.
        null_text_LC: Embedding of the negative prompt, on the device that computes.

    Raises:
        TypeError: If the recipe is not of stage 1.
    """
    stage = recipe.stage
    if not isinstance(stage, SftConfig):
        raise TypeError(f"recipe {recipe.name} is of {type(stage).__name__}; expected SftConfig")
    own, device, dtype = draws.of(sample.id), null_text_LC.device, precise(recipe)
    time = shifted(own.uniform("time"), stage.shift)
    num_motion = stage.motion_latents[own.integer("motion", 0, len(stage.motion_latents) - 1)]
    dropped = _dropped(own.uniform("drop"), stage)
    known, windows_PFWLC = given(sample, device, dtype), windows(sample, 0, recipe)
    if dropped != "nothing":
        known = known.without_text(null_text_LC)
    if dropped == "text and sound":
        windows_PFWLC = silence(windows_PFWLC)
    x0_CThw = sample.latents_CThw.to(device, dtype)
    noise_CThw = noise(recipe.seed, step, sample.id, 0, x0_CThw.shape, device, dtype)
    x_CThw = between(x0_CThw, noise_CThw, time)
    x_CThw[:, :num_motion] = x0_CThw[:, :num_motion]
    predicted_CThw = known.ask(velocity, x_CThw, time, windows_PFWLC)
    return SftTerms(
        flow_loss(predicted_CThw[:, num_motion:], x0_CThw[:, num_motion:], noise_CThw[:, num_motion:]),
        time,
        num_motion,
        dropped,
    )


def _dropped(drawn: float, stage: SftConfig) -> Dropped:
    if drawn < stage.drop_both:
        return "text and sound"
    return "text" if drawn < stage.drop_both + stage.drop_text else "nothing"
