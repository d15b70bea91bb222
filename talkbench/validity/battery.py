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
        change: Mean of degraded minus as-is; negative is lower; None without any clip.
        low: Lower end of its interval; None with fewer than two identities.
        high: Upper end.
        num_clips: Clips with both values.
        num_lost: Clips that had a value as they were and have none now.
    """

    level: float
    change: float | None
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
    """Return a verdict for every expectation about outputs that have any value in the rows of a validity run.

    A clip that loses its value under a degradation breaks every expectation but `shown`.
    """
    known = known_outputs()
    values: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        own = values.setdefault((row["output"], row["system"]), {})
        if row["status"] == "ok":
            own[row["item"]] = row
    scored = {output for (output, _), own in values.items() if own}
    verdicts = []
    for output in sorted(scored, key=list(known).index):
        base = values.get((output, AS_IS), {})
        expected = [e for e in EXPECTATIONS if e.output == declared_id(output)]
        curves = {e.degradation: _curve(BY_NAME[e.degradation], output, base, values, known[output]) for e in expected}
        steps = [step for e in expected if e.must == "worsen" for step in curves[e.degradation]]
        reaction = max((abs(step.change) for step in steps if step.change is not None), default=0.0)
        verdicts += [
            _verdict(e, known[output], base, curves[e.degradation], reaction) for e in expected if curves[e.degradation]
        ]
    return verdicts


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
        if spoiled is None or not base:
            continue
        interval, lost = paired_interval(spoiled, base, plain), len(base.keys() - spoiled.keys())
        if interval is None:
            steps.append(Step(level, None, None, None, 0, lost))
        else:
            steps.append(Step(level, interval.mean, interval.low, interval.high, len(base) - lost, lost))
    return tuple(steps)


def _verdict(
    expectation: Expectation, output: Output, base: dict[str, Row], steps: tuple[Step, ...], reaction: float
) -> Verdict:
    level = float(np.mean([row["value"] for row in base.values()]))
    passed, why = _decide(expectation, output, steps, reaction)
    if output.id.endswith("@unverified"):
        passed, why = None, "not judged: weights of unknown origin"
    return Verdict(output.id, expectation.degradation, expectation.must, level, steps, passed, why)


def _decide(
    expectation: Expectation, output: Output, steps: tuple[Step, ...], reaction: float
) -> tuple[bool | None, str]:
    if expectation.must == "shown":
        return None, "shown for the reader"
    if worst := max((step for step in steps if step.num_lost), key=lambda step: step.num_lost, default=None):
        num_clips = worst.num_clips + worst.num_lost
        return False, f"{worst.num_lost} of {num_clips} clips lost their value at level {worst.level:g}"
    curve = [(step, step.change) for step in steps if step.change is not None]
    if expectation.must == "follow":
        # Late sound means early picture, and SyncNet counts a late picture as positive.
        off = max(abs(change + step.level) for step, change in curve)
        return off <= (expectation.tolerance or 0), f"off by {off:.2g} at most"
    if expectation.must == "worsen":
        sign = -1 if output.better == "higher" else 1
        last, last_change = curve[-1]
        certain = last.low is None or last.high is None or (last.low > 0 if sign > 0 else last.high < 0)
        rising = all(sign * (after - before) > 0 for (_, before), (_, after) in pairwise(curve))
        right = sign * last_change > 0 and certain and rising
        return right, "worse with every level" if right else "does not worsen with every level"
    moved = max(abs(change) for _, change in curve)
    allowed = expectation.tolerance if expectation.tolerance is not None else SMALL_SHARE * reaction
    return moved <= allowed, f"moves by {moved:.2g}, {allowed:.2g} allowed"
