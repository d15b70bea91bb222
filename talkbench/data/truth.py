"""The filmed window as a clip: cropped like the reference, at 25 fps, with the sound that systems are driven by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talkbench.data import reference
from talkbench.data.manifest import FRAME_RATE
from talkbench.data.reference import Box
from talkbench.data.sound import RATE_HZ
from talkbench.media import probe
from talkbench.media.clip import Frames
from talkbench.media.decode import RateConverter, VideoReader
from talkbench.media.encode import write_clip


def write(source: Path, target: Path, orientation: str, face: Box | None, audio_N: NDArray[np.int16]) -> int:
    """Write the ground truth of a sample, exactly as long as its sound; return its number of frames.

    A picture that ends before the sound (by less than the fetched section allows) holds its last frame.

    Args:
        source: The fetched section.
        target: MP4, the same bytes on every run.
        orientation: Which canonical crop.
        face: Where the face is in the first frame, in parts of it; None for a centred crop.
        audio_N: The sample's sound, int16 at 16 kHz.

    Raises:
        Unscorable: If the picture cannot be decoded, or would be enlarged too much.
    """
    num_frames = audio_N.size * FRAME_RATE // RATE_HZ
    pictures = _held(_frames(source, orientation, face), num_frames)
    sound_N = audio_N.astype(np.float32) / np.float32(32768)
    return write_clip(target, pictures, frame_rate=Fraction(FRAME_RATE), audio_N=sound_N, audio_rate_hz=RATE_HZ)


def pixels(path: Path) -> str:
    """Return the digest of every decoded frame of a clip."""
    with probe.open_clip(path) as container:
        reader = VideoReader(container, path, probe.probe(path).video)
        for _ in reader.batches():
            pass
        return reader.pixels_digest


def _frames(path: Path, orientation: str, face: Box | None) -> Iterator[Frames]:
    """Yield the cropped picture at 25 fps."""
    converter = RateConverter(Fraction(FRAME_RATE))
    with probe.open_clip(path) as container:
        reader = VideoReader(container, path, probe.probe(path).video)
        for batch in reader.batches():
            # Cropped before frames are repeated or dropped, so that each is cropped once and what waits is small.
            small = [np.asarray(reference.crop(frame_HWC, orientation, face)) for frame_HWC in batch.frames_THWC]
            for converted in converter.push(replace(batch, frames_THWC=np.stack(small))):
                yield from converted.frames_THWC
        for converted in converter.flush(reader.duration_seconds):
            yield from converted.frames_THWC


def _held(frames: Iterator[Frames], count: int) -> Iterator[Frames]:
    """Yield so many frames, the last one again where there are fewer."""
    last: Frames | None = None
    for _ in range(count):
        last = next(frames, last)
        if last is not None:
            yield last
