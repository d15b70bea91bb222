"""The picture and the sound of a file being written, whoever decides when what is written."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from talkbench.media.clip import Frames, Samples

_BT709 = 1
_LIMITED = 1
_AUDIO_FRAME = 1024
REPEATABLE = "cpu-independent=1"
"""Macroblock tree in plain C: x264's AVX-512 code for it reads memory that nothing has written (one encode in hundreds
differs where rows are not a multiple of 64 pixels), and that for other processors rounds in ways of its own."""


class PictureTrack:
    """H.264, BT.709 in limited range and tagged so; the same bytes on every processor.

    Args:
        container: File that it is added to.
        width: Pixels.
        height: Pixels. Odd sizes are stored without chroma subsampling.
        frame_rate: Constant frames per second.
        options: Of x264: crf, preset and the like.
    """

    def __init__(
        self, container: OutputContainer, *, width: int, height: int, frame_rate: Fraction, options: dict[str, str]
    ) -> None:
        self._container, self._frame_rate = container, frame_rate
        self._stream = container.add_stream("libx264", rate=frame_rate, options=options | {"x264-params": REPEATABLE})
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        self._reformatter = VideoReformatter()
        self.num_frames = 0

    def write(self, frame_HWC: Frames) -> None:
        """Append one uint8 RGB frame."""
        frame = self._reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24"),
            format=self._stream.pix_fmt,
            src_colorspace=_BT709,
            dst_colorspace=_BT709,
            src_color_range=2,
            dst_color_range=_LIMITED,
            threads=1,
        )
        frame.pts, frame.time_base = self.num_frames, 1 / self._frame_rate
        self._container.mux(self._stream.encode(frame))
        self.num_frames += 1

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._container.mux(self._stream.encode(None))


class SoundTrack:
    """Mono AAC; samples are taken in any portions and encoded in blocks of 1024.

    Args:
        container: File that it is added to.
        rate_hz: Samples per second.
        bits_per_second: Of the encoder; its own choice if None.
    """

    def __init__(self, container: OutputContainer, rate_hz: int, bits_per_second: int | None = None) -> None:
        self._container, self._rate_hz = container, rate_hz
        self._stream = container.add_stream("aac", rate=rate_hz, layout="mono")
        if bits_per_second is not None:
            self._stream.bit_rate = bits_per_second
        self._rest_N = np.zeros(0, np.float32)
        self._num_encoded = 0

    @property
    def num_samples(self) -> int:
        """Samples taken so far."""
        return self._num_encoded + self._rest_N.size

    def write(self, samples_N: Samples) -> None:
        """Append samples in [-1, 1], float32."""
        waiting_N = np.concatenate((self._rest_N, samples_N))
        whole = waiting_N.size // _AUDIO_FRAME * _AUDIO_FRAME
        for block_N in waiting_N[:whole].reshape(-1, _AUDIO_FRAME):
            self._encode(block_N)
        self._rest_N = waiting_N[whole:]

    def finish(self) -> None:
        """Write what is left, in the track and in the encoder."""
        if self._rest_N.size:
            self._encode(self._rest_N)
        self._container.mux(self._stream.encode(None))

    def _encode(self, block_N: Samples) -> None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block_N[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        frame.pts = self._num_encoded
        self._container.mux(self._stream.encode(frame))
        self._num_encoded += block_N.size
