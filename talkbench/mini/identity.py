"""Who is speaking and where: every drawing and voice parameter of one person and scene, sampled from a seed.

Lengths are in head heights (crown to chin = 1) unless a name says otherwise; colours are sRGB triples, 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from talkbench.mini.noise import stream_key, uniform

Colour = tuple[float, float, float]
T = TypeVar("T")

FRAMINGS = ("close", "medium", "wide")
BACKGROUNDS = ("gradient", "shelf", "window", "plants", "abstract", "studio", "wall", "evening")
SKINS: tuple[Colour, ...] = (
    (0.98, 0.85, 0.76), (0.95, 0.79, 0.67), (0.90, 0.72, 0.58), (0.84, 0.64, 0.48),
    (0.75, 0.54, 0.39), (0.64, 0.44, 0.31), (0.52, 0.35, 0.25), (0.41, 0.27, 0.20),
)  # fmt: skip
DARK_HAIR: tuple[Colour, ...] = (
    (0.10, 0.08, 0.08), (0.17, 0.12, 0.10), (0.25, 0.16, 0.11), (0.33, 0.21, 0.14),
)  # fmt: skip
LIGHT_HAIR: tuple[Colour, ...] = (
    (0.44, 0.27, 0.15), (0.60, 0.30, 0.14), (0.76, 0.56, 0.30), (0.87, 0.72, 0.46),
)  # fmt: skip
GREY_HAIR: tuple[Colour, ...] = ((0.46, 0.46, 0.48), (0.66, 0.66, 0.67), (0.82, 0.81, 0.80))
EYES: tuple[Colour, ...] = (
    (0.30, 0.18, 0.10), (0.38, 0.24, 0.12), (0.36, 0.38, 0.20), (0.24, 0.42, 0.56), (0.36, 0.48, 0.50),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (0.16, 0.24, 0.40), (0.62, 0.20, 0.22), (0.20, 0.42, 0.38), (0.87, 0.64, 0.24), (0.32, 0.33, 0.38),
    (0.46, 0.28, 0.48), (0.86, 0.86, 0.83), (0.25, 0.46, 0.66), (0.82, 0.46, 0.36), (0.40, 0.48, 0.28),
)  # fmt: skip
ROOMS: tuple[Colour, ...] = (
    (0.62, 0.73, 0.78), (0.86, 0.78, 0.68), (0.66, 0.74, 0.62), (0.78, 0.68, 0.74), (0.58, 0.62, 0.74),
    (0.88, 0.83, 0.76), (0.72, 0.62, 0.56), (0.52, 0.66, 0.66),
)  # fmt: skip
FEMININE_HAIR = ("long", "bun", "bob", "curly", "fringe", "ponytail", "wavy", "afro", "scarf", "pixie")
MASCULINE_HAIR = ("short", "quiff", "curls", "buzz", "side", "bald", "receding", "swept", "afro", "tied")
GARMENTS = ("tee", "shirt", "suit", "hoodie", "turtleneck", "sweater")


@dataclass(frozen=True)
class Identity:
    """One person, one room, one voice.

    Attributes:
        seed: The seed it was sampled from; also keys this person's small irregularities.
        feminine: Whether the drawing follows feminine rather than masculine conventions.
        age: 0 (young adult) to 1 (old).
        skin, hair, iris, lips, garment_colour, accent, room: Base colours before shading.
        hair_style, garment, background, glasses, beard: Names of the drawing routines' variants.
        face_width, jaw, chin, cheek: Scales of the face outline, 1 is typical.
        eye_size, eye_tilt, eye_spacing, brow_weight, brow_arch, nose_width, nose_length: Features, 1 is typical.
        mouth_width, lip_fullness: Mouth at rest, 1 is typical.
        freckles, earrings: Whether drawn.
        framing: "close" (head 60 % of the frame's height), "medium" (45 %) or "wide" (30 %).
        shift: Horizontal place of the head, in head heights from the middle.
        light: -1 or +1, the side the light comes from.
        motion: Scale of head movement and gesture.
        f0_hz: Mean pitch.
        formant_scale: Vocal-tract scale against an adult male.
        rate: Speaking rate, 1 is about four syllables a second.
        breathiness: Aspiration noise in the voice, 0..1.
    """

    seed: int
    feminine: bool
    age: float
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    garment_colour: Colour
    accent: Colour
    room: Colour
    hair_style: str
    garment: str
    background: str
    glasses: str
    beard: str
    face_width: float
    jaw: float
    chin: float
    cheek: float
    eye_size: float
    eye_tilt: float
    eye_spacing: float
    brow_weight: float
    brow_arch: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip_fullness: float
    freckles: bool
    earrings: bool
    framing: str
    shift: float
    light: float
    motion: float
    f0_hz: float
    formant_scale: float
    rate: float
    breathiness: float


class _Draws:
    """Named draws of one seed: `spread` keeps neighbouring seeds apart, `chance` is plain hashing."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._key = stream_key(seed, 101)
        self._next = 0

    def spread(self, step: float, phase: float) -> float:
        """Return a value in [0, 1) that moves by `step` (mod 1) from each seed to the next."""
        return ((self._seed * int(step * 2**64) + int(phase * 2**64)) % 2**64) / 2**64

    def chance(self) -> float:
        """Return the next hashed value in [0, 1)."""
        self._next += 1
        return float(uniform(self._key, self._next)[0])

    def between(self, low: float, high: float) -> float:
        """Return a value in [low, high), denser in the middle."""
        return low + (high - low) * 0.5 * (self.chance() + self.chance())


def _pick(options: tuple[T, ...], position: float) -> T:
    return options[min(int(position * len(options)), len(options) - 1)]


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """Return `a` moved towards `b`; amount 0 is a, 1 is b."""
    r, g, b_ = (x + (y - x) * amount for x, y in zip(a, b, strict=True))
    return (r, g, b_)


def sample_skin(position: float) -> Colour:
    """Return a skin tone between neighbouring anchors; position in [0, 1) runs from light to deep."""
    place = position * (len(SKINS) - 1)
    index = int(place)
    return mix(SKINS[index], SKINS[index + 1], place - index)


def _hair_colour(draws: _Draws, skin_position: float, age: float) -> Colour:
    grey = draws.chance() < (age - 0.45) * 1.6
    light = draws.chance() < 0.75 - 1.5 * skin_position
    palette = GREY_HAIR if grey else LIGHT_HAIR if light else DARK_HAIR
    place = draws.chance()
    return mix(_pick(palette, place), _pick(palette, draws.chance()), 0.4)


def _lip_colour(skin: Colour, feminine: bool, tint: float) -> Colour:
    natural: Colour = (skin[0] * 0.84, skin[1] * 0.58, skin[2] * 0.60)
    painted = mix((0.76, 0.30, 0.32), (0.62, 0.18, 0.26), tint)
    return mix(natural, painted, (0.25 + 0.40 * tint) if feminine else 0.12)


def _beard(draws: _Draws, feminine: bool) -> str:
    kind = draws.chance()
    if feminine or kind < 0.45:
        return "none"
    return _pick(("stubble", "stubble", "full", "goatee", "moustache"), (kind - 0.45) / 0.55)


def sample_identity(seed: int) -> Identity:
    """Return the person and scene of a seed, a pure function; neighbouring seeds look clearly different."""
    draws = _Draws(seed)
    feminine = draws.spread(0.3247180, 0.1) + 0.5 * draws.spread(0.5698403, 0.0) < 0.75
    skin_position = draws.spread(0.6180340, 0.31)
    skin = sample_skin(skin_position)
    age = draws.between(0.0, 1.0) ** 1.2
    styles = FEMININE_HAIR if feminine else MASCULINE_HAIR
    garment_place = draws.spread(0.7320508, 0.05)
    light = 1.0 if draws.chance() < 0.5 else -1.0
    return Identity(
        seed=seed,
        feminine=feminine,
        age=age,
        skin=skin,
        hair=_hair_colour(draws, skin_position, age),
        iris=_pick(EYES if skin_position < 0.5 else EYES[:2], draws.chance()),
        lips=_lip_colour(skin, feminine, draws.chance()),
        garment_colour=_pick(CLOTHES, garment_place),
        accent=_pick(CLOTHES, (garment_place + 0.37) % 1.0),
        room=_pick(ROOMS, draws.spread(0.4142136, 0.6)),
        hair_style=_pick(styles, draws.spread(0.3819660, 0.83)),
        garment=_pick(GARMENTS, draws.spread(0.2360680, 0.4)),
        background=_pick(BACKGROUNDS, draws.spread(0.6457513, 0.2)),
        glasses=_pick(("none",) * 7 + ("round", "square", "half"), draws.chance()),
        beard=_beard(draws, feminine),
        face_width=draws.between(0.95, 1.05) * (0.98 if feminine else 1.01),
        jaw=draws.between(0.92, 1.02) if feminine else draws.between(0.98, 1.12),
        chin=draws.between(0.80, 1.00) if feminine else draws.between(0.98, 1.24),
        cheek=draws.between(0.97, 1.04),
        eye_size=draws.between(0.94, 1.10) * (1.08 if feminine else 0.98),
        eye_tilt=draws.between(-0.03, 0.10),
        eye_spacing=draws.between(0.95, 1.05),
        brow_weight=draws.between(0.65, 1.0) if feminine else draws.between(0.95, 1.45),
        brow_arch=draws.between(0.8, 1.3) if feminine else draws.between(0.45, 1.0),
        nose_width=draws.between(0.86, 1.16) + 0.14 * skin_position - (0.08 if feminine else 0.0),
        nose_length=draws.between(0.94, 1.06),
        mouth_width=draws.between(0.94, 1.10),
        lip_fullness=draws.between(0.85, 1.15) + 0.15 * skin_position + (0.12 if feminine else -0.05),
        freckles=skin_position < 0.35 and draws.chance() < 0.35,
        earrings=feminine and draws.chance() < 0.5,
        framing=_pick(FRAMINGS, draws.spread(0.4496900, 0.15)),
        shift=draws.between(-0.10, 0.10),
        light=light,
        motion=draws.between(0.7, 1.2),
        f0_hz=draws.between(165.0, 240.0) if feminine else draws.between(88.0, 140.0),
        formant_scale=draws.between(1.10, 1.20) if feminine else draws.between(0.95, 1.06),
        rate=draws.between(0.85, 1.15),
        breathiness=draws.between(0.05, 0.5) * (1.0 if feminine else 0.7),
    )
