"""The still part of the head: ears, skin with soft light, nose, age lines, beard. Eyes and mouth come per frame."""

from __future__ import annotations

import numpy as np

from talkbench.mini.canvas import Canvas, Mask, Points, curve, ellipse, line, mirrored
from talkbench.mini.identity import Colour, Identity, mix

# Landmarks in head heights from the middle of the head, y down; crown at -0.5, chin at +0.5.
EYE_X, EYE_Y = 0.140, 0.012
BROW_Y = -0.082
NOSE_Y = 0.178
MOUTH_Y = 0.305
HAIRLINE_Y = -0.30
_WHITE: Colour = (1.0, 0.97, 0.92)


def face_outline(identity: Identity) -> Points:
    """Return the closed outline of skull and jaw; [P, 2]."""
    w, jaw, chin, cheek = identity.face_width, identity.jaw, identity.chin, identity.cheek
    right = [
        (0.0, -0.5), (0.120 * w, -0.483), (0.222 * w, -0.420), (0.291 * w, -0.315), (0.322 * w, -0.17),
        (0.322 * w, -0.02), (0.312 * w * cheek, 0.11), (0.289 * w * jaw, 0.235), (0.243 * w * jaw, 0.345),
        (0.168 * w * chin, 0.437), (0.085 * w * chin, 0.488), (0.0, 0.5),
    ]  # fmt: skip
    return curve(mirrored(right))


def shadow_tone(identity: Identity) -> Colour:
    """Return the factor that turns lit skin into shaded skin: warmer, and gentler on deep skin."""
    depth = sum(identity.skin) / 3.0
    return mix((0.66, 0.58, 0.56), (0.80, 0.66, 0.60), depth)


def lit_tone(identity: Identity, amount: float) -> Colour:
    """Return skin in the light: brighter first, then towards white, so that deep skin does not turn grey."""
    skin = identity.skin
    warm: Colour = (min(1.0, skin[0] * 1.30), min(1.0, skin[1] * 1.28), min(1.0, skin[2] * 1.22))
    return mix(warm, _WHITE, amount * (0.25 + 0.55 * skin[0]))


def paint_head(canvas: Canvas, identity: Identity) -> None:
    """Paint ears and face on an empty canvas."""
    _ears(canvas, identity)
    face = canvas.fill(face_outline(identity))
    canvas.paint(face, identity.skin)
    _roundness(canvas, identity, face)
    _sockets(canvas, identity)
    _cheeks(canvas, identity, face)
    _nose(canvas, identity)
    _mouth_surroundings(canvas, identity)
    _age_lines(canvas, identity)
    if identity.freckles:
        _freckles(canvas, identity)
    _BEARDS[identity.beard](canvas, identity, face)


def _ears(canvas: Canvas, identity: Identity) -> None:
    shade = shadow_tone(identity)
    for side in (-1.0, 1.0):
        x = side * 0.332 * identity.face_width
        ear = canvas.fill(curve([
            (x - side * 0.03, -0.07), (x + side * 0.018, -0.085), (x + side * 0.047, -0.04), (x + side * 0.040, 0.03),
            (x + side * 0.020, 0.095), (x - side * 0.02, 0.11),
        ]))  # fmt: skip
        canvas.paint(ear, identity.skin)
        canvas.shade(ear, shade, 0.45 if side == identity.light else 0.75)
        canvas.shade(canvas.glow(x + side * 0.012, 0.01, 0.016, 0.055) * ear, shade, 0.75)
        rim = line([(x + side * 0.005, -0.06), (x + side * 0.030, -0.03), (x + side * 0.022, 0.05)])
        canvas.tint(canvas.strokes([rim], 0.008, blur=0.004) * ear, lit_tone(identity, 0.4), 0.45)
        if identity.earrings:
            stud = canvas.fill(ellipse(x + side * 0.020, 0.112, 0.017, 0.017))
            canvas.paint(stud, (0.93, 0.83, 0.55))
            canvas.tint(canvas.glow(x + side * 0.016, 0.107, 0.007, 0.007), (1.0, 1.0, 0.95), 0.9)


