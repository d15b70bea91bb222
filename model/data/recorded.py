"""Recorded clips as a source: a window of a file, its sound from the file's beginning, a picture from near the window.

Legend: T frames, H W pixels, C channels, N samples of sound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from talkbench.errors import Unscorable
from talkbench.media import audio, probe
from talkbench.media.clip import FrameBatch
from talkbench.media.decode import POLICY, RateConverter, VideoReader

from ..config import Recipe
from . import background, buckets
from .buckets import Bucket, Pixels
from .footage import Footage, Rejected
from .sample import Samples, num_frames

MAX_SECONDS = 60.0
"""Of a file that are looked at: a window far inside costs as much decoding as everything before it."""
NEAR_FRAMES = 33
"""Before and after the window; the reference picture is one of them. Source: InfiniteTalk's training samples."""
QUIETEST_PEAK = 1e-3


@dataclass(frozen=True)
class ClipFile:
    """A clip and its file.

    Attributes:
        id: Unique.
        path: Picture and sound.
        source: Key of the video that it is from.
        person: Key of the person.
        prompt: What is seen.
    """

    id: str
    path: Path
    source: str
    person: str
    prompt: str


@dataclass(frozen=True)
class Recorded:
    """Clips in files.

    Attributes:
        recipe: Whose sizes, rates and chunks.
        clips: In the order in which they are encoded.
        chunks: Chunks that a sample covers.
        min_stillness: Least similarity of the background over a window; not looked at if None.
    """

    recipe: Recipe
    clips: tuple[ClipFile, ...]
    chunks: int
    min_stillness: float | None = None

    @property
    def ids(self) -> Sequence[str]:
        """Names, as the source set gives them."""
        return [clip.id for clip in self.clips]

    @property
    def identity(self) -> dict[str, Any]:
        """How windows are chosen, decoded and cut; what is in the files is taken on trust."""
        prompts = hashlib.sha256("\0".join(clip.prompt for clip in self.clips).encode()).hexdigest()
        return {
            "buckets": [str(bucket) for bucket in buckets.of(self.recipe)],
            "decode": POLICY,
            "seconds": MAX_SECONDS,
            "near_frames": NEAR_FRAMES,
            "min_stillness": self.min_stillness,
            "prompts": prompts,
        }

    def footage(self, number: int) -> Footage:
        """Decode a window that the clip's name decides on.

        Raises:
            Rejected: If the file cannot be decoded, is too short or too small, silent, or its background moves.
        """
        clip, per_frame = self.clips[number], self.recipe.stream.samples_per_frame
        length = num_frames(self.recipe, self.chunks)
        try:
            facts = probe.probe(clip.path)
            bucket = buckets.nearest(facts.video.height, facts.video.width, buckets.of(self.recipe))
            sound_N = self._sound(clip.path, facts.first_frame_seconds)
            start, reference = self._window(clip, length, sound_N.size // per_frame)
            first, stop = start * per_frame, (start + length) * per_frame
            _refuse_silent(sound_N[first:stop])
            frames = self._frames(clip.path, facts, bucket, {reference, *range(start, start + length)})
        except Unscorable as error:
            raise Rejected(error.reason, error.message) from error
        frames_THWC = np.stack([frames[at] for at in range(start, start + length)])
        self._refuse_moving(frames_THWC)
        return Footage(
            frames_THWC=frames_THWC,
            reference_HWC=frames[reference],
            sound_N=sound_N[:stop],
            first_sample=first,
            prompt=clip.prompt,
            source=clip.source,
            person=clip.person,
        )

    def _window(self, clip: ClipFile, length: int, heard: int) -> tuple[int, int]:
        """Return the first frame of the window, and the frame that shows the person.

        Args:
            clip: Its name decides.
            length: Frames of the window.
            heard: Frames that there is sound for.
        """
        seen = int(min(_seconds(clip.path), MAX_SECONDS) * self.recipe.stream.frame_rate + 1e-6)
        if seen <= length:
            raise Rejected("too-short", f"{seen} frames; {length} and one more for the reference picture are needed")
        if heard < length:
            raise Rejected("audio-too-short", f"sound for {heard} frames; {length} are needed")
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(clip.id.encode()).digest()[:8], "big"))
        start = int(rng.integers(min(seen, heard) - length + 1))
        near = [*range(max(0, start - NEAR_FRAMES), start)]
        near += range(start + length, min(seen, start + length + NEAR_FRAMES))
        return start, near[int(rng.integers(len(near)))]

    def _sound(self, path: Path, first_frame_seconds: float) -> Samples:
        """Return the sound of what is looked at."""
        rate_hz = self.recipe.stream.audio_rate_hz
        pieces: list[Samples] = [np.zeros(0, np.float32)]
        wanted = int(MAX_SECONDS * rate_hz)
        for block_N in audio.blocks(path, rate_hz, first_frame_seconds=first_frame_seconds):
            pieces.append(block_N)
            wanted -= block_N.size
            if wanted <= 0:
                break
        return np.concatenate(pieces)

    def _frames(self, path: Path, facts: probe.ClipProbe, bucket: Bucket, wanted: set[int]) -> dict[int, Pixels]:
        """Return the wanted frames at the stream's rate, cut to the bucket."""
        found: dict[int, Pixels] = {}
        with probe.open_clip(path) as container:
            reader = VideoReader(container, path, facts.video)
            for batch in _at_rate(reader, RateConverter(self.recipe.stream.frame_rate)):
                for at, frame_HWC in enumerate(batch.frames_THWC, batch.first_frame):
                    if at in wanted:
                        found[at] = buckets.cover(frame_HWC, bucket)
                if len(found) == len(wanted):
                    return found
        raise Rejected("ends-early", f"{max(wanted) + 1} frames are promised, {len(wanted - set(found))} are not there")

    def _refuse_moving(self, frames_THWC: Pixels) -> None:
        if self.min_stillness is None:
            return
        if (found := background.stillness(frames_THWC)) < self.min_stillness:
            least = f"{self.min_stillness:g} is the least"
            raise Rejected("moving-background", f"its similarity falls to {found:.3f}; {least}")


def _refuse_silent(sound_N: Samples) -> None:
    if (peak := float(np.abs(sound_N).max())) < QUIETEST_PEAK:
        raise Rejected("silent", f"the loudest sample is {peak:.5f}; {QUIETEST_PEAK} is the least")


def _at_rate(reader: VideoReader, converter: RateConverter) -> Iterator[FrameBatch]:
    for batch in reader.batches():
        yield from converter.push(batch)
    yield from converter.flush(reader.duration_seconds)


def _seconds(path: Path) -> float:
    """Return how long the picture lasts, as the container says."""
    with probe.open_clip(path) as container:
        stream = probe.video_stream(container)
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if container.duration is not None:
            return container.duration / 1_000_000
    raise Rejected("no-duration", "the file does not say how long it is")
