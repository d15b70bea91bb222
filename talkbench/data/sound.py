"""The sound of a sample: cut, mixed, resampled, levelled, measured; the same samples on every run.

Loudness is that of ITU-R BS.1770-4. Its two filters, published for 48 kHz, are computed for any rate from the analogue
prototypes behind them (De Man, Evaluation of Implementations of the EBU R128 Loudness Measurement, 2018).
"""

from __future__ import annotations

import io
import math
import wave
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from talkbench.errors import Unscorable
from talkbench.media import audio, probe
from talkbench.media.clip import Samples

RATE_HZ, FRAME_SAMPLES = 16_000, 640
TARGET_LUFS, MAX_TRUE_PEAK_DBFS = -23.0, -2.0
MAX_MISSING_SECONDS = 0.2
SILENT_LUFS = -70.0
_VAD_SECONDS, _VAD_ABOVE_FLOOR_DB, _VAD_LEAST_DB = 0.02, 10.0, -50.0
_BRIDGED_SECONDS = 0.2


@dataclass(frozen=True)
class Sound:
    """A finished track and what was measured on it."""

    audio_N: NDArray[np.int16]
    lufs: float
    true_peak_dbfs: float
    original_lufs: float
    speech_ratio: float
    max_gap_s: float

    @property
    def seconds(self) -> float:
        """Length of the track."""
        return self.audio_N.size / RATE_HZ

    def wav(self) -> bytes:
        """Return the bytes of a WAV file."""
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(2)
            writer.setframerate(RATE_HZ)
            writer.writeframes(self.audio_N.astype("<i2").tobytes())
        return file.getvalue()


def prepare(path: Path, seconds: float, *, below_seconds: float | None = None) -> Sound:
    """Return the first seconds of a file's sound as the benchmark hands it to systems.

    Args:
        path: Media file that begins where the window begins.
        seconds: Length of the window; padded to whole frames of 25 fps.
        below_seconds: The result stays shorter than this, by cutting frames off its end.

    Raises:
        Unscorable: `no-audio`, `sound-too-short` or `silent`.
    """
    facts = probe.probe(path).audio
    if facts is None:
        raise Unscorable("no-audio", "the file has no sound")
    native = audio.load(path, facts.rate_hz)
    missing = seconds - native.size / facts.rate_hz
    if missing > MAX_MISSING_SECONDS:
        raise Unscorable("sound-too-short", f"{missing:.2f} s of {seconds:.2f} s of sound are missing")
    samples = _resampled(native[: round(seconds * facts.rate_hz)], Fraction(RATE_HZ, facts.rate_hz))
    num_frames = math.ceil(round(seconds * RATE_HZ) / FRAME_SAMPLES)
    if below_seconds is not None:
        num_frames = min(num_frames, math.ceil(below_seconds * RATE_HZ / FRAME_SAMPLES) - 1)
    samples = np.pad(samples, (0, max(0, num_frames * FRAME_SAMPLES - samples.size)))[: num_frames * FRAME_SAMPLES]
    before = loudness(samples)
    if before <= SILENT_LUFS:
        raise Unscorable("silent", f"the sound is at {before:.0f} LUFS")
    gain = min(TARGET_LUFS - before, MAX_TRUE_PEAK_DBFS - true_peak(samples))
    audio_N = np.round(np.clip(samples * 10 ** (gain / 20), -1, 32767 / 32768) * 32768).astype(np.int16)
    final = audio_N.astype(np.float64) / 32768
    ratio_of_speech, gap = speech(final)
    return Sound(audio_N, *(round(x, 2) for x in (loudness(final), true_peak(final), before, ratio_of_speech, gap)))


def loudness(samples_N: NDArray[np.float64], rate_hz: int = RATE_HZ) -> float:
    """Return the gated integrated loudness in LUFS; -70 for silence."""
    weighted = samples_N
    for b, a in (_shelf(rate_hz), _high_pass(rate_hz)):
        weighted = signal.lfilter(b, a, weighted)
    block, hop = round(0.4 * rate_hz), round(0.1 * rate_hz)
    if weighted.size < block:
        weighted = np.pad(weighted, (0, block - weighted.size))
    power = np.r_[0.0, np.cumsum(np.square(weighted))]
    starts = np.arange(0, weighted.size - block + 1, hop)
    blocks = np.maximum((power[starts + block] - power[starts]) / block, 1e-20)
    levels = -0.691 + 10 * np.log10(blocks)
    heard = blocks[levels >= SILENT_LUFS]
    if not heard.size:
        return SILENT_LUFS
    gate = -0.691 + 10 * math.log10(heard.mean()) - 10
    kept = blocks[(levels >= SILENT_LUFS) & (levels > gate)]
    return -0.691 + 10 * math.log10(kept.mean())


def true_peak(samples_N: NDArray[np.float64]) -> float:
    """Return the peak after fourfold oversampling, in dB of full scale."""
    peak = 0.0
    # In blocks, so that twenty minutes do not become eighty.
    for start in range(0, samples_N.size, 1 << 20):
        piece = samples_N[max(0, start - 64) : start + (1 << 20) + 64]
        peak = max(peak, float(np.abs(signal.resample_poly(piece, 4, 1)).max()))
    return 20 * math.log10(max(peak, 1e-10))


def speech(samples_N: NDArray[np.float64], rate_hz: int = RATE_HZ) -> tuple[float, float]:
    """Return the share of time with sound well above the floor, and the longest pause in seconds, both by energy.

    Pauses below 0.2 s count as speech. Music counts as speech too: this refuses silence, it does not prove speech.
    """
    size = round(_VAD_SECONDS * rate_hz)
    frames = samples_N[: samples_N.size // size * size].reshape(-1, size)
    level = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
    floor = np.percentile(level, 5)
    # Speech without a pause has no floor to stand out from: it is then judged by its loudest part.
    threshold = max(_VAD_LEAST_DB, min(floor + _VAD_ABOVE_FLOOR_DB, np.percentile(level, 95) - 20))
    edges = np.flatnonzero(np.diff(np.r_[True, level >= threshold, True].astype(int)))
    gaps = [b - a for a, b in zip(edges[::2], edges[1::2], strict=True)]
    long = [gap for gap in gaps if gap * _VAD_SECONDS >= _BRIDGED_SECONDS]
    return 1 - sum(long) / max(1, level.size), max(long, default=0) * _VAD_SECONDS


def _resampled(samples_N: Samples, ratio: Fraction) -> NDArray[np.float64]:
    if ratio == 1:
        return samples_N.astype(np.float64)
    # Kaiser window with beta 14: stop band below -140 dB, pass band to 0.92 of the lower Nyquist frequency.
    most = max(ratio.numerator, ratio.denominator)
    taps = signal.firwin(2 * 128 * most + 1, 0.96 / most, window=("kaiser", 14.0))
    done: NDArray[np.float64] = signal.resample_poly(
        samples_N.astype(np.float64), ratio.numerator, ratio.denominator, window=taps
    )
    return done


def _shelf(rate_hz: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    k, q = math.tan(math.pi * 1681.974450955533 / rate_hz), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    middle = high**0.4996667741545416
    a = np.array([1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k])
    b = np.array([high + middle * k / q + k * k, 2 * (k * k - high), high - middle * k / q + k * k])
    return b / a[0], a / a[0]


def _high_pass(rate_hz: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    k, q = math.tan(math.pi * 38.13547087602444 / rate_hz), 0.5003270373238773
    a = np.array([1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k])
    return np.array([1.0, -2.0, 1.0]), a / a[0]
