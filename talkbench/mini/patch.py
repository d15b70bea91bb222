"""Painting straight into a frame: antialiased shapes given by distances, in the local coordinates of a feature."""

from __future__ import annotations

from copy import copy
from functools import lru_cache
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

# Legend: H, W frame size; h, w patch size.
Floats = NDArray[np.float32]
Colour = tuple[float, float, float]


def clamp(values: Floats) -> Floats:
    """Limit values to 0..1, in place."""
    np.maximum(values, np.float32(0.0), out=values)
    np.minimum(values, np.float32(1.0), out=values)
    return values


@lru_cache(maxsize=1024)
def _planes(colour: Colour, scale: float) -> Floats:
    planes = np.array([[[scale * value]] for value in colour], dtype=np.float32)
    planes.setflags(write=False)
    return planes


class Patch:
    """A rectangle of a frame with local coordinates u (right) and v (down) in head heights, float32 [h, w].

    Paint with `over` and `shade`, then call `commit`. An off-frame patch has size 0 and is harmless.

    Args:
        frame_HW3: uint8 RGB frame; changed by `commit`.
        origin: Pixel position of u = v = 0.
        matrix: 2 x 2 map from (u, v) to pixels.
        box: Left, top, right, bottom to cover, in head heights.
    """

    def __init__(
        self,
        frame_HW3: NDArray[np.uint8],
        origin: NDArray[np.float64],
        matrix: NDArray[np.float64],
        box: tuple[float, float, float, float],
    ) -> None:
        (a, b), (c, d) = matrix.tolist()
        ox, oy = origin.tolist()
        corners = [(u, v) for u in box[::2] for v in box[1::2]]
        xs, ys = [ox + a * u + b * v for u, v in corners], [oy + c * u + d * v for u, v in corners]
        height, width = frame_HW3.shape[:2]
        self.x0, self.x1 = max(0, floor(min(xs))), min(width, ceil(max(xs)) + 1)
        self.y0, self.y1 = max(0, floor(min(ys))), min(height, ceil(max(ys)) + 1)
        self.x1, self.y1 = max(self.x0, self.x1), max(self.y0, self.y1)
        area = a * d - b * c
        x = np.arange(self.x0, self.x1, dtype=np.float32) + np.float32(0.5 - ox)
        y = (np.arange(self.y0, self.y1, dtype=np.float32) + np.float32(0.5 - oy))[:, None]
        self.u: Floats = x * np.float32(d / area) - y * np.float32(b / area)
        self.v: Floats = y * np.float32(a / area) - x * np.float32(c / area)
        self.pixels_per_unit = np.float32(abs(area) ** 0.5)
        self._frame = frame_HW3
        view = frame_HW3[self.y0 : self.y1, self.x0 : self.x1]
        self._rgb: Floats = np.ascontiguousarray(view.transpose(2, 0, 1), dtype=np.float32)

    @property
    def empty(self) -> bool:
        """Whether the patch lies outside the frame."""
        return self.u.size == 0

    def window(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Patch:
        """Return the part between two corners (u, v), sharing pixels; for patches whose axes are the picture's."""
        part = copy(self)
        columns, rows = self.u[0] if self.u.size else self.u.ravel(), self.v[:, 0] if self.v.size else self.v.ravel()
        x = slice(*np.searchsorted(columns, (low[0], high[0])).tolist())
        y = slice(*np.searchsorted(rows, (low[1], high[1])).tolist())
        part.u, part.v, part._rgb = self.u[y, x], self.v[y, x], self._rgb[:, y, x]
        return part

    def inside(self, distance: Floats) -> Floats:
        """Return coverage from a signed distance in head heights, negative inside; [h, w] in 0..1."""
        return clamp(np.float32(0.5) - distance * self.pixels_per_unit)

    def over(self, cover: Floats, colour: Colour, opacity: float = 1.0) -> None:
        """Lay a colour (0..1) over the patch."""
        if opacity != 1.0:
            cover = cover * np.float32(opacity)
        self._rgb += (_planes(colour, 255.0) - self._rgb) * cover

    def over_graded(self, cover: Floats, colour: Colour, light: Floats) -> None:
        """Lay a colour over the patch, its brightness multiplied by `light` per pixel."""
        self._rgb += (_planes(colour, 255.0) * light - self._rgb) * cover

    def over_pixels(self, cover: Floats, rgb_3hw: Floats) -> None:
        """Lay a colour per pixel (0..255) over the patch."""
        self._rgb += (rgb_3hw - self._rgb) * cover

    def shade(self, cover: Floats, factor: Colour, opacity: float = 1.0) -> None:
        """Multiply the patch by a factor where covered."""
        self._rgb *= np.float32(1.0) + cover * (_planes(factor, opacity) - np.float32(opacity))

    def commit(self) -> None:
        """Write the patch back to its frame, rounded."""
        values = np.minimum(np.maximum(self._rgb, 0.0) + np.float32(0.5), np.float32(255.0)).astype(np.uint8)
        self._frame[self.y0 : self.y1, self.x0 : self.x1] = values.transpose(1, 2, 0)


class Profile:
    """Curves v = f(u) tabulated once per frame and looked up for every pixel of a patch.

    Args:
        patch: The patch to draw on.
        u: Where each pixel reads the curves, [h, w]; the patch's own u, or a mirrored one for pairs of features.
        half_width: Curves are tabulated for u within +-half_width; pixels beyond use the last value.
    """

    SAMPLES = 512

    def __init__(self, patch: Patch, u: Floats, half_width: float) -> None:
        self.u = self.places(half_width)
        place = u * np.float32((self.SAMPLES - 1) / (2 * half_width))
        place += np.float32(0.5 * self.SAMPLES)
        self._index = place.clip(0, self.SAMPLES - 1).astype(np.intp)
        self._reach = 4 * half_width / (self.SAMPLES - 1)
        self._patch = patch

    @classmethod
    @lru_cache(maxsize=8)
    def places(cls, half_width: float) -> NDArray[np.float64]:
        """Return the u at which curves are tabulated; read-only."""
        places = np.linspace(-half_width, half_width, cls.SAMPLES)
        places.setflags(write=False)
        return places

    def spread(self, table: NDArray[np.float64]) -> Floats:
        """Return the table's value at every pixel, [h, w]."""
        looked_up: Floats = table.astype(np.float32).take(self._index)
        return looked_up

    def below(self, table: NDArray[np.float64]) -> Floats:
        """Return coverage of the pixels below the curve (greater v), antialiased along its normal."""
        slope = np.zeros_like(table)
        slope[1:-1] = (table[2:] - table[:-2]) * (1.0 / self._reach)
        steep = self._patch.pixels_per_unit / np.sqrt(1.0 + slope * slope)
        return clamp(self._patch.v * self.spread(steep) + self.spread(0.5 - table * steep))

    def between(self, upper: NDArray[np.float64], lower: NDArray[np.float64]) -> Floats:
        """Return coverage of the pixels between two curves; none where they meet."""
        return clamp(self.below(upper) - self.below(lower))
