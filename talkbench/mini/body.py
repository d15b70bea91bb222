"""Neck, shoulders and clothes: one still layer that breathes and sways per frame. Arms are in `arms`."""

from __future__ import annotations

import numpy as np

from talkbench.mini.canvas import Canvas, Mask, Points, curve, ellipse, line, mirrored, moved
from talkbench.mini.face import face_outline, lit_tone, shadow_tone
from talkbench.mini.identity import Colour, Identity, mix

_BLACK: Colour = (0.0, 0.0, 0.0)
_FOLD: Colour = (0.70, 0.70, 0.75)
_LINEN: Colour = (0.93, 0.93, 0.95)


def build(identity: Identity) -> float:
    """Return the scale of shoulders and arms; 1 is a broad adult."""
    return 0.86 if identity.feminine else 1.0


def torso_outline(identity: Identity) -> Points:
    """Return the outline of neck base, shoulders and chest, down past any frame; [P, 2]."""
    b = build(identity)
    right = [
        (0.0, 0.60), (0.17 * b, 0.66), (0.32 * b, 0.755), (0.56 * b, 0.835), (0.745 * b, 0.915), (0.845 * b, 1.05),
        (0.82 * b, 1.22), (0.70 * b, 1.50), (0.65 * b, 1.95), (0.67 * b, 2.60), (0.68 * b, 3.40),
    ]  # fmt: skip
    left = np.array(right[1:][::-1]) * (-1.0, 1.0)
    return curve(np.concatenate((np.array(right), left)), steps=10)


def paint_body(canvas: Canvas, identity: Identity) -> None:
    """Paint neck and garment on an empty canvas."""
    if identity.garment == "hoodie":
        _hood(canvas, identity)
    torso = canvas.fill(torso_outline(identity))
    canvas.paint(torso, jacket_colour(identity))
    _cloth_light(canvas, identity, torso)
    _GARMENTS[identity.garment](canvas, identity, torso)


def jacket_colour(identity: Identity) -> Colour:
    """Return the colour of the outermost garment; suits are kept dark."""
    if identity.garment == "suit":
        return mix(identity.garment_colour, (0.13, 0.15, 0.20), 0.72)
    return identity.garment_colour


def _cloth_light(canvas: Canvas, identity: Identity, torso: Mask) -> None:
    inside = canvas.fill(torso_outline(identity), blur=0.07)
    light, b = identity.light, build(identity)
    canvas.shade(torso.minus(inside), (0.52, 0.52, 0.58), 0.85)
    canvas.shade(canvas.ramp(torso, (0.1 * light, 0.9), (-0.9 * light, 1.1)), (0.62, 0.62, 0.68), 0.6)
    canvas.shade(canvas.ramp(torso, (0.0, 1.1), (0.0, 2.4)), (0.70, 0.70, 0.76), 0.7)
    lit = mix(jacket_colour(identity), (1.0, 1.0, 0.96), 0.30)
    canvas.tint(canvas.glow(0.45 * light * b, 0.90, 0.26, 0.09, 20 * light) * torso, lit, 0.55)
    canvas.tint(canvas.glow(0.28 * light * b, 1.20, 0.20, 0.16) * torso, lit, 0.28)
    folds = []
    for side in (-1.0, 1.0):
        folds.append(line([(side * 0.62 * b, 1.16), (side * 0.50 * b, 1.22), (side * 0.40 * b, 1.24)]))
        folds.append(line([(side * 0.60 * b, 1.95), (side * 0.50 * b, 2.06), (side * 0.33 * b, 2.10)]))
    canvas.shade(canvas.strokes(folds, 0.016, blur=0.018) * torso, _FOLD, 0.55)


