"""What happens over minutes, from any runner's per-frame series: slope, time until it fails, seams between chunks.

Derived in the same pass as the series, if that covers `MIN_SECONDS` or more. A generator that works in chunks of
p frames can jump at every p-th frame; one that feeds on its own output can decay. Both vanish in a clip's mean.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from talkbench.errors import Unscorable
from talkbench.metrics.base import Output, Scores
from talkbench.metrics.series import Terms
from talkbench.schema import Better, Windows

VERSION = "2"
"""Enters the score key of every runner with a series."""
MIN_SECONDS = 30.0
BASELINE_SECONDS = 10.0
FAILURE_SPREADS = 5.0
FAILURE_WINDOWS = 5
MIN_RELATIVE_DROP = 0.002
SHORTEST_PERIOD = 8
LONGEST_PERIOD = 125
MIN_REPEATS = 10
SAME_JUMP = 0.6
SEAM_NOISE_SIGMA = 2.0
"""Clips without seams rarely reach this."""
_MAD_TO_SIGMA = 1.4826

Curve = NDArray[np.float64]


def outputs(base: Output) -> tuple[Output, ...]:
    """Return the drift outputs that go with an output with a series; no seams if it is only sampled."""
    what = base.label
    found = (
        Output(
            f"drift.slope.{base.id}",
            f"{what} slope",
            unit=f"{base.unit} / min",
            better="zero",
            scale=base.scale,
            digits=3,
            description=f"Change of {what} per minute (Theil-Sen); 0 is stable.",
        ),
        Output(
            f"drift.stable_seconds.{base.id}",
            f"{what} stable for",
            unit="s",
            better="higher",
            bounds=(0.0, None),
            digits=0,
            description=f"Seconds until {what} leaves its level of the first 10 s for good; at most the clip's length.",
        ),
        Output(
            f"drift.seam_strength.{base.id}",
            f"{what} seams",
            unit="sigma",
            better="lower",
            bounds=(0.0, None),
            digits=1,
            description=f"Jump in {what} that repeats every p frames, in robust standard deviations; "
            f"under {SEAM_NOISE_SIGMA:g} is noise.",
        ),
    )
    kept = found[:2] if base.sampled else found
    return tuple(replace(made, rewards_stillness=base.rewards_stillness) for made in kept)


def derive(base: Output, terms: Terms, clip_seconds: float) -> Scores | None:
    """Return drift of a series, or None if it covers less than `MIN_SECONDS`.

    Details: ``never_failed``, whether no failure was seen; ``seam_period_frames``.
    """
    if not len(terms) or terms.seconds_T[-1] - terms.seconds_T[0] < MIN_SECONDS:
        return None
    windows = terms.windows()
    slope, stable, *seams = outputs(base)
    found = Scores({slope.id: slope_per_minute(windows)}, details={"never_failed": True})
    try:
        found.values[stable.id] = stable_seconds(windows, base.better, clip_seconds)
        found.details["never_failed"] = found.values[stable.id] >= len(windows.values) * windows.seconds
    except Unscorable as error:
        found.missing[stable.id] = error
    for seam in seams:
        try:
            found.values[seam.id], found.details["seam_period_frames"] = seam_strength(terms.values_T, base.better)
        except Unscorable as error:
            found.missing[seam.id] = error
    return found


def slope_per_minute(windows: Windows) -> float:
    """Return the median slope over all pairs of windows, per minute (Theil 1950, Sen 1968)."""
    values, at = _present(windows)
    later, earlier = np.tril_indices(len(values), -1)
    return float(np.median((values[later] - values[earlier]) / (at[later] - at[earlier]))) * 60.0


def stable_seconds(windows: Windows, better: Better | None, clip_seconds: float) -> float:
    """Return the time of the first of `FAILURE_WINDOWS` windows in a row that are out of bounds, or the series' length.

    A series that is in bounds as long as it goes on, but ends so long before its clip that a failure would have been
    seen, says nothing: the face may have left.

    Bounds: the median of its first 10 s, minus `FAILURE_SPREADS` robust spreads of neighbouring windows (so that a
    slow trend does not widen them) and at least 0.2 % of the level; on both sides if neither direction is better.

    Raises:
        Unscorable: ``ends-early``.
    """
    values, at = _present(windows)
    level = float(np.median(values[at < at[0] + BASELINE_SECONDS]))
    steps = np.diff(values)
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(steps - np.median(steps)))) / np.sqrt(2)
    allowed = max(FAILURE_SPREADS * spread, MIN_RELATIVE_DROP * abs(level))
    worse = _worse(values - level, better)
    out = (worse > allowed).astype(np.int64)
    run = np.convolve(out, np.ones(FAILURE_WINDOWS, dtype=np.int64), mode="valid")
    failing = np.flatnonzero(run == FAILURE_WINDOWS)
    if failing.size:
        return float(at[failing[0]])
    end = len(windows.values) * windows.seconds
    if clip_seconds - end > FAILURE_WINDOWS * float(np.median(np.diff(at))):
        raise Unscorable("ends-early", f"stable for {end:.0f} s, and unknown for the rest of {clip_seconds:.0f} s")
    return end


def seam_strength(values_T: Curve, better: Better | None) -> tuple[float, int]:
    """Return the strongest periodic jump in robust standard deviations, and its period in frames.

    The series minus its running median is folded at every period of 8 to 125 frames; a jump counts by the lower
    quartile over its repeats, so that single events (a blink, a cut) do not: on clips without seams 2 is rarely
    reached. The multiples of a period show the same jump; the shortest is reported.

    Raises:
        Unscorable: ``too-few-terms`` for the shortest period.
    """
    if len(values_T) < (least := SHORTEST_PERIOD * MIN_REPEATS):
        raise Unscorable("too-few-terms", f"seams need {least} terms, the series has {len(values_T)}")
    from scipy.ndimage import median_filter  # 0.2 s to import: only clips of 30 s or more pay for it

    residual = _worse(values_T - median_filter(values_T, size=2 * SHORTEST_PERIOD + 1, mode="nearest"), better)
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(residual - np.median(residual))))
    floor = max(1e-12, 1e-6 * float(np.abs(values_T).max()))
    strengths: dict[int, float] = {}
    for period in range(SHORTEST_PERIOD, min(LONGEST_PERIOD, len(residual) // MIN_REPEATS) + 1):
        repeats = len(residual) // period
        folded = np.quantile(residual[: repeats * period].reshape(repeats, period), 0.25, axis=0)
        strengths[period] = float(folded.max()) / max(spread, floor)
    strongest = max(strengths.values())
    if strongest <= 0:
        return 0.0, 0
    period = min(p for p, strength in strengths.items() if strength >= SAME_JUMP * strongest)
    return strengths[period], period


def _worse(change: Curve, better: Better | None) -> Curve:
    if better == "higher":
        return -change
    return change if better == "lower" else np.abs(change)


def _present(windows: Windows) -> tuple[Curve, Curve]:
    index = [i for i, value in enumerate(windows.values) if value is not None]
    return np.array([windows.values[i] for i in index], dtype=np.float64), np.array(index) * windows.seconds
