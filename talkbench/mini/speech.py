"""Pseudo-speech: a phone timeline from a seed, the sound it makes and the mouth shapes it needs.

The words mean nothing, in no language, but they are built like words: syllables with onsets, vowels and codas,
grouped in phrases that lengthen before a pause. The timeline is drawn phone by phone from one generator, so it
never repeats, and a longer one starts like a shorter one with the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from talkbench.mini.articulation import Phone, Visemes, visemes
from talkbench.mini.identity import Identity
from talkbench.mini.noise import stream_key
from talkbench.mini.phones import PAUSE, PHONES, VOWELS
from talkbench.mini.synth import synthesize

__all__ = ["Phone", "Visemes", "sample_speech", "synthesize", "visemes"]

EDGE_SECONDS = 0.2  # silence before the first and after the last phone
_ONSETS = (  # lip closures twice: they show best
    "p", "b", "m", "p", "b", "m", "t", "d", "n", "k", "g", "f", "v", "s", "z", "sh", "th", "hh", "w", "y", "l", "r",
)  # fmt: skip
_CLUSTERS = (
    ("p", "l"), ("b", "r"), ("s", "t"), ("f", "l"), ("k", "r"), ("s", "m"), ("t", "w"), ("g", "l"), ("s", "p"),
)  # fmt: skip
_CODAS = ("m", "n", "ng", "s", "z", "t", "d", "k", "p", "b", "l", "r", "f", "v", "sh", "th", "m")
_VOWEL_ODDS = np.array([1.2, 0.9, 1.0, 1.2, 1.5, 1.0, 1.0, 0.6, 1.0, 0.6])


def _syllable(rng: np.random.Generator) -> Iterator[str]:
    onset = rng.random()
    if onset < 0.14:
        yield from _CLUSTERS[rng.integers(len(_CLUSTERS))]
    elif onset < 0.90:
        yield _ONSETS[rng.integers(len(_ONSETS))]
    yield VOWELS[rng.choice(len(VOWELS), p=_VOWEL_ODDS / _VOWEL_ODDS.sum())]
    if rng.random() < 0.40:
        yield _CODAS[rng.integers(len(_CODAS))]


def _phrase(rng: np.random.Generator) -> list[str]:
    """Two to six words of one to three syllables, no phone twice in a row."""
    symbols: list[str] = []
    for _ in range(int(rng.integers(2, 7))):
        for _ in range(int(rng.choice((1, 2, 3), p=(0.35, 0.45, 0.20)))):
            symbols += [symbol for symbol in _syllable(rng) if not symbols or symbol != symbols[-1]]
    return symbols


def _durations(rng: np.random.Generator, symbols: list[str], rate: float) -> list[float]:
    """Seconds per phone: typical, varied, longer towards the end of the phrase, never too short to see."""
    seconds = []
    for place, symbol in enumerate(symbols):
        final = 1.30 if len(symbols) - place <= 2 else 1.0
        varied = PHONES[symbol].seconds * rng.uniform(0.85, 1.30) * final / rate
        seconds.append(max(varied, 0.075 if PHONES[symbol].closes_lips else 0.050))
    return seconds


def sample_speech(seed: int, duration_seconds: float, identity: Identity) -> tuple[Phone, ...]:
    """Return a contiguous timeline from 0 to `duration_seconds`, silent for about 0.2 s at both ends.

    Args:
        seed: Chooses the words; a pure function of seed, duration and the identity's rate.
        duration_seconds: Length; below about 0.6 s there is room for silence only.
        identity: The speaker.

    Raises:
        ValueError: If the duration is not positive.
    """
    if not duration_seconds > 0:
        raise ValueError(f"duration_seconds is {duration_seconds}; expected a positive number.")
    rng = np.random.default_rng(stream_key(seed, 7))
    stop = duration_seconds - EDGE_SECONDS
    phones = [Phone(PAUSE, 0.0, min(EDGE_SECONDS, duration_seconds))]
    while phones[-1].end_seconds < stop:
        symbols = [*_phrase(rng), PAUSE]
        lengths = [*_durations(rng, symbols[:-1], identity.rate), rng.uniform(0.16, 0.55)]
        for symbol, length in zip(symbols, lengths, strict=True):
            start = phones[-1].end_seconds
            phones.append(Phone(symbol, start, start + length))
    return _cut(phones, stop, duration_seconds)


def _cut(phones: list[Phone], stop: float, duration_seconds: float) -> tuple[Phone, ...]:
    """Drop what ends after `stop`, then close with one pause up to the full duration."""
    kept = [phone for phone in phones if phone.end_seconds <= stop]
    while kept and kept[-1].symbol == PAUSE:
        kept.pop()
    start = kept[-1].end_seconds if kept else 0.0
    return (*kept, Phone(PAUSE, start, duration_seconds))
