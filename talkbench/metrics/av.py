"""Offset between a known mouth and the heard sound, for synthetic clips whose truth lies beside them.

The mouth opening of every frame is known exactly (talkbench-mini draws it); the sound is measured from the clip's
track. Speech is loudest when the mouth is open, so the correlation of opening and level peaks at the true offset.
This is the yardstick for learned sync metrics, not a replacement: it needs the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from talkbench.errors import NotApplicable, Unscorable
from talkbench.media.clip import ClipFacts, Samples
from talkbench.metrics.base import Needs, Output, Runner, Scores

RATE_HZ = 16_000
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class AvParams:
    """Parameters of the search.

    Attributes:
        max_offset_frames: Offsets tried on either side. SyncNet tries 15 (joonson/syncnet_python: `vshift`).
        min_correlation: Below this peak the offset is not known.
    """

    max_offset_frames: int = 15
    min_correlation: float = 0.3


def best_offset(mouth_T: Curve, level_T: Curve, max_offset: int) -> tuple[float, float]:
    """Return the offset in frames at which level and mouth agree best, and their correlation there.

    Positive means that the picture is late, as SyncNet counts. A parabola through the peak and its neighbours gives
    fractions of a frame.
    """
    lags = np.arange(-max_offset, max_offset + 1)
    correlation = np.array([_correlation_at(mouth_T, level_T, int(lag)) for lag in lags])
    peak = int(correlation.argmax())
    offset = float(lags[peak])
    if 0 < peak < len(lags) - 1:
        before, at, after = correlation[peak - 1 : peak + 2]
        curvature = before - 2 * at + after
        offset += 0.5 * float(before - after) / float(curvature) if curvature < 0 else 0.0
    return offset, float(correlation[peak])


def _correlation_at(mouth_T: Curve, level_T: Curve, lag: int) -> float:
    """Correlate mouth[t + lag] with level[t]."""
    mouth = mouth_T[lag:] if lag >= 0 else mouth_T[:lag]
    level = level_T[: len(level_T) - lag] if lag >= 0 else level_T[-lag:]
    mouth, level = mouth - mouth.mean(), level - level.mean()
    norm = float(np.sqrt((mouth @ mouth) * (level @ level)))
    return float(mouth @ level) / norm if norm > 0 else 0.0


class AvRunner(Runner):
    """`av.offset` in frames; 0 is in step, positive means that the picture is late."""

    name = "av"
    version = "1"
    outputs = (
        Output(
            "av.offset",
            "AV offset",
            unit="frames",
            better="zero",
            bounds=(-15.0, 15.0),
            description="Delay of the drawn mouth against the sound, from the ground truth of talkbench-mini.",
        ),
    )
    needs = Needs(frames=False, audio_rate_hz=RATE_HZ, truth=True)
    params_type = AvParams

    def start(self, clip: ClipFacts) -> None:
        """Take the known mouth."""
        if clip.truth is None:
            raise NotApplicable("no-truth", "the clip has no ground truth beside it (synthetic clips only)")
        self._mouth_T = np.array(clip.truth.mouth_opening)
        if len(self._mouth_T) < 2 * self.params.max_offset_frames or self._mouth_T.std() < 0.02:
            raise Unscorable("mouth-still", "the mouth never moves (or too briefly), so nothing can be in step with it")
        self._samples_per_frame = Fraction(RATE_HZ) / Fraction(clip.truth.frame_rate)
        self._energy_T = np.zeros(len(self._mouth_T))

    def hear(self, samples_N: Samples, first_sample: int) -> None:
        """Add the sound's energy to the frames on whose display time it falls."""
        index = (np.arange(first_sample, first_sample + samples_N.size) / float(self._samples_per_frame)).astype(
            np.int64
        )
        inside = index < len(self._energy_T)
        energy = samples_N[inside].astype(np.float64) ** 2
        self._energy_T += np.bincount(index[inside], weights=energy, minlength=len(self._energy_T))

    def finish(self) -> Scores:
        """Return the offset of best agreement."""
        level_T = np.sqrt(self._energy_T / float(self._samples_per_frame))
        if level_T.max() < 1e-4:
            raise Unscorable("silent", "the sound track is silent")
        offset, correlation = best_offset(self._mouth_T, level_T, self.params.max_offset_frames)
        if correlation < self.params.min_correlation:
            raise Unscorable(
                "no-correlation",
                f"mouth and sound agree by {correlation:.2f} at best ({self.params.min_correlation} needed)",
            )
        return Scores({"av.offset": offset}, details={"correlation": round(correlation, 4)})
