"""The selection protocol as numbers: thresholds, quotas, the order of candidates, and how a total is shared out.

Changing anything here changes which clips are chosen, so `VERSION` enters every rank and every manifest line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

VERSION = "tb-select/1"
SEED = 20251230

WIDE_BELOW, CLOSE_FROM = 0.03, 0.10
"""Face share of the frame: wide below the first, close from the second, medium between."""

DATASETS = ("talkvid", "speakervid", "talkvid-bench", "hdtf")
LICENCES = {
    "talkvid": "annotations CC-BY-NC-4.0; video: owner",
    "talkvid-bench": "annotations CC-BY-NC-4.0; video: owner",
    "speakervid": "annotations research-only, non-commercial; video: owner",
    "hdtf": "annotations CC-BY-4.0 (stated in the set's README); video: owner",
}
LANGUAGES = {
    "English": "en", "Chinese": "zh", "Arabic": "ar", "Polish": "pl", "German": "de", "Russian": "ru", "French": "fr",
    "Korean": "ko", "Portuguese": "pt", "Japanese": "ja", "Thai": "th", "Spanish": "es", "Italian": "it",
    "Hindi": "hi", "Others": "und",
}  # fmt: skip
GENDERS = ("Female", "Male")
AGES = ("0-19", "19-30", "31-45", "46-60", "60+")
ETHNICITIES = ("White", "Asian", "African/Black", "Others")
MINORS = "0-19"

OTHER = "other"
"""The language cell of everything that has no cell of its own."""


@dataclass(frozen=True)
class TierPlan:
    """Size and marginal quotas of one tier.

    Attributes:
        size: Samples; the reserve holds as many again.
        quotas: Axis -> cell -> share of `size`, scaled by largest remainder if it does not add up to it.
        num_languages: How many languages beside English and Chinese get a cell.
        language_share: Share of each of those.
        orientation: Cell -> share; assigned, because any source can be cropped to any.
    """

    size: int
    quotas: Mapping[str, Mapping[str, int]]
    num_languages: int
    language_share: int
    orientation: Mapping[str, int]


SHORT = TierPlan(
    size=100,
    quotas={
        "gender": {"Female": 50, "Male": 50},
        "language": {"en": 30, "zh": 20, OTHER: 10},
        "age": {"0-19": 4, "19-30": 26, "31-45": 32, "46-60": 24, "60+": 14},
        "ethnicity": {"White": 34, "Asian": 36, "African/Black": 22, "Others": 8},
        "framing": {"close": 35, "medium": 45, "wide": 20},
        "dataset": {"talkvid": 60, "speakervid": 20, "talkvid-bench": 20, "hdtf": 0},
    },
    num_languages=10,
    language_share=4,
    orientation={"portrait": 50, "landscape": 40, "square": 10},
)
LONG = TierPlan(
    size=20,
    quotas={
        "gender": {"Female": 10, "Male": 10},
        "language": {"en": 8, "zh": 4},
        "framing": {"close": 8, "medium": 10, "wide": 2},
        "length": {"standard": 17, "xl": 3},
    },
    num_languages=8,
    language_share=1,
    orientation={"portrait": 12, "landscape": 8},
)
PLANS = {"short": SHORT, "long": LONG}

LONG_SPAN_SECONDS, LONG_COVER = 330.0, 0.25
LONG_SECONDS, XL_SECONDS = (305, 420), (600, 1000)
JOINED_PART = (3, 10)
"""At most this part of the long tier is joined from pieces: 14 of 20 are one uncut speech."""
PAUSE_MS = (300, 600)
"""Between joined pieces."""
KNOWN_CONTAMINATED = frozenset({"hdtf"})
"""Sets that most systems were trained on."""
AWAY_SECONDS = 2.0
"""A reference frame is at least this far from the audio window."""


def digest(seed: int, dataset: str, clip_id: str, *, version: str = VERSION) -> bytes:
    """Return the 32 bytes whose hexadecimal form is the rank of a clip; no random generator is involved."""
    return hashlib.sha256(f"{version}|{seed}|{dataset}|{clip_id}".encode()).digest()


def draw(seed: int, what: str, clip_id: str, low: int, high: int) -> int:
    """Return a whole number in [low, high] that depends on nothing but the arguments."""
    number = int.from_bytes(digest(seed, what, clip_id)[:8], "big")
    return low + number % (high - low + 1)


def apportion(shares: Mapping[str, int], total: int) -> dict[str, int]:
    """Share `total` out in proportion to `shares` by largest remainder; ties go to the earlier cell.

    Raises:
        ValueError: If the shares add up to nothing.
    """
    whole = sum(shares.values())
    if whole <= 0:
        raise ValueError(f"shares {dict(shares)} add up to {whole}")
    given = {cell: share * total // whole for cell, share in shares.items()}
    remainders = sorted(shares, key=lambda cell: -(shares[cell] * total % whole))
    for cell in remainders[: total - sum(given.values())]:
        given[cell] += 1
    return given
