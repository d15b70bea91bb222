"""Loudness: scaled to the target, or left alone where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from model.loudness import normalise

RATE_HZ = 16_000
SINE_LUFS = -3.01
"""Of a full-scale sine of 997 Hz in one channel (ITU-R BS.1770-4, annex 1)."""


def sine(amplitude: float, num_samples: int = 2 * RATE_HZ) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * 997 * np.arange(num_samples) / RATE_HZ)).astype(np.float32)


@pytest.mark.parametrize("amplitude", [1e-3, 0.1, 1.0])
def test_a_sine_of_any_level_gets_the_amplitude_that_the_standard_gives_the_target(amplitude: float) -> None:
    amplitude_dB = 20 * np.log10(np.abs(normalise(sine(amplitude), RATE_HZ, -23.0)).max())
    assert amplitude_dB == pytest.approx(-23.0 - SINE_LUFS, abs=0.1)


def test_only_a_gain_is_applied() -> None:
    noise_N = np.random.default_rng(0).normal(0, 0.02, 8 * RATE_HZ).astype(np.float32)
    ratio_N = normalise(noise_N, RATE_HZ, -23.0) / noise_N
    np.testing.assert_allclose(ratio_N, ratio_N[0], rtol=1e-6)
    assert ratio_N.dtype == np.float32


def test_pauses_do_not_count() -> None:
    paused_N = np.concatenate([sine(0.1), np.zeros(6 * RATE_HZ, np.float32)])
    assert np.abs(normalise(paused_N, RATE_HZ, -23.0)).max() == pytest.approx(10 ** ((-23 + 3.01) / 20), rel=0.05)


@pytest.mark.parametrize(
    "samples_N",
    [np.zeros(8 * RATE_HZ, np.float32), sine(1e-6), sine(0.1, 6399), np.zeros(0, np.float32)],
    ids=["silent", "below the gate", "short", "empty"],
)
def test_sound_without_a_loudness_stays_as_it_is(samples_N: np.ndarray) -> None:
    result_N = normalise(samples_N, RATE_HZ, -23.0)
    np.testing.assert_array_equal(result_N, samples_N)
    assert result_N.dtype == np.float32


def test_samples_beyond_full_scale_are_neither_clipped_nor_warned_about() -> None:
    click_N = np.zeros(8 * RATE_HZ, np.float32)
    click_N[::8000] = 0.5
    assert np.abs(normalise(click_N, RATE_HZ, -10.0)).max() > 1.0


def test_the_input_is_not_written_to() -> None:
    samples_N = sine(0.1)
    kept_N = samples_N.copy()
    assert not np.array_equal(normalise(samples_N, RATE_HZ, -23.0), kept_N)
    assert np.array_equal(samples_N, kept_N)
