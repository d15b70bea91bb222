"""The items of talkbench-open: drawn people in TalkBench's shapes and lengths, which anybody may pass on.

    python -m talkbench.mini.open > talkbench/manifests/data/open.v1.jsonl

10 short items (4 to 10 s) and 2 long ones (over 5 minutes) of 12 people, portrait, landscape and square in the shares
of TalkBench. Unlike talkbench-mini the list is frozen, with the sha256 of a picture and a sound file per item. Pictures
are BMP and sounds WAV, because neither passes through a compressor whose version would change the bytes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from fractions import Fraction
from hashlib import sha256

from PIL import Image

from talkbench.media import audio
from talkbench.mini.identity import sample_identity
from talkbench.mini.suite import AUDIO_RATE_HZ, FRAME_RATE, GENERATOR_VERSION, SEED, Performance
from talkbench.schema import Asset, Item

FIRST_PERSON = 100
"""Identities from here on are not those of talkbench-mini."""
SIZES = {"portrait": (240, 416), "landscape": (416, 240), "square": (256, 256)}
"""Width and height; the aspects that TalkBench crops its references to, near enough, small enough to draw."""
SHORT = (
    ("portrait", 4.0), ("landscape", 4.6), ("portrait", 5.2), ("landscape", 5.8), ("portrait", 6.4),
    ("landscape", 7.0), ("portrait", 7.6), ("landscape", 8.2), ("portrait", 9.0), ("square", 9.96),
)  # fmt: skip
LONG = (("portrait", 305.0), ("landscape", 320.0))


def items() -> Iterator[Item]:
    """Yield the items; drawing and synthesising them takes some seconds."""
    for tier, listed in (("short", SHORT), ("long", LONG)):
        for number, (orientation, seconds) in enumerate(listed, 1):
            person = FIRST_PERSON + number - 1 + (len(SHORT) if tier == "long" else 0)
            yield _item(f"open-{tier[0]}{number:02d}", tier, orientation, seconds, person)


def picture(item: Item) -> bytes:
    """Return the item's first frame as a BMP file.

    Raises:
        TalkbenchError: If the item is not one that this version draws.
    """
    file = io.BytesIO()
    Image.fromarray(next(Performance(item).frames())).save(file, "BMP")
    return file.getvalue()


def sound(item: Item) -> bytes:
    """Return the item's speech as a WAV file, 16 kHz, mono, 16-bit.

    Raises:
        TalkbenchError: If the item is not one that this version draws.
    """
    return audio.wav(Performance(item).audio(), AUDIO_RATE_HZ)


def _item(item_id: str, tier: str, orientation: str, seconds: float, person: int) -> Item:
    width, height = SIZES[orientation]
    seed = SEED + person
    item = Item(
        id=item_id,
        tier=tier,
        identity=f"open-person-{person - FIRST_PERSON + 1:02d}",
        duration_seconds=float(round(Fraction(seconds) * FRAME_RATE) / FRAME_RATE),
        language="synthetic",
        tags=(sample_identity(seed).framing, orientation),
        licence="Apache-2.0",
        seed=seed,
        generator={"name": "mini", "version": GENERATOR_VERSION, "identity_seed": seed, "height": height,
                   "width": width, "frame_rate": str(FRAME_RATE)},
    )  # fmt: skip
    files = {"image": ("image.bmp", picture(item)), "audio": ("audio.wav", sound(item))}
    return item.model_copy(
        update={
            kind: Asset(path=f"{item_id}/{name}", sha256=sha256(data).hexdigest())
            for kind, (name, data) in files.items()
        }
    )


if __name__ == "__main__":
    for each in items():
        sys.stdout.write(each.to_json() + "\n")
