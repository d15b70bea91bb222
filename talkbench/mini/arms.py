"""Arms: upper arms painted once with the body, forearms and hands drawn per frame from tapered capsules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talkbench.mini.body import build, jacket_colour
from talkbench.mini.canvas import Canvas, Mask
from talkbench.mini.face import lit_tone, shadow_tone
from talkbench.mini.identity import Colour, Identity, mix
from talkbench.mini.patch import Floats, Patch, clamp
from talkbench.mini.pose import Pose
from talkbench.mini.rig import Layout

Vector = NDArray[np.float64]

_LOWEST_VISIBLE = 1.15  # a picture that ends above this (in head heights) shows shoulders only
_UPPER_LENGTH, _FOREARM_LENGTH, _HAND_LENGTH = 1.02, 0.90, 0.60
_SPLAY_DEGREES = 9.0
_HIGHEST = 0.80  # of a full swing, at lift 1; higher, hands would cover the mouth
_SHOULDER_RADIUS, _ELBOW_RADIUS = 0.158, 0.132
_FINGERS = (  # angle to the hand in degrees; root across, root along and length in hand lengths
    (-13.0, -0.150, 0.47, 0.36), (-4.0, -0.055, 0.50, 0.46), (4.0, 0.045, 0.50, 0.43), (14.0, 0.140, 0.46, 0.31),
)  # fmt: skip
_BLACK: Colour = (0.0, 0.0, 0.0)
_CLOTH_SHADE: Colour = (0.56, 0.56, 0.61)


def _shoulder_and_elbow(identity: Identity, side: float) -> tuple[Vector, Vector]:
    b, splay = build(identity), np.radians(_SPLAY_DEGREES)
    shoulder = np.array([side * 0.695 * b, 1.07])
    return shoulder, shoulder + _UPPER_LENGTH * b * np.array([side * np.sin(splay), np.cos(splay)])


def _sleeved(identity: Identity) -> bool:
    return identity.garment != "tee"


# --- painted once ------------------------------------------------------------------------------------------------


def paint_upper_arms(canvas: Canvas, identity: Identity) -> None:
    """Paint both upper arms on the body's canvas; at the top they fade into the shoulders."""
    b, cloth, light = build(identity), jacket_colour(identity), identity.light
    for side in (-1.0, 1.0):
        shoulder, elbow = _shoulder_and_elbow(identity, side)
        if _sleeved(identity):
            sleeve = _tube(shoulder, elbow, _SHOULDER_RADIUS * b, _ELBOW_RADIUS * b)
        else:
            hem = shoulder + 0.52 * (elbow - shoulder)
            skin = _tube(hem, elbow, 0.122 * b, 0.112 * b)
            _paint_limb(canvas, skin, identity.skin, shadow_tone(identity), light)
            sleeve = _tube(shoulder, hem, _SHOULDER_RADIUS * b, 0.165 * b, flat=True)
        _paint_limb(canvas, sleeve, cloth, _CLOTH_SHADE, light, fade_from=float(shoulder[1]) - 0.02)


def _tube(a: Vector, b: Vector, ra: float, rb: float, flat: bool = False) -> Vector:
    """Outline of a tapered limb from a to b; its end at b round or flat."""
    along = (b - a) / np.hypot(*(b - a))
    across = np.array([-along[1], along[0]])
    turn = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 16)[:, None]
    tip = b + rb * np.sin(turn) * across + (0.18 if flat else 1.0) * rb * np.cos(turn) * along
    return np.concatenate((tip, [a + ra * across, a - ra * across]))


