"""Cutting faces out of frames as the official sync pipeline cuts them, to the pixel.

`resize` is OpenCV's bilinear resize of 8-bit images in its own fixed-point arithmetic; equal to cv2 4.14 and 5.0 in
every pixel (tested), so that the core needs no OpenCV.

Legend: H, W rows and columns, T frames; boxes_T4 are left, top, right, bottom in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from talkbench.media.clip import Frames

Boxes = NDArray[np.float64]
CROP_PX = 224
GREY = 110
_FRACTION_BITS = 11


def _taps(size: int, source: int, scale: float, *, at_edges: bool) -> tuple[NDArray[np.int32], ...]:
    """Return for each output index the two source indices and their weights in 1/2048.

    Columns outside the image take the edge pixel whole, rows clip the index but keep both weights: OpenCV's own
    asymmetry, visible in single levels.
    """
    at = ((np.arange(size) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int32)
    share = at - first.astype(np.float32)
    if at_edges:
        share[(first < 0) | (first >= source - 1)] = 0
    one = np.float32(1 << _FRACTION_BITS)
    after = np.rint(share * one).astype(np.int32)
    before = np.rint((np.float32(1) - share) * one).astype(np.int32)
    return np.clip(first, 0, source - 1), np.clip(first + 1, 0, source - 1), before, after


class _Plan(NamedTuple):
    """Where each output number comes from. Column and channel are one axis: numpy is slow on an innermost one of three.

    Attributes:
        used: Source rows that are needed; `upper` and `lower` count among them.
        left, right, weight_left, weight_right: Per output column and channel.
        upper, lower, weight_upper, weight_lower: Per output row.
    """

    used: NDArray[np.int32]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    weight_left: NDArray[np.int32]
    weight_right: NDArray[np.int32]
    upper: NDArray[np.int64]
    lower: NDArray[np.int64]
    weight_upper: NDArray[np.int32]
    weight_lower: NDArray[np.int32]


@lru_cache(maxsize=8)
def _plan(height: int, width: int, rows: int, columns: int, depth: int, scale: float | None) -> _Plan:
    """Return the plan of a resizing; all whole frames of a clip share one."""
    left, right, weight_left, weight_right = _taps(width, columns, scale or columns / width, at_edges=True)
    upper, lower, weight_upper, weight_lower = _taps(height, rows, scale or rows / height, at_edges=False)
    used, place = np.unique(np.concatenate([upper, lower]), return_inverse=True)
    channel = np.tile(np.arange(depth), width)
    return _Plan(
        used,
        np.repeat(left, depth) * depth + channel,
        np.repeat(right, depth) * depth + channel,
        np.repeat(weight_left, depth),
        np.repeat(weight_right, depth),
        place[:height],
        place[height:],
        weight_upper[:, None],
        weight_lower[:, None],
    )


def resize(image_HWC: Frames, height: int, width: int, scale: float | None = None) -> Frames:
    """Return an image at another size: bilinear without antialiasing, as `cv2.resize` does by default.

    Args:
        image_HWC: uint8.
        height: Rows wanted.
        width: Columns wanted.
        scale: Source pixels per output pixel on both axes; None for the quotient of the sizes. OpenCV uses 1 / factor
            when it is given a factor instead of a size, which differs where the size had to be rounded.
    """
    rows, columns, depth = image_HWC.shape
    taps = _plan(height, width, rows, columns, depth, scale)
    flat = image_HWC.reshape(rows, columns * depth)[taps.used]
    across = flat.take(taps.left, axis=1) * taps.weight_left
    across += flat.take(taps.right, axis=1) * taps.weight_right
    across >>= 4
    mixed = across[taps.upper] * taps.weight_upper
    mixed >>= 16
    below = across[taps.lower] * taps.weight_lower
    below >>= 16
    mixed += below
    mixed += 2
    mixed >>= 2
    made: Frames = mixed.astype(np.uint8).reshape(height, width, depth)
    return made


def quarter(image_HWC: Frames, factor: float = 0.25) -> Frames:
    """Return the image reduced by `factor`; sizes round half to even, as OpenCV's do."""
    height, width = (max(1, round(side * factor)) for side in image_HWC.shape[:2])
    return resize(image_HWC, height, width, 1 / factor)


@dataclass(frozen=True)
class Square:
    """Where to cut: centre and half side of a face, smoothed over time.

    Attributes:
        x: Column of the centre.
        y: Row of the centre.
        half_px: Half of the longer side of the box.
    """

    x: float
    y: float
    half_px: float


def square(box_4: Boxes) -> Square:
    """Return the square around a box: same centre, the longer side."""
    left, top, right, bottom = (float(value) for value in box_4)
    return Square((left + right) / 2, (top + bottom) / 2, max(bottom - top, right - left) / 2)


def median(squares: list[Square | None]) -> Square:
    """Return the median of each number over a window of squares; None stands for a place outside the track, a zero.

    The zeros are those of scipy.signal.medfilt: within 6 frames of an end of the track they pull the crop to the
    upper left, as in the official pipeline.
    """
    numbers = np.array([(s.x, s.y, s.half_px) if s is not None else (0.0, 0.0, 0.0) for s in squares])
    x, y, half_px = np.median(numbers, axis=0)
    return Square(float(x), float(y), float(half_px))


def crop(frame_HWC: Frames, at: Square, margin: float) -> Frames:
    """Return the face with its margins, [224, 224, 3]; outside the frame is grey 110.

    `margin` of the half side is added on the left, on the right and twice below, none above: the framing SyncNet was
    trained on (joonson/syncnet_python: run_pipeline.py, `crop_scale`).
    """
    s = at.half_px
    pad = int(s * (1 + 2 * margin))
    height, width = frame_HWC.shape[:2]
    y, x = at.y + pad, at.x + pad
    top, bottom = int(y - s), int(y + s * (1 + 2 * margin))
    left, right = int(x - s * (1 + margin)), int(x + s * (1 + margin))
    # As slicing the padded frame would: nothing beyond the padding exists.
    top, left = max(0, top), max(0, left)
    bottom, right = min(bottom, height + 2 * pad), min(right, width + 2 * pad)
    if bottom <= top or right <= left:
        # A median over zeros beyond the end of a short track: no face there, but the frame keeps its place.
        return np.full((CROP_PX, CROP_PX, 3), GREY, np.uint8)
    cut = np.full((bottom - top, right - left, 3), GREY, np.uint8)
    rows = slice(max(top, pad), min(bottom, pad + height))
    columns = slice(max(left, pad), min(right, pad + width))
    if rows.start < rows.stop and columns.start < columns.stop:
        cut[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = frame_HWC[
            rows.start - pad : rows.stop - pad, columns.start - pad : columns.stop - pad
        ]
    return resize(cut, CROP_PX, CROP_PX)
