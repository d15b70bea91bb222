"""Eyes: lids and brows painted once on the head's layer; eyeballs, lashes, blinks and glasses drawn per frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talkbench.mini.canvas import Canvas, line
from talkbench.mini.face import BROW_Y, EYE_X, EYE_Y, lit_tone, shadow_tone
from talkbench.mini.identity import Colour, Identity, mix
from talkbench.mini.patch import Floats, Patch, Profile
from talkbench.mini.pose import Pose
from talkbench.mini.rig import Rig

_BOX = (-0.250, -0.060, 0.250, 0.045)
_BOX_WITH_GLASSES = (-0.345, -0.090, 0.345, 0.110)
_HALF_WIDTH, _UPPER, _LOWER = 0.0665, 0.0335, 0.0175
_IRIS = 0.0320
_REACH = 0.13  # curves are tabulated this far to both sides of an eye's middle
_SCLERA: Colour = (0.97, 0.96, 0.95)
_INK: Colour = (0.10, 0.06, 0.06)
_BLACK: Colour = (0.0, 0.0, 0.0)
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class _Lids:
    """Edges of an open and of a shut eye over u, which grows outwards from the nose; heights from EYE_Y."""

    s: Curve  # u over half the eye's width, clipped to -1..1
    top: Curve
    bottom: Curve
    shut: Curve
    crease: Curve


def _lids(u: Curve, identity: Identity) -> _Lids:
    size = identity.eye_size
    s = np.clip(u / (_HALF_WIDTH * size), -1.0, 1.0)
    axis = -identity.eye_tilt * u + 0.002 * (1.0 - s)
    top = axis - _UPPER * size * (1.0 - np.abs(s + 0.08 * (1.0 - s**2)) ** 2.3)
    bottom = axis + _LOWER * size * (1.0 - np.abs(s - 0.10 * (1.0 - s**2)) ** 2.2)
    shut = axis + 0.70 * _LOWER * size * (1.0 - s**2)
    crease = top - 0.019 * size * (1.0 - 0.55 * s**2)
    return _Lids(s, top, bottom, shut, crease)


def _lid_tone(identity: Identity) -> Colour:
    tone = mix(identity.skin, lit_tone(identity, 0.3), 0.25)
    if identity.feminine:
        tone = mix(tone, identity.lips, 0.22)
    return (tone[0] * 0.93, tone[1] * 0.89, tone[2] * 0.88)


# --- painted once ------------------------------------------------------------------------------------------------


def paint_eye_surroundings(canvas: Canvas, identity: Identity) -> None:
    """Paint upper lids, lower lash lines and brows on the head's canvas."""
    u = np.linspace(-_HALF_WIDTH, _HALF_WIDTH, 40) * identity.eye_size
    lids = _lids(u, identity)
    for side in (-1.0, 1.0):
        x, y = side * (EYE_X * identity.eye_spacing + u), EYE_Y
        lid = np.concatenate((np.stack((x, y + lids.crease), 1), np.stack((x, y + lids.top), 1)[::-1]))
        canvas.tint(canvas.fill(lid, blur=0.003), _lid_tone(identity), 0.75)
        crease = np.stack((x, y + lids.crease), 1)[2:-1]
        canvas.shade(canvas.strokes([crease], 0.0055, blur=0.0025), shadow_tone(identity), 0.95)
        lashes = np.stack((x, y + lids.bottom + 0.001), 1)[6:-1]
        canvas.tint(canvas.strokes([lashes], 0.0042, blur=0.0015), _INK, 0.42)
        _paint_brow(canvas, identity, side)


def _paint_brow(canvas: Canvas, identity: Identity, side: float) -> None:
    """Paint one brow: a soft tapered shape with hairs combed up and outwards."""
    t = np.linspace(0.0, 1.0, 24)
    arch = 0.026 * identity.brow_arch
    x = EYE_X * identity.eye_spacing - 0.080 + 0.178 * t
    middle = BROW_Y + 0.012 - arch * np.sin(np.pi * t**0.85) - 0.010 * t + 0.016 * t**3
    half = 0.0125 * identity.brow_weight * np.clip(3.5 * t + 0.45, 0.0, 1.0) * (1.0 - t**2.2) ** 0.8
    upper, lower = np.stack((side * x, middle - half), 1), np.stack((side * x, middle + half), 1)
    colour = mix(identity.hair, (0.16, 0.11, 0.09), 0.45)
    area = canvas.fill(np.concatenate((upper, lower[::-1])), blur=0.0035)
    canvas.paint(area, colour, 0.80)
    rng = np.random.default_rng([identity.seed % 2**63, 51])
    hairs = []
    for place, height in zip(rng.uniform(0.0, 0.93, 90), rng.uniform(-0.9, 0.9, 90), strict=True):
        i = int(place * 23)
        root = np.array([side * x[i], middle[i] + height * half[i]])
        lean = 0.35 + 0.65 * place
        steps = np.array([(0.0, 0.0), (0.01 * lean, -0.008 * (1.0 - lean)), (0.02 * lean, -0.01 * (1.0 - 1.2 * lean))])
        hairs.append(line(root + steps * (side, 1.0), steps=3))
    canvas.paint(canvas.strokes(hairs, 0.0042), mix(colour, _BLACK, 0.35), 0.55)


# --- drawn per frame ---------------------------------------------------------------------------------------------