def _roundness(canvas: Canvas, identity: Identity, face: Mask) -> None:
    """Darken towards the outline and away from the light; light the forehead, chin and upper cheeks."""
    shade, light = shadow_tone(identity), identity.light
    inside = canvas.fill(face_outline(identity), blur=0.05)
    canvas.shade(face.minus(inside), shade, 0.95)
    canvas.shade(canvas.ramp(face, (0.02 * light, 0.0), (-0.36 * light, 0.10)), shade, 0.62)
    canvas.shade(canvas.ramp(face, (0.0, 0.30), (0.0, 0.56)), shade, 0.35)
    bright = lit_tone(identity, 0.45)
    canvas.tint(canvas.glow(0.07 * light, -0.20, 0.20, 0.11) * face, bright, 0.42)
    canvas.tint(canvas.glow(0.02 * light, 0.445, 0.065, 0.035) * face, bright, 0.30)


def _sockets(canvas: Canvas, identity: Identity) -> None:
    shade = shadow_tone(identity)
    for side in (-1.0, 1.0):
        x = side * EYE_X * identity.eye_spacing
        canvas.shade(canvas.glow(x, EYE_Y - 0.022, 0.108, 0.056, -4 * side), shade, 0.72)
        canvas.shade(canvas.glow(side * 0.062, EYE_Y - 0.020, 0.030, 0.050), shade, 0.55)
        canvas.shade(canvas.glow(x, EYE_Y + 0.050, 0.075, 0.020), shade, 0.22 + 0.25 * identity.age)


def _cheeks(canvas: Canvas, identity: Identity, face: Mask) -> None:
    flush: Colour = (identity.skin[0] * 0.97, identity.skin[1] * 0.66, identity.skin[2] * 0.62)
    bright = lit_tone(identity, 0.45)
    for side in (-1.0, 1.0):
        lit = 1.0 if side == identity.light else 0.55
        canvas.tint(canvas.glow(side * 0.205, 0.150, 0.095, 0.075) * face, flush, 0.40 if identity.feminine else 0.26)
        canvas.tint(canvas.glow(side * 0.190, 0.092, 0.085, 0.040, -18 * side) * face, bright, 0.50 * lit)
        canvas.shade(canvas.glow(side * 0.245, 0.275, 0.045, 0.11, 22 * side) * face, shadow_tone(identity), 0.28)


def _nose(canvas: Canvas, identity: Identity) -> None:
    shade, light, skin = shadow_tone(identity), identity.light, identity.skin
    wide, tip = 0.064 * identity.nose_width, NOSE_Y * identity.nose_length
    bright = lit_tone(identity, 0.60)
    for side in (-1.0, 1.0):
        depth = 0.85 if side == -light else 0.50
        flank = line([(side * 0.050, -0.05), (side * 0.034, 0.02), (side * 0.040, 0.09), (side * wide, tip - 0.02)])
        canvas.shade(canvas.strokes([flank], 0.024, blur=0.016), shade, 0.85 * depth)
        canvas.shade(canvas.glow(side * wide * 0.98, tip - 0.004, 0.020, 0.030), shade, 0.35 * depth)
    ridge = line([(0.004 * light, -0.085), (0.006 * light, 0.02), (0.008 * light, tip - 0.05)])
    canvas.tint(canvas.strokes([ridge], 0.024, blur=0.012), bright, 0.62)
    canvas.tint(canvas.glow(0.008 * light, tip - 0.022, 0.034, 0.028), bright, 0.60)
    canvas.shade(canvas.glow(0.0, tip + 0.040, 0.070, 0.020), shade, 0.85)
    dark: Colour = (skin[0] * 0.42, skin[1] * 0.28, skin[2] * 0.27)
    for side in (-1.0, 1.0):
        wing = line([
            (side * wide * 0.80, tip - 0.045), (side * wide * 1.06, tip - 0.018), (side * wide * 1.02, tip + 0.012),
            (side * wide * 0.70, tip + 0.020),
        ])  # fmt: skip
        canvas.tint(canvas.strokes([wing], 0.007, blur=0.003), dark, 0.50)
        nostril = ellipse(side * wide * 0.50, tip + 0.016, 0.017, 0.0085, 14 * side)
        canvas.tint(canvas.fill(nostril, blur=0.003), dark, 0.85)
    base = line([(-wide * 0.25, tip + 0.022), (0.0, tip + 0.030), (wide * 0.25, tip + 0.022)])
    canvas.tint(canvas.strokes([base], 0.007, blur=0.003), dark, 0.40)


