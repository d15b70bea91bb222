"""Bring sound to the loudness that the speech encoder knows; it does not normalise by itself.

Source: SoulX-FlashTalk at commit 688982e, `flash_talk/inference.py`; ITU-R BS.1770-4 as pyloudnorm measures it.

Legend: N samples.
"""

from __future__ import annotations

import numpy as np
from pyloudnorm import Meter

_SILENT_LUFS = 100


def normalise(samples_N: np.ndarray, rate_hz: int, target_lufs: float) -> np.ndarray:
    """Return sound at a loudness, measured and scaled in fp64.

    Silence, and sound shorter than the meter's block of 0.4 s, which has no loudness, stay as they are. Samples may
    leave [-1, 1]; nothing clips them before the encoder.

    Args:
        samples_N: Mono, finite.
        rate_hz: Samples per second.
        target_lufs: Integrated loudness of the result, e.g. -23.

    Returns:
        samples_N, float32.
    """
    exact_N = samples_N.astype(np.float64)
    measured_lufs = _loudness(exact_N, rate_hz)
    if not abs(measured_lufs) <= _SILENT_LUFS:
        return exact_N.astype(np.float32)
    return (exact_N * 10 ** ((target_lufs - measured_lufs) / 20)).astype(np.float32)


def _loudness(samples_N: np.ndarray, rate_hz: int) -> float:
    """Return the integrated loudness in LUFS, minus infinity where there is none."""
    meter = Meter(rate_hz)
    if len(samples_N) < meter.block_size * rate_hz:
        return -np.inf
    return float(meter.integrated_loudness(samples_N))
