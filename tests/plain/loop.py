"""The streaming loop over chunks, plainly: conditioning latents, sound ring, windows, sampling, colour, motion.

Source: `flash_talk/src/pipeline/flash_talk_pipeline.py`, `flash_talk/inference.py` and `generate_video.py`,
SoulX-FlashTalk at commit 688982e, described. Networks are callables.

Legend: C channels, T latent frames, h w latent rows and columns, F frames, H W pixels, N samples,
in features L layers and C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyloudnorm
import torch
from torch import Tensor

from tests.plain import color
from tests.plain.sampler import Draw, sample


@dataclass(frozen=True)
class Networks:
    """What the loop calls.

    Attributes:
        velocity: Noisy latent, time, y, windows `[1, F, 5, L, C]` -> velocity.
        encode: Video `[3, F, H, W]` in [-1, 1] -> normalised latent.
        decode: Latent -> video clamped to [-1, 1].
        features: Levelled samples of the ring -> `[frames, L, C]`.
    """

    velocity: Callable[[Tensor, float, Tensor, Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    features: Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class Settings:
    """Numbers of the released loop."""

    clip_frames: int = 33
    motion_frames: int = 5
    frame_rate: int = 25
    audio_rate: int = 16_000
    audio_seconds: int = 8
    loudness: float = -23.0
    color_strength: float = 1.0
    num_steps: int = 4
    shift: float = 5.0


def mask(num_latents: int) -> Tensor:
    """Return the four mask channels `[4, T]`, folded from one value per frame with the first repeated four times."""
    per_frame = [1.0] + [0.0] * (4 * (num_latents - 1))
    unfolded = [per_frame[0]] * 4 + per_frame[1:]
    return torch.tensor(unfolded).reshape(num_latents, 4).T


def conditioning(encode: Callable[[Tensor], Tensor], image_CHW: Tensor, clip_frames: int) -> tuple[Tensor, Tensor]:
    """Return y `[4 + C, T, h, w]` and the first motion latents `[C, 1, h, w]` of an image in [-1, 1]."""
    clip_CFHW = torch.zeros(3, clip_frames, *image_CHW.shape[1:])
    clip_CFHW[:, 0] = image_CHW
    reference = encode(clip_CFHW)
    mask_4Thw = mask(reference.shape[1])[:, :, None, None].expand(-1, -1, *reference.shape[2:])
    return torch.cat([mask_4Thw, reference]), encode(image_CHW[:, None])


def levelled(ring_N: np.ndarray, rate: int, target: float) -> np.ndarray:
    """Return the sound at the target loudness (BS.1770, LUFS); silence stays as it is."""
    loudness = pyloudnorm.Meter(rate).integrated_loudness(ring_N.astype(np.float64))
    if abs(loudness) > 100:
        return ring_N
    return ring_N.astype(np.float64) * 10 ** ((target - loudness) / 20)


def windows(features_FLC: Tensor, first: int, count: int) -> Tensor:
    """Return features f - 2 .. f + 2 of frames first .. first + count - 1, indices held inside: [1, count, 5, L, C]."""
    end = len(features_FLC)
    frames = []
    for frame in range(first, first + count):
        frames.append(torch.stack([features_FLC[min(max(frame + step, 0), end - 1)] for step in (-2, -1, 0, 1, 2)]))
    return torch.stack(frames)[None]


def stream(
    networks: Networks, settings: Settings, image_CHW: Tensor, samples_N: np.ndarray, draw: Draw
) -> Iterator[Tensor]:
    """Yield the new frames of each chunk, `[3, new frames, H, W]` in [-1, 1]; a remainder of the sound is dropped.

    Args:
        networks: What to call.
        settings: Numbers of the loop.
        image_CHW: The cropped reference image in [-1, 1].
        samples_N: The whole sound, mono.
        draw: A fresh normal draw in the shape of the clip's latents.
    """
    new_frames = settings.clip_frames - settings.motion_frames
    per_chunk = new_frames * settings.audio_rate // settings.frame_rate
    y, motion = conditioning(networks.encode, image_CHW, settings.clip_frames)
    ring_N = np.zeros(settings.audio_seconds * settings.audio_rate, dtype=np.float32)
    for number in range(len(samples_N) // per_chunk):
        ring_N = np.concatenate([ring_N, samples_N[number * per_chunk : (number + 1) * per_chunk]])[per_chunk:]
        features = networks.features(levelled(ring_N, settings.audio_rate, settings.loudness))
        seen = windows(features, len(features) - settings.clip_frames, settings.clip_frames)

        def velocity(x: Tensor, time: float, seen: Tensor = seen) -> Tensor:
            return networks.velocity(x, time, y, seen)

        steps, shift = settings.num_steps, settings.shift
        latents = sample(velocity, motion, draw, num_steps=steps, shift=shift, dtype=motion.dtype)
        video = color.correct(networks.decode(latents).clamp(-1, 1), image_CHW, settings.color_strength)
        motion = networks.encode(video[:, -settings.motion_frames :])
        yield video[:, settings.motion_frames :]
