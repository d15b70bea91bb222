"""Lip sync of the whole frame, without a face: the protocol behind some very low published numbers.

Every frame is squeezed to 224x224, whatever its shape, and compared with the sound (Rudrabha/Wav2Lip: evaluation/
scores_LSE, `calculate_scores_LRS`; that script takes the file's own rate, we convert to 25 frames per second, on which
the network was trained). Distances are larger and confidences a third to a half of those of face crops: read it only
beside numbers of the same protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from talkbench.errors import Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch, Samples
from talkbench.media.mfcc import RATE_HZ
from talkbench.metrics.base import Needs, Output, Runner, Scores
from talkbench.metrics.crops import CROP_PX, resize
from talkbench.metrics.lipsync import (
    BATCH_WINDOWS,
    FRAME_RATE,
    MAX_SHIFT,
    MIN_WINDOWS,
    WINDOW_FRAMES,
    Agreement,
    Match,
    Sound,
    load_syncnet,
)
from talkbench.nets.batches import Batch

SILENT_PEAK = 1e-3
"""A sound that never exceeds -60 dB of full scale is silence: no lips can be in step with it."""


def outputs(prefix: str, protocol: str) -> tuple[Output, ...]:
    """Return the three outputs of a sync protocol, named `prefix`.confidence and so on."""
    suffix = f" ({protocol})" if protocol else ""
    return (
        Output(
            f"{prefix}.confidence",
            f"Sync-C{suffix}",
            better="higher",
            bounds=(0.0, None),
            series=True,
            description="How much better sound and lips fit at their best offset than at others (SyncNet confidence).",
        ),
        Output(
            f"{prefix}.distance",
            f"Sync-D{suffix}",
            better="lower",
            bounds=(0.0, None),
            description="Distance of sound and lips at their best offset (SyncNet).",
        ),
        Output(
            f"{prefix}.offset_frames",
            f"Sync offset{suffix}",
            unit="frames",
            better="zero",
            bounds=(-float(MAX_SHIFT), float(MAX_SHIFT)),
            digits=1,
            description="Offset at which sound and lips fit best, at 25 frames per second; positive: picture late.",
        ),
    )


def needed(*weights: str) -> Needs:
    """Return what a sync protocol on decoded frames wants."""
    return Needs(frame_rate=Fraction(FRAME_RATE), audio_rate_hz=RATE_HZ, weights=weights)


def refuse_silence(peak: float, what: str = "the sound track") -> None:
    """Raise if a sound says nothing.

    Args:
        peak: Its greatest sample, of full scale.
        what: What is heard, for the message.

    Raises:
        Unscorable: ``silent``.
    """
    if peak < SILENT_PEAK:
        raise Unscorable("silent", f"{what} is silent: its peak is {peak:.1e} of full scale")


def refuse_brevity(found: Agreement, sound: Sound) -> None:
    """Raise if too few windows count.

    Raises:
        Unscorable: ``too-short``.
    """
    if found.num_windows < MIN_WINDOWS:
        least = MIN_WINDOWS + WINDOW_FRAMES
        heard = max(0, sound.num_frames - found.first_frame)
        raise Unscorable(
            "too-short", f"sync needs {least} frames with sound, and there are {min(found.num_frames, heard)}"
        )


def scores(prefix: str, found: Agreement, details: Mapping[str, object]) -> Scores:
    """Return one cut's numbers under a protocol's output names."""
    return Scores(
        {
            f"{prefix}.confidence": found.confidence,
            f"{prefix}.distance": found.distance,
            f"{prefix}.offset_frames": float(found.offset_frames),
        },
        details={
            "confidence_at_zero": round(found.confidence_at_zero, 4),
            "num_windows": found.num_windows,
            "first_frame": found.first_frame,
            **details,
        },
        series={f"{prefix}.confidence": found.terms()},
    )


class SyncFrameRunner(Runner):
    """`sync.frame.*`: SyncNet on whole frames. One term per frame, five frames fewer than the clip has."""

    name = "sync_frame"
    version = "2"
    outputs = outputs("sync.frame", "frame")
    needs = needed("syncnet")

    def start(self, clip: ClipFacts) -> None:
        """Forget the previous clip."""
        del clip
        net, self._batch = load_syncnet(self.context), Batch(BATCH_WINDOWS)
        self._sound = Sound(net, self._batch)
        self._match = Match(net, self._sound, 0, self._batch)

    def update(self, batch: FrameBatch) -> None:
        """Squeeze each frame and look at it."""
        for frame_HWC in batch.frames_THWC:
            self._match.push(resize(frame_HWC, CROP_PX, CROP_PX))
        self._sound.forget(self._match.oldest_feature)

    def hear(self, samples_N: Samples, first_sample: int) -> None:
        """Listen."""
        del first_sample
        self._sound.hear(samples_N)
        self._match.advance()

    def end_sound(self) -> None:
        """Look at no frames beyond it."""
        self._sound.close()

    def finish(self) -> Scores:
        """Return the scores of the whole frame."""
        refuse_silence(self._sound.peak)
        self._sound.close()
        self._match.end()
        found = self._match.result()
        refuse_brevity(found, self._sound)
        return scores("sync.frame", found, self._batch.halved())
