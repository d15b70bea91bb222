"""A small painter for still layers: smooth outlines, soft light, hair strokes, on premultiplied RGBA floats.

Positions are in head heights from the middle of the head, y down; a `Canvas` knows how many pixels that is.
Outlines are rasterised by Pillow at several times the resolution and box-reduced, so edges are clean; light and
shade are analytic bells, so they cost no blur.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

# Legend: H canvas rows, W canvas columns, P points.
Floats = NDArray[np.float32]
Points = NDArray[np.float64]
Colour = Sequence[float]

_SUPERSAMPLE = 3
_WIDE, _SMOOTH = 8.0, 8  # lines wider than this many samples, of at least this many points, are drawn as bands


@dataclass(frozen=True)
class Mask:
    """Coverage of part of a canvas: `alpha` [h, w] in 0..1, its first row and column at (top, left)."""

    top: int
    left: int
    alpha: Floats

    def __mul__(self, other: Mask | float) -> Mask:
        """Return the product with a number, or with another mask on their common part."""
        if not isinstance(other, Mask):
            return Mask(self.top, self.left, self.alpha * np.float32(other))
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = max(top, min(self.top + self.alpha.shape[0], other.top + other.alpha.shape[0]))
        right = max(left, min(self.left + self.alpha.shape[1], other.left + other.alpha.shape[1]))
        return Mask(top, left, self._cut(top, left, bottom, right) * other._cut(top, left, bottom, right))

    def _cut(self, top: int, left: int, bottom: int, right: int) -> Floats:
        return self.alpha[top - self.top : bottom - self.top, left - self.left : right - self.left]

    def minus(self, other: Mask) -> Mask:
        """Return what the other mask does not cover."""
        alpha, common = self.alpha.copy(), self * other
        top, left = common.top - self.top, common.left - self.left
        alpha[top : top + common.alpha.shape[0], left : left + common.alpha.shape[1]] -= common.alpha
        return Mask(self.top, self.left, alpha)


def curve(points: ArrayLike, steps: int = 12) -> Points:
    """Return a closed Catmull-Rom spline through the points, `steps` samples per span; [P, 2]."""
    knots = np.asarray(points, dtype=np.float64)
    return _spline(np.concatenate((knots[-1:], knots, knots[:2])), steps)


def line(points: ArrayLike, steps: int = 12) -> Points:
    """Return an open Catmull-Rom spline from the first point to the last; [P, 2]."""
    knots = np.asarray(points, dtype=np.float64)
    padded = np.concatenate((2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]))
    return np.concatenate((_spline(padded, steps), knots[-1:]))


def _spline(padded: Points, steps: int) -> Points:
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[None, :, None]
    a, b, c, d = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    spans = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return spans.reshape(-1, 2)


def moved(points: Points, dx: float, dy: float) -> Points:
    """Return the points shifted by (dx, dy)."""
    shifted: Points = points + np.array([dx, dy])
    return shifted


def mirrored(points: ArrayLike) -> Points:
    """Return a symmetric outline from its right half, listed top to bottom; points at x = 0 are not repeated."""
    right = np.asarray(points, dtype=np.float64)
    left = right[::-1] * (-1.0, 1.0)
    return np.concatenate((right, left[np.abs(left[:, 0]) > 1e-9]))


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Points:
    """Return an ellipse as a polygon; [P, 2]."""
    angle = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    u, v = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack((x + c * u - s * v, y + s * u + c * v), axis=1)


def _band(path: Points, thickness: float) -> Points:
    """Outline of a smooth line drawn thick; Pillow's own wide lines crack where segments are short."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    aside = 0.5 * thickness * along[:, ::-1] * (-1.0, 1.0)
    return np.concatenate((path + aside, (path - aside)[::-1]))


