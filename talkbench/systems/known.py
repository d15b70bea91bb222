"""Known-answer systems: clips whose ranking is known before any metric has run.

They are made from the suite's own items: the truth itself, and the truth spoiled in one stated way. A report on them
that ranks them otherwise is wrong (`EXPECTATIONS`, checked by a test and printed on the page). None needs weights.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from talkbench import atomic
from talkbench.config import cache_folder
from talkbench.ids import digest
from talkbench.media import encode, probe
from talkbench.media.clip import Frames, Samples
from talkbench.media.decode import VideoReader
from talkbench.mini.suite import AUDIO_RATE_HZ, FRAME_RATE, Performance
from talkbench.schema import Better, Item, Truth
from talkbench.systems.stopwatch import Stopwatch

VERSION = 1
ENCODING = encode.Encoding(crf=18, preset="ultrafast", audio_bits_per_second=64_000)
SEAM_FRAMES = 28
_SAMPLES_PER_FRAME = AUDIO_RATE_HZ // int(FRAME_RATE)


@dataclass(frozen=True)
class KnownSystem:
    """One way to make clips of known quality.

    Attributes:
        name: As in tables.
        description: What was done to the truth.
        tiers: Where it says something: a shifted sound needs no minutes, a drift does.
        make: Writes the clip of a performance and returns its truth; frames pass through the stopwatch.
    """

    name: str
    description: str
    tiers: tuple[str, ...]
    make: Callable[[Performance, Path, Stopwatch], Truth]

    @property
    def digest(self) -> str:
        """Changes whenever the same item would become another clip."""
        return digest({"name": self.name, "version": VERSION, "encoding": str(ENCODING)})

    def generate(self, item: Item, path: Path, watch: Stopwatch) -> Truth:
        """Write the clip of an item to `path`."""
        return self.make(Performance(item), path, watch)


@dataclass(frozen=True)
class Expectation:
    """`first` must be better than (or, without a direction, above) `second` in `output` on `tier`."""

    output: str
    tier: str
    first: str
    second: str
    better: Better | None = None


def recorded_clip(performance: Performance) -> Path:
    """Return the truth as a file, drawn once per machine and kept in the cache folder."""
    path = _cached(performance, ".mp4")
    if not path.is_file():
        with atomic.lock(path.with_suffix(".lock"), wait=True):
            if not path.is_file():
                _write(path, performance.frames(), recorded_sound(performance))
    return path


def recorded_sound(performance: Performance) -> Samples:
    """Return the speech, synthesised once per machine and kept in the cache folder."""
    path = _cached(performance, ".npy")
    if path.is_file():
        stored: Samples = np.load(path)
        return stored
    sound = performance.audio()
    stored_bytes = io.BytesIO()
    np.save(stored_bytes, sound)
    atomic.write_bytes(path, stored_bytes.getvalue())
    return sound


def _cached(performance: Performance, suffix: str) -> Path:
    item = performance.item
    name = digest({"item": item.model_dump(mode="json"), "encoding": str(ENCODING)})[:24]
    return cache_folder() / "mini" / f"{item.id}-{name}{suffix}"


def _recorded(performance: Performance, path: Path, watch: Stopwatch) -> Truth:
    del watch
    _copy(recorded_clip(performance), path)
    return performance.truth(performance.mouth.opening)


def _static_image(performance: Performance, path: Path, watch: Stopwatch) -> Truth:
    first = next(_recorded_frames(performance))
    _write(path, watch.frames(first for _ in range(performance.num_frames)), recorded_sound(performance))
    return performance.truth(np.full(performance.num_frames, performance.mouth.opening[0], np.float32))


def _frozen_mouth(performance: Performance, path: Path, watch: Stopwatch) -> Truth:
    from talkbench.mini.speech import Visemes

    still = np.zeros(performance.num_frames, np.float32)
    closed = Visemes(opening=still, width=still + np.float32(0.5), rounding=still, teeth=still, tongue=still)
    _write(path, watch.frames(performance.frames(closed)), recorded_sound(performance))
    return performance.truth(still)


def _flicker(performance: Performance, path: Path, watch: Stopwatch) -> Truth:
    gains = np.random.default_rng(performance.item.seed).normal(1.0, 0.03, performance.num_frames)
    frames = (_brighter(gain)[frame] for frame, gain in zip(_recorded_frames(performance), gains, strict=True))
    return _spoiled(performance, path, watch, frames)


def _drift(performance: Performance, path: Path, watch: Stopwatch) -> Truth:
    """Noise, blur and a red cast that grow from nothing by the minute."""

    def frames() -> Iterator[Frames]:
        rng = np.random.default_rng(performance.item.seed)
        height, width = _size(performance)
        coarse = rng.normal(0.0, 3.0, (8, (height + 1) // 2, (width + 1) // 2, 1)).astype(np.float32)
        noise = coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
        cast = np.array([10.0, -4.0, -6.0], np.float32)
        for number, frame in enumerate(_recorded_frames(performance)):
            minutes = np.float32(number / float(FRAME_RATE) / 60)
            blurred = Image.fromarray(frame).filter(ImageFilter.BoxBlur(min(2.0, 0.6 * float(minutes))))
            grain = np.roll(noise[number % 8], rng.integers(0, 64, 2), axis=(0, 1))
            spoiled = np.asarray(blurred, np.float32)
            spoiled = spoiled + minutes * (grain + cast)
            yield np.clip(spoiled, 0, 255, out=spoiled).astype(np.uint8)

    return _spoiled(performance, path, watch, frames())


def _seams(performance: Performance, path: Path, watch: Stopwatch) -> Truth:
    """A new small shift and brightness at every 28th frame, as generators that work in chunks produce."""

    def frames() -> Iterator[Frames]:
        rng = np.random.default_rng(performance.item.seed)
        shift, levels = (0, 0), _brighter(1.0)
        for number, frame in enumerate(_recorded_frames(performance)):
            if number and number % SEAM_FRAMES == 0:
                shift = (int(rng.integers(-3, 4)), int(rng.integers(-3, 4)))
                levels = _brighter(rng.uniform(0.95, 1.05))
            yield levels[_moved(frame, *shift)]

    return _spoiled(performance, path, watch, frames())


def _audio_shifted(frames_late: int) -> Callable[[Performance, Path, Stopwatch], Truth]:
    def make(performance: Performance, path: Path, watch: Stopwatch) -> Truth:
        del watch
        samples, spoken = frames_late * _SAMPLES_PER_FRAME, recorded_sound(performance)
        shifted = np.zeros_like(spoken)
        if samples > 0:
            shifted[samples:] = spoken[:-samples]
        else:
            shifted[:samples] = spoken[-samples:]
        encode.replace_audio(recorded_clip(performance), path, shifted, AUDIO_RATE_HZ, ENCODING)
        return performance.truth(performance.mouth.opening, audio_offset_frames=float(frames_late))

    return make


SHIFTS = (2, 5, -5)

_SHORT, _BOTH = ("short",), ("short", "long")

SYSTEMS = (
    KnownSystem("recorded", "the truth, as drawn and spoken", _BOTH, _recorded),
    *(
        KnownSystem(
            f"audio_shifted{late:+d}",
            f"sound {abs(late)} frames too {'late' if late > 0 else 'early'}",
            _SHORT,
            _audio_shifted(late),
        )
        for late in SHIFTS
    ),
    KnownSystem("frozen_mouth", "everything moves but the mouth", _SHORT, _frozen_mouth),
    KnownSystem("static_image", "the first frame, for ever", _BOTH, _static_image),
    KnownSystem("flicker", "brightness jitters by 3 % from frame to frame", _SHORT, _flicker),
    KnownSystem("seams", f"a small jump every {SEAM_FRAMES} frames", _BOTH, _seams),
    KnownSystem("drift", "noise, blur and a red cast grow over minutes", _BOTH, _drift),
)

_FLICKER, _MOTION, _OFFSET = "vbench.temporal_flickering", "motion.amount", "av.offset"

_SYNC = "sync.frame.{}@mini-domain"

EXPECTATIONS = (
    *(
        Expectation(_FLICKER, "short", first, second, "higher")
        for first, second in [
            ("static_image", "frozen_mouth"),
            ("frozen_mouth", "recorded"),
            ("recorded", "seams"),
            ("seams", "flicker"),
        ]
    ),
    Expectation(_FLICKER, "long", "recorded", "drift", "higher"),
    Expectation(_MOTION, "short", "recorded", "frozen_mouth"),
    Expectation(_MOTION, "short", "frozen_mouth", "static_image"),
    Expectation(_OFFSET, "short", "recorded", "audio_shifted+2", "zero"),
    Expectation(_OFFSET, "short", "audio_shifted+2", "audio_shifted+5", "zero"),
    Expectation(_OFFSET, "short", "audio_shifted+2", "audio_shifted-5", "zero"),
    Expectation(f"drift.slope.{_FLICKER}", "long", "recorded", "drift", "zero"),
    Expectation(f"drift.stable_seconds.{_FLICKER}", "long", "recorded", "drift", "higher"),
    Expectation(f"drift.seam_strength.{_FLICKER}", "long", "recorded", "seams", "lower"),
    Expectation(f"drift.seam_strength.{_FLICKER}", "long", "drift", "seams", "lower"),
    Expectation(_MOTION, "long", "recorded", "static_image"),
    Expectation(_SYNC.format("confidence"), "short", "recorded", "frozen_mouth", "higher"),
    Expectation(_SYNC.format("confidence"), "short", "recorded", "static_image", "higher"),
    Expectation(_SYNC.format("distance"), "short", "recorded", "frozen_mouth", "lower"),
    Expectation(_SYNC.format("offset_frames"), "short", "recorded", "audio_shifted+2", "zero"),
    Expectation(_SYNC.format("offset_frames"), "short", "audio_shifted+2", "audio_shifted+5", "zero"),
    Expectation(_SYNC.format("offset_frames"), "short", "audio_shifted+2", "audio_shifted-5", "zero"),
)


def _spoiled(performance: Performance, path: Path, watch: Stopwatch, frames: Iterator[Frames]) -> Truth:
    _write(path, watch.frames(frames), recorded_sound(performance))
    return performance.truth(performance.mouth.opening)


def _recorded_frames(performance: Performance) -> Iterator[Frames]:
    path = recorded_clip(performance)
    with probe.open_clip(path) as container:
        for batch in VideoReader(container, path, probe.probe(path).video).batches():
            yield from batch.frames_THWC


def _write(path: Path, frames: Iterator[Frames], audio_N: Samples) -> None:
    encode.write_clip(
        path, frames, frame_rate=FRAME_RATE, audio_N=audio_N, audio_rate_hz=AUDIO_RATE_HZ, encoding=ENCODING
    )


def _copy(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.mp4")
    partial.write_bytes(source.read_bytes())
    partial.replace(path)


def _brighter(gain: float) -> Frames:
    """Return the table that multiplies 8-bit levels by `gain`."""
    table: Frames = np.clip(np.rint(np.arange(256) * gain), 0, 255).astype(np.uint8)
    return table


def _moved(frame_HWC: Frames, down: int, right: int) -> Frames:
    """Return the picture moved by whole pixels; what enters at an edge repeats it."""
    height, width = frame_HWC.shape[:2]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return frame_HWC.take(rows, axis=0).take(columns, axis=1)


def _size(performance: Performance) -> tuple[int, int]:
    generator = performance.item.generator or {}
    return int(generator["height"]), int(generator["width"])
