"""The mouth, drawn per frame: lips, teeth, tongue and the dark between them, from one frame's viseme."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talkbench.mini.face import MOUTH_Y, shadow_tone
from talkbench.mini.identity import Colour, Identity, mix
from talkbench.mini.patch import Patch, Profile
from talkbench.mini.rig import Rig

_REACH = 0.19  # curves are tabulated this far to both sides
_HALF_WIDTH = 0.118
_GAP = 0.138  # between the lips at opening 1
_CAVITY: Colour = (0.23, 0.055, 0.07)
_TONGUE: Colour = (0.80, 0.38, 0.38)
_ENAMEL: Colour = (0.97, 0.95, 0.90)


@dataclass(frozen=True)
class Shape:
    """One frame's viseme, see `Visemes`."""

    opening: float
    width: float
    rounding: float
    teeth: float
    tongue: float


@dataclass(frozen=True)
class _Curves:
    """Edges of the mouth over u, tabulated: v of the outer and inner edges of both lips."""

    half_width: float
    gap: float
    s: NDArray[np.float64]
    bow: NDArray[np.float64]
    upper_outer: NDArray[np.float64]
    upper_inner: NDArray[np.float64]
    lower_inner: NDArray[np.float64]
    lower_outer: NDArray[np.float64]


def _curves(u: NDArray[np.float64], identity: Identity, shape: Shape) -> _Curves:
    width = _HALF_WIDTH * identity.mouth_width * (1.0 + 0.34 * (shape.width - 0.45)) * (1.0 - 0.42 * shape.rounding)
    width *= 1.0 - 0.07 * shape.opening
    parted = min(shape.opening / 0.06, 1.0)
    gap = 0.0045 + _GAP * shape.opening * (1.0 - 0.18 * shape.rounding) + 0.011 * shape.teeth * parted
    s = np.clip(u / width, -1.0, 1.0)
    q = 1.0 - s**2
    root = np.sqrt(q)
    oval = 0.30 + 0.35 * shape.rounding + 0.20 * shape.opening
    bow = (1.0 - oval) * q + oval * root
    line = s**2 * (0.012 * shape.opening - 0.009 * (1.0 - shape.rounding))
    line += 0.0035 * np.cos(4.2 * s) * q * (1.0 - parted)
    plump = identity.lip_fullness * (1.0 + 0.28 * shape.rounding) * (1.0 - 0.16 * shape.opening)
    pressed = 1.0 - 0.16 * (1.0 - parted)
    cupid = 1.0 - 0.30 * np.exp(-((s / 0.17) ** 2)) + 0.06 * np.exp(-(((np.abs(s) - 0.30) / 0.14) ** 2))
    upper_inner = line - 0.20 * gap * bow
    lower_inner = line + 0.80 * gap * bow
    upper = 0.0295 * plump * pressed * (0.55 * q + 0.45 * root) * cupid
    tucked = shape.teeth * parted * max(0.0, 1.0 - shape.opening / 0.11)  # f and v: lower lip under the teeth
    lower = 0.0390 * plump * pressed * (1.0 - 1.1 * tucked) * (0.45 * q + 0.55 * root)
    return _Curves(width, gap, s, bow, upper_inner - upper, upper_inner, lower_inner, lower_inner + lower)


def draw_mouth(frame_HW3: NDArray[np.uint8], rig: Rig, identity: Identity, shape: Shape) -> None:
    """Draw the mouth of one viseme on a frame whose head is already there."""
    origin, matrix = rig.frame_at(MOUTH_Y, 0.06)
    curves = _curves(Profile.places(_REACH), identity, shape)
    across = curves.half_width + 0.035  # room for the shadows at the corners
    box = (-across, float(curves.upper_outer.min()) - 0.02, across, float(curves.lower_outer.max()) + 0.02)
    patch = Patch(frame_HW3, origin, matrix, box)
    if patch.empty:
        return
    profile = Profile(patch, patch.u, _REACH)
    _corner_shadows(patch, curves, identity)
    _cavity(patch, profile, curves, shape, profile.between(curves.upper_inner, curves.lower_inner))
    _lips(patch, profile, curves, identity)
    patch.commit()


