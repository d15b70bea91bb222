"""Known harm, in grades: what a metric must react to, and what it must not.

Each degradation turns a clip into the same clip with one thing wrong, stronger with each level. Everything is
re-encoded alike, `as_is` included, so that only the named thing differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from talkbench.media import audio, decode, probe
from talkbench.media.clip import Frames, Samples
from talkbench.media.encode import Encoding, write_clip

MAX_SECONDS = 10.0
RATE_HZ = 16_000
_SEED = 7


@dataclass(frozen=True)
class Material:
    """What a degradation works on.

    Attributes:
        frames: The clip's frames, at most `MAX_SECONDS`.
        audio_N: Its sound, 16 kHz, as long as the frames.
        frame_rate: Frames per second.
        other_frame_HWC: First frame of another clip, at this clip's size.
        other_audio_N: Sound of another clip.
    """

    frames: list[Frames]
    audio_N: Samples
    frame_rate: Fraction
    other_frame_HWC: Frames
    other_audio_N: Samples


Change = Callable[[Material, float], tuple[Iterator[Frames], Samples]]


@dataclass(frozen=True)
class Degradation:
    """One kind of harm.

    Attributes:
        name: As in system names, ``blur``.
        levels: Weakest first, in `unit`.
        unit: What the levels count.
        description: What a viewer notices.
        change: Frames and sound of a level.
        crf: Whether the level is the encoder's quality instead.
    """

    name: str
    levels: tuple[float, ...]
    unit: str
    description: str
    change: Change
    crf: bool = False

    def system(self, level: float) -> str:
        """Return the system name of a level."""
        return f"{self.name}@{level:g}"


AS_IS = "as_is"


def _same(material: Material, _level: float) -> tuple[Iterator[Frames], Samples]:
    return iter(material.frames), material.audio_N


def _per_frame(make: Callable[[Frames, int, float, Material], Frames]) -> Change:
    def change(material: Material, level: float) -> tuple[Iterator[Frames], Samples]:
        frames = (make(frame, number, level, material) for number, frame in enumerate(material.frames))
        return frames, material.audio_N

    return change


def _still(frame_HWC: Frames, _number: int, _level: float, material: Material) -> Frames:
    del frame_HWC
    return material.frames[0]


def _blur(frame_HWC: Frames, _number: int, level: float, _material: Material) -> Frames:
    radius = level / 100 * min(frame_HWC.shape[:2])
    return np.asarray(Image.fromarray(frame_HWC).filter(ImageFilter.GaussianBlur(radius)))


def _noise(frame_HWC: Frames, number: int, level: float, _material: Material) -> Frames:
    noise = np.random.default_rng((_SEED, number)).normal(0, level, frame_HWC.shape)
    return _levels(frame_HWC + noise)


def _cast(frame_HWC: Frames, _number: int, level: float, _material: Material) -> Frames:
    return _levels(frame_HWC * np.array([1 + level / 100, 1.0, 1 - level / 100]))


def _flicker(frame_HWC: Frames, number: int, level: float, _material: Material) -> Frames:
    return _levels(frame_HWC + np.float64(level if number % 2 else -level))


def _stutter(_frame_HWC: Frames, number: int, level: float, material: Material) -> Frames:
    return material.frames[number - number % int(level)]


def _morph(frame_HWC: Frames, number: int, level: float, material: Material) -> Frames:
    share = level / 100 * number / max(1, len(material.frames) - 1)
    return _levels((1 - share) * frame_HWC + share * material.other_frame_HWC)


def _levels(values: NDArray[np.floating[Any]]) -> Frames:
    levels: Frames = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return levels


def _audio_late(material: Material, level: float) -> tuple[Iterator[Frames], Samples]:
    late = round(level * RATE_HZ / material.frame_rate)
    shifted = np.concatenate([np.zeros(late, np.float32), material.audio_N])[: material.audio_N.size]
    return iter(material.frames), shifted


def _audio_other(material: Material, _level: float) -> tuple[Iterator[Frames], Samples]:
    return iter(material.frames), np.resize(material.other_audio_N, material.audio_N.size)


def _quieter(material: Material, level: float) -> tuple[Iterator[Frames], Samples]:
    return iter(material.frames), material.audio_N * np.float32(10 ** (-level / 20))


DEGRADATIONS = (
    Degradation("audio_late", (1, 2, 5, 10), "frames", "the sound comes late", _audio_late),
    Degradation("audio_other", (1,), "clip", "the sound of another clip", _audio_other),
    Degradation("quieter", (6, 12), "dB", "the same sound, quieter", _quieter),
    Degradation("still", (1,), "clip", "the first frame, all the time", _per_frame(_still)),
    Degradation("stutter", (2, 3, 5), "frames", "every picture is held for several frames", _per_frame(_stutter)),
    Degradation("flicker", (1, 2, 4), "levels", "brightness alternates from frame to frame", _per_frame(_flicker)),
    Degradation("noise", (2, 5, 10), "levels", "grain, new in every frame", _per_frame(_noise)),
    Degradation("blur", (0.4, 1, 2), "% of short side", "out of focus", _per_frame(_blur)),
    Degradation("codec", (26, 34, 42), "CRF", "compressed harder", _same, crf=True),
    Degradation("colour_cast", (3, 6, 12), "%", "redder and less blue, all the time", _per_frame(_cast)),
    Degradation("morph", (15, 30, 60), "%", "slowly turns into another clip's first frame", _per_frame(_morph)),
)
BY_NAME = {degradation.name: degradation for degradation in DEGRADATIONS}


def write(degradation: Degradation | None, level: float, clip: Path, other: Path, path: Path) -> None:
    """Write one degraded clip.

    Args:
        degradation: None for `as_is`.
        level: One of its levels.
        clip: The clip to spoil.
        other: Another clip, where one is needed.
        path: Where to.

    Raises:
        Unscorable: If a clip cannot be read.
    """
    material = _material(clip, other)
    if degradation is None:
        frames, sound = _same(material, 0)
    else:
        frames, sound = degradation.change(material, level)
    encoding = Encoding(crf=int(level)) if degradation is not None and degradation.crf else Encoding()
    write_clip(path, frames, frame_rate=material.frame_rate, audio_N=sound, encoding=encoding)


def _material(clip: Path, other: Path) -> Material:
    frames, rate, sound = _read(clip, MAX_SECONDS)
    one, _, other_sound = _read(other, MAX_SECONDS, max_frames=1)
    height, width = frames[0].shape[:2]
    fitted = np.asarray(Image.fromarray(one[0]).resize((width, height), Image.Resampling.BICUBIC))
    return Material(frames, sound, rate, fitted, other_sound)


def _read(path: Path, seconds: float, max_frames: int | None = None) -> tuple[list[Frames], Fraction, Samples]:
    facts = probe.probe(path)
    rate = Fraction(facts.video.frame_rate)
    count = max_frames or int(seconds * rate)
    with probe.open_clip(path) as container:
        reader = decode.VideoReader(container, path, facts.video)
        frames = list(islice((frame for batch in reader.batches() for frame in batch.frames_THWC), count))
    blocks = audio.blocks(path, RATE_HZ, first_frame_seconds=facts.first_frame_seconds) if facts.audio else iter(())
    wanted = round((seconds if max_frames else len(frames) / rate) * RATE_HZ)
    heard: list[Samples] = []
    while sum(block.size for block in heard) < wanted and (block := next(blocks, None)) is not None:
        heard.append(block)
    return frames, rate, np.concatenate(heard)[:wanted] if heard else np.zeros(wanted, np.float32)