def _paint_limb(
    canvas: Canvas, outline: Vector, colour: Colour, shade: Colour, light: float, fade_from: float | None = None
) -> None:
    """Paint a limb and its shadow on the body; from `fade_from` down it only gradually hides the body."""
    cover, body = canvas.fill(outline), canvas.painted()
    top, middle = float(outline[:, 1].min()), float(outline[:, 0].mean())
    canvas.shade(canvas.ramp(body * canvas.fill(outline, blur=0.030), (0.0, top), (0.0, top + 0.3)), _CLOTH_SHADE, 0.75)
    if fade_from is not None:
        low = canvas.ramp(cover, (0.0, fade_from), (0.0, fade_from + 0.28))
        cover = Mask(cover.top, cover.left, np.maximum(low.alpha, cover.minus(body).alpha))
    canvas.paint(cover, colour)
    canvas.shade(cover.minus(canvas.fill(outline, blur=0.045)), shade, 1.0)
    canvas.shade(canvas.ramp(cover, (middle, 0.0), (middle - 0.22 * light, 0.0)), shade, 0.45)
    canvas.shade(canvas.ramp(cover, (0.0, 1.2), (0.0, 2.3)), (0.74, 0.74, 0.79), 0.6)


# --- drawn per frame ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forearm:
    """Joints in body coordinates (head heights), and which half of the picture the arm is in (-1 or +1)."""

    side: float
    elbow: Vector
    wrist: Vector
    hand: Vector  # unit direction of the hand

    @classmethod
    def of(cls, identity: Identity, pose: Pose, side: float) -> Forearm:
        """Pose one arm: the forearm swings from hanging, through the viewer's direction, to raised."""
        lift, sweep = (pose.left_lift, pose.left_sweep) if side < 0 else (pose.right_lift, pose.right_sweep)
        lift *= _HIGHEST
        _, elbow = _shoulder_and_elbow(identity, side)
        swing = np.radians(6.0 + 158.0 * lift)
        swing -= np.radians(15.0) * sweep * np.cos(swing) * min(1.0, 2.0 * lift)
        reach = _FOREARM_LENGTH * build(identity) * (1.0 - 0.30 * np.sin(np.pi * lift))
        bend = swing + np.radians(22.0 * lift + 10.0 * sweep * lift)
        wrist = elbow + reach * np.array([-side * np.sin(swing), np.cos(swing)])
        return cls(side, elbow, wrist, np.array([-side * np.sin(bend), np.cos(bend)]))


def draw_forearms(frame_HW3: NDArray[np.uint8], layout: Layout, origin: Vector, identity: Identity, pose: Pose) -> None:
    """Draw both forearms and hands; `origin` is the pixel of the body's (0, 0)."""
    if (frame_HW3.shape[0] - origin[1]) / layout.scale < _LOWEST_VISIBLE:
        return
    painter = _Painter(frame_HW3, layout.scale, origin, identity)
    for side in (-1.0, 1.0):
        arm = Forearm.of(identity, pose, side)
        painter.hand(arm)
        painter.forearm(arm)


def _capsule(u: Floats, v: Floats, a: Vector, b: Vector, ra: float, rb: float) -> tuple[Floats, Floats, Floats]:
    """Distance to a tapered capsule, place across it (-1..1, positive to the right of a -> b), place along (0..1)."""
    axis = b - a
    length = float(np.hypot(*axis))
    ax, ay = np.float32(axis[0] / length), np.float32(axis[1] / length)
    du, dv = u - np.float32(a[0]), v - np.float32(a[1])
    along = du * ax + dv * ay
    across = dv * ax - du * ay
    place = clamp(along * np.float32(1 / length))
    radius = np.float32(ra) + np.float32(rb - ra) * place
    beyond = along - place * np.float32(length)
    return np.sqrt(across * across + beyond * beyond) - radius, across / radius, place


def _rim(distance: Floats, sharpness: float) -> Floats:
    """1 on the edge of a shape, falling to 0 on both sides."""
    return clamp(np.float32(1.0) - np.abs(distance) * np.float32(sharpness))


