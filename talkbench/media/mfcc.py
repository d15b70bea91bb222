"""Mel-frequency cepstral coefficients as SyncNet was trained on them, from sound that arrives in blocks.

The definition is that of python_speech_features 0.6 with its defaults (jameslyons/python_speech_features: base.py, the
`mfcc` function), on 16-bit samples: 13 coefficients, 100 columns a second. A column depends on 400 samples and the one
before them, so a stream keeps less than two seconds of sound.

Legend: N samples, M columns, C = 13 coefficients.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from talkbench.media.clip import Samples

RATE_HZ = 16_000
WINDOW, STEP, FFT = 400, 160, 512
NUM_MEL, NUM_COEFFICIENTS, LIFTER = 26, 13, 22
PRE_EMPHASIS = 0.97
_GROUP = 128
"""Columns computed together, whatever the blocks: matrix products of other heights differ in the last bit."""

Columns = NDArray[np.float32]


def to_int16(samples_N: Samples) -> NDArray[np.int16]:
    """Return float samples in [-1, 1] as 16-bit integers: scaled by 32768, rounded to even, clipped."""
    scaled = np.clip(np.rint(samples_N * np.float32(32768)), -32768, 32767)
    return np.asarray(scaled, dtype=np.int16)


def mel_filters() -> NDArray[np.float64]:
    """Return the 26 triangular filters over 0 to 8000 Hz, [26, 257]; edges fall on whole bins."""
    top = 2595 * math.log10(1 + RATE_HZ / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, NUM_MEL + 2) / 2595) - 1)
    edges = np.floor((FFT + 1) * hertz / RATE_HZ)
    filters = np.zeros((NUM_MEL, FFT // 2 + 1))
    bins = np.arange(FFT // 2 + 1)
    for row, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising, falling = (bins >= left) & (bins < centre), (bins >= centre) & (bins < right)
        filters[row, rising] = (bins[rising] - left) / (centre - left)
        filters[row, falling] = (right - bins[falling]) / (right - centre)
    return filters


def _cosines() -> NDArray[np.float64]:
    """Return the first 13 rows of the orthonormal DCT-II of 26 values, liftered, transposed: [26, 13]."""
    k, n = np.arange(NUM_COEFFICIENTS)[:, None], np.arange(NUM_MEL)
    rows = np.sqrt(2 / NUM_MEL) * np.cos(np.pi * k * (2 * n + 1) / (2 * NUM_MEL))
    rows[0] /= math.sqrt(2)
    lifted: NDArray[np.float64] = rows * (1 + LIFTER / 2 * np.sin(np.pi * k / LIFTER))
    return lifted.T


_FILTERS, _COSINES = mel_filters().T, _cosines()


def _columns(emphasised_N: NDArray[np.float64], count: int) -> Columns:
    """Return the first `count` columns of pre-emphasised samples, [count, 13]."""
    windows = np.lib.stride_tricks.sliding_window_view(emphasised_N, WINDOW)[::STEP][:count]
    spectrum = np.fft.rfft(windows, FFT)
    power = (spectrum.real**2 + spectrum.imag**2) / FFT
    mel, total = power @ _FILTERS, power.sum(axis=1)
    tiny = np.finfo(np.float64).eps
    columns = np.log(np.where(mel == 0, tiny, mel)) @ _COSINES
    columns[:, 0] = np.log(np.where(total == 0, tiny, total))
    return columns.astype(np.float32)


class MfccStream:
    """Turns blocks of sound into columns; which blocks does not matter.

    Column m covers samples 160 m to 160 m + 399. Four columns belong to one frame at 25 per second.
    """

    def __init__(self) -> None:
        self._rest: NDArray[np.float64] = np.zeros(0)
        self._last = 0.0
        self.num_samples = 0
        self.num_columns = 0

    def push(self, samples_N: Samples) -> Columns:
        """Take the next samples (16 kHz, in [-1, 1]) and return the columns that are complete, [M, 13]."""
        if samples_N.size == 0:
            return np.zeros((0, NUM_COEFFICIENTS), np.float32)
        whole = to_int16(samples_N).astype(np.float64)
        before = np.concatenate([[self._last], whole[:-1]])
        if self.num_samples == 0:
            before[0] = 0.0
        self._last = float(whole[-1])
        self.num_samples += whole.size
        self._rest = np.concatenate([self._rest, whole - PRE_EMPHASIS * before])
        done = []
        while self._rest.size >= (_GROUP - 1) * STEP + WINDOW:
            done.append(self._take(_GROUP))
        return np.concatenate(done) if done else np.zeros((0, NUM_COEFFICIENTS), np.float32)

    def finish(self) -> Columns:
        """Return the remaining columns; the last one is filled up with zeros. [M, 13]."""
        if self.num_samples == 0:
            return np.zeros((0, NUM_COEFFICIENTS), np.float32)
        total = 1 + max(0, math.ceil((self.num_samples - WINDOW) / STEP))
        count = total - self.num_columns
        if count <= 0:
            return np.zeros((0, NUM_COEFFICIENTS), np.float32)
        missing = (count - 1) * STEP + WINDOW - self._rest.size
        self._rest = np.concatenate([self._rest, np.zeros(max(0, missing))])
        return self._take(count)

    def _take(self, count: int) -> Columns:
        columns = _columns(self._rest, count)
        self._rest = self._rest[count * STEP :]
        self.num_columns += count
        return columns


def mfcc(samples_N: Samples) -> Columns:
    """Return all columns of a sound, [M, 13], M = 1 + ceil((N - 400) / 160).

    Args:
        samples_N: 16 kHz mono, float in [-1, 1].
    """
    stream = MfccStream()
    return np.concatenate([stream.push(samples_N), stream.finish()])