def _skin(canvas: Canvas, identity: Identity, neckline: list[tuple[float, float]]) -> Mask:
    """Paint neck and chest down to a neckline, given as its right half from the neck to the middle."""
    w = 0.158 if identity.feminine else 0.190
    column = [(w, 0.20), (w * 0.97, 0.42), (w * 1.0, 0.56), (w * 1.12, 0.64)]
    right = np.array([*column, *neckline])
    outline = np.concatenate((right, right[::-1] * (-1.0, 1.0)))
    skin = canvas.fill(outline)
    canvas.paint(skin, identity.skin)
    shade, light = shadow_tone(identity), identity.light
    canvas.shade(canvas.ramp(skin, (0.06 * light, 0.5), (-0.20 * light, 0.55)), shade, 0.7)
    canvas.shade(canvas.ramp(skin, (0.13 * light, 0.5), (0.20 * light, 0.52)), shade, 0.35)
    canvas.tint(canvas.glow(0.05 * light, 0.74, 0.10, 0.06) * skin, lit_tone(identity, 0.3), 0.35)
    cords = [line([(s * w * 0.85, 0.45), (s * w * 0.55, 0.60), (s * 0.030, 0.712)]) for s in (-1.0, 1.0)]
    canvas.shade(canvas.strokes(cords, 0.016, blur=0.012) * skin, shade, 0.30)
    canvas.shade(canvas.glow(0.0, 0.715, 0.030, 0.022) * skin, shade, 0.45)
    under = moved(face_outline(identity) * (0.96, 1.0), -0.03 * light, 0.115)
    canvas.shade(canvas.fill(under, blur=0.028) * skin, shade, 0.98)
    canvas.shade(canvas.fill(moved(under, 0.0, -0.055), blur=0.02) * skin, shade, 0.45)
    return skin


def _band(canvas: Canvas, seam: Points, width: float, colour: Colour) -> None:
    """Paint a collar along a line, with a shadow under it and light on its upper edge."""
    canvas.shade(canvas.strokes([moved(seam, 0.0, 0.018)], width, blur=0.014), (0.66, 0.66, 0.70), 0.75)
    canvas.paint(canvas.strokes([seam], width), colour)
    lit = canvas.strokes([moved(seam, 0.0, -0.28 * width)], 0.25 * width, blur=0.004)
    canvas.tint(lit, mix(colour, (1.0, 1.0, 1.0), 0.4), 0.5)


def _round_neck(canvas: Canvas, identity: Identity, depth: float, rib: float, colour: Colour) -> None:
    w = 0.185 if identity.feminine else 0.212
    half = [
        (w, 0.675), (w * 0.94, 0.705), (w * 0.66, 0.705 + depth * 0.72), (w * 0.32, 0.705 + depth * 0.95),
        (0.0, 0.705 + depth),
    ]  # fmt: skip
    _skin(canvas, identity, half)
    seam = line(np.concatenate((np.array(half), np.array(half[:-1])[::-1] * (-1.0, 1.0))))
    _band(canvas, seam, rib, colour)


def _tee(canvas: Canvas, identity: Identity, torso: Mask) -> None:
    depth = 0.135 if identity.feminine else 0.085
    _round_neck(canvas, identity, depth, 0.030, mix(jacket_colour(identity), _BLACK, 0.10))
    if identity.seed % 3 == 0:
        bend = np.array([(-0.95, -0.03), (-0.5, 0.02), (0.0, 0.04), (0.5, 0.02), (0.95, -0.03)])
        stripes = [line(moved(bend, 0.0, y)) for y in np.arange(1.06, 3.0, 0.20)]
        canvas.tint(canvas.strokes(stripes, 0.060) * torso, mix(identity.accent, _LINEN, 0.25), 0.75)


def _sweater(canvas: Canvas, identity: Identity, torso: Mask) -> None:
    colour = jacket_colour(identity)
    knit = [np.array([(x, 0.6), (x * 1.04, 3.2)]) for x in np.arange(-0.96, 0.97, 0.045)]
    canvas.shade(canvas.strokes(knit, 0.012, blur=0.006) * torso, (0.80, 0.80, 0.83), 0.45)
    _round_neck(canvas, identity, 0.075, 0.058, mix(colour, _BLACK, 0.14))


