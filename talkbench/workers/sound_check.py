"""The sound of a clip beside the one that it was made for: whether it is the same, where it is, and how loud."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from talkbench.media import audio as sound
from talkbench.media.clip import Samples

_RATE_HZ = 16_000
_HOP = 160
_COMPARED_SECONDS = 30
_MAX_SHIFT_SECONDS = 1.0


@dataclass(frozen=True)
class SoundComparison:
    """A clip's sound beside the one that it was made for.

    Attributes:
        likeness: Correlation of their loudness curves where they are most alike.
        late_seconds: By how much it comes later there, to 10 ms.
        gain_db: How much louder it is there.
    """

    likeness: float
    late_seconds: float
    gain_db: float


def compare_sound(path: Path, audio: Path, first_frame_seconds: float = 0.0) -> SoundComparison | None:
    """Return how the sound of a clip compares with the one that it was made for; None if one of them is silent.

    The loudness curves of the first 30 s are laid over each other, in steps of 10 ms and up to 1 s either way.

    Raises:
        Unscorable: If one of them cannot be decoded.
    """
    given_N, found_N = _loudness(audio, 0.0), _loudness(path, first_frame_seconds)
    if not given_N.any() or not found_N.any():
        return None
    most = int(_MAX_SHIFT_SECONDS * _RATE_HZ / _HOP)

    def likeness(shift: int) -> float:
        return round(_likeness(*_overlap(given_N, found_N, shift)), 3)

    late = max(range(-most, most + 1), key=lambda shift: (likeness(shift), -abs(shift)))
    given, found = (float(np.square(curve_N).sum()) for curve_N in _overlap(given_N, found_N, late))
    gain = 10.0 * np.log10(found / given) if given and found else 0.0
    return SoundComparison(likeness(late), round(late * _HOP / _RATE_HZ, 3), round(float(gain), 2))


def is_silent(audio: Path) -> bool:
    """Tell whether the first 30 s of a sound hold nothing at all."""
    return not _loudness(audio, 0.0).any()


def _loudness(path: Path, first_frame_seconds: float) -> Samples:
    """Return the mean amplitude of every 10 ms of the first seconds of a sound."""
    kept, num_samples = [np.zeros(0, np.float32)], 0
    for block_N in sound.blocks(path, _RATE_HZ, first_frame_seconds=first_frame_seconds):
        kept.append(block_N)
        num_samples += block_N.size
        if num_samples >= _COMPARED_SECONDS * _RATE_HZ:
            break
    samples_N = np.concatenate(kept)[: _COMPARED_SECONDS * _RATE_HZ]
    curve_N: Samples = np.abs(samples_N[: samples_N.size // _HOP * _HOP]).reshape(-1, _HOP).mean(1)
    return curve_N


def _overlap(given_N: Samples, found_N: Samples, late: int) -> tuple[Samples, Samples]:
    given_N, found_N = given_N[max(0, -late) :], found_N[max(0, late) :]
    size = min(given_N.size, found_N.size)
    return given_N[:size], found_N[:size]


def _likeness(given_N: Samples, found_N: Samples) -> float:
    """Return the correlation of two curves; -1 if there is none, or too little of them."""
    if given_N.size < 2:
        return -1.0
    a, b = given_N - given_N.mean(), found_N - found_N.mean()
    power = float(np.square(a).sum() * np.square(b).sum())
    return float(a @ b) / power**0.5 if power > 0 else -1.0
