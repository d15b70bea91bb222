"""Long and tied hair, and the headscarf. A `*_back` style is painted behind the head; see `hair` for all."""

from __future__ import annotations

import numpy as np

from talkbench.mini.canvas import Canvas, Mask, Points, curve, ellipse, line, mirrored
from talkbench.mini.hair_short import scalp, shade_under
from talkbench.mini.identity import Colour, Identity, mix
from talkbench.mini.strands import Brush, Guide, flipped

# Outlines and guide lines are in head heights; w is the identity's face width.


def _curtain(brush: Brush, identity: Identity, end: float, flare: float, wave: float = 0.0) -> None:
    """Paint hair parted near the middle, falling at both sides of the face to y = `end`."""
    shade_under(brush, scalp(identity, 0.05, 0.10, brow=-0.40))
    part = 0.03 * identity.light
    for side in (-1.0, 1.0):
        for place in (0.0, 0.5, 1.0):  # from the outermost ribbon to the one along the cheek
            guides = _outer(end, flare, wave, place), _inner(identity, end, flare, wave, place)
            a, b = ([(side * x, y) for x, y in guide] for guide in guides)
            roots = (part, -0.555 + 0.015 * place), (part, -0.43)
            brush.ribbon([roots[0], *a], [roots[1], *b], gloss=0.22 + 0.03 * place, density=0.9)


def _outer(end: float, flare: float, wave: float, place: float) -> Guide:
    x = 0.40 - 0.028 * place + flare * 0.3
    return [
        (0.22 - 0.02 * place, -0.545 + 0.03 * place), (x, -0.33), (x + 0.01 + wave, -0.02),
        (x + flare * 0.5 - wave, 0.30), (x + flare - 0.02 * place + wave, 0.62 * end + 0.2),
        (x + flare - 0.07, end - 0.06 * place),
    ]  # fmt: skip


def _inner(identity: Identity, end: float, flare: float, wave: float, place: float) -> Guide:
    x = 0.290 * identity.face_width + 0.022 * (1.0 - place)
    return [
        (0.10, -0.415 + 0.015 * place), (x - 0.045, -0.25), (x + 0.004 + 0.6 * wave, -0.02),
        (x + 0.022 - 0.6 * wave, 0.26), (x + 0.045 + flare * 0.4 + wave, 0.62 * end + 0.16),
        (0.30 - 0.028 * place + flare * 1.3, end - 0.06 * place),
    ]  # fmt: skip


def _fall(brush: Brush, end: float, flare: float) -> None:
    """Paint the mass of long hair behind the neck."""
    a: Guide = [(0.0, -0.5), (0.2, -0.5), (0.37, -0.25), (0.4, 0.15), (0.42 + flare, end * 0.7), (0.36 + flare, end)]
    b: Guide = [(0.0, -0.4), (0.02, -0.3), (0.02, -0.1), (0.01, 0.2), (0.0, end * 0.7), (0.0, end)]
    brush.ribbon(a, b, gloss=0.75, shade=1.2)
    brush.ribbon(flipped(a), flipped(b), gloss=0.75, shade=1.2)


def long(brush: Brush, identity: Identity) -> None:
    """Paint straight hair to below the shoulders."""
    _curtain(brush, identity, 0.98, 0.05)


def long_back(brush: Brush, _: Identity) -> None:
    """Paint its fall behind the neck."""
    _fall(brush, 0.98, 0.03)


def wavy(brush: Brush, identity: Identity) -> None:
    """Paint wavy hair to the shoulders."""
    _curtain(brush, identity, 0.90, 0.09, wave=0.022)


def wavy_back(brush: Brush, _: Identity) -> None:
    """Paint its fall behind the neck."""
    _fall(brush, 0.88, 0.07)


def bob(brush: Brush, identity: Identity) -> None:
    """Paint straight hair to the chin."""
    _curtain(brush, identity, 0.42, 0.035)


def bob_back(brush: Brush, _: Identity) -> None:
    """Paint its fall behind the neck."""
    _fall(brush, 0.46, 0.02)


def fringe(brush: Brush, identity: Identity) -> None:
    """Paint hair to the neck with a straight fringe above the brows."""
    _curtain(brush, identity, 0.62, 0.04)
    w = identity.face_width
    xs = np.linspace(-0.225, 0.225, 9)
    for x in [*xs[::2], *xs[1::2]]:
        a: Guide = [(0.55 * x - 0.02, -0.555), ((x - 0.034) * w, -0.36), ((x - 0.030) * w, -0.148 + 0.25 * x * x)]
        b: Guide = [(0.55 * x + 0.02, -0.555), ((x + 0.034) * w, -0.36), ((x + 0.030) * w, -0.144 + 0.25 * x * x)]
        brush.ribbon(a, b, gloss=0.50)


def fringe_back(brush: Brush, _: Identity) -> None:
    """Paint its fall behind the neck."""
    _fall(brush, 0.66, 0.03)


def pulled(brush: Brush, identity: Identity) -> None:
    """Paint hair drawn tightly up and back from the hairline, for bun and ponytail."""
    outline = scalp(identity, 0.028, 0.02, temple=0.01)
    shade_under(brush, outline)
    brush.nap(outline, 0.05, 500)
    half: Guide = [(0.315, 0.0), (0.293, -0.14), (0.235, -0.25), (0.13, -0.315), (0.0, -0.325)]
    roots = line(np.array([*half, *flipped(half[:-1])[::-1]]) * (identity.face_width, 1.0), steps=4)
    for a, b in zip(roots[:-4:4], roots[4::4], strict=False):
        brush.ribbon(_gathered(a, -0.05), _gathered(b, 0.05), gloss=0.5)


