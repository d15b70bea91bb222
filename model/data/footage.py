"""A clip before it is encoded: pixels, sound and what is known of it, whatever it comes from.

Legend: C channels, T frames, H W pixels, N samples of sound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..pipeline import Encoders
from .sample import Samples, encode
from .shards import Encoded


class Rejected(Exception):  # noqa: N818 - a property of the clip, not an error of ours
    """A clip that is not trained on.

    Args:
        reason: Short, stable slug that clips are counted under.
        message: What was found, what was needed.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


@dataclass(frozen=True)
class Footage:
    """One window of a clip, cut to its bucket.

    Attributes:
        frames_THWC: RGB, uint8, at the stream's frame rate.
        reference_HWC: The person, from outside the window.
        sound_N: Mono at the stream's rate, what came before the window included.
        first_sample: Where in the sound the window begins.
        prompt: What is seen.
        source: Key of the video.
        person: Key of the person.
        truth: What a drawn clip shows, by name.
    """

    frames_THWC: NDArray[np.uint8]
    reference_HWC: NDArray[np.uint8]
    sound_N: Samples
    first_sample: int
    prompt: str
    source: str
    person: str
    truth: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bucket(self) -> str:
        """Size of the picture, ``HxW``."""
        return f"{self.frames_THWC.shape[1]}x{self.frames_THWC.shape[2]}"


class Source(Protocol):
    """Where clips come from; goes to other processes, so it holds names and numbers, no open files."""

    @property
    def ids(self) -> Sequence[str]:
        """Clips, in the order in which they are encoded; unique."""

    @property
    def identity(self) -> dict[str, Any]:
        """Whatever else decides what `footage` returns."""

    def footage(self, number: int) -> Footage:
        """Return a clip by its place in `ids`.

        Raises:
            Rejected: If it cannot be used.
        """


def encoded(encoders: Encoders, clip_id: str, footage: Footage) -> Encoded:
    """Return a clip as a shard takes it."""
    sample = encode(
        encoders,
        clip_id,
        video_CFHW=_levels(footage.frames_THWC).permute(3, 0, 1, 2).to(encoders.device),
        reference_CHW=_levels(footage.reference_HWC).permute(2, 0, 1).contiguous(),
        sound_N=footage.sound_N,
        first_sample=footage.first_sample,
        prompt=footage.prompt,
    )
    return Encoded(sample, footage.bucket, footage.source, footage.person, footage.truth)


def _levels(pixels: NDArray[np.uint8]) -> Tensor:
    """Return RGB levels in [-1, 1]."""
    return (torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255 - 0.5) * 2