class _Painter:
    def __init__(self, frame_HW3: NDArray[np.uint8], scale: float, origin: Vector, identity: Identity) -> None:
        self.frame = frame_HW3
        self.scale = scale
        self.origin = origin
        self.identity = identity

    def _patch(self, points: list[Vector], radius: float) -> Patch:
        low, high = np.min(points, axis=0) - radius, np.max(points, axis=0) + radius
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        return Patch(self.frame, self.origin, self.scale * np.eye(2), box)

    def _light(self, across: Floats, axis: Vector) -> Floats:
        """Brightness across a limb: round, brighter on the lit side."""
        facing = -axis[1] * self.identity.light / float(np.hypot(*axis))
        light: Floats = np.float32(0.95) + across * (np.float32(0.13 * facing) - np.float32(0.24) * across)
        return light

    def forearm(self, arm: Forearm) -> None:
        """Draw elbow to wrist, with a cuff if sleeved, and its soft shadow on the chest."""
        b = build(self.identity)
        patch = self._patch([arm.elbow, arm.wrist], 0.16 * b)
        if patch.empty:
            return
        sleeved = _sleeved(self.identity)
        ra, rb = (_ELBOW_RADIUS * b, 0.094 * b) if sleeved else (0.114 * b, 0.066 * b)
        distance, across, place = _capsule(patch.u, patch.v, arm.elbow, arm.wrist, ra, rb)
        on_chest = clamp((np.float32(0.62 * b) - np.abs(patch.u)) * np.float32(9.0))
        patch.shade(_rim(np.maximum(distance, 0.0), 14.0) * on_chest, (0.55, 0.55, 0.60), 0.6)
        light = self._light(across, arm.wrist - arm.elbow)
        cover = patch.inside(distance)
        cloth = mix(jacket_colour(self.identity), _BLACK, 0.10)
        patch.over_graded(cover, cloth if sleeved else self.identity.skin, light)
        if sleeved:
            cuff = clamp((place - np.float32(0.90)) * np.float32(0.5 * self.scale))
            tone: Colour = (0.93, 0.93, 0.95) if self.identity.garment == "suit" else mix(cloth, _BLACK, 0.15)
            patch.over_graded(cover * cuff, tone, light)
        patch.commit()

    def hand(self, arm: Forearm) -> None:
        """Draw an open, relaxed hand: four fingers, thumb towards the middle of the picture, palm."""
        size = _HAND_LENGTH * build(self.identity) * (0.95 if self.identity.feminine else 1.0)
        patch = self._patch([arm.wrist, arm.wrist + size * arm.hand], 0.30 * size)
        if patch.empty:
            return
        thumb_side = np.array([-arm.hand[1], arm.hand[0]]) * arm.side  # perpendicular that points up and inwards

        def at(across: float, along: float) -> Vector:
            return arm.wrist + size * (along * arm.hand - across * thumb_side)

        for degrees, across, along, length in _FINGERS:
            turn = np.radians(degrees)
            root = at(across, along)
            tip = root + size * length * (np.cos(turn) * arm.hand - np.sin(turn) * thumb_side)
            self._digit(patch, root, tip, 0.066 * size, 0.050 * size)
        self._digit(patch, at(-0.09, 0.22), at(-0.36, 0.47), 0.085 * size, 0.055 * size)
        self._palm(patch, at(0.0, 0.04), at(0.0, 0.40), size)
        patch.commit()

    def _digit(self, patch: Patch, a: Vector, b: Vector, ra: float, rb: float) -> None:
        reach = max(ra, rb) + 0.02
        part = patch.window(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
        distance, across, _ = _capsule(part.u, part.v, a, b, ra, rb)
        rim = _rim(distance, 70.0)
        part.shade(rim, shadow_tone(self.identity), 0.8)
        part.over_graded(part.inside(distance), self.identity.skin, self._light(across, b - a) - np.float32(0.20) * rim)

    def _palm(self, patch: Patch, wrist: Vector, knuckles: Vector, size: float) -> None:
        distance, across, place = _capsule(patch.u, patch.v, wrist, knuckles, 0.125 * size, 0.205 * size)
        cover = patch.inside(distance)
        across = across * across
        patch.over_graded(cover, self.identity.skin, np.float32(1.0) - np.float32(0.18) * across)
        place = (place - np.float32(0.62)) * np.float32(2.6)
        patch.over(np.exp(-np.float32(2.5) * across - place * place) * cover, lit_tone(self.identity, 0.3), 0.28)
