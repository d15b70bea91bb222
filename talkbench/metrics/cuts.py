"""Cuts between scenes: where the picture changes at once in hue, saturation and brightness.

The rule of PySceneDetect's ContentDetector, which the official sync pipeline asks (Breakthrough/PySceneDetect 0.6:
mean absolute difference of 8-bit hue, saturation and value, averaged over the three, 27 or more, at least 15 frames
after the last cut), on frames of about 256 columns. Talking heads have none; compilations do.

Legend: H, W rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talkbench.media.clip import Frames
from talkbench.metrics.crops import resize


@dataclass(frozen=True)
class CutParams:
    """When a frame begins a new scene.

    Attributes:
        threshold: Least mean change in 8-bit levels.
        min_scene_frames: Least distance from the cut before, or the start.
        columns_px: Wider frames are reduced to about this width first.
    """

    threshold: float = 27.0
    min_scene_frames: int = 15
    columns_px: int = 256


def hue_saturation_value(image_HWC: Frames) -> NDArray[np.float32]:
    """Return OpenCV's 8-bit HSV without its last rounding: hue 0 to 180, saturation and value 0 to 255. [H, W, 3]."""
    rgb = image_HWC.astype(np.float32)
    value, least = rgb.max(axis=-1), rgb.min(axis=-1)
    spread = value - least
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    divisor = np.where(spread == 0, np.float32(1), spread)
    sector = np.where(
        value == red,
        (green - blue) / divisor,
        np.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = np.where(spread == 0, np.float32(0), (sector * 30) % 180)
    saturation = 255 * spread / np.where(value == 0, np.float32(1), value)
    return np.stack([hue, saturation, value], axis=-1).astype(np.float32)


class Cuts:
    """Looks at every frame once, in order."""

    def __init__(self, params: CutParams = CutParams()) -> None:
        self._params = params
        self._previous: NDArray[np.float32] | None = None
        self._since_cut = 0

    def begins_scene(self, frame_HWC: Frames) -> bool:
        """Return whether this frame comes after a cut; the first frame of all does not."""
        height, width = frame_HWC.shape[:2]
        factor = max(1, width // self._params.columns_px)
        small = resize(frame_HWC, max(1, height // factor), width // factor) if factor > 1 else frame_HWC
        now = hue_saturation_value(small)
        before, self._previous = self._previous, now
        if before is None:
            return False
        self._since_cut += 1
        change = float(np.abs(now - before).mean())
        if change < self._params.threshold or self._since_cut < self._params.min_scene_frames:
            return False
        self._since_cut = 0
        return True
