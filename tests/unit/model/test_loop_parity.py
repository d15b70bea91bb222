"""Three chunks of our stream give the frames of the plain loop, and would not with a plausible mistake in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import model.color as our_color
from model import flow
from model.attention import choose_kernel
from model.conditioning import text as our_text
from model.conditioning.audio import SpeechEncoder
from model.conditioning.image import ImageEncoder
from model.config import Recipe, SamplerConfig, StreamConfig
from model.initial import fill
from model.pipeline import Model
from model.recipes import recipe
from model.stream import Stream
from model.vae import VAE
from tests.plain import color, dit, loop, sampler, states, vae
from tests.unit.model.parity import mutant, network, sizes_of

SEED = 41
PROMPT = "A woman sings."
CHUNKS = 3


def released() -> Recipe:
    """Return the released loop around tiny networks and a picture of 32 x 48."""
    tiny = recipe("tiny")
    return replace(tiny, stream=StreamConfig(height=32, width=48))


def other() -> Recipe:
    """Return a loop with none of the released lengths."""
    tiny = released()
    stream = StreamConfig(
        height=32, width=48, clip_frames=17, motion_frames=9, audio_seconds=2, color_strength=0.6, loudness_lufs=-30.0
    )
    compute = replace(tiny.compute, decode_groups=(1, 1, 3))
    return replace(tiny, stream=stream, compute=compute, sampler=SamplerConfig(num_steps=3, shift=3.0))


def in_float64() -> Recipe:
    """Return a recipe in which nothing but a difference of formulas shows; colours have float32 statistics anyway."""
    base = other()
    return replace(
        base,
        stream=replace(base.stream, color_strength=0.0),
        compute=replace(base.compute, dtype="float64"),
        sampler=SamplerConfig(num_steps=2),
    )


@dataclass
class Parts:
    """The same weights on both sides, and what both are given."""

    recipe: Recipe
    ours: Model
    dit_state: dict[str, Tensor]
    vae_state: dict[str, Tensor]
    encoders: dict[str, Any]
    image: PIL.Image.Image
    sound_N: np.ndarray


def parts(wanted: Recipe) -> Parts:
    """Return seeded networks, a picture of coloured squares, and noise that swells over three chunks and a bit."""
    sizes, dtype = sizes_of(wanted.dit), getattr(torch, wanted.compute.dtype)
    dit_state = states.random_state(states.dit_shapes(sizes), 0, dtype)
    vae_state = states.random_state(states.vae_shapes(wanted.vae.base_dim), 0, dtype)
    autoencoder = VAE(wanted.vae).to(dtype)
    autoencoder.load_state_dict(vae_state, strict=True)
    encoders: dict[str, Any] = {
        "speech": SpeechEncoder(wanted.speech),
        "text": our_text.TextEncoder(wanted.text, our_text.tokenizer(wanted.text, Path())),
        "image": ImageEncoder(wanted.image),
    }
    for encoder in encoders.values():
        fill(encoder.eval().requires_grad_(False), 0)
    net = network(sizes, dit_state, dtype)
    net.use(choose_kernel(device=torch.device("cpu"), dtype=dtype, head_dim=wanted.dit.head_dim))
    ours = Model(wanted, torch.device("cpu"), "random 0", dit=net, vae=autoencoder, **encoders)
    generator = np.random.default_rng(0)
    picture = np.kron(generator.integers(0, 255, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    swell = np.linspace(0.02, 0.3, CHUNKS * wanted.stream.samples_per_chunk + 777)
    sound_N = (generator.normal(0, 1, len(swell)) * swell).astype(np.float32)
    return Parts(wanted, ours, dit_state, vae_state, encoders, PIL.Image.fromarray(picture), sound_N)


def plain_chunks(given: Parts, plain: ModuleType = loop) -> Iterator[Tensor]:
    """Yield the new frames of each chunk by the plain loop."""
    sizes, stream, dtype = sizes_of(given.recipe.dit), given.recipe.stream, getattr(torch, given.recipe.compute.dtype)
    image_CHW = given.ours.prepare(given.image).to(dtype)
    text_LD = given.encoders["text"].encode(PROMPT)
    image_1LD = given.encoders["image"].encode(image_CHW.float())

    def velocity(x: Tensor, time: float, y: Tensor, seen: Tensor) -> Tensor:
        return dit.forward(given.dit_state, sizes, x, time, text_LD, image_1LD, y, seen, dtype)

    networks = plain.Networks(
        velocity=velocity,
        encode=lambda video: vae.encode(given.vae_state, video.to(dtype)),
        decode=lambda latent: vae.decode(given.vae_state, latent),
        features=lambda ring_N: given.encoders["speech"].features(ring_N.astype(np.float32)),
    )
    settings = plain.Settings(
        clip_frames=stream.clip_frames,
        motion_frames=stream.motion_frames,
        audio_seconds=stream.audio_seconds,
        color_strength=stream.color_strength,
        loudness=stream.loudness_lufs,
        num_steps=given.recipe.sampler.num_steps,
        shift=given.recipe.sampler.shift,
    )
    generator = torch.Generator().manual_seed(SEED)
    shape = (16, given.recipe.latent_frames, *given.recipe.latent_size)

    def draw(dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return plain.stream(networks, settings, image_CHW, given.sound_N, draw)


def our_frames(given: Parts) -> tuple[list[Tensor], np.ndarray]:
    """Return the new frames of each of our chunks before they become bytes, and all delivered bytes."""
    seen, correct, delivered = [], our_color.correct, []

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(correct(*args, **kwargs))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(our_color, "correct", recorded)
        stream = Stream(given.ours, given.image, prompt=PROMPT, seed=SEED, released_behaviour=True)
        for block in np.array_split(given.sound_N, 7):
            stream.push(block)
            delivered += [piece.frames_FHWC for piece in stream]
        stream.finish()
        delivered += [piece.frames_FHWC for piece in stream]
    clips = torch.cat(seen, dim=1).split(given.recipe.stream.clip_frames, dim=1)
    return [clip[:, given.recipe.stream.motion_frames :] for clip in clips], np.concatenate(delivered)


@pytest.mark.parametrize(
    ("wanted", "tolerance"),
    [(released(), 1e-4), (other(), 1e-4), (in_float64(), 1e-9)],
    ids=["released", "other", "float64"],
)
def test_three_chunks_agree_with_the_plain_loop(wanted: Recipe, tolerance: float) -> None:
    given = parts(wanted)
    ours, delivered_FHWC = our_frames(given)
    expected = list(plain_chunks(given))
    assert len(ours) == len(expected) == CHUNKS
    for our_chunk, chunk in zip(ours, expected, strict=True):
        assert chunk.std() > 0.1
        torch.testing.assert_close(our_chunk, chunk, atol=tolerance, rtol=0)
    levels = ((torch.cat(expected, dim=1) + 1) / 2).clamp(0, 1) * 255
    steps = np.abs(delivered_FHWC.astype(int) - levels.to(torch.uint8).permute(1, 2, 3, 0).numpy())
    assert steps.max() <= 1
    assert steps.mean() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 7])
def test_the_sampler_agrees_in_the_types_of_its_state_and_in_its_draws(dtype: torch.dtype, num_steps: int) -> None:
    config, shape = SamplerConfig(num_steps=num_steps, shift=5.0), (16, 3, 4, 6)
    motion = torch.randn(16, 2, 4, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    generators = [torch.Generator().manual_seed(SEED) for _ in range(2)]
    sigmas, called = flow.noise_levels(config), []

    def draw(wanted: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generators[0], dtype=wanted)

    def velocity(x: Tensor, time: float) -> Tensor:
        called.append((x.dtype, time))
        return torch.tanh(x.float() * 1.3) + time / 1000

    expected = sampler.sample(velocity, motion, draw, num_steps=num_steps, shift=5.0, dtype=dtype)
    plain_calls, called[:] = list(called), []
    noises = flow.draw_noise(shape, num_steps, dtype, generators[1])
    ours = flow.sample(lambda x, step: velocity(x, 1000 * sigmas[step]), noises, motion, sigmas)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    assert (
        [state for state, _ in called]
        == [state for state, _ in plain_calls]
        == [dtype] + [torch.float32] * (num_steps - 1)
    )
    assert [time for _, time in called] == pytest.approx([time for _, time in plain_calls], abs=1e-4)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


MISTAKES = {
    "motion not put back after the steps": (sampler, "    x[:, :num_motion] = motion_CThw.to(later)", "    pass"),
    "motion not put in at the start": (sampler, "x[:, :num_motion] = motion_CThw.to(x.dtype)", "pass"),
    "no fresh noise": (
        sampler,
        "(1 - next_sigma) * clean + next_sigma * draw(later)",
        "x - (sigma - next_sigma) / sigma * (x - clean)",
    ),
    "no draw in the last step": (
        sampler,
        "next_sigma * draw(later)",
        "(next_sigma * draw(later) if next_sigma else 0)",
    ),
    "rounded times": (sampler, "+ (shift - 1) * u) for u", "+ (shift - 1) * u) // 1 for u"),
    "first frames delivered": (
        loop,
        "yield video[:, settings.motion_frames :]",
        "yield video[:, : -settings.motion_frames]",
    ),
    "motion from the sampler's latents": (
        loop,
        "motion = networks.encode(video[:, -settings.motion_frames :])",
        "motion = latents[:, -3:]",
    ),
    "motion of uncorrected frames": (
        loop,
        "motion = networks.encode(video[:",
        "motion = networks.encode(networks.decode(latents)[:",
    ),
    "motion of one frame": (
        loop,
        "networks.encode(video[:, -settings.motion_frames :])",
        "networks.encode(video[:, -1:])",
    ),
    "black clip behind the image": (loop, "torch.zeros(3, clip_frames", "-torch.ones(3, clip_frames"),
    "mask of one channel": (
        loop,
        "[per_frame[0]] * 4 + per_frame[1:]",
        "[per_frame[0], 0.0, 0.0, 0.0] + per_frame[1:]",
    ),
    "loudness left alone": (
        loop,
        "networks.features(levelled(ring_N, settings.audio_rate, settings.loudness))",
        "networks.features(ring_N)",
    ),
    "loudness of the sound in the last second": (
        loop,
        "levelled(ring_N, settings",
        "levelled(ring_N[-16_000:], settings",
    ),
    "windows of new frames first": (
        loop,
        "len(features) - settings.clip_frames, settings.clip_frames)",
        "len(features) - settings.clip_frames - 1, settings.clip_frames)",
    ),
    "windows not held at the end": (loop, "min(max(frame + step, 0), end - 1)", "max(frame + step, 0) % end"),
    "colours of the clip": (color, "zip(lab(frame), reference", "zip(lab(frame), lab((video_CFHW[:, 0] + 1) / 2)"),
}


@pytest.fixture(scope="module")
def ours_and_given() -> tuple[list[Tensor], Parts]:
    given = parts(other())
    return our_frames(given)[0], given


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_plausible_mistake_would_be_noticed(
    mistake: str, ours_and_given: tuple[list[Tensor], Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, given = ours_and_given
    module, right, wrong = MISTAKES[mistake]
    copy = mutant(module, right, wrong)
    if module is sampler:
        monkeypatch.setattr(loop, "sample", copy.sample)
    if module is color:
        monkeypatch.setattr(loop, "color", copy)
    chunks = plain_chunks(given, copy if module is loop else loop)
    assert any(float((mine - chunk).abs().max()) > 1e-2 for mine, chunk in zip(ours, chunks, strict=False))
