"""Checks on a clip before it counts as made: it opens, decodes to its end, and lasts as long as its sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av.error

from talkbench.errors import Undecodable
from talkbench.media import probe
from talkbench.workers.host import WorkerFailedError


@dataclass(frozen=True)
class Accepted:
    """What was found.

    Attributes:
        num_frames: Frames decoded.
        size: Width and height in pixels.
    """

    num_frames: int
    size: tuple[int, int]


def accept(
    path: Path, *, audio_seconds: float, frame_rate: Fraction, tolerance_frames: int, num_frames_told: int
) -> Accepted:
    """Decode a clip and compare it with its job.

    Args:
        path: The clip.
        audio_seconds: Length of the sound that it was made for.
        frame_rate: Rate that the system states.
        tolerance_frames: How many frames it may be longer or shorter than the sound.
        num_frames_told: Frames in its timing events; 0 if there are none.

    Raises:
        WorkerFailedError: ``bad-output``, with what was found and what was expected.
    """
    if not path.is_file():
        raise WorkerFailedError("bad-output", "it said done, but there is no file")
    try:
        facts = probe.probe(path)
        num_frames = sum(_frames(path))
    except Undecodable as error:
        raise WorkerFailedError("bad-output", f"{error.reason}: {error.message}") from error
    if Fraction(facts.video.frame_rate) != frame_rate:
        raise WorkerFailedError("bad-output", f"{facts.video.frame_rate} frames a second, {frame_rate} expected")
    if facts.audio is None:
        raise WorkerFailedError("bad-output", "the clip has no sound track")
    expected = round(audio_seconds * frame_rate)
    if abs(num_frames - expected) > tolerance_frames:
        raise WorkerFailedError(
            "bad-output",
            f"{num_frames} frames for {audio_seconds:.2f} s of sound, {expected} expected "
            f"(give or take {tolerance_frames})",
        )
    if num_frames_told not in {0, num_frames}:
        raise WorkerFailedError(
            "bad-output", f"the timing events tell of {num_frames_told} frames, it has {num_frames}"
        )
    return Accepted(num_frames, (facts.video.width, facts.video.height))


def _frames(path: Path) -> Iterator[int]:
    """Yield 1 per frame, decoding without turning frames into pixels of ours."""
    with probe.open_clip(path) as container:
        stream = probe.video_stream(container)
        stream.thread_type = "AUTO"
        done = 0
        try:
            for _ in container.decode(stream):
                done += 1
                yield 1
        except (av.error.FFmpegError, EOFError) as error:
            raise Undecodable("corrupt", f"decoding stops after {done} frames: {probe.plain(error)}") from error
        if probe.is_cut_short(path, container):
            raise Undecodable("truncated", f"the file breaks off after {done} frames")
