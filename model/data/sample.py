"""One training sample: a clip as the networks take it, and how it is made from pixels and sound.

A sample covers `chunks` chunks of the stream: 33 frames, and 28 more for each chunk after the first. Stage 1 learns
from the first chunk's latents; stage 2 needs the conditions only, but for the rows of Table 3 with ground-truth motion.

Legend: C channels, F frames, H W pixels, T latent frames, h w latent rows and columns, K chunks, L text tokens or
speech layers, M image tokens, N samples of sound.
Source: technical report section 3.2; the sound is encoded as at inference: with the 8 s before the end of a chunk, at
one loudness.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..conditioning.audio import windows
from ..config import Recipe
from ..pipeline import Encoders

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """A clip, encoded.

    Attributes:
        id: Names it among all samples.
        latents_CThw: Of the first chunk's frames; the first m are the code of its first 1 + 4 (m - 1) frames.
        motion_KCThw: Code of the motion frames that chunk k starts with, as the clip has them.
        reference_CThw: Code of a picture of the person from outside the clip, followed by grey frames.
        image_MC: Image tokens of that picture.
        text_LC: Text tokens of the caption.
        speech_KFLC: Per chunk, speech features of its frames and of the half window before them.
    """

    id: str
    latents_CThw: Tensor
    motion_KCThw: Tensor
    reference_CThw: Tensor
    image_MC: Tensor
    text_LC: Tensor
    speech_KFLC: Tensor

    @property
    def chunks(self) -> int:
        """Chunks that the sound covers (K)."""
        return self.speech_KFLC.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, as shards hold them."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "id"}

    def speech_windows(self, chunk: int, window: int) -> Tensor:
        """Return a chunk's windows `[1, F, window, layers, channels]` for `DiT.encode_audio`."""
        features_FLC = self.speech_KFLC[chunk]
        before = window // 2
        return windows(features_FLC, before, len(features_FLC) - before, window)


def num_frames(recipe: Recipe, chunks: int) -> int:
    """Return the frames that so many chunks cover: 33, 61, 89, ..."""
    return recipe.stream.clip_frames + (chunks - 1) * recipe.stream.new_frames


def encode(
    encoders: Encoders,
    sample_id: str,
    *,
    video_CFHW: Tensor,
    reference_CHW: Tensor,
    sound_N: Samples,
    first_sample: int,
    prompt: str,
) -> Sample:
    """Encode a clip.

    Args:
        encoders: Autoencoder and encoders.
        sample_id: Names it.
        video_CFHW: RGB in [-1, 1]; as many frames as `num_frames` says for some number of chunks.
        reference_CHW: The person, from outside these frames, of the same size.
        sound_N: Mono at 16 kHz, what came before the clip included.
        first_sample: Where in the sound the clip begins; what lies before is heard, and silence before that.
        prompt: What is seen.

    Raises:
        ValueError: If the frames are no whole number of chunks, or the sound ends before them.
    """
    config = encoders.recipe.stream
    chunks, rest = divmod(video_CFHW.shape[1] - config.motion_frames, config.new_frames)
    if rest or chunks < 1:
        raise ValueError(f"{video_CFHW.shape[1]} frames are no whole number of chunks of {config.new_frames}")
    if len(sound_N) < first_sample + video_CFHW.shape[1] * config.samples_per_frame:
        raise ValueError(f"the sound ends {len(sound_N)} samples in, before its {video_CFHW.shape[1]} frames do")
    appearance = encoders.encode_picture(reference_CHW)
    starts = range(0, chunks * config.new_frames, config.new_frames)
    motion = [encoders.encode(video_CFHW[:, start : start + config.motion_frames]) for start in starts]
    speech = [
        _speech(encoders, sound_N, first_sample + end * config.samples_per_frame) for end in _ends(encoders, chunks)
    ]
    return Sample(
        id=sample_id,
        latents_CThw=encoders.encode(video_CFHW[:, : config.clip_frames]).cpu(),
        motion_KCThw=torch.stack(motion).cpu(),
        reference_CThw=appearance.reference_CThw.cpu(),
        image_MC=appearance.image_BMC[0].cpu(),
        text_LC=encoders.encode_text(prompt).cpu(),
        speech_KFLC=torch.stack(speech).cpu(),
    )


def _ends(encoders: Encoders, chunks: int) -> Iterator[int]:
    """Yield the frame after each chunk."""
    config = encoders.recipe.stream
    for chunk in range(chunks):
        yield config.clip_frames + chunk * config.new_frames


def _speech(encoders: Encoders, sound_N: Samples, end: int) -> Tensor:
    """Return the features of the chunk that ends at a sample, and of the half window before it."""
    config = encoders.recipe.stream
    length = config.audio_seconds * config.audio_rate_hz
    heard_N = sound_N[max(0, end - length) : end]
    heard_N = np.pad(heard_N, (length - len(heard_N), 0))
    features_FLC = encoders.encode_speech(heard_N)
    return features_FLC[-(config.clip_frames + encoders.recipe.dit.audio.window // 2) :]
