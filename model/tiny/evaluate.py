"""What a tiny model's talking people are worth, where the truth is known: lip sync, distance from the true film, drift.

Legend: T frames, H W pixels, C channels, V numbers of a mouth's shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..live import Frames
from ..pipeline import Model
from ..stream import Stream
from .reader import MouthReader
from .world import Clip

LARGEST_LAG = 12
"""Frames by which sound and mouth are moved against each other, either way."""
EVERY = 5
"""Of the true frames, these are looked at for the nearest."""


@dataclass(frozen=True)
class Sync:
    """How a mouth follows its sound.

    Attributes:
        correlation: Pearson's, of the opening that is seen and the opening that is spoken, frame by frame.
        lag_frames: Where it would be largest; 0 is in step, more than 0 is a mouth that comes late.
        chance: Mean correlation with what is spoken at other times of the same clip.
    """

    correlation: float
    lag_frames: int
    chance: float


def talk(model: Model, clip: Clip, seed: int = 0) -> Frames:
    """Return frames `[T, H, W, 3]` of the person of a clip's first frame saying what the clip says."""
    stream = Stream(model, Image.fromarray(clip.frames_THWC[0]), seed=seed)
    pieces = [piece.frames_FHWC for piece in stream.play([clip.sound_N])]
    frames_THWC: Frames = np.concatenate(pieces)[: len(clip.frames_THWC)]
    return frames_THWC


def sync(frames_THWC: Frames, clip: Clip, reader: MouthReader) -> Sync:
    """Return how the mouth in frames follows what a clip says."""
    seen_T = reader.read(frames_THWC, clip.mouth)[:, 0]
    spoken_T = clip.opening_T[: len(seen_T)]
    lags = range(-LARGEST_LAG, LARGEST_LAG + 1)
    by_lag = [
        _correlation(np.roll(spoken_T, lag)[LARGEST_LAG:-LARGEST_LAG], seen_T[LARGEST_LAG:-LARGEST_LAG]) for lag in lags
    ]
    others = range(2 * LARGEST_LAG, len(seen_T) - 2 * LARGEST_LAG, LARGEST_LAG)
    chance = [_correlation(np.roll(spoken_T, by), seen_T) for by in others]
    return Sync(_correlation(spoken_T, seen_T), lags[int(np.argmax(by_lag))], float(np.mean(chance)) if chance else 0.0)


def distance_T(frames_THWC: Frames, clip: Clip) -> NDArray[np.float64]:
    """Return per frame the mean difference of levels (0 to 255) from the nearest true frame of the clip."""
    true_THWC = clip.frames_THWC[::EVERY].astype(np.int16)
    return np.array([np.abs(true_THWC - frame.astype(np.int16)).mean((1, 2, 3)).min() for frame in frames_THWC])


def sharpness_T(frames_THWC: Frames) -> NDArray[np.float64]:
    """Return per frame the mean difference of levels between neighbouring pixels."""
    wide = frames_THWC.astype(np.int16)
    return np.abs(np.diff(wide, axis=1)).mean((1, 2, 3)) + np.abs(np.diff(wide, axis=2)).mean((1, 2, 3))


def _correlation(first_T: NDArray[np.float32], second_T: NDArray[np.float32]) -> float:
    """Return Pearson's correlation; 0 where either does not change."""
    if first_T.std() < 1e-6 or second_T.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(first_T, second_T)[0, 1])
