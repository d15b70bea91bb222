"""MFCC: the definition of the package, and that blocks never matter. Oracle values are in tests/calibration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dct

from talkbench.media import mfcc

RNG = np.random.default_rng(3)
NOISE = (RNG.normal(0, 0.1, 16_000) * np.linspace(0, 1, 16_000)).astype(np.float32)


@pytest.mark.parametrize(("num_samples", "num_columns"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (16_000, 99)])
def test_there_is_one_column_per_160_samples_and_a_padded_last_one(num_samples: int, num_columns: int) -> None:
    assert mfcc.mfcc(NOISE[:num_samples]).shape == (num_columns, 13)


def test_no_sound_has_no_columns() -> None:
    assert mfcc.mfcc(NOISE[:0]).shape == (0, 13)


@pytest.mark.parametrize("size", [1, 159, 160, 640, 4097, 50_000])
def test_the_blocks_in_which_sound_arrives_never_matter(size: int) -> None:
    sound = np.tile(NOISE, 3)[: 700 if size == 1 else None]
    stream = mfcc.MfccStream()
    parts = [stream.push(sound[i : i + size]) for i in range(0, len(sound), size)]
    np.testing.assert_array_equal(np.concatenate([*parts, stream.finish()]), mfcc.mfcc(sound))


def test_a_column_is_the_liftered_cosine_transform_of_log_mel_power() -> None:
    samples = mfcc.to_int16(NOISE).astype(float)
    emphasised = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    power = np.abs(np.fft.rfft(emphasised[1600:2000], 512)) ** 2 / 512
    expected = dct(np.log(mfcc.mel_filters() @ power), norm="ortho")[:13] * (
        1 + 11 * np.sin(np.pi * np.arange(13) / 22)
    )
    expected[0] = np.log(power.sum())
    np.testing.assert_allclose(mfcc.mfcc(NOISE)[10], expected, rtol=1e-6)


def test_silence_is_finite() -> None:
    columns = mfcc.mfcc(np.zeros(4000, np.float32))
    assert np.isfinite(columns).all()
    assert np.ptp(columns, axis=0).max() == 0


def test_samples_are_rounded_and_clipped_to_16_bits() -> None:
    assert mfcc.to_int16(np.array([1.5, -1.5, 0.5, 1.49 / 32768, 0.0], np.float32)).tolist() == [
        32767, -32768, 16384, 1, 0,
    ]  # fmt: skip
