"""A formant synthesiser: pulses through five moving resonances, plus shaped noise.

Each glottal pulse adds the exact impulse response of the resonances at its instant, as a sum of damped
sinusoids (partial fractions of an all-pole cascade). Nothing is filtered sample by sample, so formants move
without clicks and a second of speech costs a few milliseconds. Source-filter theory: Fant, "Acoustic Theory of
Speech Production" (1960); cascade form: Klatt, JASA 67 (1980).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from talkbench.mini.articulation import Floats, Phone, blend, excerpt, lip_gate, mouth_tracks
from talkbench.mini.identity import Identity
from talkbench.mini.noise import smooth, smoothstep, stream_key, uniform
from talkbench.mini.phones import PAUSE, PHONES

# Legend: P phones, G glottal pulses, K poles, N samples, M noise frames, F frequency bins.
Complex = NDArray[np.complex128]
_BANDWIDTHS_HZ = (65.0, 85.0, 120.0, 180.0, 260.0)
_UPPER_FORMANTS_HZ = (3500.0, 4500.0)
_SOURCE_POLES_HZ = (90.0, 650.0)  # with a zero at 0 Hz: about -6 dB per octave at the lips, no constant offset
_RESPONSE_SECONDS = 0.032
_STEP = 16  # samples per coarse step when exponentials are tabulated
_VOICE_RMS = 0.17
_NOISE_RMS = 0.20
_CHUNK = 4096  # pulses or noise frames at a time; bounds memory
_VOICE_REACH_SECONDS = 0.022
_FORMANT_REACH_SECONDS = 0.060


def _column(phones: Sequence[Phone], name: str) -> Floats:
    return np.array([[getattr(PHONES[phone.symbol], name)] for phone in phones], dtype=np.float64)


def _loudness(phones: Sequence[Phone], seconds: Floats) -> Floats:
    """Voice level, 0..1: the phone's own level, louder through a wider mouth; murmurs pass closed lips."""
    flat = np.ones(len(phones))
    level = blend(phones, seconds, _column(phones, "voice"), flat, _VOICE_REACH_SECONDS)[:, 0]
    opening = mouth_tracks(phones, seconds)[:, 0]
    gate = lip_gate(phones, seconds)
    return level * (0.30 + 0.70 * opening) * (0.35 + 0.65 * gate)


def _pitch(phones: Sequence[Phone], identity: Identity, seconds: Floats, key: int) -> Floats:
    """F0 in Hz: falls over each phrase, with accents and a slow drift."""
    pauses = [phone for phone in phones if phone.symbol == PAUSE]
    edges = np.array([-0.5, *(0.5 * (p.start_seconds + p.end_seconds) for p in pauses), seconds[-1] + 0.5])
    edges = np.unique(edges)
    phrase = np.clip(np.searchsorted(edges, seconds, side="right") - 1, 0, len(edges) - 2)
    place = (seconds - edges[phrase]) / (edges[phrase + 1] - edges[phrase])
    accents = 0.10 * smooth(key, seconds, 0.31) + 0.04 * smooth(key + 1, seconds, 1.7)
    pitch: Floats = identity.f0_hz * (1.08 - 0.20 * place + accents)
    return pitch


def _pulses(phones: Sequence[Phone], identity: Identity, duration_seconds: float, key: int) -> tuple[Floats, Floats]:
    """Times of the glottal pulses, with jitter, and the pitch at each."""
    grid = np.arange(round(duration_seconds * 1000) + 2) / 1000.0
    pitch = _pitch(phones, identity, grid, key)
    phase = np.concatenate(([0.0], np.cumsum(pitch[:-1]) / 1000.0))
    count = np.arange(1, int(phase[-1]) + 1)
    times = np.interp(count, phase, grid)
    rate = np.interp(times, grid, pitch)
    return times + 0.008 * (uniform(key + 2, count) - 0.5) / rate, rate