def _mouth_surroundings(canvas: Canvas, identity: Identity) -> None:
    shade = shadow_tone(identity)
    canvas.shade(canvas.glow(0.0, MOUTH_Y + 0.072, 0.070, 0.016), shade, 0.65)
    canvas.shade(canvas.glow(0.0, MOUTH_Y - 0.060, 0.011, 0.028), shade, 0.35)
    for side in (-1.0, 1.0):
        fold = line([(side * 0.083, 0.180), (side * 0.118, 0.225), (side * 0.148, 0.300)])
        canvas.shade(canvas.strokes([fold], 0.012, blur=0.010), shade, 0.12 + 0.80 * identity.age**2)


def _age_lines(canvas: Canvas, identity: Identity) -> None:
    strength = max(0.0, identity.age - 0.50) * 1.7
    if strength == 0.0:
        return
    lines = []
    for level, y in enumerate((-0.245, -0.205, -0.165)):
        reach = 0.15 - 0.02 * level
        lines.append(line([(-reach, y + 0.012), (0.0, y), (reach, y + 0.012)]))
    for side in (-1.0, 1.0):
        x = side * EYE_X
        lines.append(line([(x - side * 0.05, 0.068), (x, 0.080), (x + side * 0.06, 0.065)]))
        lines += [line([(x + side * 0.088, dy), (x + side * 0.118, 2 * dy)]) for dy in (-0.006, 0.014)]
    canvas.shade(canvas.strokes(lines, 0.006, blur=0.005), shadow_tone(identity), min(strength, 0.8))


def _freckles(canvas: Canvas, identity: Identity) -> None:
    rng = np.random.default_rng(identity.seed + 5)
    spots = []
    for _ in range(70):
        x, y = rng.normal(0.0, 0.125), rng.normal(0.100, 0.032)
        radius = rng.uniform(0.0025, 0.0050)
        if abs(x) < 0.27:
            spots.append(ellipse(x, y, radius, radius))
    brown: Colour = (identity.skin[0] * 0.78, identity.skin[1] * 0.60, identity.skin[2] * 0.50)
    for spot in spots:
        canvas.tint(canvas.fill(spot), brown, 0.65)


# --- facial hair -------------------------------------------------------------------------------------------------


def _beard_area(identity: Identity, lift: float) -> Points:
    """Outline of a beard: sideburns, jaw, chin; its upper edge crosses the cheek and passes under the nose."""
    w, jaw = identity.face_width, identity.jaw
    right = [
        (0.0, 0.222), (0.075, 0.214), (0.135, 0.245 - lift), (0.190, 0.225 - lift), (0.258 * w, 0.12 - lift),
        (0.285 * w, -0.02), (0.325 * w, -0.02), (0.318 * w, 0.12), (0.295 * w * jaw, 0.25), (0.252 * w * jaw, 0.36),
        (0.180 * w, 0.465), (0.095, 0.532), (0.0, 0.548),
    ]  # fmt: skip
    return curve(mirrored(right), steps=6)


