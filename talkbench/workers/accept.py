"""Checks on a clip before it counts as made: what a system writes is looked at, since exit codes prove nothing.

A refused clip has one of the faults of `FAULTS`; its failure message ends with that word, in brackets. What is odd but
may be meant (a blank frame, a few repeated ones, a sound that comes a little late) is measured and kept, not refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from talkbench.errors import Undecodable, Unscorable
from talkbench.media import audio as sound
from talkbench.media import probe
from talkbench.media.clip import Samples
from talkbench.workers.host import WorkerFailedError

FAULTS = {
    "no-file": "it said done, but there is no file",
    "empty-file": "the file has no bytes",
    "unreadable": "the file cannot be read",
    "not-a-video": "no demuxer accepts the file",
    "no-video": "it has no picture track",
    "no-frames": "its first frame cannot be decoded",
    "corrupt": "decoding stops before its end",
    "truncated": "the file breaks off",
    "wrong-rate": "frames per second are not those the system states",
    "wrong-size": "its size changes, or is none of those that the system makes",
    "wrong-length": "its frames do not match the length of the sound",
    "wrong-count": "the timing events tell of another number of frames",
    "blank": "too many frames are of one colour",
    "frozen": "all frames are the same",
    "repeated-tail": "it ends in one frame, repeated",
    "no-sound": "it has no sound track, or a silent one",
    "sound-shifted": "its sound is not where the benchmark's is",
    "re-levelled": "its sound has another loudness than the benchmark's",
}

BLANK_DEVIATION = 1.0
"""Standard deviation of brightness (of 255) under which a frame shows nothing; latents of zero decode to grey."""
BLANK_SHARE = 0.1
REPEAT_LEVELS = 2.0
"""A frame repeats the one before if no block of 8x8 pixels has changed its mean brightness (of 255) by more: coding a
still picture moves blocks by less, a lip that moves moves them by more."""
TAIL_SECONDS = 1.0
SHIFT_SECONDS = 0.1
"""Coding delays of AAC are up to 0.064 s where a player does not undo them."""
LEVEL_DB = 3.0
LIKENESS = 0.8
"""Correlation of two loudness curves under which they are not of one sound, so that shift and level mean nothing."""
_RATE_HZ = 16_000
_HOP = 160
_COMPARED_SECONDS = 30
_MAX_SHIFT_SECONDS = 1.0

_BLOCK = 8

_Plane = NDArray[np.uint8]
_Blocks = NDArray[np.float32]


class RefusedClipError(WorkerFailedError):
    """A clip that does not count.

    Args:
        fault: Key of `FAULTS`.
        text: What was found and what was expected.
    """

    def __init__(self, fault: str, text: str) -> None:
        super().__init__("bad-output", f"{text} [{fault}]")
        self.fault = fault


@dataclass(frozen=True)
class SoundComparison:
    """A clip's sound beside the one that it was made for.

    Attributes:
        likeness: Correlation of their loudness curves where they are most alike.
        late_seconds: By how much it comes later there, to 10 ms.
        gain_db: How much louder it is there.
    """

    likeness: float
    late_seconds: float
    gain_db: float


@dataclass(frozen=True)
class Accepted:
    """What was found.

    Attributes:
        num_frames: Frames decoded.
        size: Width and height in pixels.
        num_blank: Frames of one colour.
        num_repeated: Frames that show what the one before shows.
        repeated_tail: How many of them are the last ones.
        sound: How its sound compares with that of the job; None if not compared, or if both are silent.
    """

    num_frames: int
    size: tuple[int, int]
    num_blank: int = 0
    num_repeated: int = 0
    repeated_tail: int = 0
    sound: SoundComparison | None = None

    def facts(self) -> dict[str, Any]:
        """Return all that was found as plain data, to be kept beside the clip."""
        return asdict(self) | {"size": f"{self.size[0]}x{self.size[1]}"}


def accept(
    path: Path,
    *,
    audio_seconds: float,
    frame_rate: Fraction,
    tolerance_frames: int,
    num_frames_told: int,
    audio: Path | None = None,
    sizes: tuple[tuple[int, int], ...] = (),
) -> Accepted:
    """Decode a clip and compare it with its job.

    Args:
        path: The clip.
        audio_seconds: Length of the sound that it was made for.
        frame_rate: Rate that the system states.
        tolerance_frames: How many frames it may be longer or shorter than the sound.
        num_frames_told: Frames in its timing events; 0 if there are none.
        audio: The sound that it was made for; without it, only the presence of a sound track is checked.
        sizes: Widths and heights that the system makes; none for any.

    Raises:
        WorkerFailedError: ``bad-output``, with what was found and what was expected.
    """
    if not path.is_file():
        raise RefusedClipError("no-file", "it said done, but there is no file")
    try:
        facts = probe.probe(path)
        picture = _look(path)
    except Undecodable as error:
        raise RefusedClipError(error.reason, error.message) from error
    if Fraction(facts.video.frame_rate) != frame_rate:
        raise RefusedClipError("wrong-rate", f"{facts.video.frame_rate} frames a second, {frame_rate} expected")
    if facts.audio is None:
        raise RefusedClipError("no-sound", "the clip has no sound track")
    size = (facts.video.width, facts.video.height)
    if sizes and size not in sizes:
        known = ", ".join(f"{width}x{height}" for width, height in sizes)
        raise RefusedClipError("wrong-size", f"{size[0]}x{size[1]}, {known} expected")
    _check_length(picture.num_frames, audio_seconds, frame_rate, tolerance_frames, num_frames_told)
    _check_picture(picture, frame_rate)
    compared = None if audio is None else _check_sound(path, audio, facts.first_frame_seconds)
    return Accepted(picture.num_frames, size, picture.num_blank, picture.num_repeated, picture.repeated_tail, compared)


def compare_sound(path: Path, audio: Path, first_frame_seconds: float = 0.0) -> SoundComparison | None:
    """Return how the sound of a clip compares with the one that it was made for; None if one of them is silent.

    The loudness curves of the first 30 s are laid over each other, in steps of 10 ms and up to 1 s either way.
    """
    given_N, found_N = _loudness(audio, 0.0), _loudness(path, first_frame_seconds)
    if not given_N.any() or not found_N.any():
        return None
    most = int(_MAX_SHIFT_SECONDS * _RATE_HZ / _HOP)

    def likeness(shift: int) -> float:
        return round(_likeness(*_overlap(given_N, found_N, shift)), 3)

    late = max(range(-most, most + 1), key=lambda shift: (likeness(shift), -abs(shift)))
    given, found = (float(np.square(curve_N).sum()) for curve_N in _overlap(given_N, found_N, late))
    gain = 10.0 * np.log10(found / given) if given and found else 0.0
    return SoundComparison(likeness(late), round(late * _HOP / _RATE_HZ, 3), round(float(gain), 2))


@dataclass
class _Picture:
    """What decoding has shown."""

    num_frames: int = 0
    num_blank: int = 0
    num_repeated: int = 0
    repeated_tail: int = 0


def _check_length(
    num_frames: int, audio_seconds: float, frame_rate: Fraction, tolerance_frames: int, num_frames_told: int
) -> None:
    expected = round(audio_seconds * frame_rate)
    if abs(num_frames - expected) > tolerance_frames:
        raise RefusedClipError(
            "wrong-length",
            f"{num_frames} frames for {audio_seconds:.2f} s of sound, {expected} expected "
            f"(give or take {tolerance_frames})",
        )
    if num_frames_told not in {0, num_frames}:
        raise RefusedClipError(
            "wrong-count", f"the timing events tell of {num_frames_told} frames, it has {num_frames}"
        )


def _check_picture(picture: _Picture, frame_rate: Fraction) -> None:
    if picture.num_blank > BLANK_SHARE * picture.num_frames:
        raise RefusedClipError("blank", f"{picture.num_blank} of {picture.num_frames} frames are of one colour")
    if picture.num_frames > 1 and picture.num_repeated == picture.num_frames - 1:
        raise RefusedClipError("frozen", f"all {picture.num_frames} frames are the same")
    if picture.repeated_tail > TAIL_SECONDS * frame_rate:
        raise RefusedClipError("repeated-tail", f"the last {picture.repeated_tail} frames repeat the one before them")


def _check_sound(path: Path, audio: Path, first_frame_seconds: float) -> SoundComparison | None:
    try:
        compared = compare_sound(path, audio, first_frame_seconds)
    except Unscorable as error:
        raise RefusedClipError("corrupt", f"its sound cannot be decoded: {error.message}") from error
    if compared is None:
        if _loudness(audio, 0.0).any():
            raise RefusedClipError("no-sound", "the sound track is silent, the benchmark's sound is not")
        return None
    if compared.likeness < LIKENESS:
        return compared
    if abs(compared.late_seconds) > SHIFT_SECONDS:
        raise RefusedClipError("sound-shifted", f"its sound comes {compared.late_seconds:+.2f} s late")
    if abs(compared.gain_db) > LEVEL_DB:
        raise RefusedClipError("re-levelled", f"its sound is {compared.gain_db:+.1f} dB louder than the benchmark's")
    return compared


def _look(path: Path) -> _Picture:
    """Decode every frame.

    Raises:
        Undecodable: If that cannot be done to the end.
        RefusedClipError: If the size changes.
    """
    seen = _Picture()
    before: _Blocks | None = None
    shape: tuple[int, ...] = ()
    for luma_HW in _lumas(path):
        seen.num_frames += 1
        shape = shape or luma_HW.shape
        if shape != luma_HW.shape:
            found, expected = (f"{width}x{height}" for height, width in (luma_HW.shape, shape))
            raise RefusedClipError("wrong-size", f"frame {seen.num_frames} is {found}, the ones before {expected}")
        blocks = _blocks(luma_HW)
        repeats = before is not None and bool(np.abs(blocks - before).max() <= REPEAT_LEVELS)
        seen.num_repeated += repeats
        seen.repeated_tail = seen.repeated_tail + 1 if repeats else 0
        seen.num_blank += bool(luma_HW[::8, ::8].std() < BLANK_DEVIATION)
        before = blocks
    return seen


def _lumas(path: Path) -> Iterator[_Plane]:
    """Yield the brightness of every frame, as it is stored."""
    with probe.open_clip(path) as container:
        stream = probe.video_stream(container)
        stream.thread_type = "AUTO"
        done = 0
        try:
            for frame in container.decode(stream):
                done += 1
                yield _luma(frame)
        except (av.error.FFmpegError, EOFError) as error:
            raise Undecodable("corrupt", f"decoding stops after {done} frames: {probe.plain(error)}") from error
        if probe.is_cut_short(path, container):
            raise Undecodable("truncated", f"the file breaks off after {done} frames")


def _luma(frame: VideoFrame) -> _Plane:
    if not frame.format.name.startswith(("yuv4", "yuvj4", "nv", "gray")) or frame.format.components[0].bits != 8:
        frame = frame.reformat(format="gray")
    plane = frame.planes[0]
    rows: _Plane = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width].copy()


def _blocks(luma_HW: _Plane) -> _Blocks:
    """Return the mean brightness of blocks; a picture smaller than a block is one."""
    height, width = luma_HW.shape
    tall, wide = min(_BLOCK, height), min(_BLOCK, width)
    rows, columns = height // tall, width // wide
    cut = luma_HW[: rows * tall, : columns * wide].reshape(rows, tall, columns * wide)
    sums = cut.sum(1, dtype=np.uint16).reshape(rows, columns, wide).sum(2, dtype=np.uint16)
    means: _Blocks = sums.astype(np.float32) / (tall * wide)
    return means


def _loudness(path: Path, first_frame_seconds: float) -> Samples:
    """Return the mean amplitude of every 10 ms of the first seconds of a sound."""
    kept, num_samples = [np.zeros(0, np.float32)], 0
    for block_N in sound.blocks(path, _RATE_HZ, first_frame_seconds=first_frame_seconds):
        kept.append(block_N)
        num_samples += block_N.size
        if num_samples >= _COMPARED_SECONDS * _RATE_HZ:
            break
    samples_N = np.concatenate(kept)[: _COMPARED_SECONDS * _RATE_HZ]
    curve_N: Samples = np.abs(samples_N[: samples_N.size // _HOP * _HOP]).reshape(-1, _HOP).mean(1)
    return curve_N


def _overlap(given_N: Samples, found_N: Samples, late: int) -> tuple[Samples, Samples]:
    given_N, found_N = given_N[max(0, -late) :], found_N[max(0, late) :]
    size = min(given_N.size, found_N.size)
    return given_N[:size], found_N[:size]


def _likeness(given_N: Samples, found_N: Samples) -> float:
    """Return the correlation of two curves; -1 if there is none, or too little of them."""
    if given_N.size < 2:
        return -1.0
    a, b = given_N - given_N.mean(), found_N - found_N.mean()
    power = float(np.square(a).sum() * np.square(b).sum())
    return float(a @ b) / power**0.5 if power > 0 else -1.0
