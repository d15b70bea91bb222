"""What runners know about a clip: facts known before the first frame, and batches of frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from talkbench.schema import Timing, Truth

T = TypeVar("T")

Frames = NDArray[np.uint8]
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class ClipFacts:
    """Known before the first frame is decoded.

    Attributes:
        width: Pixels after display rotation.
        height: Pixels after display rotation.
        frame_rate: Nominal frames per second: the file's own, or the rate a runner asked for.
        has_audio: Whether a sound track exists.
        truth: Ground truth of a synthetic clip, if it has a sidecar.
        timing: Timing events of the system that made it, if it has a sidecar.
        path: The file, for runners that hand it to another program.
    """

    width: int
    height: int
    frame_rate: Fraction
    has_audio: bool
    truth: Truth | None = None
    timing: Timing | None = None
    path: Path | None = None


@dataclass
class FrameBatch:
    """Consecutive frames of one clip.

    Attributes:
        frames_THWC: uint8 RGB, T >= 1. Shared between runners: read, never write.
        first_frame: Index of the first frame in the clip.
        seconds_T: Display time of each frame; the clip's first frame is at 0.
    """

    frames_THWC: Frames
    first_frame: int
    seconds_T: NDArray[np.float64]
    _shared: dict[str, object] = field(default_factory=dict)

    def share(self, name: str, make: Callable[[Frames], T]) -> T:
        """Return `make(frames_THWC)`, computed once for all runners that ask for `name`."""
        if name not in self._shared:
            self._shared[name] = make(self.frames_THWC)
        return self._shared[name]  # type: ignore[return-value]
