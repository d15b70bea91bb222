"""Is A better than B? Paired differences on shared clips, by identity, corrected over everything asked at once.

The test flips the sign of whole identities (exactly if there are few); Wilcoxon's signed-rank test on identity means
stands beside it as a check. Holm's correction covers all outputs and tiers of one comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkbench.metrics.base import Output
from talkbench.stats.aggregate import Row, comparable, known_outputs
from talkbench.stats.intervals import SEED, Interval, mean_interval

EXACT_UP_TO = 14
FLIPS = 20_000
SIGNIFICANT = 0.05
FEWEST_FOR_WILCOXON = 6


@dataclass(frozen=True)
class Comparison:
    """A against B in one output on one tier; differences are A minus B of what is ranked.

    Attributes:
        output: Output id.
        tier: Block of the table.
        difference: Mean difference and its interval.
        num_clips: Shared clips.
        num_identities: Identities among them.
        p_value: Sign-flip permutation, two-sided.
        p_least: Smallest p the number of identities allows.
        p_holm: Corrected over the whole comparison.
        p_wilcoxon: The check; None with fewer than six identities or no difference.
        win_rate: Share of clips where A is better, ties counted half; None without a direction.
        verdict: One of ``A``, ``B``, ``tie``, ``differs`` (no direction).
    """

    output: str
    tier: str
    difference: Interval
    num_clips: int
    num_identities: int
    p_value: float
    p_least: float
    p_holm: float
    p_wilcoxon: float | None
    win_rate: float | None
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def compare(rows: Iterable[Row], first: str, second: str, outputs: Sequence[str] | None = None) -> list[Comparison]:
    """Return one comparison per tier and output that both systems share, Holm-corrected together."""
    known = known_outputs()
    values: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in rows:
        if row["status"] == "ok" and row["system"] in (first, second) and (not outputs or row["output"] in outputs):
            values.setdefault((row["tier"], row["output"]), {}).setdefault(row["system"], {})[row["item"]] = row
    found = [
        _paired(tier, known.get(name, Output(name, name)), both[first], both[second])
        for (tier, name), both in values.items()
        if len(both) == 2 and both[first].keys() & both[second].keys()
    ]
    order = {name: number for number, name in enumerate(known)}
    found.sort(key=lambda comparison: (comparison.tier, order.get(comparison.output, len(order))))
    corrected = holm([comparison.p_value for comparison in found])
    return [_decided(comparison, p, known) for comparison, p in zip(found, corrected, strict=True)]


def paired_interval(first: dict[str, Row], second: dict[str, Row], output: Output) -> Interval | None:
    """Return the interval of the mean paired difference on shared clips, or None without any."""
    items = sorted(first.keys() & second.keys())
    if not items:
        return None
    differences = [comparable(first[i]["value"], output) - comparable(second[i]["value"], output) for i in items]
    return mean_interval(differences, [first[i]["identity"] for i in items])


def sign_flip_p(sums_K: NDArray[np.float64], seed: int = SEED) -> float:
    """Return the two-sided p-value of the sum of identity totals [K] under random signs.

    Exact over all 2^K signs up to K = 14; beyond, 20 000 random ones, the observed one counted in.
    """
    k = len(sums_K)
    observed = abs(float(sums_K.sum()))
    slack = 1e-9 * float(np.abs(sums_K).sum())
    if k <= EXACT_UP_TO:
        signs = np.array(list(product((-1.0, 1.0), repeat=k)))
        return float((np.abs(signs @ sums_K) >= observed - slack).mean())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(FLIPS, k))
    return (1 + int((np.abs(signs @ sums_K) >= observed - slack).sum())) / (1 + FLIPS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def _paired(tier: str, output: Output, first: dict[str, Row], second: dict[str, Row]) -> Comparison:
    items = sorted(first.keys() & second.keys())
    d = np.array([comparable(first[i]["value"], output) - comparable(second[i]["value"], output) for i in items])
    identities = [first[i]["identity"] for i in items]
    names, index = np.unique(identities, return_inverse=True)
    sums = np.bincount(index, weights=d).astype(np.float64)
    means = sums / np.bincount(index)
    wins = None
    if output.better is not None:
        signed = d if output.better == "higher" else -d
        wins = float(((signed > 0) + 0.5 * (signed == 0)).mean())
    wilcoxon_p = None
    if len(names) >= FEWEST_FOR_WILCOXON and np.any(means):
        from scipy.stats import wilcoxon

        wilcoxon_p = float(wilcoxon(means).pvalue)
    return Comparison(
        output=output.id,
        tier=tier,
        difference=mean_interval([float(x) for x in d], identities),
        num_clips=len(items),
        num_identities=len(names),
        p_value=sign_flip_p(sums),
        p_least=max(2.0 / 2 ** len(names), 1 / (1 + FLIPS)),
        p_holm=1.0,
        p_wilcoxon=wilcoxon_p,
        win_rate=wins,
        verdict="tie",
    )


def _decided(comparison: Comparison, p_holm: float, known: dict[str, Output]) -> Comparison:
    output = known.get(comparison.output, Output(comparison.output, comparison.output))
    verdict = "tie"
    if p_holm < SIGNIFICANT:
        above = comparison.difference.mean > 0
        verdict = "differs" if output.better is None else ("A" if above == (output.better == "higher") else "B")
    return Comparison(**{**comparison.__dict__, "p_holm": p_holm, "verdict": verdict})
