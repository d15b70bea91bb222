"""Loads `scenarios.yaml` and decides whether a timing record is long enough to speak."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from talkbench.errors import Unscorable
from talkbench.schema import Timing


@dataclass(frozen=True)
class Scenario:
    """Minimum evidence for a speed number.

    Attributes:
        warmup_chunks: Chunks left out at the start of a clip.
        min_chunks: Cycles needed after them.
        min_seconds: Seconds they must cover.
    """

    warmup_chunks: int
    min_chunks: int
    min_seconds: float


@cache
def load() -> tuple[dict[str, Scenario], dict[int, int]]:
    """Return the scenarios by name, and the fewest cycles per percentile."""
    data = yaml.safe_load((files("talkbench.speed") / "scenarios.yaml").read_text(encoding="utf-8"))
    percentiles = {int(p): int(n) for p, n in data.pop("percentiles").items()}
    return {name: Scenario(**values) for name, values in data.items()}, percentiles


def steady_cycles(timing: Timing) -> list[tuple[int, float]]:
    """Return (frames, seconds) of each cycle after warm-up: from one chunk being done to the next.

    Raises:
        Unscorable: ``too-few-chunks`` if the scenario's minimum is not met.
    """
    scenario = load()[0][timing.scenario]
    chunks = timing.chunks
    start = max(1, scenario.warmup_chunks)
    cycles = [
        (after.num_frames, (after.done_ns - before.done_ns) / 1e9)
        for before, after in zip(chunks[start - 1 :], chunks[start:], strict=False)
    ]
    seconds = sum(duration for _, duration in cycles)
    if len(cycles) < scenario.min_chunks or seconds < scenario.min_seconds:
        raise Unscorable(
            "too-few-chunks",
            f"{len(cycles)} cycles over {seconds:.1f} s after warm-up; scenario {timing.scenario!r} needs "
            f"{scenario.min_chunks} over {scenario.min_seconds:.0f} s",
        )
    return cycles