def _corner_shadows(patch: Patch, curves: _Curves, identity: Identity) -> None:
    across = (np.abs(patch.u) - np.float32(curves.half_width + 0.004)) * np.float32(1 / 0.014)
    down = patch.v * np.float32(1 / 0.014)
    patch.shade(np.exp(-across * across - down * down), shadow_tone(identity), 0.85)


def _cavity(patch: Patch, profile: Profile, curves: _Curves, shape: Shape, inside: NDArray[np.float32]) -> None:
    """Fill the opening: dark, then tongue, then lower and upper teeth."""
    patch.over(inside, _CAVITY)
    if curves.gap < 0.008:
        return
    s, gap, bow = curves.s, curves.gap, curves.bow
    dome = np.sqrt(np.clip(1.0 - (s / 0.80) ** 2, 0.0, 1.0))
    rise = gap * (0.10 + 0.20 * min(gap / 0.08, 1.0) + 0.62 * shape.tongue)
    tongue_top = curves.lower_inner - rise * dome * (1.0 - 0.10 * np.exp(-((s / 0.10) ** 2)))
    tongue = profile.between(tongue_top, curves.lower_inner)
    height = (patch.v - profile.spread(tongue_top)) * np.float32(1.0 / (rise + 0.01))
    patch.over_graded(tongue, _TONGUE, np.float32(1.02) - np.float32(0.42) * np.clip(height, 0.0, 1.0))
    round_row = np.sqrt(np.clip(1.0 - (s / 0.93) ** 2, 0.0, 1.0))
    seen = min(shape.teeth * 1.3, 1.0)
    light = profile.spread(0.62 + 0.38 * (1.0 - s**2) ** 0.6)
    low = profile.below(curves.lower_inner - 0.017 * shape.teeth * round_row * bow) * (1.0 - 0.85 * shape.tongue)
    patch.over_graded(low * inside, _ENAMEL, light * np.float32(0.86))
    row = curves.upper_inner + min(0.010 + 0.026 * seen, gap * (1.0 - 0.55 * shape.tongue)) * round_row
    upper = (1.0 - profile.below(row)) * inside
    patch.over_graded(upper, _ENAMEL, light * np.float32(0.55 + 0.45 * seen))
    if patch.pixels_per_unit > 120:
        pitch = np.abs(np.mod(profile.u / 0.021, 1.0) - 0.5)
        patch.shade(upper * profile.spread(np.exp(-(((0.5 - pitch) / 0.09) ** 2))), (0.80, 0.76, 0.72), 0.55)
    under = np.exp(-(((patch.v - profile.spread(curves.upper_inner)) * np.float32(1 / 0.010)) ** 2))
    patch.shade(under * inside, (0.45, 0.35, 0.35), 0.7)


def _lips(patch: Patch, profile: Profile, curves: _Curves, identity: Identity) -> None:
    """Paint the upper lip in its own shade and the lower lip with a soft light on it."""
    upper = profile.between(curves.upper_outer, curves.upper_inner)
    lower = profile.between(curves.lower_inner, curves.lower_outer)
    thick_u = np.maximum(curves.upper_inner - curves.upper_outer, 1e-3)
    thick_l = np.maximum(curves.lower_outer - curves.lower_inner, 1e-3)
    down = (patch.v - profile.spread(curves.upper_outer)) * profile.spread(1.0 / thick_u)
    patch.over_graded(upper, identity.lips, np.float32(0.95) - np.float32(0.24) * np.clip(down, 0.0, 1.0))
    deep = (patch.v - profile.spread(curves.lower_inner)) * profile.spread(1.0 / thick_l)
    np.clip(deep, 0.0, 1.0, out=deep)
    patch.over_graded(lower, identity.lips, np.float32(0.86) + np.float32(0.72) * deep * (1 - deep))
    gloss = np.exp(-(((deep - np.float32(0.42)) * np.float32(1 / 0.24)) ** 2)) * lower
    gloss *= profile.spread(np.exp(-(((curves.s - 0.10 * identity.light) / 0.42) ** 2)))
    patch.over(gloss, mix(identity.lips, (1.0, 0.95, 0.93), 0.75), 0.42 if identity.feminine else 0.28)
