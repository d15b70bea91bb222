"""How much moves, so that a still avatar's perfect consistency is read correctly. Needs no weights.

Normal flow: along an edge, displacement = |change in brightness| / |brightness gradient|, averaged with the squared
gradient as weight (the least-squares displacement of Lucas and Kanade 1981 without its direction). Before that, the
second frame's brightness is fitted to the first's by one gain and one offset, so that global flicker is not motion,
and a noise floor keeps compression noise in flat regions from counting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from talkbench.errors import Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch, Frames
from talkbench.metrics.base import Needs, Output, Runner, Scores
from talkbench.metrics.series import Terms

Luma = NDArray[np.float32]


@dataclass(frozen=True)
class MotionParams:
    """Parameters of the estimate; ours, since no benchmark fixes one.

    Attributes:
        short_side_px: Frames are box-reduced by a whole factor to about this short side.
        noise_levels: Gradients and changes below about this many 8-bit levels count as noise.
    """

    short_side_px: int = 128
    noise_levels: float = 2.0


def reduced_luma(frames_THWC: Frames, factor: int) -> list[Luma]:
    """Return the brightness (ITU-R BT.601 weights, 0 to 255) of frames, box-reduced by `factor`."""
    grey = (Image.fromarray(frame).convert("L") for frame in frames_THWC)
    return [np.asarray(image.reduce(factor) if factor > 1 else image, dtype=np.float32) for image in grey]


def displacement_px(first_HW: Luma, second_HW: Luma, noise_levels: float) -> float:
    """Return the mean displacement along edges between two brightness images, in their own pixels; 0 if equal."""
    noise = np.float32(noise_levels**2)
    first, second = first_HW - first_HW.mean(), second_HW - second_HW.mean()
    energy = np.vdot(first, first)
    gain = np.float32(np.vdot(first, second) / energy if energy > 0 else 1.0)
    moved = (second[1:-1, 1:-1] - gain * first[1:-1, 1:-1]) ** 2 - noise
    both = first_HW + second_HW
    slope_x, slope_y = both[1:-1, 2:] - both[1:-1, :-2], both[2:, 1:-1] - both[:-2, 1:-1]
    gradient = (slope_x * slope_x + slope_y * slope_y) / np.float32(16)
    weight = float(gradient.sum()) + float(gradient.size * noise)
    return float(np.sqrt(np.maximum(moved, 0) * gradient).sum()) / weight


class MotionRunner(Runner):
    """`motion.amount`: displacement along edges in percent of the frame's short side per second; 0 for a still."""

    name = "motion"
    version = "1"
    outputs = (
        Output(
            "motion.amount",
            "Motion",
            unit="% of short side / s",
            bounds=(0.0, None),
            digits=2,
            series=True,
            description="Amount of motion: 0 for a still image. Neither direction is better; it qualifies consistency.",
        ),
    )
    needs = Needs()
    params_type = MotionParams

    def start(self, clip: ClipFacts) -> None:
        """Choose the reduction for this clip's size."""
        short = min(clip.width, clip.height)
        if short < 8:
            raise Unscorable("too-small", f"motion needs 8 pixels a side, and the clip is {clip.width}x{clip.height}")
        self._factor = max(1, round(short / self.params.short_side_px))
        self._percent_per_px = 100.0 * self._factor / short
        self._previous: tuple[Luma, float] | None = None
        self._terms = Terms()
        self._nominal_step = 1 / float(clip.frame_rate)

    def update(self, batch: FrameBatch) -> None:
        """Estimate the displacement of each frame against the one before it."""
        factor = self._factor
        lumas = batch.share(f"luma/{factor}", lambda frames_THWC: reduced_luma(frames_THWC, factor))
        for luma_HW, at in zip(lumas, batch.seconds_T, strict=True):
            if self._previous is not None:
                before_HW, before = self._previous
                step = float(at) - before or self._nominal_step
                moved = displacement_px(before_HW, luma_HW, self.params.noise_levels)
                self._terms.add([moved * self._percent_per_px / step], [float(at)])
            self._previous = (luma_HW, float(at))

    def finish(self) -> Scores:
        """Return the mean over all pairs."""
        if not len(self._terms):
            raise Unscorable("one-frame", "motion compares frames, and the clip has one")
        name = self.outputs[0].id
        return Scores({name: self._terms.mean()}, series={name: self._terms})
