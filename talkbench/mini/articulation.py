"""From a phone timeline to smooth tracks: the mouth shapes, and the coarticulation the voice shares with them.

Every track is a weighted mean of phone targets under a symmetric, compact kernel (dominance blending after Cohen
and Massaro, "Modeling coarticulation in synthetic visual speech", 1993), evaluated in closed form at any time.
Mouth and sound use the same timeline and symmetric kernels, so neither leads the other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talkbench.mini.clock import frame_seconds
from talkbench.mini.noise import smoothstep
from talkbench.mini.phones import BILABIALS, PHONES

# Legend: P phones, T times or frames, C channels, W phones in reach of one time.
Floats = NDArray[np.float64]

MOUTH_REACH_SECONDS = 0.065
CLOSED_SHARE = 0.62  # of a bilabial's duration; 46 ms or more, so a 25 fps frame always falls inside
RELEASE_SECONDS = 0.050
_MARGIN_SECONDS = 0.250  # no phone acts further than this from its ends


@dataclass(frozen=True)
class Phone:
    """One phone of the timeline; phones are contiguous and in order."""

    symbol: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Visemes:
    """Mouth shape per frame; float32 [T], each 0..1. Frame k is sampled at time (k + 0.5) / frame_rate.

    Attributes:
        opening: Aperture of jaw and lips; 0 is closed.
        width: Lips relaxed and narrow (0) to spread (1).
        rounding: Lips pursed and protruded.
        teeth: How much of the teeth shows when the mouth is open.
        tongue: How far the tongue is raised towards the upper teeth.
    """

    opening: NDArray[np.float32]
    width: NDArray[np.float32]
    rounding: NDArray[np.float32]
    teeth: NDArray[np.float32]
    tongue: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.opening)


def _kernel_integral(x: Floats) -> Floats:
    """Integral of a raised cosine of half-width 1: 0 below -1, 1 above +1."""
    x = np.clip(x, -1.0, 1.0)
    integral: Floats = 0.5 * (1.0 + x + np.sin(np.pi * x) / np.pi)
    return integral


def _bounds(phones: Sequence[Phone]) -> tuple[Floats, Floats]:
    """Start and end of each phone; the first and last reach to infinity, so tracks never run out."""
    if not phones:
        raise ValueError("phones is empty; expected a timeline with at least one phone.")
    starts = np.array([phone.start_seconds for phone in phones])
    ends = np.array([phone.end_seconds for phone in phones])
    starts[0], ends[-1] = -np.inf, np.inf
    return starts, ends


def excerpt(phones: Sequence[Phone], start_seconds: float, stop_seconds: float) -> Sequence[Phone]:
    """Return the phones that can be heard or seen between two times; work then grows with the time, not its square."""
    first = bisect_left(phones, start_seconds - _MARGIN_SECONDS, key=lambda phone: phone.end_seconds)
    stop = bisect_right(phones, stop_seconds + _MARGIN_SECONDS, key=lambda phone: phone.start_seconds)
    first = min(first, len(phones) - 1)
    return phones[first : max(stop, first + 1)]


def blend(
    phones: Sequence[Phone], seconds_T: Floats, targets_PC: Floats, weights_P: Floats, reach_seconds: float
) -> Floats:
    """Return phone targets blended at the given times.

    Args:
        phones: The timeline.
        seconds_T: Times; any order.
        targets_PC: Target of every phone and channel.
        weights_P: Dominance of every phone, above 0.
        reach_seconds: Half-width of the kernel; a phone has no influence further away than this.

    Returns:
        [T, C] values within the range of the targets.
    """
    starts, ends = _bounds(phones)
    first = np.searchsorted(ends, seconds_T - reach_seconds, side="right")
    last = np.searchsorted(starts, seconds_T + reach_seconds, side="left") - 1
    window = np.arange(int(np.max(last - first, initial=0)) + 1)
    index_TW = np.minimum(first[:, None] + window, len(phones) - 1)
    inside = first[:, None] + window <= last[:, None]
    time = seconds_T[:, None]
    after = _kernel_integral((time - starts[index_TW]) / reach_seconds)
    before = _kernel_integral((time - ends[index_TW]) / reach_seconds)
    share_TW = np.where(inside, (after - before) * weights_P[index_TW], 0.0)
    share_TW /= share_TW.sum(axis=1, keepdims=True)
    blended_TC: Floats = np.einsum("tw,twc->tc", share_TW, targets_PC[index_TW])
    return blended_TC


def lip_gate(phones: Sequence[Phone], seconds_T: Floats) -> Floats:
    """Return 0 while a bilabial holds the lips shut, 1 away from bilabials, smooth between; [T]."""
    closers = [phone for phone in phones if phone.symbol in BILABIALS]
    if not closers:
        return np.ones_like(seconds_T)
    middles = np.array([0.5 * (phone.start_seconds + phone.end_seconds) for phone in closers])
    halves = np.array([0.5 * CLOSED_SHARE * (phone.end_seconds - phone.start_seconds) for phone in closers])
    right = np.clip(np.searchsorted(middles, seconds_T), 0, len(closers) - 1)
    gate = np.ones_like(seconds_T)
    for nearest in (right, np.maximum(right - 1, 0)):
        distance = np.abs(seconds_T - middles[nearest]) - halves[nearest]
        gate *= smoothstep(distance / RELEASE_SECONDS)
    return gate


def _shape(phone: Phone) -> tuple[float, ...]:
    """Mouth target of one phone; a vowel cut short opens up to a fifth less, as in running speech."""
    spec = PHONES[phone.symbol]
    if spec.kind != "vowel":
        return spec.shape
    effort = 0.55 + 0.45 * (phone.end_seconds - phone.start_seconds) / spec.seconds
    return (spec.shape[0] * min(max(effort, 0.8), 1.0), *spec.shape[1:])


def mouth_tracks(phones: Sequence[Phone], seconds_T: Floats) -> Floats:
    """Return opening, width, rounding, teeth and tongue at the given times; [T, 5], each 0..1."""
    shapes_P5 = np.array([_shape(phone) for phone in phones])
    holds_P = np.array([PHONES[phone.symbol].hold for phone in phones])
    tracks_T5 = blend(phones, seconds_T, shapes_P5, holds_P, MOUTH_REACH_SECONDS)
    tracks_T5[:, 0] *= lip_gate(phones, seconds_T)
    return tracks_T5


def visemes(phones: Sequence[Phone], num_frames: int, frame_rate: float) -> Visemes:
    """Return the mouth shape of every frame; frame k is sampled at time (k + 0.5) / frame_rate.

    Args:
        phones: The timeline, as `sample_speech` gives it; its last phone lasts as long as needed.
        num_frames: T, 0 or more.
        frame_rate: Frames per second, above 0.

    Raises:
        ValueError: If the timeline is empty, `num_frames` negative or `frame_rate` not positive.
    """
    seconds_T = frame_seconds(0, num_frames, frame_rate)
    opening, width, rounding, teeth, tongue = mouth_tracks(phones, seconds_T).astype(np.float32).T
    return Visemes(opening, width, rounding, teeth, tongue)
