"""Sound as mono float samples at a stated rate, on the picture's clock."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from pathlib import Path

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from numpy.typing import NDArray

from talkbench.errors import Unscorable
from talkbench.media import probe
from talkbench.media.clip import Samples

GAP_SECONDS = 0.05


def blocks(path: Path, rate_hz: int, *, first_frame_seconds: float = 0.0) -> Iterator[Samples]:
    """Yield the first sound track as consecutive blocks `[N]`, float32 in about [-1, 1].

    Channels are mixed by libswresample's standard weights (mean of two channels; centre -3 dB for 5.1) and resampled
    by its default filter; rate and channels may change on the way. Sample 0 belongs to the display time of the first
    video frame: a late track is preceded by silence, what comes before the first frame is cut, gaps in the timestamps
    are silence, a second at a time.

    Args:
        path: Media file.
        rate_hz: Samples per second to deliver.
        first_frame_seconds: From `talkbench.media.probe.probe`.

    Raises:
        Undecodable: If the file cannot be opened; ``broken-timestamps`` if the sound leaps by more than
            `talkbench.media.probe.MAX_LEAP_SECONDS`.
        Unscorable: ``no-audio`` without a sound track, ``corrupt-audio`` if it breaks off.
    """
    with probe.open_clip(path) as container:
        if not container.streams.audio:
            raise Unscorable("no-audio", "the clip has no audio track")
        next_sample = 0
        try:
            for piece in _resampled(container, rate_hz):
                missing, samples_N = _placed(piece, first_frame_seconds, rate_hz, next_sample)
                next_sample += missing + samples_N.size
                while missing > rate_hz:
                    yield np.zeros(rate_hz, np.float32)
                    missing -= rate_hz
                if missing + samples_N.size:
                    yield np.concatenate([np.zeros(missing, np.float32), samples_N]) if missing else samples_N
        except (av.error.FFmpegError, EOFError) as error:
            seconds = next_sample / rate_hz
            raise Unscorable(
                "corrupt-audio", f"the audio breaks off after {seconds:.2f} s: {probe.plain(error)}"
            ) from error


def load(path: Path, rate_hz: int) -> Samples:
    """Return the whole track `[N]`, aligned to the first frame; memory grows with its length."""
    pieces = list(blocks(path, rate_hz, first_frame_seconds=probe.probe(path).first_frame_seconds))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def wav(audio_N: Samples | NDArray[np.int16], rate_hz: int) -> bytes:
    """Return mono samples (int16, or float32 in [-1, 1]) as the bytes of a 16-bit WAV file, the same everywhere."""
    if audio_N.dtype != np.int16:
        audio_N = np.rint(np.clip(audio_N, -1.0, 1.0) * 32767).astype(np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate_hz)
        writer.writeframes(audio_N.astype("<i2").tobytes())
    return file.getvalue()


def _resampled(container: InputContainer, rate_hz: int) -> Iterator[AudioFrame]:
    """Yield the first sound track as mono; what a resampler gives at its end has no time, but follows the rest."""
    resampler, setup = None, None
    for frame in container.decode(container.streams.audio[0]):
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or found != setup:
            yield from _rest(resampler)
            resampler, setup = AudioResampler(format="flt", layout="mono", rate=rate_hz), found
        yield from resampler.resample(frame)
    yield from _rest(resampler)


def _rest(resampler: AudioResampler | None) -> Iterator[AudioFrame]:
    for piece in resampler.resample(None) if resampler else ():
        piece.pts = None
        yield piece


def _placed(piece: AudioFrame, origin: float, rate_hz: int, next_sample: int) -> tuple[int, Samples]:
    """Return how many samples of silence come before a resampled piece, by its timestamp, and its samples.

    Raises:
        Undecodable: If it is too much to be believed.
    """
    samples_N: Samples = piece.to_ndarray().reshape(-1).astype(np.float32, copy=False)
    if piece.pts is None or piece.time_base is None:
        return 0, samples_N
    missing = round((float(piece.pts * piece.time_base) - origin) * rate_hz) - next_sample
    if missing < 0 and next_sample == 0:
        return 0, samples_N[-missing:]
    if missing > probe.MAX_LEAP_SECONDS * rate_hz:
        raise probe.leap("sound", next_sample / rate_hz, missing / rate_hz)
    return missing if missing > (GAP_SECONDS * rate_hz if next_sample else 0) else 0, samples_N


class Waveform:
    """Peak level per tenth of a second, for drawing; fed with blocks, in memory of one number per tenth."""

    def __init__(self, rate_hz: int, seconds: float = 0.1) -> None:
        self._size = round(rate_hz * seconds)
        self._rest = np.zeros(0, np.float32)
        self._rate_hz = rate_hz
        self.num_samples = 0
        self.peaks: list[float] = []

    def add(self, block_N: Samples) -> None:
        """Take the next block `[N]`."""
        self.num_samples += block_N.size
        samples = np.concatenate([self._rest, block_N])
        whole = samples.size // self._size * self._size
        if whole:
            peaks = np.abs(samples[:whole]).reshape(-1, self._size).max(axis=1)
            self.peaks.extend(round(min(1.0, float(peak)), 3) for peak in peaks)
        self._rest = samples[whole:]

    @property
    def duration_seconds(self) -> float:
        """Seconds of sound so far."""
        return self.num_samples / self._rate_hz
