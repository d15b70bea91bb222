"""The sound of a sample: cut, mixed, resampled, joined, levelled, measured; the same samples on every run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyloudnorm
from numpy.typing import NDArray
from scipy import signal

from talkbench.errors import Unscorable
from talkbench.media import audio, probe
from talkbench.media.clip import Samples

RATE_HZ, FRAME_SAMPLES = 16_000, 640
TARGET_LUFS, MAX_TRUE_PEAK_DBFS = -23.0, -2.0
MAX_MISSING_SECONDS = 0.2
SILENT_LUFS = -70.0
GAP_POLICY = "0.3-0.6 s of the room tone of the piece before, faded over 20 ms; pieces at one loudness"
_BLOCK_SECONDS = 0.4
_FADE_SECONDS, _TONE_STEP_SECONDS = 0.02, 0.01
_VAD_SECONDS, _VAD_ABOVE_FLOOR_DB, _VAD_LEAST_DB = 0.02, 10.0, -50.0
_BRIDGED_SECONDS = 0.2

Mono = NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """A part of the sound.

    Attributes:
        path: Media file that begins where the piece begins.
        seconds: Its length.
        pause_seconds: Room tone before it.
    """

    path: Path
    seconds: float
    pause_seconds: float = 0.0


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
        return audio.wav(self.audio_N, RATE_HZ)


def prepare(pieces: Sequence[Piece], *, below_seconds: float | None = None) -> Sound:
    """Return the sound of a sample as the benchmark hands it to systems.

    Args:
        pieces: What is heard, in order; padded to whole frames of 25 fps.
        below_seconds: The result stays shorter than this, by cutting frames off its end.

    Raises:
        Unscorable: `no-audio`, `sound-too-short` or `silent`.
    """
    loaded = [_loaded(piece) for piece in pieces]
    samples = loaded[0] if len(loaded) == 1 else join(loaded, [piece.pause_seconds for piece in pieces[1:]])
    seconds = sum(piece.seconds + piece.pause_seconds for piece in pieces)
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


def join(pieces: Sequence[Mono], pauses_seconds: Sequence[float]) -> Mono:
    """Return pieces one after the other at one loudness, with room tone between them; nothing is heard twice.

    The tone of a pause is the quietest stretch of the piece before it, so that no two pauses are alike.

    Args:
        pieces: At `RATE_HZ`, each longer than the pause after it.
        pauses_seconds: One fewer than pieces.
    """
    levels = np.array([loudness(piece_N) for piece_N in pieces])
    heard = levels > SILENT_LUFS
    common = float(np.median(levels[heard])) if heard.any() else SILENT_LUFS
    gains = np.where(heard, 10 ** ((common - levels) / 20), 1.0)
    level = [piece_N * gain for piece_N, gain in zip(pieces, gains, strict=True)]
    fade = round(_FADE_SECONDS * RATE_HZ)
    pauses = [round(seconds * RATE_HZ) for seconds in pauses_seconds]
    joined = np.zeros(sum(piece_N.size for piece_N in level) + sum(pauses))
    at = 0
    for number, piece_N in enumerate(level):
        joined[at : at + piece_N.size] += _faded(piece_N, fade, start=number > 0, end=number < len(pauses))
        at += piece_N.size
        if number < len(pauses):
            # The tone fades in where the piece fades out, and out where the next one fades in.
            tone_N = _faded(_quietest(piece_N, pauses[number] + 2 * fade), fade, start=True, end=True)
            joined[at - fade : at - fade + tone_N.size] += tone_N
            at += pauses[number]
    return joined


def loudness(samples_N: Mono, rate_hz: int = RATE_HZ) -> float:
    """Return the gated integrated loudness by ITU-R BS.1770-4 in LUFS; -70 for silence."""
    missing = math.ceil(_BLOCK_SECONDS * rate_hz) - samples_N.size
    # The filters of De Man (2018): the standard's, computed for any rate from its analogue prototypes.
    meter = pyloudnorm.Meter(rate_hz, filter_class="DeMan", block_size=_BLOCK_SECONDS)
    return max(SILENT_LUFS, float(meter.integrated_loudness(np.pad(samples_N, (0, max(0, missing))))))


def true_peak(samples_N: Mono) -> float:
    """Return the peak after fourfold oversampling, in dB of full scale."""
    peak = 0.0
    # In blocks, so that twenty minutes do not become eighty.
    for start in range(0, samples_N.size, 1 << 20):
        piece = samples_N[max(0, start - 64) : start + (1 << 20) + 64]
        peak = max(peak, float(np.abs(signal.resample_poly(piece, 4, 1)).max()))
    return 20 * math.log10(max(peak, 1e-10))


def speech(samples_N: Mono, rate_hz: int = RATE_HZ) -> tuple[float, float]:
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


def _loaded(piece: Piece) -> Mono:
    """Return a piece at `RATE_HZ`, exactly as long as it is said to be."""
    facts = probe.probe(piece.path).audio
    if facts is None:
        raise Unscorable("no-audio", "the file has no sound")
    native = audio.load(piece.path, facts.rate_hz)
    missing = piece.seconds - native.size / facts.rate_hz
    if missing > MAX_MISSING_SECONDS:
        raise Unscorable("sound-too-short", f"{missing:.2f} s of {piece.seconds:.2f} s of sound are missing")
    samples = _resampled(native[: round(piece.seconds * facts.rate_hz)], Fraction(RATE_HZ, facts.rate_hz))
    size = round(piece.seconds * RATE_HZ)
    return np.pad(samples, (0, max(0, size - samples.size)))[:size]


def _quietest(samples_N: Mono, size: int) -> Mono:
    """Return the stretch of least energy, the earliest of equals; all there is if it is shorter."""
    step = round(_TONE_STEP_SECONDS * RATE_HZ)
    energy = np.r_[0.0, np.cumsum(np.square(samples_N))]
    starts = np.arange(0, max(1, samples_N.size - size + 1), step)
    best = int(starts[np.argmin(energy[np.minimum(starts + size, samples_N.size)] - energy[starts])])
    return samples_N[best : best + size]


def _faded(samples_N: Mono, fade: int, *, start: bool, end: bool) -> Mono:
    ramp = (np.arange(fade) + 0.5) / fade
    faded = samples_N.copy()
    if start:
        faded[:fade] *= ramp
    if end:
        faded[-fade:] *= ramp[::-1]
    return faded


def _resampled(samples_N: Samples, ratio: Fraction) -> Mono:
    if ratio == 1:
        return samples_N.astype(np.float64)
    # Kaiser window with beta 14: stop band below -140 dB, pass band to 0.92 of the lower Nyquist frequency.
    most = max(ratio.numerator, ratio.denominator)
    taps = signal.firwin(2 * 128 * most + 1, 0.96 / most, window=("kaiser", 14.0))
    done: Mono = signal.resample_poly(samples_N.astype(np.float64), ratio.numerator, ratio.denominator, window=taps)
    return done
