"""The phone inventory: how each phone sounds and how it looks, in one table.

Vowel formants are the adult male means of Peterson and Barney, "Control methods used in a study of the vowels",
JASA 24 (1952), table II. Consonant loci and noise bands are rounded from Stevens, "Acoustic Phonetics" (1998),
chapters 7-9. Mouth shapes are ours, after the usual viseme classes: lips closed for p b m, lower lip on the teeth
for f v, teeth together for s z, rounded for w uw ao sh.
"""

from __future__ import annotations

from dataclasses import dataclass

PAUSE = "sil"


@dataclass(frozen=True)
class PhoneSpec:
    """Sound and mouth targets of one phone.

    Attributes:
        kind: "vowel", "plosive", "nasal", "fricative", "glide" or "pause".
        seconds: Typical duration at rate 1.
        formants_hz: First three resonances of an adult male; other voices scale them.
        voice: Level of voicing, 0..1.
        noise: Level of frication, 0..1; a plosive makes it in the burst at its end.
        noise_hz: Centre of the frication band.
        noise_octaves: Width of that band (standard deviation).
        shape: Opening, width, rounding, teeth, tongue, each 0..1.
        hold: How strongly the mouth insists on this shape against its neighbours.
    """

    kind: str
    seconds: float
    formants_hz: tuple[float, float, float]
    voice: float
    noise: float
    noise_hz: float
    noise_octaves: float
    shape: tuple[float, float, float, float, float]
    hold: float = 1.0

    @property
    def closes_lips(self) -> bool:
        """Whether the lips meet, so that the opening is exactly 0 in the middle of the phone."""
        return self.shape[0] == 0.0


def _vowel(seconds: float, formants_hz: tuple[float, float, float], *shape: float) -> PhoneSpec:
    opening, width, rounding, teeth, tongue = shape
    return PhoneSpec(
        "vowel", seconds, formants_hz, 1.0, 0.0, 1500.0, 1.0, (opening, width, rounding, teeth, tongue), 1.6
    )


