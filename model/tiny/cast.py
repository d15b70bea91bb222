"""Who is filmed in an ablation: people of the tiny world that no network has seen, a few of their own for every seed.

A scene is a person, what they say and for how long. Every system plays every scene of a seed, so that systems can be
compared person by person. A drawn scene is kept, since it is played by many.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from talkbench.mini.suite import FRAME_RATE, GENERATOR_VERSION
from talkbench.schema import Item

from . import world

SHARE = 0.7
"""Of the picture's height that a head takes."""


@dataclass(frozen=True)
class Scene:
    """A person, what they say and for how long.

    Attributes:
        id: Of the item.
        tier: ``short`` or ``long``.
        person: Seed of the person and of what is said.
        seed: Of the training that is tried on it, and of the noise.
        seconds: Length.
    """

    id: str
    tier: str
    person: int
    seed: int
    seconds: float

    @property
    def identity(self) -> str:
        """Name of the person."""
        return f"tiny-{self.person}"

    @property
    def item(self) -> Item:
        """The scene as an item of a suite."""
        generator = {"name": "mini", "version": GENERATOR_VERSION, "identity_seed": self.person}
        size = {"height": world.SIDE, "width": world.SIDE, "frame_rate": str(FRAME_RATE)}
        return Item(
            id=self.id,
            tier=self.tier,
            identity=self.identity,
            duration_seconds=self.seconds,
            language="synthetic",
            licence="Apache-2.0",
            seed=self.person,
            generator=generator | size,
        )

    def clip(self, folder: Path) -> world.Clip:
        """Return the scene as drawn, from the folder if it is there, else drawn and put there."""
        path = folder / f"{self.id}.npz"
        if not path.is_file():
            drawn = world.draw(self.person, self.seconds, SHARE)
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{self.id}.{os.getpid()}.npz"
            np.savez_compressed(
                partial,
                frames_THWC=drawn.frames_THWC,
                sound_N=drawn.sound_N,
                shapes_TV=drawn.shapes_TV,
                mouth=np.array(drawn.mouth),
            )
            partial.replace(path)
        with np.load(path) as stored:
            x, y, height = stored["mouth"].tolist()
            return world.Clip(
                self.person, stored["frames_THWC"], stored["sound_N"], stored["shapes_TV"], (x, y, height)
            )


@dataclass(frozen=True)
class Cast:
    """How many people are filmed for every seed, and for how long.

    Attributes:
        people: In short scenes.
        seconds: Length of those.
        long_people: In long scenes.
        long_seconds: Length of those.
    """

    people: int = 6
    seconds: float = 4.0
    long_people: int = 2
    long_seconds: float = 60.0

    def scenes(self, seed: int) -> tuple[Scene, ...]:
        """Return the scenes of a seed."""
        each = self.people + self.long_people
        first = world.FIRST_HELD_OUT_SEED + seed * each
        short = [
            Scene(f"short-{n + 1:02d}-seed{seed}", "short", first + n, seed, self.seconds) for n in range(self.people)
        ]
        long = [
            Scene(f"long-{n + 1:02d}-seed{seed}", "long", first + self.people + n, seed, self.long_seconds)
            for n in range(self.long_people)
        ]
        return (*short, *long)
