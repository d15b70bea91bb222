"""Stage 2: the generator's clips are moved to where a guided teacher's score is higher than a fake score's.

The teacher (`real`) is frozen; the fake score follows the generator by flow matching on what it makes. Both are asked
at the same noisy point, whose motion positions Table 3 varies: what they hold, whether they are noised, whether they
count.

Legend: B batch, C channels, T latent frames, h w latent rows and columns, L text tokens, P speakers, F frames,
W window, X any axes.
Source: arXiv 2512.23379, equation 2 and section 3.2; arXiv 2405.14867 (DMD2) for the normaliser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.sample import Sample
from ..flow import shifted
from ..pipeline import Codec
from .conditions import Given, Velocity, given, precise, silence, windows
from .config import DistillConfig, TrainRecipe
from .draws import Draws, noise, require_same_on_all_ranks
from .path import between, data_at, flow_loss
from .rollout import Rolled, distillation, num_draws, roll

SMALLEST_NORMALISER = 1e-6
"""Keeps a student that agrees with its teacher from dividing by zero (FastGen, `methods/common_loss.py`)."""


@dataclass(frozen=True)
class Matching:
    """Distribution matching at given points.

    Attributes:
        loss: Its gradient is what counts; its value is half the mean square of the normalised difference.
        gradient_norm: Root mean square of the normalised difference of the scores.
        normaliser: Mean distance of the samples from what the teacher makes of them.
    """

    loss: Tensor
    gradient_norm: Tensor
    normaliser: Tensor


@dataclass(frozen=True)
class DmdTerms:
    """What a clip contributes to the generator.

    Attributes:
        loss: To be minimised; its value says little, see `Matching`.
        gradient_norm: See `Matching`.
        normaliser: See `Matching`.
        k: Chunks that were rolled out.
        exit_step: Of the last chunk, from 1.
        time: At which the scores were compared.
        motion_alignment: Unweighted; zero where its weight is.
        background_consistency: Unweighted; zero where its weight is.
    """

    loss: Tensor
    gradient_norm: Tensor
    normaliser: Tensor
    k: int
    exit_step: int
    time: float
    motion_alignment: Tensor
    background_consistency: Tensor


@dataclass(frozen=True)
class FakeTerms:
    """What a clip contributes to the fake score.

    Attributes:
        loss: Mean squared error of the velocity.
        k: Chunks that were rolled out.
        exit_step: Of the last chunk, from 1.
        time: 0 (data) to 1 (noise).
    """

    loss: Tensor
    k: int
    exit_step: int
    time: float


def generator_loss(
    generator: Velocity,
    fake: Velocity,
    real: Velocity,
    codec: Codec,
    sample: Sample,
    recipe: TrainRecipe,
    draws: Draws,
    step: int,
    null_text_LC: Tensor,
) -> DmdTerms:
    """Return the generator's loss on one clip; a batch's is the mean over its clips.

    Args:
        generator: What is trained.
        fake: Score of what the generator makes.
        real: The teacher.
        codec: The autoencoder between chunks.
        sample: Picture, text and sound; its own motion where the recipe says so.
        recipe: Of stage 2.
        draws: Of the micro-step.
        step: Of the optimiser, for the noise.
        null_text_LC: Embedding of the negative prompt.

    Raises:
        TalkbenchError: If ranks are about to run different passes, or the sample's sound is too short.
        TypeError: If the recipe is not of stage 2.
    """
    stage = distillation(recipe)
    point = _draw_point("generator", generator, codec, sample, recipe, draws, step, grad=True)
    with torch.no_grad():
        fake_CThw = data_at(point.x_CThw, point.ask(fake), point.time)
        real_CThw = data_at(point.x_CThw, point.ask_guided(real, null_text_LC, stage), point.time)
    predicted_CThw, num_motion = point.rolled.predicted_CThw, point.rolled.num_motion
    # The values that the scores saw; the gradient of what was predicted, motion positions included where they count.
    made_CThw = predicted_CThw + (point.x0_CThw - predicted_CThw).detach()
    counted = (made_CThw, fake_CThw, real_CThw)
    matching = matching_loss(*(latents_CThw[None, :, point.first_counted :] for latents_CThw in counted))
    alignment = background = matching.loss.new_zeros(())
    if stage.motion_alignment:
        alignment = (predicted_CThw - real_CThw)[:, :num_motion].square().mean()
    if stage.background_consistency:
        still_hw = still_positions(sample.latents_CThw).to(codec.device)
        background = predicted_CThw[:, num_motion:].diff(dim=1)[..., still_hw].square().mean()
    return DmdTerms(
        loss=matching.loss + stage.motion_alignment * alignment + stage.background_consistency * background,
        gradient_norm=matching.gradient_norm,
        normaliser=matching.normaliser,
        k=point.k,
        exit_step=point.exit_step,
        time=point.time,
        motion_alignment=alignment.detach(),
        background_consistency=background.detach(),
    )


def fake_loss(
    generator: Velocity,
    fake: Velocity,
    codec: Codec,
    sample: Sample,
    recipe: TrainRecipe,
    draws: Draws,
    step: int,
) -> FakeTerms:
    """Return the fake score's loss on one clip that the generator makes; a batch's is the mean over its clips.

    Arguments and errors are those of `generator_loss`; the chunks, steps and noise are others.
    """
    point = _draw_point("fake", generator, codec, sample, recipe, draws, step, grad=False)
    counted = slice(point.first_counted, None)
    loss = flow_loss(point.ask(fake)[:, counted], point.x0_CThw[:, counted], point.noise_CThw[:, counted])
    return FakeTerms(loss, point.k, point.exit_step, point.time)


def matching_loss(x0_BX: Tensor, fake_BX: Tensor, real_BX: Tensor) -> Matching:
    """Return a loss whose gradient moves samples along the difference of two scores.

    Args:
        x0_BX: Samples, in float32 or better; gradients flow here only.
        fake_BX: What the fake score makes of them, after noise.
        real_BX: What the teacher makes of them, after the same noise.
    """
    samples_BX = x0_BX.detach()
    within = tuple(range(1, x0_BX.dim()))
    normaliser_BX = (samples_BX - real_BX).abs().mean(within, keepdim=True).clamp_min(SMALLEST_NORMALISER)
    gradient_BX = (fake_BX - real_BX) / normaliser_BX
    loss = (x0_BX - (samples_BX - gradient_BX)).square().mean() / 2
    return Matching(loss, gradient_BX.square().mean().sqrt(), normaliser_BX.mean())


def guided(
    ask: Callable[[bool, bool], Tensor],
    text_scale: float,
    audio_scale: float,
) -> Tensor:
    """Return the velocity of a teacher that is pushed away from what it says without text, and without sound.

    Args:
        ask: Whether text and sound are told, to velocity.
        text_scale: 1 means no guidance by text: two forward passes instead of three.
        audio_scale: 1 means no guidance by sound.

    Source: InfiniteTalk, `wan/multitalk.py`.
    """
    full = ask(True, True)
    if text_scale == 1:
        mute = ask(True, False)
        return mute + audio_scale * (full - mute)
    untold, nothing = ask(False, True), ask(False, False)
    return nothing + text_scale * (full - untold) + audio_scale * (untold - nothing)


def still_positions(latents_CThw: Tensor) -> Tensor:
    """Return the half of all positions `[h, w]`, bool, where a clip changes least.

    A stand-in for matting: what moves least is behind the person, or their clothes. The first latent stays out of it:
    it is the code of one frame, the others of four.
    """
    spread_hw = latents_CThw[:, 1:].var(dim=1).mean(dim=0)
    return spread_hw <= spread_hw.median()


@dataclass(frozen=True)
class _Point:
    """A clip that was made, and the noisy point near it at which the scores are asked.

    Attributes:
        rolled: The clip.
        x0_CThw: Its latents with the motion that the scores see; detached.
        noise_CThw: Added to them.
        x_CThw: The point.
        first_counted: Latent frame at which losses start.
    """

    rolled: Rolled
    known: Given
    windows_PFWLC: Tensor
    x0_CThw: Tensor
    noise_CThw: Tensor
    x_CThw: Tensor
    time: float
    first_counted: int
    k: int
    exit_step: int

    def ask(self, velocity: Velocity) -> Tensor:
        """Return what a network says here, told everything."""
        return self.known.ask(velocity, self.x_CThw, self.time, self.windows_PFWLC)

    def ask_guided(self, real: Velocity, null_text_LC: Tensor, stage: DistillConfig) -> Tensor:
        """Return what the guided teacher says here."""

        def ask(text: bool, sound: bool) -> Tensor:
            known = self.known if text else self.known.without_text(null_text_LC)
            heard_PFWLC = self.windows_PFWLC if sound else silence(self.windows_PFWLC)
            return known.ask(real, self.x_CThw, self.time, heard_PFWLC)

        return guided(ask, stage.text_scale, stage.audio_scale)


def _draw_point(
    role: str,
    generator: Velocity,
    codec: Codec,
    sample: Sample,
    recipe: TrainRecipe,
    draws: Draws,
    step: int,
    *,
    grad: bool,
) -> _Point:
    """Roll out and add noise; generator and fake score draw apart, by their role."""
    stage, device, dtype = distillation(recipe), codec.device, precise(recipe)
    most = stage.max_chunks
    k = draws.integer(f"{role} chunks", 1, most) if stage.chunks == "random" else stage.chunks
    exit_step = draws.integer(f"{role} exit step", 1, recipe.model.sampler.num_steps)
    require_same_on_all_ranks(chunks=k, exit_step=exit_step)
    shape = sample.reference_CThw.shape

    def drawn(number: int) -> Tensor:
        return noise(recipe.seed, step, f"{role} {sample.id}", number, shape, device, dtype)

    rolled = roll(generator, codec, sample, recipe, k, exit_step, drawn, grad)
    low, high = stage.times
    time = min(max(shifted(draws.of(sample.id).uniform(f"{role} time"), stage.shift), low), high)
    motion_CThw = _shown_motion(rolled, sample, stage)
    x0_CThw = rolled.starting_with(motion_CThw).detach()
    noise_CThw = drawn(num_draws(recipe, k))
    x_CThw = between(x0_CThw, noise_CThw, time)
    if not stage.motion_noise:
        x_CThw[:, : rolled.num_motion] = motion_CThw
    return _Point(
        rolled=rolled,
        known=given(sample, device, dtype),
        windows_PFWLC=windows(sample, rolled.chunk, recipe).to(device, dtype),
        x0_CThw=x0_CThw,
        noise_CThw=noise_CThw,
        x_CThw=x_CThw,
        time=time,
        first_counted=0 if stage.motion_loss else rolled.num_motion,
        k=k,
        exit_step=exit_step,
    )


def _shown_motion(rolled: Rolled, sample: Sample, stage: DistillConfig) -> Tensor:
    """Return the motion latents that the scores see: what the chunk was given, or what the clip has there."""
    if stage.motion_source == "predicted":
        return rolled.motion_CThw
    return sample.motion_KCThw[rolled.chunk][:, : rolled.num_motion].to(rolled.motion_CThw)
