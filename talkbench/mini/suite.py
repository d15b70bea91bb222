"""The items of talkbench-mini: a pure function of a few numbers, so the suite needs no stored list.

24 short items (3 to 6 s, two by each of 12 identities, so that clustered statistics have clusters) and 3 long ones
(2 minutes, three further identities). 25 fps, 256x256 unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from talkbench.errors import TalkbenchError
from talkbench.media.clip import Frames, Samples
from talkbench.mini.identity import Identity, sample_identity
from talkbench.schema import Item, Suite, TierRule, Truth

if TYPE_CHECKING:
    from talkbench.mini.speech import Phone, Visemes

GENERATOR_VERSION = 1
"""Bumped whenever the same item would look or sound different; enters every item digest."""
SEED = 20251230
FRAME_RATE = Fraction(25)
AUDIO_RATE_HZ = 16_000
NUM_SHORT, NUM_LONG, LONG_SECONDS, SIDE = 24, 3, 120.0, 256


def mini_suite(
    *,
    num_short: int = NUM_SHORT,
    num_long: int = NUM_LONG,
    long_seconds: float = LONG_SECONDS,
    height: int = SIDE,
    width: int = SIDE,
    seed: int = SEED,
) -> Suite:
    """Return talkbench-mini; other than default numbers give a suite of another name.

    Raises:
        TalkbenchError: If a size is below 128, or a long item shorter than a minute.
    """
    if min(height, width) < 128:
        raise TalkbenchError(f"mini is drawn at 128 pixels a side or more; {width}x{height} was asked.")
    if long_seconds < 60:
        raise TalkbenchError(f"a long mini item lasts 60 s or more; {long_seconds:g} s were asked.")
    given = (num_short, num_long, long_seconds, height, width, seed)
    default = given == (NUM_SHORT, NUM_LONG, LONG_SECONDS, SIDE, SIDE, SEED)
    name = "mini" if default else f"mini-{num_short}-{num_long}x{long_seconds:g}s-{width}x{height}-{seed}"
    lengths = np.random.default_rng(seed).uniform(3.0, 6.0, num_short)
    people = (num_short + 1) // 2
    short = [
        _item(f"mini-s{i + 1:02d}", "short", round(float(seconds) * 25) / 25, i // 2, seed + i, height, width)
        for i, seconds in enumerate(lengths)
    ]
    long = [
        _item(f"mini-l{i + 1:02d}", "long", long_seconds, people + i, seed + 500 + i, height, width)
        for i in range(num_long)
    ]
    return Suite(
        name=name,
        version=1,
        title="talkbench-mini",
        description="Drawn talking avatars with synthetic speech, made by the suite; every frame's truth is known.",
        licence="Apache-2.0",
        tiers=tuple(
            rule
            for rule in (
                TierRule(name="short", title="mini, short", num_items=num_short, max_seconds=10.0),
                TierRule(name="long", title="mini, long", num_items=num_long, min_seconds=60.0),
            )
            if rule.num_items
        ),
        items=tuple(short + long),
    )


def is_mini(suite: Suite) -> bool:
    """Return whether a suite is talkbench-mini, of any size: all its people are drawn."""
    return bool(suite.items) and all((item.generator or {}).get("name") == "mini" for item in suite.items or ())


def _item(item_id: str, tier: str, seconds: float, person: int, seed: int, height: int, width: int) -> Item:
    identity = sample_identity(SEED + person)
    generator: dict[str, Any] = {"name": "mini", "version": GENERATOR_VERSION, "identity_seed": SEED + person}
    return Item(
        id=item_id,
        tier=tier,
        identity=f"mini-person-{person + 1:02d}",
        duration_seconds=seconds,
        language="synthetic",
        tags=(identity.framing,),
        licence="Apache-2.0",
        seed=seed,
        generator=generator | {"height": height, "width": width, "frame_rate": str(FRAME_RATE)},
    )


@dataclass(frozen=True)
class Performance:
    """One item, ready to be drawn and heard."""

    item: Item

    @cached_property
    def identity(self) -> Identity:
        """Who speaks."""
        return sample_identity(self._generator["identity_seed"])

    @cached_property
    def phones(self) -> tuple[Phone, ...]:
        """What is said, with times."""
        from talkbench.mini.speech import sample_speech

        return sample_speech(self.item.seed, self.item.duration_seconds, self.identity)

    @cached_property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return round(self.item.duration_seconds * FRAME_RATE)

    @cached_property
    def mouth(self) -> Visemes:
        """Mouth shape per frame."""
        from talkbench.mini.speech import visemes

        return visemes(self.phones, self.num_frames, float(FRAME_RATE))

    def audio(self) -> Samples:
        """Return the speech, [N] at `AUDIO_RATE_HZ`, exactly as long as the picture."""
        from talkbench.mini.speech import synthesize

        seconds = self.num_frames / float(FRAME_RATE)
        return synthesize(self.phones, self.identity, seconds, AUDIO_RATE_HZ)

    def frames(self, mouth: Visemes | None = None) -> Iterator[Frames]:
        """Draw the clip, with another mouth than the spoken one if given."""
        from talkbench.mini.scene import render

        size = {"height": self._generator["height"], "width": self._generator["width"]}
        yield from render(self.identity, mouth or self.mouth, **size, frame_rate=float(FRAME_RATE), seed=self.item.seed)

    def truth(self, opening_T: NDArray[np.float32], *, audio_offset_frames: float = 0.0) -> Truth:
        """Return the ground truth of a clip that shows this mouth opening."""
        return Truth(
            frame_rate=str(FRAME_RATE),
            mouth_opening=tuple(round(float(value), 4) for value in opening_T),
            audio_offset_frames=audio_offset_frames,
            identity=self.item.identity,
            scene={"framing": self.identity.framing, **self._generator},
        )

    @property
    def _generator(self) -> dict[str, Any]:
        if not self.item.generator or self.item.generator.get("name") != "mini":
            raise TalkbenchError(
                f"item {self.item.id} is not of talkbench-mini; known-answer systems need its ground truth."
            )
        if self.item.generator.get("version") != GENERATOR_VERSION:
            raise TalkbenchError(
                f"item {self.item.id} was drawn by generator {self.item.generator.get('version')}, this talkbench has "
                f"{GENERATOR_VERSION}: use the version of talkbench that its manifest came with."
            )
        return self.item.generator
