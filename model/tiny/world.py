"""Clips of the tiny world: people of talkbench-mini, drawn small and seen from near.

People and sentences have seeds far from those of the suite's items: what is trained here has never seen an item.
Legend: T frames, H W pixels, C channels, N samples of sound.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from talkbench.mini.rig import Layout
from talkbench.mini.suite import FRAME_RATE, GENERATOR_VERSION, Performance
from talkbench.schema import Item

FIRST_SEED = 30_000_000
"""Of the people to train on."""
FIRST_HELD_OUT_SEED = 40_000_000
"""Of the people to test on."""
SIDE = 64
DRAWN_SIDE = 128
"""The smallest size that mini is drawn at."""
SHARES = (0.58, 0.8)
"""Of the picture's height that a head takes; the close framing of the suite is 0.6."""
MOUTH_BELOW_MIDDLE = 0.28
"""Of the head, in head heights."""
PROMPT = "A person is talking."


@dataclass(frozen=True)
class Clip:
    """A drawn clip.

    Attributes:
        seed: Of the person and what is said.
        frames_THWC: RGB, uint8, `[T, 64, 64, 3]`.
        sound_N: Speech at 16 kHz, as long as the frames.
        shapes_TV: The drawn mouth: opening, width, rounding, teeth, tongue; `[T, 5]`.
        mouth: Middle of the mouth at rest, column and row, and height of the head, pixels.
    """

    seed: int
    frames_THWC: NDArray[np.uint8]
    sound_N: NDArray[np.float32]
    shapes_TV: NDArray[np.float32]
    mouth: tuple[float, float, float]

    @property
    def opening_T(self) -> NDArray[np.float32]:
        """How far the mouth is open, 0 to 1."""
        return self.shapes_TV[:, 0]


def draw(seed: int, seconds: float, share: float | None = None) -> Clip:
    """Draw and voice a clip.

    Args:
        seed: Of the person, the sentence and, unless given, the share.
        seconds: Length.
        share: Of the picture's height that the head takes.
    """
    generator = {"name": "mini", "version": GENERATOR_VERSION, "identity_seed": seed}
    generator |= {"height": DRAWN_SIDE, "width": DRAWN_SIDE, "frame_rate": str(FRAME_RATE)}
    name = f"tiny-{seed}"
    item = Item(id=name, tier="short", identity=name, duration_seconds=seconds, seed=seed, generator=generator)
    performance = Performance(item)
    if share is None:
        share = float(np.random.default_rng(seed).uniform(*SHARES))
    layout = Layout.of(performance.identity, DRAWN_SIDE, DRAWN_SIDE)
    box = _box(layout, share)
    left, top, right, _ = box
    frames = [
        Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box) for frame in performance.frames()
    ]
    zoom = SIDE / (right - left)
    mouth = performance.mouth
    return Clip(
        seed,
        np.stack([np.asarray(frame) for frame in frames]),
        performance.audio(),
        np.stack([mouth.opening, mouth.width, mouth.rounding, mouth.teeth, mouth.tongue], axis=1),
        ((layout.x - left) * zoom, (layout.y + MOUTH_BELOW_MIDDLE * layout.scale - top) * zoom, layout.scale * zoom),
    )


def _box(layout: Layout, share: float) -> tuple[float, float, float, float]:
    """Return what is seen of a drawn picture: left, top, right, bottom."""
    side = min(DRAWN_SIDE, layout.scale / share)
    left = float(np.clip(layout.x - side / 2, 0, DRAWN_SIDE - side))
    top = float(np.clip(layout.y + 0.05 * layout.scale - side / 2, 0, DRAWN_SIDE - side))
    return left, top, left + side, top + side


def draw_all(seeds: Iterable[int], seconds: float, num_processes: int = 1) -> Iterator[Clip]:
    """Draw clips, in order, several at once."""
    if num_processes == 1:
        for seed in seeds:
            yield draw(seed, seconds)
        return
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        yield from pool.imap(_Drawer(seconds), seeds)


@dataclass(frozen=True)
class _Drawer:
    seconds: float

    def __call__(self, seed: int) -> Clip:
        return draw(seed, self.seconds)
