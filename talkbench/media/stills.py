"""Single frames of a clip at given times, by seeking: the same pixels as a decode from the start, at any length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame

from talkbench.errors import Undecodable
from talkbench.media import probe
from talkbench.media.clip import Frames
from talkbench.media.decode import VideoReader
from talkbench.schema import VideoFacts

_SAME_TIME = 1e-6


@dataclass(frozen=True)
class Still:
    """The frame that is on the screen at a time.

    Attributes:
        frame_HWC: uint8 RGB.
        seconds: When it comes on, from the clip's first frame.
    """

    frame_HWC: Frames
    seconds: float


@dataclass(frozen=True)
class PastEnd:
    """There is no frame at that time: the clip is over.

    Attributes:
        duration_seconds: Of the clip; its last frame is shown for one nominal frame.
    """

    duration_seconds: float


def stills(path: Path, seconds: Sequence[float]) -> list[Still | PastEnd]:
    """Return the frame on the screen at each time, in the order asked.

    Only the frames from the key frame before each time on are decoded, so that a minute deep in a long clip costs no
    more than one at its start. A file without timestamps, or where a jump does not lead to a key frame before the time,
    is decoded from its beginning.

    Args:
        path: The clip.
        seconds: Times from the first frame, 0 or more.

    Raises:
        Undecodable: If the file cannot be opened, has no picture, or breaks off before one of the times.
        ValueError: If a time is negative.
    """
    if any(at < 0 for at in seconds):
        raise ValueError(f"times are counted from the first frame, 0 or more: {min(seconds)}")
    facts = probe.probe(path)
    found: dict[float, Still | PastEnd] = {}
    with probe.open_clip(path) as container:
        reader = _StillReader(container, path, facts.video, facts.first_frame_seconds)
        for at in sorted(set(seconds)):
            found[at] = reader.at(at)
    return [found[at] for at in seconds]


class _StillReader(VideoReader):
    """Jumps instead of reading front to back; colour and rotation are the reader's own.

    Args:
        container: An open file.
        path: Where it came from.
        facts: Of its picture.
        first_seconds: Container time of its first frame.
    """

    def __init__(self, container: InputContainer, path: Path, facts: VideoFacts, first_seconds: float) -> None:
        super().__init__(container, path, facts)
        self._start = first_seconds

    def at(self, seconds: float) -> Still | PastEnd:
        """Return what is on the screen at a time.

        Raises:
            Undecodable: If the file breaks off before it.
        """
        shown: tuple[VideoFrame, float] | None = None
        for frame, at in self._from_before(seconds):
            if at > seconds + _SAME_TIME:
                break
            shown = frame, at
        else:
            end = (0.0 if shown is None else shown[1]) + 1 / float(self._rate)
            if shown is None or seconds >= end - _SAME_TIME:
                return PastEnd(end)
        if shown is None:
            raise Undecodable("no-frames", f"the first frame comes after {seconds:g} s")
        return Still(self._to_rgb(shown[0]), shown[1])

    def _from_before(self, seconds: float) -> Iterator[tuple[VideoFrame, float]]:
        """Yield frames with their times, beginning at or before `seconds`."""
        moment = round((seconds + self._start) / float(self._stream.time_base or 1))
        try:
            self._container.seek(moment, stream=self._stream)
            frames = self._container.decode(self._stream)
            first = next(frames, None)
            at = self._place(first)
            if first is None or at is None or at > seconds + _SAME_TIME:
                yield from self._from_beginning()
                return
            yield first, at
            for frame in frames:
                at = at + 1 / float(self._rate) if frame.time is None else frame.time - self._start
                yield frame, at
        except (av.error.FFmpegError, EOFError) as error:
            self._refuse_truncated()
            raise Undecodable("corrupt", f"decoding stops on the way to {seconds:g} s: {probe.plain(error)}") from error

    def _place(self, first: VideoFrame | None) -> float | None:
        """Return the time of the first frame after a jump, or None if the frames from it on cannot be trusted."""
        # Streams without an index are entered anywhere, and what depends on frames before comes out grey.
        return first.time - self._start if first is not None and first.key_frame and first.time is not None else None

    def _from_beginning(self) -> Iterator[tuple[VideoFrame, float]]:
        self._container.seek(0)
        for number, frame in enumerate(self._container.decode(self._stream)):
            yield frame, number / float(self._rate) if frame.time is None else frame.time - self._start
