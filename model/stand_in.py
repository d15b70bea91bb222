"""A picture and a chunk of sound that stand in for real ones where only time matters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .config import Recipe

if TYPE_CHECKING:
    from .stream import Samples

LOUDEST = 0.3


def picture_of(recipe: Recipe) -> Image.Image:
    """Return a smooth picture of the recipe's size; what it shows changes no time."""
    height, width = recipe.stream.height, recipe.stream.width
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (17 + 5 * n) + n) * np.cos(y / (23 - 4 * n)) for n in range(3)]
    return Image.fromarray((128 + 90 * np.stack(waves, -1)).astype(np.uint8))


def sound_of(recipe: Recipe) -> Samples:
    """Return a chunk of sound: noise that swells and fades, so that its loudness is defined."""
    count = recipe.stream.samples_per_chunk
    swell = 0.6 + 0.4 * np.sin(np.arange(count) / recipe.stream.audio_rate_hz * 8 * np.pi)
    noise_N: Samples = np.random.default_rng(0).standard_normal(count).clip(-3, 3).astype(np.float32)
    return (LOUDEST / 3 * noise_N * swell).astype(np.float32)