def _collar(canvas: Canvas, colour: Colour, drop: float) -> None:
    """Paint two shirt-collar leaves meeting at the throat."""
    for side in (-1.0, 1.0):
        right = [(0.205, 0.600), (0.235, 0.690), (0.205, 0.850), (0.030, 0.735 + drop), (0.110, 0.690)]
        leaf = np.array(right) * (side, 1.0)
        mask = canvas.fill(leaf)
        canvas.shade(canvas.fill(moved(leaf, 0.0, 0.022), blur=0.014), (0.62, 0.62, 0.68), 0.8)
        canvas.paint(mask, colour)
        canvas.shade(canvas.ramp(mask, (side * 0.05, 0.70), (side * 0.24, 0.66)), (0.80, 0.80, 0.85), 0.8)
        canvas.shade(canvas.strokes([leaf[[1, 2, 3]]], 0.006) * mask, (0.75, 0.75, 0.8), 0.7)


def _shirt(canvas: Canvas, identity: Identity, torso: Mask) -> None:
    colour = jacket_colour(identity)
    _skin(canvas, identity, [(0.195, 0.70), (0.11, 0.78), (0.0, 0.90)])
    placket = canvas.fill([(-0.035, 0.88), (0.035, 0.84), (0.040, 3.4), (-0.040, 3.4)])
    canvas.shade(placket * torso, (0.90, 0.90, 0.92), 0.8)
    canvas.shade(canvas.strokes([np.array([(0.038, 0.86), (0.042, 3.4)])], 0.006) * torso, _FOLD, 0.9)
    for y in np.arange(0.98, 3.0, 0.24):
        canvas.paint(canvas.fill(ellipse(0.0, y, 0.014, 0.014)), mix(colour, _LINEN, 0.6))
    _collar(canvas, mix(colour, (1.0, 1.0, 1.0), 0.14), 0.12)


def _suit(canvas: Canvas, identity: Identity, torso: Mask) -> None:
    jacket, linen = jacket_colour(identity), mix(_LINEN, identity.accent, 0.10 if not identity.feminine else 0.45)
    front = canvas.fill([(0.0, 0.60), (0.25, 0.66), (0.12, 1.20), (0.0, 1.62), (-0.12, 1.20), (-0.25, 0.66)])
    canvas.paint(front * torso, linen)
    canvas.shade(canvas.ramp(front, (0.0, 0.9), (0.0, 1.7)), (0.75, 0.75, 0.80), 0.7)
    if identity.feminine:
        _skin(canvas, identity, [(0.165, 0.70), (0.10, 0.80), (0.0, 0.92)])
    else:
        _skin(canvas, identity, [(0.195, 0.70), (0.10, 0.73), (0.0, 0.74)])
        _tie(canvas, identity)
        _collar(canvas, linen, 0.03)
    for side in (-1.0, 1.0):
        right = [
            (0.205, 0.635), (0.300, 0.72), (0.395, 0.98), (0.315, 1.03), (0.345, 1.10), (0.02, 1.66), (0.10, 1.25),
            (0.185, 0.90),
        ]  # fmt: skip
        lapel = curve(np.array(right) * (side, 1.0), steps=4)
        canvas.shade(canvas.fill(moved(lapel, side * 0.02, 0.02), blur=0.018) * torso, (0.55, 0.55, 0.60), 0.8)
        mask = canvas.fill(lapel)
        canvas.paint(mask, mix(jacket, (1.0, 1.0, 1.0), 0.07 if side == identity.light else 0.02))
        canvas.tint(canvas.strokes([lapel], 0.005) * mask, mix(jacket, _BLACK, 0.5), 0.6)


def _tie(canvas: Canvas, identity: Identity) -> None:
    colour = mix(identity.accent, _BLACK, 0.15)
    blade = canvas.fill([(-0.040, 0.80), (0.040, 0.80), (0.070, 1.58), (-0.070, 1.58)])
    canvas.paint(blade, colour)
    slants = [np.array([(-0.12, y), (0.12, y - 0.14)]) for y in np.arange(0.86, 1.7, 0.10)]
    canvas.tint(canvas.strokes(slants, 0.022) * blade, mix(colour, (1.0, 1.0, 1.0), 0.35), 0.7)
    knot = canvas.fill([(-0.058, 0.725), (0.058, 0.725), (0.036, 0.815), (-0.036, 0.815)])
    canvas.paint(knot, mix(colour, (1.0, 1.0, 1.0), 0.08))
    canvas.shade(canvas.ramp(knot, (0.0, 0.77), (0.0, 0.83)), (0.6, 0.6, 0.65), 0.8)


