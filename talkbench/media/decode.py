"""The only place where pixels are made: PyAV to uint8 RGB, in order, in batches, with exact timestamps.

Colour: the matrix and range that the file is tagged with; untagged means BT.601, limited. The conversion is
swscale's default one, bit-identical to what decord 0.6, torchcodec and OpenCV >= 4.14 give on 8-bit files.
Rotation: as the display matrix says. Alpha is dropped (the stored colour is kept). More than 8 bits are reduced by
swscale; decoders disagree there, so the clip's record says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import xxhash
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from talkbench.errors import Undecodable
from talkbench.media import probe
from talkbench.media.clip import FrameBatch, Frames
from talkbench.schema import VideoFacts

POLICY = "pyav-rgb24.1 matrix=tag|bt601 range=tag|limited rotate=display alpha=drop"
"""Enters every score key: change it whenever the same file would become other pixels."""

MAX_BATCH_BYTES = 16 << 20
MAX_BATCH_FRAMES = 64
_SAME_TIME = 1e-6

# swscale's coefficient tables (SWS_CS_*) by matrix name.
_SWSCALE_TABLE = {"bt709": 1, "fcc": 4, "bt601": 5, "rgb": 5, "smpte240m": 7, "bt2020": 9}
_SWSCALE_RANGE = {"limited": 1, "full": 2}


def stored_frames(container: InputContainer, path: Path) -> Iterator[VideoFrame]:
    """Yield every frame of a clip as it is stored, not turned into RGB.

    Args:
        container: The open file.
        path: Where it came from, to compare its size with its index.

    Raises:
        Undecodable: If the track cannot be decoded to its end, or the file breaks off.
    """
    stream = probe.video_stream(container)
    stream.thread_type = "AUTO"
    done = 0
    try:
        for frame in container.decode(stream):
            done += 1
            yield frame
    except (av.error.FFmpegError, EOFError) as error:
        raise Undecodable("corrupt", f"decoding stops after {done} frames: {probe.plain(error)}") from error
    if probe.is_cut_short(path, container):
        raise Undecodable("truncated", f"the file breaks off after {done} frames")


class VideoReader:
    """Decodes one clip once, front to back, in memory independent of its length.

    After the last batch `num_frames`, `duration_seconds`, `variable_frame_rate` and `pixels_digest` describe the clip.

    Args:
        container: An open file; see `talkbench.media.probe.open_clip`.
        path: Where it came from, to compare its size with its index.
        facts: From `talkbench.media.probe.probe`.
        threads: Decoder threads; the pixels do not depend on it.
    """

    def __init__(self, container: InputContainer, path: Path, facts: VideoFacts, *, threads: int = 1) -> None:
        self._container = container
        self._stream = probe.video_stream(container)
        self._stream.codec_context.thread_count = threads
        self._stream.thread_type = "AUTO" if threads > 1 else "NONE"
        self._path = path
        self._facts = facts
        self._rate = Fraction(facts.frame_rate)
        self._reformatter = VideoReformatter()
        self._digest = xxhash.xxh3_128()
        self._steps: set[float] = set()
        self._first_seconds = 0.0
        self._last_seconds = 0.0
        self.num_frames = 0

    def batches(self, max_frames: int = MAX_BATCH_FRAMES) -> Iterator[FrameBatch]:
        """Yield all frames in display order, at most `max_frames` and about 16 MB at a time.

        Raises:
            Undecodable: If the track has no frames, breaks off, leaps by more than
                `talkbench.media.probe.MAX_LEAP_SECONDS`, or cannot be decoded to its end.
        """
        capacity = _capacity(self._facts.width * self._facts.height * 3, max_frames)
        frames: list[Frames] = []
        seconds: list[float] = []
        for frame in self._frames():
            seconds.append(self._seconds(frame))
            frames.append(self._to_rgb(frame))
            if len(frames) == capacity:
                yield self._batch(frames, seconds)
                frames, seconds = [], []
        if frames:
            yield self._batch(frames, seconds)
        if self.num_frames == 0:
            raise Undecodable("no-frames", "the video track has no frames")

    @property
    def duration_seconds(self) -> float:
        """Display time of the clip: the last frame is shown for one nominal frame."""
        return self._last_seconds + 1 / float(self._rate)

    @property
    def variable_frame_rate(self) -> bool:
        """Whether frame distances differ by more than a tenth of the nominal one."""
        return bool(self._steps) and max(self._steps) - min(self._steps) > 0.1 / float(self._rate)

    @property
    def pixels_digest(self) -> str:
        """xxh3-128 over the size and the RGB bytes of every frame."""
        digest = self._digest.copy()
        digest.update(f"{self._facts.width}x{self._facts.height}x{self.num_frames}".encode())
        return digest.hexdigest()

    def _frames(self) -> Iterator[VideoFrame]:
        try:
            yield from self._container.decode(self._stream)
        except (av.error.FFmpegError, EOFError) as error:
            self._refuse_truncated()
            raise Undecodable(
                "corrupt", f"decoding stops after {self.num_frames} frames: {probe.plain(error)}"
            ) from error
        self._refuse_truncated()

    def _refuse_truncated(self) -> None:
        if probe.is_cut_short(self._path, self._container):
            promised = self._facts.num_frames
            raise Undecodable("truncated", f"the file breaks off: {self.num_frames} of {promised} frames are there")

    def _seconds(self, frame: VideoFrame) -> float:
        at = frame.time if frame.time is not None else self.num_frames / float(self._rate)
        if self.num_frames == 0:
            self._first_seconds = at
        at -= self._first_seconds
        if self.num_frames > 0:
            if at - self._last_seconds > probe.MAX_LEAP_SECONDS:
                raise probe.leap("picture", self._last_seconds, at - self._last_seconds)
            self._steps.add(round(at - self._last_seconds, 5))
            if len(self._steps) > 8:
                self._steps = {min(self._steps), max(self._steps)}
        self._last_seconds = at
        self.num_frames += 1
        return at

    def _to_rgb(self, frame: VideoFrame) -> Frames:
        table = _SWSCALE_TABLE[self._facts.colour_matrix]
        rgb: Frames = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=table,
            dst_colorspace=table,
            src_color_range=_SWSCALE_RANGE[self._facts.colour_range],
            dst_color_range=2,
            threads=1,
        ).to_ndarray()  # type: ignore[assignment]
        turns = self._facts.rotation_degrees // 90
        pixels = np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
        if pixels.shape != (self._facts.height, self._facts.width, 3):
            raise Undecodable(
                "size-changes",
                f"frame {self.num_frames - 1} is {pixels.shape[1]}x{pixels.shape[0]}, "
                f"the clip {self._facts.width}x{self._facts.height}",
            )
        return pixels

    def _batch(self, frames: list[Frames], seconds: list[float]) -> FrameBatch:
        stack = np.stack(frames)
        self._digest.update(stack.data)
        return FrameBatch(stack, self.num_frames - len(frames), np.array(seconds))


class RateConverter:
    """Frames at another rate, by one stated rule: output frame k is the input frame nearest in time to k / rate.

    Ties go to the earlier frame; a frame comes out for every k / rate inside the clip. A clip that has the rate
    already passes unchanged, frame by frame.

    Args:
        rate: Output frames per second.
    """

    def __init__(self, rate: Fraction) -> None:
        self._rate = rate
        self._held: tuple[Frames, float] | None = None
        self._chosen: list[Frames] = []
        self._num_out = 0

    def push(self, batch: FrameBatch) -> Iterator[FrameBatch]:
        """Yield the output frames that are certain after `batch`, in batches as large as a `VideoReader`'s."""
        for frame_HWC, at in zip(batch.frames_THWC, batch.seconds_T, strict=True):
            if self._held is not None:
                held_HWC, held_at = self._held
                while self._num_out / float(self._rate) <= (held_at + at) / 2:
                    yield from self._choose(held_HWC)
            self._held = (frame_HWC, float(at))
        yield from self._batch()

    def flush(self, duration_seconds: float) -> Iterator[FrameBatch]:
        """Yield the frames up to the end of the clip."""
        if self._held is not None:
            total = math.ceil(duration_seconds * float(self._rate) - _SAME_TIME)
            while self._num_out < total:
                yield from self._choose(self._held[0])
            yield from self._batch()

    def _choose(self, frame_HWC: Frames) -> Iterator[FrameBatch]:
        self._chosen.append(frame_HWC)
        self._num_out += 1
        if len(self._chosen) == _capacity(frame_HWC.size):
            yield from self._batch()

    def _batch(self) -> Iterator[FrameBatch]:
        if self._chosen:
            chosen, self._chosen = self._chosen, []
            first = self._num_out - len(chosen)
            seconds: NDArray[np.float64] = np.arange(first, self._num_out) / float(self._rate)
            yield FrameBatch(np.stack(chosen), first, seconds)


def _capacity(frame_bytes: int, max_frames: int = MAX_BATCH_FRAMES) -> int:
    return max(1, min(max_frames, MAX_BATCH_BYTES // frame_bytes))
