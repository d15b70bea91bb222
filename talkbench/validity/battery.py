"""Does an output react to what it should, and keep still for what it should not? Response curves and verdicts.

Each expectation is judged on paired differences from `as_is`, per clip, with intervals over identities.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from talkbench.metrics.base import Output, declared_id
from talkbench.stats.aggregate import Row, known_outputs
from talkbench.stats.compare import paired_interval
from talkbench.validity.degradations import AS_IS, BY_NAME, Degradation

Must = Literal["worsen", "stay", "follow", "shown"]
SMALL_SHARE = 0.1
"""`stay` allows a tenth of the largest change that any expected reaction shows."""


@dataclass(frozen=True)
class Expectation:
    """What an output must do under a degradation.

    Attributes:
        output: Output id, without the kind of weights.
        degradation: Its name.
        must: ``worsen`` with the level; ``stay`` where it was; ``follow`` the level (offsets: minus as many frames
            as the sound is late); ``shown``: for the reader; no response is right or wrong.
        tolerance: In units of the output, for ``follow`` and ``stay``.
    """

    output: str
    degradation: str
    must: Must
    tolerance: float | None = None


def _of(output: str, **must: Must) -> list[Expectation]:
    return [Expectation(output, name, what) for name, what in must.items()]


def _sync(protocol: str) -> list[Expectation]:
    confidence = _of(
        f"{protocol}.confidence", audio_other="worsen", still="worsen", audio_late="stay", quieter="stay", codec="shown"
    )
    distance = _of(f"{protocol}.distance", audio_other="worsen", still="worsen", audio_late="stay", quieter="stay")
    offset = [
        Expectation(f"{protocol}.offset_frames", "audio_late", "follow", 0.5),
        Expectation(f"{protocol}.offset_frames", "quieter", "stay", 0.5),
        Expectation(f"{protocol}.offset_frames", "colour_cast", "stay", 0.5),
    ]
    return confidence + distance + offset


EXPECTATIONS: tuple[Expectation, ...] = (
    *_of("vbench.temporal_flickering", flicker="worsen", noise="worsen", audio_other="stay", still="shown"),
    *_of("motion.amount", audio_other="stay", flicker="stay", still="shown", stutter="shown"),
    *_of("vbench.subject_consistency", morph="worsen", noise="worsen", audio_other="stay", still="shown"),
    *_of("vbench.background_consistency", morph="worsen", noise="worsen", audio_other="stay", still="shown"),
    *_of("vbench.motion_smoothness", stutter="worsen", noise="worsen", audio_other="stay", still="shown"),
    *_sync("sync"),
    *_sync("sync.frame"),
    *_sync("sync.official"),
    *_of("qalign.quality", blur="worsen", noise="worsen", codec="worsen", audio_other="stay", still="shown"),
    *_of("qalign.aesthetics", blur="worsen", noise="worsen", audio_other="stay", still="shown"),
)


@dataclass(frozen=True)
class Step:
    """One level of a response curve.

    Attributes:
        level: Of the degradation.
        change: Mean of degraded minus as-is; negative is lower.
        low: Lower end of its interval; None with one identity.
        high: Upper end.
        num_clips: Clips with both values.
        num_lost: Clips that had a value as they were and have none now.
    """

    level: float
    change: float
    low: float | None
    high: float | None
    num_clips: int
    num_lost: int


@dataclass(frozen=True)
class Verdict:
    """One expectation against the rows.

    Attributes:
        output: Output id as scored.
        degradation: Its name.
        must: What was expected.
        as_is: Mean over clips without degradation.
        steps: The response curve, weakest level first.
        passed: Whether it holds; None if it is not judged.
        why: What was judged, in a few words.
    """

    output: str
    degradation: str
    must: Must
    as_is: float
    steps: tuple[Step, ...]
    passed: bool | None
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def needed(outputs: Iterable[str]) -> list[Degradation]:
    """Return the degradations that say something about any of the outputs, in table order."""
    wanted = {expectation.degradation for expectation in EXPECTATIONS if expectation.output in set(outputs)}
    return [degradation for name, degradation in BY_NAME.items() if name in wanted]


def judge(rows: Iterable[Row]) -> list[Verdict]:
    """Return a verdict for every expectation that the rows of a validity run allow."""
    known = known_outputs()
    values: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            values.setdefault((row["output"], row["system"]), {})[row["item"]] = row
    scored = {output for output, _ in values}
    verdicts = []
    for output in sorted(scored, key=list(known).index):
        base = values.get((output, AS_IS), {})
        own = [e for e in EXPECTATIONS if e.output == declared_id(output)]
        curves = {e.degradation: _curve(BY_NAME[e.degradation], output, base, values, known[output]) for e in own}
        expected = [abs(s.change) for e in own if e.must == "worsen" for s in curves[e.degradation]]
        verdicts += [_verdict(e, known[output], base, curves[e.degradation], max(expected, default=None)) for e in own]
    return [verdict for verdict in verdicts if verdict.steps]


def _curve(
    degradation: Degradation,
    output: str,
    base: dict[str, Row],
    values: dict[tuple[str, str], dict[str, Row]],
    declared: Output,
) -> tuple[Step, ...]:
    plain = Output(declared.id, declared.label, better="higher")
    steps = []
    for level in degradation.levels:
        spoiled = values.get((output, degradation.system(level)))
        interval = paired_interval(spoiled, base, plain) if spoiled is not None else None
        if spoiled is not None and interval is not None:
            shared = len(spoiled.keys() & base.keys())
            lost = len(base.keys() - spoiled.keys())
            steps.append(Step(level, interval.mean, interval.low, interval.high, shared, lost))
    return tuple(steps)


def _verdict(
    expectation: Expectation, output: Output, base: dict[str, Row], steps: tuple[Step, ...], reaction: float | None
) -> Verdict:
    level = float(np.mean([row["value"] for row in base.values()])) if base else float("nan")
    passed, why = _decide(expectation, output, steps, reaction) if steps else (None, "")
    if output.id.endswith("@unverified"):
        passed, why = None, "not judged: weights of unknown origin"
    return Verdict(output.id, expectation.degradation, expectation.must, level, steps, passed, why)


def _decide(
    expectation: Expectation, output: Output, steps: tuple[Step, ...], reaction: float | None
) -> tuple[bool | None, str]:
    if expectation.must == "shown":
        return None, "shown for the reader"
    if expectation.must == "follow":
        # Late sound means early picture, and SyncNet counts a late picture as positive.
        off = max(abs(step.change + step.level) for step in steps)
        return off <= (expectation.tolerance or 0), f"off by {off:.2g} at most"
    if expectation.must == "worsen":
        sign = -1 if output.better == "higher" else 1
        last = steps[-1]
        certain = last.low is None or last.high is None or (last.low > 0 if sign > 0 else last.high < 0)
        rising = all(sign * (b.change - a.change) > 0 for a, b in pairwise(steps))
        right = sign * last.change > 0 and certain and rising
        return right, "worse with every level" if right else "does not worsen with every level"
    moved = max(abs(step.change) for step in steps)
    allowed = expectation.tolerance if expectation.tolerance is not None else SMALL_SHARE * (reaction or 0)
    return moved <= allowed, f"moves by {moved:.2g}, {allowed:.2g} allowed"
