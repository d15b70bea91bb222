"""Short and curly hair styles. A `*_back` style is painted behind the head; see `hair` for the list of all."""

from __future__ import annotations

import numpy as np

from talkbench.mini.canvas import Points, curve, ellipse, line, mirrored, moved
from talkbench.mini.identity import Identity, mix
from talkbench.mini.strands import Brush, Guide

# Outlines and guide lines are in head heights; w is the identity's face width.


def scalp(identity: Identity, volume: float, sides: float, brow: float = -0.31, temple: float = 0.0) -> Points:
    """Outline of hair on the skull: `volume` above it, down the sides to y = `sides`, hairline at y = `brow`."""
    w, v = identity.face_width, volume
    right = [
        (0.0, -0.5 - v), (0.14 * w, -0.488 - v * 0.98), (0.245 * w + 0.4 * v, -0.42 - 0.85 * v),
        (0.308 * w + 0.75 * v, -0.31 - 0.5 * v), (0.330 * w + 0.8 * v, -0.16), (0.330 * w + 0.55 * v, -0.05),
        (0.327 * w + 0.012, sides), (0.305 * w, sides), (0.293 * w, -0.06), (0.288 * w, -0.14),
        (0.262 * w, -0.215 - temple), (0.205 * w, -0.275 - temple), (0.10 * w, brow - 0.012 + 0.2 * temple),
        (0.0, brow),
    ]  # fmt: skip
    return curve(mirrored(right), steps=6)


def shade_under(brush: Brush, outline: Points) -> None:
    """Let hair throw a soft shadow on the face below it."""
    shadow = brush.canvas.fill(moved(outline, 0.0, 0.022), blur=0.016)
    brush.canvas.shade(shadow, (0.66, 0.54, 0.52), 0.60)


def bald(brush: Brush, identity: Identity) -> None:
    """Paint the light on a bare scalp."""
    shine = brush.canvas.glow(0.10 * identity.light, -0.40, 0.090, 0.045, 20 * identity.light)
    brush.canvas.tint(shine, (1.0, 0.97, 0.92), 0.30)


def buzz(brush: Brush, identity: Identity) -> None:
    """Paint hair a few millimetres long."""
    outline = scalp(identity, 0.012, 0.02, temple=0.02)
    brush.nap(outline, 0.022, 1500, mix(identity.hair, identity.skin, 0.18))


def receding(brush: Brush, identity: Identity) -> None:
    """Paint short sides and thin hair on the crown."""
    w = identity.face_width
    right = [
        (0.330 * w, -0.28), (0.356 * w, -0.18), (0.352 * w, -0.05), (0.332 * w, 0.02), (0.302 * w, 0.02),
        (0.300 * w, -0.10), (0.292 * w, -0.22), (0.305 * w, -0.33),
    ]  # fmt: skip
    for side in (-1.0, 1.0):
        brush.nap(curve(np.array(right) * (side, 1.0), steps=6), 0.030, 260)
    top = [
        (0.0, -0.515), (0.14 * w, -0.505), (0.245 * w, -0.44), (0.300 * w, -0.33), (0.20 * w, -0.425), (0.0, -0.455),
    ]  # fmt: skip
    area = brush.canvas.fill(curve(mirrored(top), steps=6), blur=0.014)
    brush.canvas.tint(area, brush.base, 0.55)


def _sides(brush: Brush, identity: Identity, volume: float = 0.03, length: float = 0.03) -> None:
    """Paint clipped sides under a longer top."""
    outline = scalp(identity, volume, 0.03)
    shade_under(brush, outline)
    brush.nap(outline, length, 1400, mix(identity.hair, (0.0, 0.0, 0.0), 0.12))


def _crop(identity: Identity, height: float, lean: float, ragged: float, brow: float = -0.285) -> Points:
    """Outline of short hair on top: `height` above the skull, leaning sideways, with an uneven front edge."""
    w = identity.face_width
    rng = np.random.default_rng([identity.seed % 2**63, 61])
    xs = np.linspace(0.275, -0.275, 15)
    front = [(x * w, brow + 0.9 * x * x + ragged * rng.uniform(-1.0, 1.0)) for x in xs]
    top = [
        (-0.318 * w, -0.27), (-0.318 * w, -0.38), (-0.25 * w + 0.3 * lean, -0.465 - 0.7 * height),
        (-0.12 + 0.7 * lean, -0.50 - height), (0.02 + lean, -0.505 - 1.05 * height), (0.15 + lean, -0.49 - height),
        (0.26 * w + 0.3 * lean, -0.46 - 0.6 * height), (0.318 * w, -0.38), (0.318 * w, -0.27),
    ]  # fmt: skip
    return np.concatenate((line(top), np.array(front)))


def short(brush: Brush, identity: Identity) -> None:
    """Paint hair combed forward from the crown, with a slightly uneven edge."""
    _sides(brush, identity, 0.030)
    outline = _crop(identity, 0.055, 0.02 * identity.light, 0.011)
    shade_under(brush, outline)
    a: Guide = [(-0.06, -0.60), (-0.24, -0.56), (-0.345, -0.40), (-0.30, -0.16)]
    b: Guide = [(0.06, -0.60), (0.24, -0.56), (0.345, -0.40), (0.30, -0.16)]
    brush.mass(outline, a, b, gloss=0.42)


