"""Write an mp4 from frames and samples: known-answer systems and tests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av

from talkbench.media.clip import Frames, Samples
from talkbench.media.tracks import PictureTrack, SoundTrack


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
        options = {"crf": str(encoding.crf), "preset": encoding.preset, "threads": "1"}
        self._picture = PictureTrack(
            self._container, width=width, height=height, frame_rate=frame_rate, options=options
        )
        self._audio_N, self._audio_rate_hz, self._frame_rate = audio_N, audio_rate_hz, frame_rate
        self._sound = (
            None if audio_N is None else SoundTrack(self._container, audio_rate_hz, encoding.audio_bits_per_second)
        )

    @property
    def num_frames(self) -> int:
        """Frames written so far."""
        return self._picture.num_frames

    def write(self, frame_HWC: Frames) -> None:
        """Append one uint8 RGB frame, and the sound up to its end."""
        self._picture.write(frame_HWC)
        self._write_sound(until=round(self.num_frames / self._frame_rate * self._audio_rate_hz))

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._container.close()
            self._partial.unlink(missing_ok=True)
            return
        self._picture.finish()
        self._write_sound(until=None)
        if self._sound is not None:
            self._sound.finish()
        self._container.close()
        self._partial.replace(self.path)

    def _write_sound(self, until: int | None) -> None:
        if self._sound is not None and self._audio_N is not None:
            self._sound.write(self._audio_N[self._sound.num_samples : until])


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
            sound = SoundTrack(container, audio_rate_hz, encoding.audio_bits_per_second)
            for packet in given.demux(picture):
                if packet.dts is None or packet.time_base is None:
                    continue
                until = max(0, round(float(packet.dts * packet.time_base) * audio_rate_hz))
                sound.write(audio_N[sound.num_samples : until])
                packet.stream = video
                container.mux(packet)
            sound.write(audio_N[sound.num_samples :])
            sound.finish()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
