"""Check a run of known-answer systems: is every pair that must differ ranked as known, beyond chance?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from talkbench.metrics.base import Output
from talkbench.stats.aggregate import Row, known_outputs
from talkbench.stats.compare import paired_interval
from talkbench.systems.known import EXPECTATIONS, Expectation


@dataclass(frozen=True)
class Verdict:
    """One expectation against the rows.

    Attributes:
        expectation: What must hold.
        difference: Mean of first minus second of what is ranked.
        low: Lower end of its interval; None with one identity.
        high: Upper end.
        num_clips: Shared clips.
        holds: Whether the difference has the right sign and its interval excludes zero; with a single identity, the
            sign alone.
    """

    expectation: Expectation
    difference: float
    low: float | None
    high: float | None
    num_clips: int
    holds: bool


def check(rows: Iterable[Row]) -> list[Verdict]:
    """Return a verdict for every expectation whose two systems both have values in the rows."""
    known = known_outputs()
    by_name: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            by_name.setdefault((row["tier"], row["output"], row["system"]), {})[row["item"]] = row
    verdicts = []
    for expectation in EXPECTATIONS:
        first = by_name.get((expectation.tier, expectation.output, expectation.first), {})
        second = by_name.get((expectation.tier, expectation.output, expectation.second), {})
        if first.keys() & second.keys():
            verdicts.append(_verdict(expectation, first, second, known[expectation.output]))
    return verdicts


def _verdict(expectation: Expectation, first: dict[str, Row], second: dict[str, Row], output: Output) -> Verdict:
    interval = paired_interval(first, second, output)
    assert interval is not None  # noqa: S101 - the caller found shared items
    up = expectation.better in ("higher", None)
    right = interval.mean > 0 if up else interval.mean < 0
    certain = interval.low is None or interval.excludes_zero
    return Verdict(
        expectation=expectation,
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        num_clips=len(first.keys() & second.keys()),
        holds=right and certain,
    )