def quiff(brush: Brush, identity: Identity) -> None:
    """Paint hair that rises from the forehead and leans to the light."""
    _sides(brush, identity, 0.022)
    lean = 0.045 * identity.light
    outline = _crop(identity, 0.115, lean, 0.004, brow=-0.300)
    shade_under(brush, outline)
    a: Guide = [(-0.30, -0.20), (-0.35, -0.42), (-0.26 + lean, -0.58), (-0.06 + 2.5 * lean, -0.68)]
    b: Guide = [(0.30, -0.20), (0.35, -0.42), (0.28 + lean, -0.58), (0.10 + 2.5 * lean, -0.68)]
    brush.mass(outline, a, b, gloss=0.55)


def swept(brush: Brush, identity: Identity) -> None:
    """Paint hair combed straight back."""
    _sides(brush, identity, 0.035, 0.05)
    outline = _crop(identity, 0.065, 0.0, 0.003, brow=-0.315)
    shade_under(brush, outline)
    a: Guide = [(-0.31, -0.16), (-0.345, -0.40), (-0.24, -0.55), (-0.08, -0.62)]
    b: Guide = [(0.31, -0.16), (0.345, -0.40), (0.24, -0.55), (0.08, -0.62)]
    brush.mass(outline, a, b, gloss=0.48)


def _parted(brush: Brush, identity: Identity, drop: float, lift: float) -> None:
    """Paint hair combed from a parting on the lit side across the forehead, `lift` above the skull."""
    w, light = identity.face_width, identity.light
    across: list[tuple[Guide, Guide]] = []
    for place in np.linspace(1.0, 0.0, 6):
        low, end = 0.09 + 0.09 * (1.0 - place), -0.14 + drop - 0.15 * place
        upper = [
            (0.13, -0.515 - lift), (-0.06 - 0.08 * place, -0.55 - lift + 0.03 * place),
            (-0.24 * w, -0.44 - 0.6 * lift + 0.02 * place), (-w * (0.335 - 0.02 * place), end),
        ]  # fmt: skip
        lower = [
            (0.13, -0.49), (-0.03, -0.46 + low), (-0.18 * w, -0.365 + low),
            (0.02 - w * (0.335 - 0.02 * place), end + 0.02),
        ]  # fmt: skip
        across.append((upper, lower))
    outer = [(0.13, -0.515 - lift), (0.22 * w, -0.515 - 0.7 * lift), (0.335 * w, -0.36), (0.335 * w, -0.10 + drop)]
    inner = [(0.13, -0.49), (0.17 * w, -0.40), (0.275 * w, -0.26), (0.305 * w, -0.08 + drop)]
    for a, b in (*across, (outer, inner)):
        brush.ribbon([(light * x, y) for x, y in a], [(light * x, y) for x, y in b], gloss=0.38)


def side(brush: Brush, identity: Identity) -> None:
    """Paint a side parting over clipped sides."""
    _sides(brush, identity)
    _parted(brush, identity, 0.0, 0.045)


def pixie(brush: Brush, identity: Identity) -> None:
    """Paint a short cut with a long side-swept front."""
    outline = scalp(identity, 0.045, 0.10)
    shade_under(brush, outline)
    brush.nap(outline, 0.06, 900)
    _parted(brush, identity, 0.09, 0.065)


def curls(brush: Brush, identity: Identity) -> None:
    """Paint loose curls on top of clipped sides."""
    _sides(brush, identity)
    w = identity.face_width
    crown = [
        (0.0, -0.60), (0.18 * w, -0.575), (0.305 * w, -0.47), (0.345 * w, -0.33), (0.285 * w, -0.27),
        (0.16 * w, -0.325), (0.0, -0.315),
    ]  # fmt: skip
    brush.curls(curve(mirrored(crown)), 0.040, 0.042)


def afro(brush: Brush, identity: Identity) -> None:
    """Paint a round mass of tight curls."""
    w = identity.face_width
    outer = [(0.0, -0.72), (0.22, -0.68), (0.38, -0.54), (0.445, -0.34), (0.43, -0.13), (0.36 * w, 0.02)]
    inner = [(0.300 * w, -0.03), (0.283 * w, -0.16), (0.235 * w, -0.255), (0.12 * w, -0.312), (0.0, -0.315)]
    area = curve(mirrored([*outer, *inner]))
    shade_under(brush, area)
    brush.curls(area, 0.026, 0.025)
    light = brush.canvas.glow(0.16 * identity.light, -0.56, 0.20, 0.12)
    brush.canvas.tint(light * brush.canvas.fill(area), brush.pale, 0.25)


def afro_back(brush: Brush, _: Identity) -> None:
    """Paint the part of the round mass behind the ears."""
    brush.curls(ellipse(0.0, -0.27, 0.445, 0.44), 0.026, 0.027)


def curly(brush: Brush, identity: Identity) -> None:
    """Paint long curls around the face."""
    w = identity.face_width
    outer = [
        (0.0, -0.62), (0.19, -0.59), (0.33, -0.49), (0.41, -0.33), (0.445, -0.12), (0.46, 0.12), (0.455, 0.34),
        (0.40, 0.46),
    ]  # fmt: skip
    inner = [
        (0.335, 0.36), (0.318 * w, 0.18), (0.300 * w, 0.0), (0.282 * w, -0.16), (0.22 * w, -0.26), (0.10 * w, -0.33),
        (0.0, -0.35),
    ]  # fmt: skip
    area = curve(mirrored([*outer, *inner]))
    shade_under(brush, area)
    brush.curls(area, 0.046, 0.046)


def curly_back(brush: Brush, _: Identity) -> None:
    """Paint long curls behind the neck."""
    right = [(0.0, -0.45), (0.34, -0.35), (0.45, 0.05), (0.47, 0.40), (0.40, 0.62), (0.20, 0.66), (0.0, 0.62)]
    brush.curls(curve(mirrored(right)), 0.046, 0.05)
