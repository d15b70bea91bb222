"""Sizes that clips are trained at: one per aspect ratio, all of nearly the same number of tokens.

The table is ours, all of about the released area of 720x416: the report trains in buckets and does not list them.
Legend: H W pixels, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import Recipe
from .footage import Rejected

MAX_ENLARGEMENT = 1.25
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Bucket:
    """A size in pixels; both sides are multiples of 16."""

    height: int
    width: int

    def __str__(self) -> str:
        """Return ``HxW``."""
        return f"{self.height}x{self.width}"


RELEASED = tuple(
    Bucket(height, width)
    for height, width in (
        (384, 768), (416, 720), (448, 672), (480, 640), (496, 608), (544, 544),
        (608, 496), (640, 480), (672, 448), (720, 416), (768, 384),
    )
)  # fmt: skip
"""10 368 to 10 800 tokens: ranks that hold different ones in a step wait little for each other."""


def of(recipe: Recipe) -> tuple[Bucket, ...]:
    """Return the buckets of a recipe: the table for the released size, its own size alone for any other."""
    own = Bucket(recipe.stream.height, recipe.stream.width)
    return RELEASED if own in RELEASED else (own,)


def nearest(height: int, width: int, buckets: tuple[Bucket, ...]) -> Bucket:
    """Return the bucket for a picture: the one whose logarithm of height to width is nearest.

    Raises:
        Rejected: `too-small`, if the picture would be enlarged by more than 1.25 to cover it.
    """
    chosen = min(buckets, key=lambda bucket: abs(log(height / width) - log(bucket.height / bucket.width)))
    scale = max(chosen.height / height, chosen.width / width)
    if scale > MAX_ENLARGEMENT:
        raise Rejected(
            "too-small", f"{width}x{height} pixels would be enlarged {scale:.2f} times; {MAX_ENLARGEMENT} are allowed"
        )
    return chosen


def cover(frame_HWC: Pixels, bucket: Bucket) -> Pixels:
    """Return a picture scaled to cover a bucket, and its centre cut out, as `conditioning.image.prepare` does."""
    rows, columns = frame_HWC.shape[:2]
    scale = max(bucket.height / rows, bucket.width / columns)
    rows, columns = ceil(scale * rows), ceil(scale * columns)
    scaled_HWC = np.asarray(Image.fromarray(frame_HWC).resize((columns, rows), Image.Resampling.BILINEAR))
    top, left = round((rows - bucket.height) / 2), round((columns - bucket.width) / 2)
    return scaled_HWC[top : top + bucket.height, left : left + bucket.width].copy()