class Eyes:
    """Draws the eyes of one person; what does not change from frame to frame is kept."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._eye_x = EYE_X * identity.eye_spacing
        self._lids = _lids(Profile.places(_REACH), identity)
        self._iris = self._iris_colours()

    def _iris_colours(self) -> Floats:
        """Colour (0..255) of pupil and iris by distance from the middle; [3, 64], the last at the rim."""
        r = np.linspace(0.0, 1.0, 64)
        glow = 0.78 + 0.62 * np.clip((r - 0.35) / 0.35, 0.0, 1.0)
        ring = 1.0 - 0.72 * np.clip((r - 0.72) / 0.28, 0.0, 1.0)
        pupil = np.clip((r - 0.42) / 0.06, 0.0, 1.0)
        return (np.array(self.identity.iris)[:, None] * 255.0 * glow * ring * pupil + 6.0).astype(np.float32)

    def draw(self, frame_HW3: NDArray[np.uint8], rig: Rig, pose: Pose) -> None:
        """Draw both eyes, then glasses if worn, on a frame whose head is already there.

        Both sides are drawn at once: `out` is a pixel's distance from the middle of its eye, outwards.
        """
        glasses = self.identity.glasses != "none"
        origin, matrix = rig.frame_at(EYE_Y, self._eye_x)
        patch = Patch(frame_HW3, origin, matrix, _BOX_WITH_GLASSES if glasses else _BOX)
        if patch.empty:
            return
        out = np.abs(patch.u) - np.float32(self._eye_x)
        profile = Profile(patch, out, _REACH)
        lids = self._lids
        top = lids.top + (lids.shut - lids.top) * pose.blink
        bottom = lids.bottom + (lids.shut + 0.001 - lids.bottom) * pose.blink
        if pose.blink > 0.0:
            patch.over(profile.between(lids.top - 0.003 * (1.0 - lids.s**2), bottom), _lid_tone(self.identity), 0.9)
        if pose.blink < 0.98:
            self._draw_ball(patch, profile, out, pose, top, bottom)
        self._draw_lashes(patch, profile, top)
        if glasses:
            self._draw_glasses(patch, out)
        patch.commit()

    def _draw_ball(self, patch: Patch, profile: Profile, out: Floats, pose: Pose, top: Curve, bottom: Curve) -> None:
        """Draw white, iris, pupil and catch-light within the opening, shaded by the lid."""
        size = np.float32(self.identity.eye_size)
        inside = profile.between(top, bottom)
        patch.over_graded(inside, _SCLERA, profile.spread(1.0 - 0.18 * self._lids.s**2))
        du = np.copysign(out, patch.u * out) - np.float32(0.020 * pose.gaze_x)
        dv = patch.v - np.float32(0.011 * pose.gaze_y - 0.0055 * size)
        radius = np.sqrt(du * du + dv * dv)
        iris = np.float32(_IRIS) * size
        place = np.minimum(radius * np.float32(63.0 / iris), np.float32(63.0)).astype(np.intp)
        patch.over_pixels(patch.inside(radius - iris) * inside, self._iris.take(place, axis=1))
        under = (patch.v - profile.spread(top)) * np.float32(1.0 / (0.015 * size))
        patch.shade(np.exp(-under * under) * inside, (0.50, 0.45, 0.48), 0.75)
        light = np.float32(0.011 * self.identity.light) * size
        su, sv = du - light, dv + np.float32(0.011) * size
        spot = patch.inside(np.sqrt(su * su + sv * sv) - np.float32(0.0084) * size)
        patch.over(spot * inside, (1.0, 1.0, 1.0), 0.95)

    def _draw_lashes(self, patch: Patch, profile: Profile, top: Curve) -> None:
        """Draw the dark edge of the upper lid, winged for feminine faces."""
        half = _HALF_WIDTH * self.identity.eye_size
        beyond = np.maximum(np.abs(profile.u) / half - 1.0, 0.0)
        wing = np.where(profile.u > 0, 0.30 if self.identity.feminine else 0.10, 0.06)
        fade = np.maximum(1.0 - beyond / wing, 0.0)
        thickness = (0.0105 if self.identity.feminine else 0.0078) * (0.55 + 0.45 * self._lids.s) * fade
        edge = top - 0.20 * np.maximum(profile.u - half, 0.0)
        patch.over(profile.between(edge - thickness, edge + 0.0022 * fade), _INK, 0.92)

    def _draw_glasses(self, patch: Patch, out: Floats) -> None:
        u, v = out - np.float32(0.004), patch.v - np.float32(0.008)
        if self.identity.glasses == "round":
            lens = np.sqrt(u * u + v * v) - np.float32(0.086)
        else:
            corner, rx, ry = np.float32(0.032), np.float32(0.062), np.float32(0.036)
            a, b = np.maximum(np.abs(u) - rx, 0.0), np.maximum(np.abs(v) - ry, 0.0)
            lens = np.sqrt(a * a + b * b) - corner
        rim = np.abs(lens) - np.float32(0.0055)
        if self.identity.glasses == "half":
            rim = np.maximum(rim, v - np.float32(0.004))
        line = np.abs(v + np.float32(0.021) - np.float32(2.2) * patch.u * patch.u)
        bridge = np.maximum(line - np.float32(0.0055), u + np.float32(0.080))
        arm = np.maximum(np.abs(v + np.float32(0.020)) - np.float32(0.0065), np.float32(0.086) - u)
        streak = (u * np.float32(0.8) + v + np.float32(0.02)) * np.float32(1 / 0.022)
        patch.over(patch.inside(lens) * np.exp(-streak * streak), (1.0, 1.0, 1.0), 0.13)
        frame = patch.inside(np.minimum(rim, np.minimum(bridge, arm)))
        patch.over(frame, mix(self.identity.accent, (0.10, 0.08, 0.08), 0.72), 0.95)
