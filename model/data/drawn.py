"""Clips of the tiny world as a source: drawn when they are needed, with the truth of every mouth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from talkbench.mini.suite import GENERATOR_VERSION

from ..config import Recipe
from ..tiny import world
from .footage import Footage
from .sample import num_frames

SPARE_FRAMES = 20
"""Around the window; the reference picture is one of them."""


@dataclass(frozen=True)
class Drawn:
    """So many clips of people who are in no item of talkbench-mini.

    Attributes:
        recipe: Whose pictures; 64x64.
        clips: How many.
        chunks: Chunks that each covers.
        held_out: People to test on instead of those to train on.
    """

    recipe: Recipe
    clips: int
    chunks: int
    held_out: bool = False

    @property
    def ids(self) -> Sequence[str]:
        """Names by seed."""
        return [f"tiny-{seed}" for seed in self._seeds]

    @property
    def identity(self) -> dict[str, Any]:
        """The drawing and its length."""
        return {"generator": GENERATOR_VERSION, "spare_frames": SPARE_FRAMES, "side": world.SIDE}

    def footage(self, number: int) -> Footage:
        """Draw a clip, and choose its window and its reference picture by its seed."""
        seed, config = self._seeds[number], self.recipe.stream
        length = num_frames(self.recipe, self.chunks)
        clip = world.draw(seed, float((length + SPARE_FRAMES) / config.frame_rate))
        rng = np.random.default_rng(seed)
        start = int(rng.integers(SPARE_FRAMES + 1))
        spare = int(rng.integers(SPARE_FRAMES))
        reference = spare if spare < start else spare + length
        window = slice(start, start + length)
        return Footage(
            frames_THWC=clip.frames_THWC[window],
            reference_HWC=clip.frames_THWC[reference],
            sound_N=clip.sound_N,
            first_sample=start * config.samples_per_frame,
            prompt=world.PROMPT,
            source=f"mini:{seed}",
            person=f"mini:{seed}",
            truth={"opening": [round(float(each), 4) for each in clip.opening_T[window]]},
        )

    @property
    def _seeds(self) -> range:
        first = world.FIRST_HELD_OUT_SEED if self.held_out else world.FIRST_SEED
        return range(first, first + self.clips)