def _gathered(root: Points, aside: float) -> Guide:
    """Guide line from the hairline over the skull to the knot."""
    x, y = float(root[0]), float(root[1])
    return [(x, y), (0.71 * x, y + 0.40 * (-0.56 - y) - 0.07), (aside, -0.56)]


def bun_back(brush: Brush, _: Identity) -> None:
    """Paint a knot of hair on top of the head."""
    for turn, size in ((0.0, 1.0), (2.1, 0.86), (4.2, 0.72)):
        x, y = 0.03 * np.cos(turn), -0.635 + 0.02 * np.sin(turn)
        rx, ry = 0.150 * size, 0.115 * size
        arc = np.linspace(0.2, np.pi - 0.2, 5)
        a = [(x + rx * np.cos(turn + t), y + ry * np.sin(turn + t)) for t in arc]
        b = [(x + rx * np.cos(turn - t), y + ry * np.sin(turn - t)) for t in arc]
        shadow = brush.canvas.fill(ellipse(x, y + 0.02, rx, ry), blur=0.015)
        brush.canvas.shade(shadow, (0.55, 0.52, 0.52), 0.7)
        brush.ribbon(a, b, gloss=0.5)


def ponytail_back(brush: Brush, identity: Identity) -> None:
    """Paint a high ponytail falling on the shaded side."""
    a: Guide = [(0.0, -0.56), (0.26, -0.60), (0.46, -0.36), (0.50, 0.05), (0.46, 0.45), (0.36, 0.74)]
    b: Guide = [(0.0, -0.46), (0.18, -0.44), (0.30, -0.22), (0.31, 0.10), (0.30, 0.45), (0.34, 0.74)]
    if identity.light > 0:
        a, b = flipped(a), flipped(b)
    brush.ribbon(a, b, gloss=0.35)


# --- headscarf ---------------------------------------------------------------------------------------------------


def scarf(brush: Brush, identity: Identity) -> None:
    """Paint a headscarf that frames the face and wraps the neck."""
    canvas, w, light = brush.canvas, identity.face_width, identity.light
    outer = [
        (0.0, -0.560), (0.15, -0.545), (0.275, -0.465), (0.352, -0.33), (0.385, -0.14), (0.388, 0.06), (0.375, 0.26),
        (0.345, 0.46), (0.355, 0.62), (0.30, 0.74), (0.0, 0.80),
    ]  # fmt: skip
    inner = [
        (0.0, -0.318), (0.12 * w, -0.305), (0.215 * w, -0.245), (0.278 * w, -0.13), (0.298 * w, 0.03),
        (0.286 * w, 0.20), (0.238 * w, 0.345), (0.160 * w, 0.455), (0.08 * w, 0.535), (0.0, 0.560),
    ]  # fmt: skip
    opening = curve(mirrored(inner))
    window = canvas.fill(opening)
    canvas.shade(window.minus(canvas.fill(opening, blur=0.022)), (0.60, 0.48, 0.46), 0.9)
    cloth = canvas.fill(curve(mirrored(outer))).minus(window)
    colour = _scarf_colour(identity)
    canvas.paint(cloth, colour)
    _scarf_folds(canvas, cloth, colour)
    canvas.shade(canvas.ramp(cloth, (0.05 * light, 0.0), (-0.42 * light, 0.1)), (0.58, 0.56, 0.62), 0.75)
    shine = canvas.glow(0.15 * light, -0.45, 0.13, 0.06, 25 * light)
    canvas.tint(shine * cloth, mix(colour, (1.0, 1.0, 1.0), 0.35), 0.45)


def _scarf_folds(canvas: Canvas, cloth: Mask, colour: Colour) -> None:
    """Paint folds that run around the face and cross under the chin, alternately dark and light."""
    folds: tuple[list[Points], list[Points]] = ([], [])
    for side in (-1.0, 1.0):
        for k in range(4):
            d = 0.018 * k
            right = [
                (0.02, -0.345 - 2.4 * d), (0.235 + d, -0.275 - 1.3 * d), (0.315 + d, 0.0), (0.300 + 1.1 * d, 0.25),
                (0.16 + 2.2 * d, 0.52 + d), (-0.06, 0.63 + 1.5 * d),
            ]  # fmt: skip
            folds[k % 2].append(line(np.array(right) * (side, 1.0)))
    canvas.tint(canvas.strokes(folds[0], 0.014, blur=0.010) * cloth, mix(colour, (0.05, 0.03, 0.08), 0.45), 0.45)
    canvas.tint(canvas.strokes(folds[1], 0.014, blur=0.010) * cloth, mix(colour, (1.0, 1.0, 1.0), 0.35), 0.40)


def scarf_back(brush: Brush, identity: Identity) -> None:
    """Paint the inside of the scarf, seen between cloth and cheeks."""
    inside = curve(mirrored([(0.0, -0.52), (0.27, -0.44), (0.35, -0.14), (0.35, 0.26), (0.32, 0.50), (0.0, 0.60)]))
    brush.canvas.paint(brush.canvas.fill(inside), mix(_scarf_colour(identity), (0.05, 0.03, 0.08), 0.55))


def _scarf_colour(identity: Identity) -> Colour:
    return mix(identity.accent, (0.92, 0.88, 0.84), 0.25)
