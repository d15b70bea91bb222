"""Hair styles by name: each paints a layer on the head, and some one behind neck and shoulders."""

from __future__ import annotations

from collections.abc import Callable

from talkbench.mini import hair_long, hair_short
from talkbench.mini.canvas import Canvas
from talkbench.mini.identity import Identity
from talkbench.mini.strands import Brush

Style = Callable[[Brush, Identity], None]

_FRONT: dict[str, Style] = {
    "bald": hair_short.bald,
    "buzz": hair_short.buzz,
    "receding": hair_short.receding,
    "short": hair_short.short,
    "quiff": hair_short.quiff,
    "side": hair_short.side,
    "pixie": hair_short.pixie,
    "swept": hair_short.swept,
    "curls": hair_short.curls,
    "afro": hair_short.afro,
    "curly": hair_short.curly,
    "long": hair_long.long,
    "wavy": hair_long.wavy,
    "bob": hair_long.bob,
    "fringe": hair_long.fringe,
    "tied": hair_long.pulled,
    "bun": hair_long.pulled,
    "ponytail": hair_long.pulled,
    "scarf": hair_long.scarf,
}
_BACK: dict[str, Style] = {
    "afro": hair_short.afro_back,
    "curly": hair_short.curly_back,
    "long": hair_long.long_back,
    "wavy": hair_long.wavy_back,
    "bob": hair_long.bob_back,
    "fringe": hair_long.fringe_back,
    "tied": hair_long.bun_back,
    "bun": hair_long.bun_back,
    "ponytail": hair_long.ponytail_back,
    "scarf": hair_long.scarf_back,
}


def has_back_hair(identity: Identity) -> bool:
    """Whether the style needs a layer behind the body."""
    return identity.hair_style in _BACK


def paint_back_hair(canvas: Canvas, identity: Identity) -> None:
    """Paint what falls or rises behind the head, on an empty canvas; nothing for most short styles."""
    paint = _BACK.get(identity.hair_style)
    if paint:
        paint(Brush(canvas, identity, 21), identity)
        everything = canvas.painted()
        canvas.shade(canvas.ramp(everything, (0.0, -0.2), (0.0, 0.75)), (0.58, 0.56, 0.58), 0.55)


def paint_front_hair(canvas: Canvas, identity: Identity) -> None:
    """Paint the hair on the head, over the face."""
    _FRONT[identity.hair_style](Brush(canvas, identity, 22), identity)
