"""Temporal flickering as VBench defines it: how little neighbouring frames differ, in 8-bit levels.

Source: VBench, dimension `temporal_flickering` (Vchitect/VBench: vbench/temporal_flickering.py): 255 minus the mean
absolute difference of adjacent frames, over 255, all frames at the file's own rate. Any motion lowers it, and a frozen
clip scores 1.0, so read it beside `motion.amount`. We add exact integers where the official code averages float32
numbers; the two agree within 1e-7.
"""

from __future__ import annotations

import numpy as np

from talkbench.errors import Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch, Frames
from talkbench.metrics.base import Needs, Output, Runner, Scores
from talkbench.metrics.series import Terms

LEVELS = 255


def mean_absolute_difference(first_HWC: Frames, second_HWC: Frames) -> float:
    """Return the mean |difference| of two uint8 frames in levels, exact to the last integer."""
    difference = np.maximum(first_HWC, second_HWC)
    np.subtract(difference, np.minimum(first_HWC, second_HWC), out=difference)
    return int(difference.sum(dtype=np.uint64)) / difference.size


class FlickerRunner(Runner):
    """`vbench.temporal_flickering` in [0, 1], higher is steadier."""

    name = "flicker"
    version = "1"
    outputs = (
        Output(
            "vbench.temporal_flickering",
            "Temporal-F",
            better="higher",
            bounds=(0.0, 1.0),
            scale=100.0,
            series=True,
            rewards_stillness=True,
            description="Steadiness of neighbouring frames (VBench temporal flickering); a frozen clip scores 100.",
        ),
    )
    needs = Needs()

    def start(self, clip: ClipFacts) -> None:
        """Forget the previous clip."""
        del clip
        self._previous: Frames | None = None
        self._terms = Terms()
        self._num_frames = 0

    def update(self, batch: FrameBatch) -> None:
        """Compare each frame with the one before it."""
        self._num_frames += len(batch.frames_THWC)
        for frame_HWC, at in zip(batch.frames_THWC, batch.seconds_T, strict=True):
            if self._previous is not None:
                difference = mean_absolute_difference(self._previous, frame_HWC)
                self._terms.add([(LEVELS - difference) / LEVELS], [float(at)])
            self._previous = frame_HWC
        if self._previous is not None:
            self._previous = self._previous.copy()

    def finish(self) -> Scores:
        """Return the mean over all pairs."""
        if not len(self._terms):
            raise Unscorable("one-frame", f"flicker compares frames, and the clip has {self._num_frames}")
        name = self.outputs[0].id
        return Scores({name: self._terms.mean()}, details={"num_pairs": len(self._terms)}, series={name: self._terms})
