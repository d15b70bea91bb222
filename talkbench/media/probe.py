"""What a container says, without decoding, and clear reasons when it cannot be used."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from talkbench.errors import Undecodable
from talkbench.schema import AudioFacts, VideoFacts

FASTEST_BELIEVABLE_RATE = Fraction(240)
MAX_LEAP_SECONDS = 3600.0
"""A longer leap from one frame, or one piece of sound, to the next is a broken clock: it is not filled but refused."""

# Code points of ITU-T H.273 (matrix coefficients) -> name. 2 means "unspecified": BT.601 is what every decoder then
# assumes (measured on PyAV 18, OpenCV 5, decord 0.6 and ffmpeg 5.1; OpenCV < 4.14 ignores the tag altogether).
MATRICES = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
UNTAGGED_MATRIX = "bt601"
_FULL_RANGE = 2


@contextlib.contextmanager
def open_clip(path: Path) -> Iterator[InputContainer]:
    """Open a media file for reading.

    Raises:
        Undecodable: If the path is no regular readable file, or no demuxer recognises it.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise Undecodable("unreadable", f"cannot read the file: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise Undecodable("unreadable", "not a regular file")
    if path.stat().st_size == 0:
        raise Undecodable("empty-file", "the file has 0 bytes")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except PermissionError as error:
        raise Undecodable("unreadable", f"cannot read the file: {error.strerror}") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise Undecodable("not-a-video", f"no demuxer accepts the file ({plain(error)}); is it truncated?") from error
    with container:
        yield container


def video_stream(container: InputContainer) -> VideoStream:
    """Return the picture track.

    Raises:
        Undecodable: If there is none (a cover picture does not count).
    """
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.width < 1 or stream.height < 1:
                raise Undecodable("no-frames", "the video track states no picture size")
            return stream
    raise Undecodable("no-video", "the file has no video track")


def nominal_rate(stream: VideoStream) -> Fraction:
    """Return frames per second as the container intends it; 25 if it does not say."""
    for rate in (stream.guessed_rate, stream.average_rate):
        if rate and 0 < rate <= FASTEST_BELIEVABLE_RATE:
            return Fraction(rate)
    return Fraction(25)


@dataclass(frozen=True)
class ClipProbe:
    """What is known of a file before it is decoded.

    Attributes:
        video: Facts of the picture track; sizes are those after display rotation.
        audio: Facts of the first sound track, or None without one.
        first_frame_seconds: Container time of the first frame; the clip's time 0.
    """

    video: VideoFacts
    audio: AudioFacts | None
    first_frame_seconds: float


def probe(path: Path) -> ClipProbe:
    """Read the headers and the first frame of a file.

    Raises:
        Undecodable: If it cannot be opened, or has no video track, or no frame of it can be decoded.
    """
    with open_clip(path) as container:
        stream = video_stream(container)
        try:
            first = next(container.decode(stream), None)
        except (av.error.FFmpegError, EOFError) as error:
            raise Undecodable("no-frames", f"the first frame cannot be decoded: {plain(error)}") from error
        if first is None:
            raise Undecodable("no-frames", "the video track has no frames")
        return ClipProbe(_video_facts(stream, first), _audio_facts(container), float(first.time or 0.0))


def _video_facts(stream: VideoStream, first: VideoFrame) -> VideoFacts:
    context = stream.codec_context
    pixel_format = first.format
    rotation = round(first.rotation / 90) * 90 % 360
    width, height = (first.height, first.width) if rotation % 180 else (first.width, first.height)
    matrix = "rgb" if pixel_format.is_rgb else MATRICES.get(int(context.colorspace))
    full = int(context.color_range) == _FULL_RANGE or pixel_format.name.startswith("yuvj") or pixel_format.is_rgb
    return VideoFacts(
        codec=context.name,
        width=width,
        height=height,
        frame_rate=str(nominal_rate(stream)),
        num_frames=stream.frames or None,
        pixel_format=pixel_format.name,
        bit_depth=max(component.bits for component in pixel_format.components),
        has_alpha=pixel_format.name.startswith(("rgba", "argb", "bgra", "abgr", "yuva", "gbrap", "ya")),
        colour_matrix=matrix or UNTAGGED_MATRIX,
        colour_range="full" if full else "limited",
        colour_tagged=matrix is not None,
        rotation_degrees=rotation,
    )


def _audio_facts(container: InputContainer) -> AudioFacts | None:
    if not container.streams.audio:
        return None
    stream = container.streams.audio[0]
    context = stream.codec_context
    if not context.sample_rate:
        return None
    seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    return AudioFacts(
        codec=context.name,
        rate_hz=context.sample_rate,
        num_channels=context.layout.nb_channels,
        duration_seconds=seconds,
    )


def is_cut_short(path: Path, container: InputContainer) -> bool:
    """Tell whether the index of a track promises bytes that the file does not have."""
    size = path.stat().st_size
    return any(e.pos >= 0 and e.pos + e.size > size for stream in container.streams for e in stream.index_entries)


def leap(track: str, at_seconds: float, by_seconds: float) -> Undecodable:
    """Return the refusal of a leap of more than `MAX_LEAP_SECONDS`: ``broken-timestamps``."""
    return Undecodable(
        "broken-timestamps",
        f"after {at_seconds:.2f} s the {track} leaps by {by_seconds:.0f} s, and {MAX_LEAP_SECONDS:.0f} s are believed",
    )


def plain(error: Exception) -> str:
    """Return what FFmpeg says, without the path that it appends: the clip's record has it."""
    return str(getattr(error, "strerror", None) or error)
