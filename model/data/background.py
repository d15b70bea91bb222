"""How still the background of a clip is; a network that is shown moving cameras learns to drift.

Others find the background by matting. Here it is what surrounds a person in the middle of a picture: the eighth at the
top, and the eighth at either side down to the middle.
Legend: T frames, H W pixels, C channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BORDER = 8
"""The background is this part of the picture's sides."""
EVERY = 5
"""Frames between those that are compared."""
WINDOW = 7
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_LUMA = np.array([0.299, 0.587, 0.114])

Grey = NDArray[np.float64]


def stillness(frames_THWC: NDArray[np.uint8]) -> float:
    """Return the lowest structural similarity of the background to that of the first frame, 1 if nothing moves.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004, with a window
    of 7x7 equal weights, on luma.
    """
    first_HW = frames_THWC[0] @ _LUMA
    mask_HW = _background(*first_HW.shape)
    return min(
        (float(_similarity(first_HW, frame_HWC @ _LUMA)[mask_HW].mean()) for frame_HWC in frames_THWC[EVERY::EVERY]),
        default=1.0,
    )


def _background(height: int, width: int) -> NDArray[np.bool_]:
    mask_HW = np.zeros((height, width), bool)
    mask_HW[: height // BORDER] = True
    mask_HW[: height // 2, : width // BORDER] = True
    mask_HW[: height // 2, width - width // BORDER :] = True
    return mask_HW


def _similarity(a_HW: Grey, b_HW: Grey) -> Grey:
    """Return the similarity around every pixel."""
    mean_a, mean_b = _mean(a_HW), _mean(b_HW)
    var_a, var_b = _mean(a_HW**2) - mean_a**2, _mean(b_HW**2) - mean_b**2
    covariance = _mean(a_HW * b_HW) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    similarity: Grey = numerator / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))
    return similarity


def _mean(values_HW: Grey) -> Grey:
    mean_HW: Grey = ndimage.uniform_filter(values_HW, WINDOW)
    return mean_HW