def _hairs(identity: Identity, area: Mask, canvas: Canvas, num: int, length: float) -> tuple[Mask, Mask]:
    """Short strokes growing down and outwards; the dark and the light half, clipped to the area."""
    rng = np.random.default_rng(identity.seed + 9)
    lines = []
    for _ in range(num):
        x, y = rng.uniform(-0.33, 0.33), rng.uniform(0.0, 0.54)
        lean = 0.9 * x + rng.normal(0.0, 0.15)
        lines.append(np.array([x, y]) + length * np.array([(0.0, 0.0), (0.6 * lean, 0.6), (0.7 * lean, 1.0)]))
    half = num // 2
    return canvas.strokes(lines[:half], 0.005) * area, canvas.strokes(lines[half:], 0.005) * area


def _comb(canvas: Canvas, identity: Identity, area: Mask, length: float) -> None:
    """Paint the single hairs of a beard, gently on light hair."""
    dark, light = _hairs(identity, area, canvas, 1100, length)
    canvas.tint(dark, mix(identity.hair, (0.08, 0.04, 0.02), 0.45), 0.55 - 0.25 * max(identity.hair))
    canvas.tint(light, mix(identity.hair, (1.0, 0.92, 0.82), 0.30), 0.45)


def _no_beard(canvas: Canvas, identity: Identity, face: Mask) -> None:
    """Clean-shaven: a hint of shadow on masculine jaws."""
    if not identity.feminine:
        area = canvas.fill(_beard_area(identity, 0.0), blur=0.035) * face
        canvas.shade(area, (0.86, 0.86, 0.89), 0.55)


def _stubble(canvas: Canvas, identity: Identity, face: Mask) -> None:
    area = canvas.fill(_beard_area(identity, 0.0), blur=0.018) * face
    canvas.tint(area, mix(identity.hair, identity.skin, 0.25), 0.42)
    dark, light = _hairs(identity, area, canvas, 900, 0.014)
    canvas.tint(dark, identity.hair, 0.35)
    canvas.tint(light, mix(identity.skin, identity.hair, 0.3), 0.25)


def _full_beard(canvas: Canvas, identity: Identity, face: Mask) -> None:
    area = canvas.fill(_beard_area(identity, -0.01), blur=0.007)
    canvas.paint(area, identity.hair, 0.94)
    canvas.shade(canvas.ramp(area, (0.0, 0.36), (0.0, 0.56)), (0.70, 0.68, 0.68), 0.8)
    _comb(canvas, identity, area, 0.050)
    light = identity.light
    canvas.shade(canvas.ramp(area * face, (0.05 * light, 0.0), (-0.36 * light, 0.1)), (0.72, 0.7, 0.7), 0.6)


def _goatee(canvas: Canvas, identity: Identity, face: Mask) -> None:
    right = [
        (0.0, 0.226), (0.070, 0.222), (0.118, 0.262), (0.140, 0.325), (0.125, 0.41), (0.090, 0.488), (0.0, 0.520),
    ]  # fmt: skip
    area = canvas.fill(curve(mirrored(right), steps=6), blur=0.008)
    canvas.paint(area, identity.hair, 0.88)
    _comb(canvas, identity, area, 0.035)
    _no_beard(canvas, identity, face)


def _moustache(canvas: Canvas, identity: Identity, face: Mask) -> None:
    _no_beard(canvas, identity, face)
    right = [(0.0, 0.226), (0.060, 0.220), (0.115, 0.252), (0.150, 0.302), (0.110, 0.300), (0.050, 0.287), (0.0, 0.290)]
    area = canvas.fill(curve(mirrored(right), steps=6), blur=0.005)
    canvas.paint(area, identity.hair, 0.95)
    _comb(canvas, identity, area, 0.030)


_BEARDS = {
    "none": _no_beard,
    "stubble": _stubble,
    "full": _full_beard,
    "goatee": _goatee,
    "moustache": _moustache,
}
