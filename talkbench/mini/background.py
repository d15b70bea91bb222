"""Rooms behind the speaker, painted once per clip and slightly out of focus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFilter

from talkbench.mini.canvas import Canvas, Mask, curve, ellipse, line, mirrored, moved
from talkbench.mini.identity import Colour, Identity, mix

_WHITE: Colour = (1.0, 1.0, 1.0)
_NIGHT: Colour = (0.06, 0.07, 0.14)
_WOOD: Colour = (0.46, 0.32, 0.22)
_BOOKS: tuple[Colour, ...] = (
    (0.62, 0.24, 0.22), (0.22, 0.36, 0.46), (0.78, 0.62, 0.34), (0.30, 0.42, 0.32), (0.86, 0.82, 0.74),
    (0.40, 0.28, 0.42), (0.18, 0.20, 0.28), (0.80, 0.46, 0.30),
)  # fmt: skip
_LEAF: Colour = (0.24, 0.44, 0.27)


def paint_background(identity: Identity, height: int, width: int) -> NDArray[np.uint8]:
    """Return the room as uint8 RGB [height, width, 3].

    Coordinates inside are in picture heights: x from 0 to width / height, y from 0 to 1.
    """
    canvas = Canvas((0.0, 0.0, width / height, 1.0), float(height))
    canvas.pixels = np.ones((height, width, 4), dtype=np.float32)
    canvas.height, canvas.width = height, width
    rng = np.random.default_rng([identity.seed % 2**63, 41])
    _ROOMS[identity.background](canvas, identity, rng, width / height)
    image = canvas.image("RGB").filter(ImageFilter.GaussianBlur(0.006 * height))
    light = canvas.glow(0.5 * width / height, 0.40, 0.75 * max(1.0, width / height), 0.85).alpha[..., None]
    lit = np.asarray(image, dtype=np.float32) * (0.74 + 0.26 * light)
    # half a level of noise hides the steps of smooth gradients
    lit += rng.uniform(0.0, 1.0, size=(height, width, 1)).astype(np.float32)
    return np.clip(lit, 0.0, 255.0).astype(np.uint8)


def _all(canvas: Canvas) -> Mask:
    return Mask(0, 0, np.ones((canvas.height, canvas.width), dtype=np.float32))


def _wash(canvas: Canvas, top: Colour, bottom: Colour) -> None:
    canvas.paint(_all(canvas), top)
    canvas.paint(canvas.ramp(_all(canvas), (0.0, 0.0), (0.0, 1.0)), bottom)


def _box(canvas: Canvas, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> Mask:
    mask = canvas.fill([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    canvas.paint(mask, colour)
    return mask


def _cast(canvas: Canvas, x0: float, y0: float, x1: float, y1: float, opacity: float) -> None:
    shadow = canvas.fill([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], blur=0.012)
    canvas.shade(shadow, (0.45, 0.42, 0.42), opacity)


def _gradient(canvas: Canvas, identity: Identity, _: np.random.Generator, aspect: float) -> None:
    room = identity.room
    _wash(canvas, mix(room, _WHITE, 0.30), mix(room, identity.accent, 0.30))
    canvas.paint(canvas.ramp(_all(canvas), (0.0, 0.2), (aspect, 1.0)), mix(room, (0.2, 0.2, 0.3), 0.35), 0.45)
    canvas.paint(canvas.glow(0.5 * aspect + 0.2 * identity.light, 0.30, 0.45, 0.40), mix(room, _WHITE, 0.65), 0.6)


def _studio(canvas: Canvas, identity: Identity, rng: np.random.Generator, aspect: float) -> None:
    dark = mix(identity.room, (0.10, 0.11, 0.14), 0.72)
    _wash(canvas, dark, mix(dark, (0.0, 0.0, 0.0), 0.35))
    canvas.paint(canvas.glow(0.5 * aspect, 0.42, 0.46, 0.44), mix(identity.room, dark, 0.25), 0.85)
    for _ in range(26):
        x, y, r = rng.uniform(0, aspect), rng.uniform(0, 1), rng.uniform(0.05, 0.22)
        cloud = canvas.glow(x, y, r, 0.7 * r, rng.uniform(0, 180))
        canvas.paint(cloud, mix(dark, _WHITE, rng.uniform(0.0, 0.25)), 0.10)


def _wall(canvas: Canvas, identity: Identity, rng: np.random.Generator, aspect: float) -> None:
    room = identity.room
    _wash(canvas, mix(room, _WHITE, 0.18), mix(room, (0.3, 0.25, 0.25), 0.12))
    _box(canvas, 0.0, 0.66, aspect, 1.0, mix(room, _WHITE, 0.45))
    _box(canvas, 0.0, 0.645, aspect, 0.668, mix(room, _WHITE, 0.62))
    _cast(canvas, 0.0, 0.668, aspect, 0.682, 0.30)
    for x in np.arange(0.5 * aspect - 2.05, aspect, 0.41):
        panel = canvas.strokes([[(x + 0.05, 1.2), (x + 0.05, 0.73), (x + 0.36, 0.73), (x + 0.36, 1.2)]], 0.008)
        canvas.shade(panel, (0.78, 0.76, 0.76), 0.8)
    for x, y, w, h in ((0.10, 0.13, 0.20, 0.26), (aspect - 0.30, 0.10, 0.22, 0.18), (aspect - 0.26, 0.34, 0.16, 0.20)):
        _picture(canvas, rng, x, y, w, h)


def _picture(canvas: Canvas, rng: np.random.Generator, x: float, y: float, w: float, h: float) -> None:
    _cast(canvas, x + 0.008, y + 0.015, x + w + 0.012, y + h + 0.018, 0.45)
    _box(canvas, x, y, x + w, y + h, _WOOD)
    _box(canvas, x + 0.012, y + 0.012, x + w - 0.012, y + h - 0.012, (0.94, 0.93, 0.90))
    inner = _box(canvas, x + 0.03, y + 0.03, x + w - 0.03, y + h - 0.03, _BOOKS[rng.integers(len(_BOOKS))])
    for _ in range(3):
        cx, cy, r = x + rng.uniform(0.2, 0.8) * w, y + rng.uniform(0.3, 0.8) * h, rng.uniform(0.2, 0.4) * w
        canvas.paint(canvas.fill(ellipse(cx, cy, r, r * 0.8)) * inner, _BOOKS[rng.integers(len(_BOOKS))], 0.8)


def _shelf(canvas: Canvas, identity: Identity, rng: np.random.Generator, aspect: float) -> None:
    room = identity.room
    _wash(canvas, mix(room, (0.25, 0.2, 0.18), 0.45), mix(room, (0.2, 0.16, 0.15), 0.60))
    pitch = 0.265
    for base in np.arange(0.20, 1.30, pitch):
        x = -rng.uniform(0.0, 0.05)
        while x < aspect:
            x += _object(canvas, rng, x, base) if rng.random() < 0.10 else _book(canvas, rng, x, base)
        _box(canvas, 0.0, base, aspect, base + 0.024, mix(_WOOD, _WHITE, 0.12))
        _cast(canvas, 0.0, base + 0.024, aspect, base + 0.055, 0.65)
    for x in (0.02 * aspect, 0.5 * aspect, 0.98 * aspect):
        _box(canvas, x - 0.014, 0.0, x + 0.014, 1.0, mix(_WOOD, (0.0, 0.0, 0.0), 0.12))
    canvas.paint(_all(canvas), room, 0.16)


def _book(canvas: Canvas, rng: np.random.Generator, x: float, base: float) -> float:
    """Paint one book standing on the shelf; return the room it takes."""
    w, h = rng.uniform(0.022, 0.052), rng.uniform(0.13, 0.205)
    colour = mix(_BOOKS[rng.integers(len(_BOOKS))], (0.5, 0.45, 0.4), rng.uniform(0.0, 0.3))
    lean = rng.uniform(0.02, 0.05) if rng.random() < 0.08 else 0.0
    spine = canvas.fill([(x, base), (x + w, base), (x + w + lean, base - h), (x + lean, base - h)])
    canvas.paint(spine, colour)
    canvas.shade(canvas.ramp(spine, (x + 0.3 * w, base), (x + w, base)), (0.62, 0.60, 0.60), 0.8)
    for place in (0.18, 0.80):
        y = base - place * h
        band = canvas.fill([(x, y), (x + w, y), (x + w, y - 0.010), (x, y - 0.010)])
        canvas.tint(band * spine, mix(colour, (0.95, 0.88, 0.66), 0.6), 0.7)
    return float(w + lean + 0.002)


def _object(canvas: Canvas, rng: np.random.Generator, x: float, base: float) -> float:
    """Paint a vase with a little light on it; return the room it takes."""
    colour = _BOOKS[rng.integers(len(_BOOKS))]
    right = [(0.020, -0.15), (0.015, -0.12), (0.045, -0.05), (0.025, 0.0)]
    vase = canvas.fill(moved(curve(mirrored(right)), x + 0.07, base))
    canvas.paint(vase, mix(colour, _WHITE, 0.25))
    canvas.shade(canvas.ramp(vase, (x + 0.06, base), (x + 0.12, base)), (0.6, 0.58, 0.6), 0.8)
    canvas.tint(canvas.glow(x + 0.055, base - 0.07, 0.010, 0.03), _WHITE, 0.5)
    return 0.14


def _window(canvas: Canvas, identity: Identity, rng: np.random.Generator, aspect: float) -> None:
    room = identity.room
    _wash(canvas, mix(room, _WHITE, 0.10), mix(room, (0.3, 0.26, 0.26), 0.20))
    x0, x1 = (0.04 * aspect, 0.62 * aspect) if identity.light < 0 else (0.38 * aspect, 0.96 * aspect)
    y0, y1 = 0.06, 0.74
    _box(canvas, x0 - 0.03, y0 - 0.03, x1 + 0.03, y1 + 0.03, (0.93, 0.92, 0.90))
    view = _box(canvas, x0, y0, x1, y1, (0.62, 0.80, 0.93))
    canvas.paint(canvas.ramp(view, (0.0, y0), (0.0, y1)), (0.93, 0.94, 0.92))
    for _ in range(6):
        cx, cy, r = rng.uniform(x0, x1), rng.uniform(y0, 0.40), rng.uniform(0.05, 0.12)
        canvas.paint(canvas.glow(cx, cy, r, 0.35 * r) * view, _WHITE, 0.75)
    _skyline(canvas, rng, view, x0, x1, y1)
    middle = 0.5 * (x0 + x1)
    _box(canvas, middle - 0.011, y0, middle + 0.011, y1, (0.93, 0.92, 0.90))
    _box(canvas, x0, 0.36, x1, 0.378, (0.93, 0.92, 0.90))
    _box(canvas, x0 - 0.05, y1 + 0.02, x1 + 0.05, y1 + 0.05, (0.96, 0.95, 0.93))
    _cast(canvas, x0 - 0.05, y1 + 0.05, x1 + 0.05, y1 + 0.085, 0.40)
    for edge in (x0 - 0.06, x1 - 0.06):
        _curtain(canvas, rng, edge, mix(identity.accent, _WHITE, 0.62))


def _skyline(canvas: Canvas, rng: np.random.Generator, view: Mask, x0: float, x1: float, base: float) -> None:
    for layer, (tone, top) in enumerate((((0.70, 0.80, 0.86), 0.40), ((0.52, 0.64, 0.70), 0.50))):
        x = x0 - 0.05
        while x < x1:
            w, y = rng.uniform(0.05, 0.11), top + rng.uniform(0.0, 0.14)
            canvas.paint(canvas.fill([(x, base), (x, y), (x + w, y), (x + w, base)]) * view, tone)
            x += w + (0.015 if layer else 0.0)
    tops = [(x0 - 0.1, -0.10), (x0 + 0.15, -0.14), (0.5 * (x0 + x1), -0.09), (x1, -0.13), (x1 + 0.1, -0.08)]
    land = np.concatenate((moved(line(tops), 0.0, base), [(x1 + 0.1, base + 0.1), (x0 - 0.1, base + 0.1)]))
    canvas.paint(canvas.fill(land) * view, (0.45, 0.60, 0.42))


def _curtain(canvas: Canvas, rng: np.random.Generator, x: float, colour: Colour) -> None:
    cloth = _box(canvas, x, 0.0, x + 0.13, 1.0, colour)
    places = x + np.arange(0.012, 0.13, 0.026)
    folds = [line([(k, 0.0), (k + rng.uniform(-0.006, 0.006), 0.5), (k, 1.0)]) for k in places]
    canvas.shade(canvas.strokes(folds, 0.010, blur=0.005) * cloth, (0.72, 0.70, 0.72), 0.8)


def _plants(canvas: Canvas, identity: Identity, rng: np.random.Generator, aspect: float) -> None:
    room = identity.room
    _wash(canvas, mix(room, _WHITE, 0.32), mix(room, _WHITE, 0.05))
    canvas.paint(canvas.glow(0.5 * aspect, 0.25, 0.5, 0.4), mix(room, _WHITE, 0.7), 0.6)
    for x, base, size in ((0.13 * aspect, 0.86, 0.52), (0.88 * aspect, 0.92, 0.62), (0.70 * aspect, 0.70, 0.26)):
        _plant(canvas, rng, x, base, size)


def _plant(canvas: Canvas, rng: np.random.Generator, x: float, base: float, size: float) -> None:
    angles = np.radians(rng.permutation(np.linspace(-78.0, 78.0, 13)) + rng.uniform(-6, 6, size=13))
    for angle in angles:
        length = size * rng.uniform(0.75, 1.15)
        tip = (x + length * np.sin(angle), base - length * np.cos(angle) + 0.35 * size * abs(np.sin(angle)) ** 2)
        bend = (x + 0.45 * length * np.sin(0.6 * angle), base - 0.60 * length * np.cos(0.6 * angle))
        colour = mix(_LEAF, (0.55, 0.70, 0.35), rng.uniform(0.0, 0.55))
        _leaf(canvas, [(x, base), bend, tip], 0.075 * size, colour)
    w, h = 0.17 * size + 0.03, 0.30 * size
    pot = canvas.fill([(x - w, base - 0.03), (x + w, base - 0.03), (x + 0.75 * w, base + h), (x - 0.75 * w, base + h)])
    canvas.paint(pot, (0.80, 0.56, 0.43))
    canvas.shade(canvas.ramp(pot, (x - 0.1 * w, base), (x + w, base)), (0.58, 0.55, 0.55), 0.8)


def _leaf(canvas: Canvas, spine: list[tuple[float, float]], width: float, colour: Colour) -> None:
    rib = line(spine)
    along = np.gradient(rib, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    normal = along[:, ::-1] * (-1.0, 1.0)
    t = np.linspace(0.0, 1.0, len(rib))[:, None]
    half = width * np.sin(np.pi * t**1.3) * (1.0 - 0.3 * t)
    blade = canvas.fill(np.concatenate((rib + half * normal, (rib - half * normal)[::-1])))
    canvas.paint(blade, colour)
    lower = canvas.fill(np.concatenate((rib, (rib - half * normal)[::-1])))
    canvas.shade(lower, (0.74, 0.78, 0.76), 0.9)
    canvas.tint(canvas.strokes([rib], 0.004), mix(colour, _WHITE, 0.4), 0.6)


def _abstract(canvas: Canvas, identity: Identity, rng: np.random.Generator, aspect: float) -> None:
    room, accent = identity.room, identity.accent
    _wash(canvas, mix(room, _WHITE, 0.35), mix(room, _WHITE, 0.10))
    pale, dusky = mix(accent, _WHITE, 0.45), mix(room, (0.3, 0.3, 0.4), 0.25)
    for tone in (mix(room, accent, 0.35), mix(room, _WHITE, 0.6), pale, dusky, mix(room, accent, 0.35), pale):
        cx, cy = rng.uniform(0.0, aspect), rng.uniform(0.0, 1.0)
        turns = np.linspace(0.0, 2 * np.pi, 7, endpoint=False)
        reach = rng.uniform(0.16, 0.42, size=7)
        blob = curve(np.stack((cx + reach * np.cos(turns), cy + reach * np.sin(turns)), axis=1))
        canvas.paint(canvas.fill(blob), tone, 0.75)


def _evening(canvas: Canvas, identity: Identity, rng: np.random.Generator, aspect: float) -> None:
    _wash(canvas, mix(_NIGHT, identity.room, 0.18), mix(_NIGHT, (0.35, 0.20, 0.22), 0.45))
    lamps: tuple[Colour, ...] = ((1.0, 0.78, 0.45), (1.0, 0.60, 0.40), (0.65, 0.80, 1.0), (1.0, 0.92, 0.75))
    for _ in range(34):
        x, y, r = rng.uniform(0.0, aspect), rng.normal(0.55, 0.25), rng.uniform(0.015, 0.050)
        lamp = lamps[rng.integers(len(lamps))]
        canvas.paint(canvas.fill(ellipse(x, y, r, r), blur=0.002), lamp, rng.uniform(0.18, 0.60))
        canvas.paint(canvas.glow(x, y, 2.2 * r, 2.2 * r), lamp, 0.12)


_ROOMS = {
    "gradient": _gradient,
    "studio": _studio,
    "wall": _wall,
    "shelf": _shelf,
    "window": _window,
    "plants": _plants,
    "abstract": _abstract,
    "evening": _evening,
}