PHONES: dict[str, PhoneSpec] = {
    "iy": _vowel(0.130, (270, 2290, 3010), 0.26, 0.95, 0.00, 0.80, 0.25),
    "ih": _vowel(0.110, (390, 1990, 2550), 0.36, 0.75, 0.00, 0.70, 0.20),
    "eh": _vowel(0.125, (530, 1840, 2480), 0.55, 0.75, 0.00, 0.55, 0.20),
    "ae": _vowel(0.150, (660, 1720, 2410), 0.80, 0.82, 0.00, 0.50, 0.25),
    "aa": _vowel(0.160, (730, 1090, 2440), 1.00, 0.50, 0.00, 0.30, 0.10),
    "ao": _vowel(0.150, (570, 840, 2410), 0.75, 0.20, 0.60, 0.10, 0.00),
    "ah": _vowel(0.120, (640, 1190, 2390), 0.66, 0.50, 0.00, 0.40, 0.10),
    "uh": _vowel(0.110, (440, 1020, 2240), 0.38, 0.25, 0.55, 0.15, 0.00),
    "uw": _vowel(0.130, (300, 870, 2240), 0.22, 0.02, 1.00, 0.00, 0.00),
    "er": _vowel(0.125, (490, 1350, 1690), 0.42, 0.35, 0.35, 0.35, 0.15),
    "p": PhoneSpec("plosive", 0.095, (320, 800, 2200), 0.00, 0.30, 900, 1.2, (0.0, 0.45, 0.10, 0.0, 0.0), 2.0),
    "b": PhoneSpec("plosive", 0.085, (280, 800, 2200), 0.10, 0.18, 800, 1.2, (0.0, 0.45, 0.10, 0.0, 0.0), 2.0),
    "m": PhoneSpec("nasal", 0.095, (250, 1000, 2200), 0.24, 0.00, 900, 1.0, (0.0, 0.50, 0.05, 0.0, 0.0), 2.0),
    "t": PhoneSpec("plosive", 0.085, (320, 1800, 2700), 0.00, 0.35, 4200, 0.6, (0.14, 0.60, 0.0, 0.80, 0.60)),
    "d": PhoneSpec("plosive", 0.070, (280, 1750, 2650), 0.12, 0.20, 3800, 0.6, (0.15, 0.58, 0.0, 0.70, 0.65)),
    "n": PhoneSpec("nasal", 0.075, (280, 1550, 2500), 0.30, 0.00, 2000, 1.0, (0.18, 0.58, 0.0, 0.55, 0.75)),
    "k": PhoneSpec("plosive", 0.090, (320, 2000, 2400), 0.00, 0.32, 1900, 0.5, (0.24, 0.50, 0.0, 0.40, 0.15), 0.6),
    "g": PhoneSpec("plosive", 0.075, (280, 1950, 2350), 0.12, 0.18, 1800, 0.5, (0.24, 0.50, 0.0, 0.40, 0.15), 0.6),
    "ng": PhoneSpec("nasal", 0.080, (280, 2000, 2500), 0.28, 0.00, 1800, 1.0, (0.24, 0.50, 0.0, 0.40, 0.20), 0.6),
    "f": PhoneSpec("fricative", 0.095, (340, 1000, 2250), 0.00, 0.12, 5000, 1.1, (0.07, 0.55, 0.0, 1.0, 0.0), 2.0),
    "v": PhoneSpec("fricative", 0.075, (300, 1000, 2250), 0.22, 0.07, 4500, 1.1, (0.07, 0.52, 0.0, 1.0, 0.0), 2.0),
    "th": PhoneSpec("fricative", 0.090, (340, 1400, 2600), 0.00, 0.11, 6000, 0.9, (0.18, 0.58, 0.0, 0.80, 1.0), 1.4),
    "s": PhoneSpec("fricative", 0.100, (320, 1750, 2600), 0.00, 0.24, 6200, 0.32, (0.12, 0.74, 0.0, 1.0, 0.1), 1.5),
    "z": PhoneSpec("fricative", 0.080, (280, 1750, 2600), 0.20, 0.15, 6000, 0.32, (0.12, 0.72, 0.0, 1.0, 0.1), 1.5),
    "sh": PhoneSpec("fricative", 0.105, (320, 1800, 2500), 0.00, 0.25, 3200, 0.38, (0.20, 0.20, 0.65, 0.9, 0.0), 1.5),
    "hh": PhoneSpec("fricative", 0.065, (500, 1500, 2500), 0.00, 0.12, 1500, 1.0, (0.36, 0.50, 0.0, 0.3, 0.0), 0.4),
    "w": PhoneSpec("glide", 0.080, (300, 700, 2200), 0.55, 0.00, 800, 1.0, (0.10, 0.00, 1.00, 0.0, 0.0), 1.5),
    "y": PhoneSpec("glide", 0.070, (270, 2200, 3000), 0.55, 0.00, 2000, 1.0, (0.22, 0.85, 0.0, 0.7, 0.3)),
    "l": PhoneSpec("glide", 0.075, (350, 1150, 2700), 0.55, 0.00, 1200, 1.0, (0.28, 0.55, 0.0, 0.45, 1.0), 1.2),
    "r": PhoneSpec("glide", 0.080, (340, 1150, 1600), 0.55, 0.00, 1200, 1.0, (0.20, 0.20, 0.60, 0.4, 0.1), 1.2),
    PAUSE: PhoneSpec("pause", 0.250, (500, 1500, 2500), 0.00, 0.00, 1500, 1.0, (0.0, 0.45, 0.0, 0.0, 0.0), 1.0),
}

VOWELS = tuple(symbol for symbol, spec in PHONES.items() if spec.kind == "vowel")
OPEN_VOWELS = tuple(symbol for symbol in VOWELS if PHONES[symbol].shape[0] >= 0.75)
BILABIALS = tuple(symbol for symbol, spec in PHONES.items() if spec.closes_lips and spec.kind != "pause")