def _poles(formants_G3: Floats, scale: float) -> tuple[Complex, Complex]:
    """Poles [G, 7] of the response and their residues [G, 7]; a formant's stands for its conjugate pair."""
    upper = np.broadcast_to(np.array(_UPPER_FORMANTS_HZ), (len(formants_G3), 2))
    hz = np.concatenate((formants_G3, upper), axis=1) * scale
    resonant = -np.pi * np.array(_BANDWIDTHS_HZ) * scale + 2j * np.pi * hz
    real = np.broadcast_to(-2 * np.pi * np.array(_SOURCE_POLES_HZ, dtype=np.complex128), (len(hz), 2))
    poles = np.concatenate((resonant, real), axis=1)
    every = np.concatenate((poles, resonant.conj()), axis=1)
    residues = np.empty_like(poles)
    for k in range(poles.shape[1]):
        others = np.delete(every, k, axis=1)
        # dividing by |pole| keeps the product of eleven differences within floating-point range
        product = np.prod((poles[:, k : k + 1] - others) / np.abs(others), axis=1)
        residues[:, k] = poles[:, k] * np.abs(poles[:, k]) / product
    residues[:, :5] *= 2.0
    return poles, residues


def _responses(poles_GK: Complex, residues_GK: Complex, delay_G: Floats, rate_hz: int) -> Floats:
    """Unit-energy impulse responses [G, samples], starting `delay_G` seconds after the pulse."""
    length = round(_RESPONSE_SECONDS * rate_hz) // _STEP * _STEP
    coarse = np.exp(poles_GK[:, :, None] * (np.arange(length // _STEP) * _STEP / rate_hz))
    fine = np.exp(poles_GK[:, :, None] * (np.arange(_STEP) / rate_hz + delay_G[:, None, None]))
    fine *= residues_GK[:, :, None]
    left = np.concatenate((coarse.real, -coarse.imag), axis=1).transpose(0, 2, 1)
    right = np.concatenate((fine.real, fine.imag), axis=1)
    response = (left @ right).reshape(len(poles_GK), length)
    response *= smoothstep(np.linspace(4.0, 0.0, length))
    scaled: Floats = response / np.sqrt(np.sum(response**2, axis=1, keepdims=True))
    return scaled


def _voiced(phones: Sequence[Phone], identity: Identity, duration_seconds: float, rate_hz: int, key: int) -> Floats:
    audio = np.zeros(round(duration_seconds * rate_hz) + round(2 * _RESPONSE_SECONDS * rate_hz))
    times, pitch = _pulses(phones, identity, duration_seconds, key)
    level = _loudness(phones, times)
    heard = level > 1e-3
    times, pitch, level = times[heard], pitch[heard], level[heard]
    shimmer = 1.0 + 0.08 * (uniform(key + 3, np.arange(len(times))) - 0.5)
    gain = _VOICE_RMS * level * shimmer * np.sqrt(rate_hz / pitch)
    for begin in range(0, len(times), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        near = excerpt(phones, float(times[part][0]), float(times[part][-1]))
        table = np.array([PHONES[phone.symbol].formants_hz for phone in near], dtype=np.float64)
        formants = blend(near, times[part], table, np.ones(len(near)), _FORMANT_REACH_SECONDS)
        first = np.ceil(times[part] * rate_hz).astype(np.int64)
        response = _responses(*_poles(formants, identity.formant_scale), first / rate_hz - times[part], rate_hz)
        response *= gain[part, None]
        for start, samples in zip(first, response, strict=True):
            audio[start : start + len(samples)] += samples
    return audio


def _bursts(phones: Sequence[Phone], seconds: Floats) -> Floats:
    """Level of plosive releases: a quick rise at the end of the closure, a longer fall if voiceless."""
    level = np.zeros_like(seconds)
    for phone in phones:
        spec = PHONES[phone.symbol]
        if spec.kind != "plosive":
            continue
        release = phone.end_seconds - 0.010
        low, high = np.searchsorted(seconds, (release - 0.004, release + 0.060))
        time = seconds[low:high] - release
        fall = 0.011 if spec.voice == 0 else 0.006
        level[low:high] += spec.noise * np.where(time < 0, 1 + time / 0.004, np.exp(-time / fall))
    return level


def _noise_level(phones: Sequence[Phone], identity: Identity, seconds: Floats) -> Floats:
    steady = np.array([[0.0 if PHONES[p.symbol].kind == "plosive" else PHONES[p.symbol].noise] for p in phones])
    friction = blend(phones, seconds, steady, np.ones(len(phones)), _VOICE_REACH_SECONDS)[:, 0]
    breath = 0.10 * identity.breathiness * _loudness(phones, seconds)
    return friction + _bursts(phones, seconds) + breath


def _noise_shape(phones: Sequence[Phone], seconds: Floats, hz_F: Floats) -> Floats:
    """Magnitude per noise frame and frequency [M, F], mean square 1: a bell in log frequency."""
    table = np.concatenate((np.log2(_column(phones, "noise_hz")), _column(phones, "noise_octaves")), axis=1)
    weight = 0.02 + _column(phones, "noise")[:, 0]
    centre, width = blend(phones, seconds, table, weight, _VOICE_REACH_SECONDS).T
    octaves = (np.log2(np.maximum(hz_F, 40.0)) - centre[:, None]) / width[:, None]
    shape = np.exp(-0.5 * octaves**2) + 0.01
    scaled: Floats = shape / np.sqrt(np.mean(shape**2, axis=1, keepdims=True))
    return scaled


def _noise(phones: Sequence[Phone], identity: Identity, duration_seconds: float, rate_hz: int, key: int) -> Floats:
    """Friction, bursts and breath: white noise shaped in overlapping short frames."""
    hop = rate_hz // 250
    num_hops = -(-round(duration_seconds * rate_hz) // hop) + 4
    rng = np.random.default_rng(key)
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(4 * hop) + 0.5) / (4 * hop)))
    hz_F = np.arange(2 * hop + 1, dtype=np.float64) * (rate_hz / (4 * hop))
    out = np.zeros((num_hops + 4, hop))
    white = rng.standard_normal((3, hop))
    for begin in range(0, num_hops, _CHUNK):
        count = min(_CHUNK, num_hops - begin)
        white = np.concatenate((white[-3:], rng.standard_normal((count, hop))))
        frames = np.concatenate([white[lag : lag + count] for lag in range(4)], axis=1) * window
        middles = (np.arange(begin, begin + count, dtype=np.float64) - 1.0) * (hop / rate_hz)
        heard = excerpt(phones, float(middles[0]), float(middles[-1]))
        level = _noise_level(heard, identity, middles)
        spectrum = np.fft.rfft(frames, axis=1) * _noise_shape(heard, middles, hz_F)
        shaped = np.fft.irfft(spectrum, axis=1) * window * (level * _NOISE_RMS / np.sqrt(1.5))[:, None]
        for lag in range(4):
            out[begin + lag : begin + lag + count] += shaped[:, lag * hop : (lag + 1) * hop]
    return out.reshape(-1)[3 * hop :]


def synthesize(
    phones: Sequence[Phone], identity: Identity, duration_seconds: float, rate_hz: int = 16_000
) -> NDArray[np.float32]:
    """Return the sound of a timeline in this person's voice.

    Args:
        phones: The timeline, as `sample_speech` gives it.
        identity: The speaker; pitch, formant scale and breathiness are used.
        duration_seconds: Length of the sound, above 0.
        rate_hz: Sample rate, 16 kHz or more (the fifth formant must fit).

    Returns:
        float32 mono [N] in (-1, 1), N = round(duration_seconds * rate_hz). Silent in pauses.

    Raises:
        ValueError: If the duration is not positive or the rate too low.
    """
    if not duration_seconds > 0 or rate_hz < 16_000:
        raise ValueError(f"got {duration_seconds} s at {rate_hz} Hz; expected more than 0 s and at least 16000 Hz.")
    opening_words = [round(phone.end_seconds * 1e4) for phone in phones[:12]]
    key = stream_key(identity.seed, 11, *opening_words)
    num_samples = round(duration_seconds * rate_hz)
    audio = _voiced(phones, identity, duration_seconds, rate_hz, key)[:num_samples]
    audio = audio + _noise(phones, identity, duration_seconds, rate_hz, key)[:num_samples]
    return np.tanh(audio).astype(np.float32)
