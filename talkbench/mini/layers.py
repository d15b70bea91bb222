"""Moving painted layers onto a picture: mesh warps and shifts of premultiplied textures, by Pillow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from talkbench.mini.canvas import Canvas
from talkbench.mini.rig import BROW_ROWS, HIDDEN_BOX, JAW_COLUMNS, JAW_ROWS, Layout, Rig, face_shift

Floats = NDArray[np.float64]
Lines = NDArray[np.int64]
Quad = tuple[tuple[int, int, int, int], tuple[float, ...]]

_MESH = Image.Transform.MESH
_BILINEAR = Image.Resampling.BILINEAR


@dataclass(frozen=True)
class Layer:
    """A texture over part of the head's or body's plane.

    Attributes:
        image: Premultiplied RGBA.
        count: Number of pixels above and left of each corner that are not transparent; [height + 1, width + 1].
        left, top, right, bottom: What it covers, in head heights.
        scale: Texture pixels per head height.
    """

    image: Image.Image
    count: NDArray[np.int64]
    left: float
    top: float
    right: float
    bottom: float
    scale: float

    @classmethod
    def of(cls, canvas: Canvas) -> Layer:
        """Return the painted part of a canvas with a transparent border."""
        painted = canvas.pixels[..., 3] > 0.0
        rows, columns = (np.flatnonzero(painted.any(axis=axis)) for axis in (1, 0))
        x0, x1 = max(0, int(columns[0]) - 2), min(canvas.width, int(columns[-1]) + 3)
        y0, y1 = max(0, int(rows[0]) - 2), min(canvas.height, int(rows[-1]) + 3)
        left, top = canvas.box[0] + x0 / canvas.scale, canvas.box[1] + y0 / canvas.scale
        right, bottom = canvas.box[0] + x1 / canvas.scale, canvas.box[1] + y1 / canvas.scale
        image = canvas.image().crop((x0, y0, x1, y1))
        solid = np.asarray(image)[..., 3] > 0
        count = np.pad(solid.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        return cls(image, count, left, top, right, bottom, canvas.scale)

    def extent(self, rig: Rig) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom in pixels of a box that holds the layer as the rig moves it."""
        x, y = np.array([self.left, self.right, self.left, self.right]), np.repeat([self.top, self.bottom], 2)
        px, py = rig.to_pixels(x, y)
        margin = 0.02 * rig.layout.scale  # edges bulge between the corners by less than this
        left, right = float(px.min()) - margin, float(px.max()) + margin
        return left, float(py.min()) - margin, right, float(py.max()) + margin

    def painted_in(self, x: Floats, y: Floats) -> list[bool]:
        """Return, for the cells between nodes x, y [rows, columns] in texture pixels, whether anything is there."""
        h, w = self.count.shape
        (x0, x1), (y0, y1) = _extremes(x, w), _extremes(y, h)
        inside = self.count[y1, x1] - self.count[y0, x1] - self.count[y1, x0] + self.count[y0, x0]
        seen: list[bool] = (inside > 0).ravel().tolist()
        return seen


def _cells(nodes: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Corners of the cells between nodes: north-west, then anticlockwise."""
    return nodes[:-1, :-1], nodes[1:, :-1], nodes[1:, 1:], nodes[:-1, 1:]


def _extremes(nodes: Floats, limit: int) -> tuple[Lines, Lines]:
    corners = np.stack(_cells(nodes))
    low, high = corners.min(axis=0) - 2.0, corners.max(axis=0) + 2.0
    return np.clip(low, 0, limit - 1).astype(np.int64), np.clip(high, 0, limit - 1).astype(np.int64)


def _mesh(columns: Lines, rows: Lines, x: Floats, y: Floats) -> list[Quad]:
    """Cells for Pillow: target rectangles and their source corners, from node positions x, y [rows, columns]."""
    source = np.concatenate(_cells(np.stack((x, y), axis=-1)), axis=-1).reshape(-1, 8).tolist()
    xs, ys = columns.tolist(), rows.tolist()
    boxes = [(xs[j], ys[i], xs[j + 1], ys[i + 1]) for i in range(len(ys) - 1) for j in range(len(xs) - 1)]
    return [(box, tuple(quad)) for box, quad in zip(boxes, source, strict=True)]


def _lines(low: int, high: int, inner: Lines) -> Lines:
    """Both ends and the lines between them, increasing."""
    return np.unique(np.concatenate(([low, high], inner[(inner > low) & (inner < high)])))


def paste_head(picture: Image.Image, layer: Layer, rig: Rig, opening: float) -> None:
    """Lay the head over the picture as the rig's pose places it, with its jaw and brows moved."""
    _paste(picture, layer, rig, rig.columns(JAW_COLUMNS), rig.rows((*BROW_ROWS, *JAW_ROWS)), opening)


def paste_back(picture: Image.Image, layer: Layer, rig: Rig) -> None:
    """Lay what is behind the head over the picture."""
    _paste(picture, layer, rig, rig.columns(HIDDEN_BOX[::2]), rig.rows((*HIDDEN_BOX[1::2], 0.80)), None)


def _paste(picture: Image.Image, layer: Layer, rig: Rig, columns: Lines, rows: Lines, opening: float | None) -> None:
    left, top, right, bottom = layer.extent(rig)
    if opening is not None:
        bottom = max(bottom, float(rows[-1]))  # the chin moves beyond the layer at rest
    x0, x1 = max(0, int(left) - 1), min(picture.width, int(right) + 2)
    y0, y1 = max(0, int(top) - 1), min(picture.height, int(bottom) + 2)
    if x1 <= x0 or y1 <= y0:
        return
    columns, rows = _lines(x0, x1, columns), _lines(y0, y1, rows)
    x, y = rig.to_head(*np.meshgrid(columns.astype(np.float64), rows.astype(np.float64)))
    if opening is not None:
        y = y - face_shift(x, y, opening, rig.pose.brow)
    x, y = (x - layer.left) * layer.scale, (y - layer.top) * layer.scale
    mesh = _mesh(columns - x0, rows - y0, x, y)
    mesh = [cell for cell, seen in zip(mesh, layer.painted_in(x, y), strict=True) if seen]
    moved = layer.image.transform((x1 - x0, y1 - y0), _MESH, mesh, _BILINEAR)
    picture.paste(moved, (x0, y0), moved)  # Pillow blends a premultiplied image that is its own mask


def paste_body(picture: Image.Image, layer: Layer, layout: Layout, shift_x: float, shift_y: float) -> None:
    """Lay a layer of the picture's own scale over it, shifted by fractions of a pixel and not turned."""
    left, above = (layer.left + shift_x) * layout.scale + layout.x, (layer.top + shift_y) * layout.scale + layout.y
    x0, y0 = max(0, int(np.ceil(left))), max(0, int(np.ceil(above)))
    column, row = int(np.floor(x0 - left)), int(np.floor(y0 - above))  # the layer's pixel at the picture's x0, y0
    width = min(picture.width - x0, layer.image.width - column - 1)
    height = min(picture.height - y0, layer.image.height - row - 1)
    if width <= 0 or height <= 0:
        return

    def line(at: int) -> Image.Image:
        pieces = [layer.image.crop((c, at, c + width, at + height)) for c in (column, column + 1)]
        return Image.blend(pieces[0], pieces[1], x0 - left - column)

    moved = Image.blend(line(row), line(row + 1), y0 - above - row)
    picture.paste(moved, (x0, y0), moved)