def _turtleneck(canvas: Canvas, identity: Identity, torso: Mask) -> None:
    _skin(canvas, identity, [(0.15, 0.68), (0.0, 0.70)])
    w = 0.185 if identity.feminine else 0.215
    colour = mix(jacket_colour(identity), (1.0, 1.0, 1.0), 0.05)
    right = [
        (0.0, 0.555), (w * 0.75, 0.535), (w, 0.53), (w * 1.10, 0.66), (w * 1.22, 0.745), (w * 0.7, 0.80), (0.0, 0.815),
    ]  # fmt: skip
    roll = canvas.fill(curve(mirrored(right), steps=6))
    canvas.shade(canvas.glow(0.0, 0.80, 0.30, 0.05) * torso, (0.6, 0.6, 0.66), 0.8)
    canvas.paint(roll, colour)
    ribs = [np.array([(x * w, 0.50), (x * w * 1.15, 0.83)]) for x in np.linspace(-1.0, 1.0, 17)]
    canvas.shade(canvas.strokes(ribs, 0.009, blur=0.003) * roll, (0.78, 0.78, 0.82), 0.7)
    light = identity.light
    canvas.shade(canvas.ramp(roll, (0.02 * light, 0.65), (-0.24 * light, 0.67)), (0.58, 0.58, 0.64), 0.8)
    canvas.shade(canvas.ramp(roll, (0.0, 0.66), (0.0, 0.54)), (0.62, 0.60, 0.64), 0.6)


def _hood(canvas: Canvas, identity: Identity) -> None:
    colour = jacket_colour(identity)
    right = [(0.0, 0.40), (0.20, 0.42), (0.33, 0.53), (0.40, 0.68), (0.34, 0.80), (0.0, 0.86)]
    outline = curve(mirrored(right), steps=8)
    hood = canvas.fill(outline)
    canvas.paint(hood, mix(colour, _BLACK, 0.35))
    canvas.tint(canvas.strokes([outline], 0.07, blur=0.02) * hood, colour, 0.7)


def _hoodie(canvas: Canvas, identity: Identity, torso: Mask) -> None:
    colour = jacket_colour(identity)
    _skin(canvas, identity, [(0.185, 0.69), (0.11, 0.76), (0.0, 0.80)])
    for side in (-1.0, 1.0):
        edge = curve([
            (side * 0.20, 0.60), (side * 0.33, 0.66), (side * 0.36, 0.78), (side * 0.22, 0.90), (side * 0.01, 0.96),
            (side * 0.005, 0.86), (side * 0.12, 0.80), (side * 0.18, 0.70),
        ], steps=6)  # fmt: skip
        canvas.shade(canvas.fill(moved(edge, 0.0, 0.03), blur=0.02) * torso, (0.6, 0.6, 0.65), 0.8)
        mask = canvas.fill(edge)
        canvas.paint(mask, mix(colour, (1.0, 1.0, 1.0), 0.06))
        canvas.shade(mask.minus(canvas.fill(edge, blur=0.03)), (0.55, 0.55, 0.60), 0.9)
        cord = line([(side * 0.075, 0.90), (side * 0.085, 1.05), (side * 0.075, 1.26)])
        canvas.shade(canvas.strokes([moved(cord, 0.012, 0.01)], 0.018, blur=0.01), _FOLD, 0.7)
        canvas.paint(canvas.strokes([cord], 0.016), mix(colour, _LINEN, 0.75))


_GARMENTS = {
    "tee": _tee,
    "shirt": _shirt,
    "suit": _suit,
    "hoodie": _hoodie,
    "turtleneck": _turtleneck,
    "sweater": _sweater,
}
