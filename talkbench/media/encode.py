"""Write an mp4 from frames and samples: known-answer systems and tests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from talkbench.media.clip import Frames, Samples

_BT709 = 1
_LIMITED = 1
_AUDIO_FRAME = 1024
REPEATABLE = "cpu-independent=1"
"""Macroblock tree in plain C: x264's AVX-512 code for it reads memory that nothing has written (one encode in hundreds
differs where rows are not a multiple of 64 pixels), and that for other processors rounds in ways of its own."""


@dataclass(frozen=True)
class Encoding:
    """How a clip is written. The defaults are visually lossless, and the same bytes on every run and processor.

    Attributes:
        crf: x264's constant quality; lower is better and larger.
        preset: x264's speed preset.
        audio_bits_per_second: AAC rate.
    """

    crf: int = 14
    preset: str = "veryfast"
    audio_bits_per_second: int = 96_000


class ClipWriter:
    """Encodes H.264 (BT.709, limited range, tagged) and AAC; the file appears when the block ends without an error.

    Args:
        path: Target; parents are created.
        width: Pixels.
        height: Pixels. Odd sizes are stored without chroma subsampling.
        frame_rate: Constant frames per second.
        audio_N: Mono float32 in [-1, 1], or None for a silent file without sound track.
        audio_rate_hz: Samples per second of `audio_N`.
        encoding: Quality settings.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        frame_rate: Fraction,
        audio_N: Samples | None = None,
        audio_rate_hz: int = 16_000,
        encoding: Encoding = Encoding(),
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._partial = path.with_name(f".{path.stem[:60]}.{os.getpid()}.partial.mp4")
        self._container = av.open(str(self._partial), "w", format="mp4", options={"movflags": "+faststart"})
        options = {"crf": str(encoding.crf), "preset": encoding.preset, "threads": "1", "x264-params": REPEATABLE}
        self._video = self._container.add_stream("libx264", rate=frame_rate, options=options)
        self._video.width, self._video.height = width, height
        self._video.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context = self._video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        self._audio: AudioStream | None = None
        self._audio_N = np.zeros(0, np.float32) if audio_N is None else audio_N
        self._audio_rate_hz = audio_rate_hz
        if audio_N is not None:
            self._audio = self._container.add_stream("aac", rate=audio_rate_hz, layout="mono")
            self._audio.bit_rate = encoding.audio_bits_per_second
        self._frame_rate = frame_rate
        self._reformatter = VideoReformatter()
        self._samples_written = 0
        self.num_frames = 0

    def write(self, frame_HWC: Frames) -> None:
        """Append one uint8 RGB frame."""
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        frame = self._reformatter.reformat(
            rgb,
            format=self._video.pix_fmt,
            src_colorspace=_BT709,
            dst_colorspace=_BT709,
            src_color_range=2,
            dst_color_range=_LIMITED,
            threads=1,
        )
        frame.pts = self.num_frames
        frame.time_base = 1 / self._frame_rate
        self._container.mux(self._video.encode(frame))
        self.num_frames += 1
        self._write_audio(until=round(self.num_frames / self._frame_rate * self._audio_rate_hz))

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._container.close()
            self._partial.unlink(missing_ok=True)
            return
        self._container.mux(self._video.encode(None))
        self._write_audio(until=self._audio_N.size, last=True)
        self._container.close()
        self._partial.replace(self.path)

    def _write_audio(self, until: int, *, last: bool = False) -> None:
        if self._audio is None:
            return
        until = min(until, self._audio_N.size)
        while until - self._samples_written >= (1 if last else _AUDIO_FRAME):
            block = self._audio_N[self._samples_written : min(self._samples_written + _AUDIO_FRAME, until)]
            _encode_block(self._container, self._audio, block, self._samples_written, self._audio_rate_hz)
            self._samples_written += block.size
        if last:
            self._container.mux(self._audio.encode(None))


def write_clip(
    path: Path,
    frames: Iterable[Frames],
    *,
    frame_rate: Fraction = Fraction(25),
    audio_N: Samples | None = None,
    audio_rate_hz: int = 16_000,
    encoding: Encoding = Encoding(),
) -> int:
    """Write all frames and the sound; return the number of frames.

    Raises:
        ValueError: If there is no frame.
    """
    source = iter(frames)
    first = next(source, None)
    if first is None:
        raise ValueError(f"{path}: a clip needs at least one frame")
    height, width = first.shape[:2]
    with ClipWriter(
        path,
        width=width,
        height=height,
        frame_rate=frame_rate,
        audio_N=audio_N,
        audio_rate_hz=audio_rate_hz,
        encoding=encoding,
    ) as writer:
        writer.write(first)
        for frame in source:
            writer.write(frame)
    return writer.num_frames


def replace_audio(source: Path, path: Path, audio_N: Samples, audio_rate_hz: int, encoding: Encoding) -> None:
    """Copy the picture of `source` packet by packet, bit for bit, beside a new sound track."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem[:60]}.{os.getpid()}.partial.mp4")
    try:
        with (
            av.open(str(source)) as given,
            av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container,
        ):
            picture = given.streams.video[0]
            video = container.add_stream_from_template(picture)
            audio = container.add_stream("aac", rate=audio_rate_hz, layout="mono")
            audio.bit_rate = encoding.audio_bits_per_second
            written = 0
            for packet in given.demux(picture):
                if packet.dts is None or packet.time_base is None:
                    continue
                until = min(audio_N.size, round(float(packet.dts * packet.time_base) * audio_rate_hz))
                while until - written >= _AUDIO_FRAME:
                    block = audio_N[written : written + _AUDIO_FRAME]
                    _encode_block(container, audio, block, written, audio_rate_hz)
                    written += block.size
                packet.stream = video
                container.mux(packet)
            while written < audio_N.size:
                block = audio_N[written : written + _AUDIO_FRAME]
                _encode_block(container, audio, block, written, audio_rate_hz)
                written += block.size
            container.mux(audio.encode(None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _encode_block(
    container: av.container.OutputContainer, stream: AudioStream, block_N: Samples, start: int, rate_hz: int
) -> None:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block_N[None, :]), format="fltp", layout="mono")
    frame.sample_rate = rate_hz
    frame.pts = start
    frame.time_base = Fraction(1, rate_hz)
    container.mux(stream.encode(frame))