class Canvas:
    """Premultiplied RGBA `pixels` [H, W, 4] float32 over a box of the plane.

    Args:
        box: Left, top, right, bottom in head heights.
        scale: Pixels per head height.
    """

    def __init__(self, box: tuple[float, float, float, float], scale: float) -> None:
        self.box = box
        self.scale = scale
        self.height = max(1, round((box[3] - box[1]) * scale))
        self.width = max(1, round((box[2] - box[0]) * scale))
        self.pixels: Floats = np.zeros((self.height, self.width, 4), dtype=np.float32)

    def _to_pixels(self, points: Points) -> Points:
        return (points - self.box[:2]) * self.scale

    def _window(self, low: Points, high: Points) -> tuple[int, int, int, int]:
        """Top, left, bottom, right of the pixels between two corners, clipped to the canvas."""
        left, top = (int(v) for v in np.clip(np.floor(low) - 1, 0, (self.width, self.height)))
        right, bottom = (int(v) for v in np.clip(np.ceil(high) + 2, 0, (self.width, self.height)))
        return top, left, max(bottom, top), max(right, left)

    def fill(self, outline: ArrayLike, blur: float = 0.0) -> Mask:
        """Return the inside of a polygon, optionally blurred by a Gaussian of `blur` head heights."""
        return self._raster([np.asarray(outline, dtype=np.float64)], 0.0, blur)

    def strokes(self, lines: Iterable[ArrayLike], width: float, blur: float = 0.0) -> Mask:
        """Return polylines drawn `width` head heights thick."""
        return self._raster([np.asarray(line, dtype=np.float64) for line in lines], width, blur)

    def union(self, outlines: list[Points], blur: float = 0.0) -> Mask:
        """Return the inside of any of several polygons."""
        return self._raster(outlines, 0.0, blur)

    def _raster(self, shapes: list[Points], width: float, blur: float) -> Mask:
        if not shapes:
            return Mask(0, 0, np.zeros((0, 0), dtype=np.float32))
        placed = [self._to_pixels(shape) for shape in shapes]
        margin = (0.5 * width + 3.0 * blur) * self.scale
        every = np.concatenate(placed)
        top, left, bottom, right = self._window(every.min(axis=0) - margin, every.max(axis=0) + margin)
        if bottom == top or right == left:
            return Mask(top, left, np.zeros((bottom - top, right - left), dtype=np.float32))
        image = Image.new("L", ((right - left) * _SUPERSAMPLE, (bottom - top) * _SUPERSAMPLE))
        draw = ImageDraw.Draw(image)
        thickness = width * self.scale * _SUPERSAMPLE
        for shape in placed:
            path = (shape - (left, top)) * _SUPERSAMPLE - 0.5
            if thickness == 0.0:
                draw.polygon(path.ravel().tolist(), fill=255)
            elif thickness > _WIDE and len(path) >= _SMOOTH:
                draw.polygon(_band(path, thickness).ravel().tolist(), fill=255)
            else:
                draw.line(path.ravel().tolist(), fill=255, width=max(1, round(thickness)), joint="curve")
        image = image.reduce(_SUPERSAMPLE)
        if blur > 0.0:
            image = image.filter(ImageFilter.GaussianBlur(blur * self.scale))
        return Mask(top, left, np.asarray(image, dtype=np.float32) / np.float32(255.0))

    def glow(self, x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Mask:
        """Return a bell of light: 1 at its centre, exp(-1) at the ellipse (rx, ry), near 0 at twice that."""
        reach = 2.3 * max(rx, ry)
        centre = self._to_pixels(np.array([x, y]))
        top, left, bottom, right = self._window(centre - reach * self.scale, centre + reach * self.scale)
        u, v = self.grid(top, left, bottom, right)
        u, v = u - x, v - y
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        square = ((c * u + s * v) / rx) ** 2 + ((c * v - s * u) / ry) ** 2
        bell = np.maximum(np.exp(-square) - 0.005, 0.0) / 0.995
        return Mask(top, left, bell.astype(np.float32))

    def grid(self, top: int, left: int, bottom: int, right: int) -> tuple[Points, Points]:
        """Return x [1, w] and y [h, 1] of pixel centres in head heights."""
        x: Points = (np.arange(left, right, dtype=np.float64) + 0.5) / self.scale + self.box[0]
        y: Points = (np.arange(top, bottom, dtype=np.float64) + 0.5) / self.scale + self.box[1]
        return x[None, :], y[:, None]

    def ramp(self, mask: Mask, start: tuple[float, float], stop: tuple[float, float]) -> Mask:
        """Return the mask times a smooth ramp that is 0 at `start` and 1 at `stop`."""
        h, w = mask.alpha.shape
        x, y = self.grid(mask.top, mask.left, mask.top + h, mask.left + w)
        dx, dy = stop[0] - start[0], stop[1] - start[1]
        t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
        return Mask(mask.top, mask.left, mask.alpha * (t * t * (3 - 2 * t)).astype(np.float32))

    def _view(self, mask: Mask) -> Floats:
        h, w = mask.alpha.shape
        return self.pixels[mask.top : mask.top + h, mask.left : mask.left + w]

    def paint(self, mask: Mask, colour: Colour, opacity: float = 1.0) -> None:
        """Lay a colour over what is there."""
        view, cover = self._view(mask), mask.alpha[..., None] * np.float32(opacity)
        view *= 1.0 - cover
        view += cover * np.array([*colour, 1.0], dtype=np.float32)

    def tint(self, mask: Mask, colour: Colour, opacity: float = 1.0) -> None:
        """Move what is already painted towards a colour; leaves transparency as it is."""
        view, cover = self._view(mask), mask.alpha[..., None] * np.float32(opacity)
        body = view[..., 3:] * np.array([*colour, 0.0], dtype=np.float32)
        view[..., :3] += cover * (body[..., :3] - view[..., :3])

    def shade(self, mask: Mask, factor: Colour, opacity: float = 1.0) -> None:
        """Multiply what is already painted; a factor below 1 darkens."""
        view, cover = self._view(mask), mask.alpha[..., None] * np.float32(opacity)
        view[..., :3] *= 1.0 + cover * (np.array(factor, dtype=np.float32) - 1.0)

    def solid(self, margin: float) -> Mask:
        """Return 1 where the canvas is opaque for at least `margin` head heights around, else 0."""
        opaque = Image.fromarray((self.pixels[..., 3] > 0.99).astype(np.uint8) * 255)
        core = opaque.filter(ImageFilter.BoxBlur(max(1, round(margin * self.scale))))
        return Mask(0, 0, (np.asarray(core) == 255).astype(np.float32))

    def erase(self, mask: Mask) -> None:
        """Make what is covered transparent."""
        view = self._view(mask)
        view *= 1.0 - mask.alpha[..., None]

    def painted(self) -> Mask:
        """Return the coverage of everything painted so far."""
        return Mask(0, 0, self.pixels[..., 3].copy())

    def image(self, mode: str = "RGBa") -> Image.Image:
        """Return the layer as premultiplied 8-bit pixels (or opaque RGB)."""
        values = np.clip(self.pixels * 255.0 + 0.5, 0, 255).astype(np.uint8)
        if mode == "RGB":
            return Image.fromarray(np.ascontiguousarray(values[..., :3]))
        return Image.frombuffer(mode, (self.width, self.height), values.tobytes(), "raw", mode, 0, 1)
