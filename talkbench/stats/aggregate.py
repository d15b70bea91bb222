"""Rows of clips -> one cell per system, tier and output, with n, coverage and a stated policy for missing rows.

Policy `complete` (the default): a column is averaged over the clips for which *every* compared system has a value, so
that a system that fails on hard clips is not rewarded. `available`: each system over its own clips. In both, where
coverage differs by more than two points a worst-case mean puts the worst possible value in every gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from talkbench.metrics.base import RUNNERS, Output, Runner, as_scored
from talkbench.metrics.drift import outputs as drift_outputs
from talkbench.schema import Suite
from talkbench.stats.intervals import Interval, mean_interval

Policy = Literal["complete", "available"]
UNEQUAL_COVERAGE = 0.02

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        system: Whose.
        tier: Block of the table.
        output: Of which output.
        interval: Mean and interval over the clips used; None without any.
        num_used: Clips that entered the mean.
        num_ok: Clips with a value.
        num_expected: Clips that should have one.
        worst_case: Mean with the worst value in every gap; None where coverage is equal.
        reasons: Why clips have no value, by reason.
    """

    system: str
    tier: str
    output: str
    interval: Interval | None
    num_used: int
    num_ok: int
    num_expected: int
    worst_case: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def coverage(self) -> float:
        """Share of expected clips that have a value."""
        return self.num_ok / self.num_expected if self.num_expected else 0.0


@dataclass(frozen=True)
class Column:
    """All systems in one output on one tier.

    Attributes:
        output: What is measured.
        tier: Block of the table.
        cells: By system.
        notes: What a reader must know before comparing: mixed devices, unreleased weights.
        weights_kind: Where the weights behind the values came from.
    """

    output: Output
    tier: str
    cells: dict[str, Cell]
    notes: tuple[str, ...] = ()
    weights_kind: str = "none"


def known_outputs() -> dict[str, Output]:
    """Return every output that a registered runner can produce, drift included, by id."""
    found: dict[str, Output] = {}
    for name in RUNNERS.names():
        runner: type[Runner] = RUNNERS.get(name)
        for output in runner.outputs:
            drifting = drift_outputs(output) if output.series else ()
            found.update({made.id: made for made in as_scored((output, *drifting), runner.needs)})
    return found


def comparable(value: float, output: Output) -> float:
    """Return what is ranked: the distance from zero for outputs whose best value is zero, else the value."""
    return abs(value) if output.better == "zero" else value


def columns(rows: Iterable[Row], systems: Sequence[str], suite: Suite, policy: Policy = "complete") -> list[Column]:
    """Return every column that the rows allow, in registry order, one per tier and output.

    Args:
        rows: From `Run.current_rows`.
        systems: In the order of the table.
        suite: Gives the expected number of clips per tier.
        policy: See the module.
    """
    outputs = known_outputs()
    grouped: dict[tuple[str, str], list[Row]] = {}
    items: dict[str, set[str]] = {}
    for row in rows:
        if row["system"] in systems:
            grouped.setdefault((row["tier"], row["output"]), []).append(row)
            if row["reason"] not in {"unknown-item", "outside-suite"}:
                items.setdefault(row["tier"], set()).add(row["item"])
    if suite.items is not None:
        items = {rule.name: {item.id for item in suite.items if item.tier == rule.name} for rule in suite.tiers}
    tiers = [rule.name for rule in suite.tiers]
    order = {output: number for number, output in enumerate(outputs)}
    found = sorted(grouped, key=lambda name: (tiers.index(name[0]), order.get(name[1], len(order)), name[1]))
    return [
        _column(
            grouped[tier, name], systems, tier, outputs.get(name, Output(name, name)), items.get(tier, set()), policy
        )
        for tier, name in found
    ]


def _column(
    rows: list[Row], systems: Sequence[str], tier: str, output: Output, items: set[str], policy: Policy
) -> Column:
    by_system: dict[str, list[Row]] = {system: [] for system in systems}
    for row in rows:
        by_system[row["system"]].append(row)
    ok = {system: {row["item"]: row for row in own if row["status"] == "ok"} for system, own in by_system.items()}
    taking_part = [set(found) for found in ok.values() if found]
    shared = set.intersection(*taking_part) if taking_part else set()
    complete = policy == "complete" and bool(shared)
    # Drift exists only for clips long enough for it, so its gaps are not the systems' fault.
    expected = set().union(*taking_part) if output.id.startswith("drift.") else items
    cells = {}
    for system, own in by_system.items():
        gaps = Counter(
            row["reason"] for row in own if row["status"] in {"unscorable", "failed"} and row["item"] in expected
        )
        skipped = {row["item"] for row in own if row["status"] == "skipped"}
        counted = expected - skipped
        absent = len(counted - {row["item"] for row in own}) if own else 0
        used = [ok[system][item] for item in sorted(shared if complete and ok[system] else ok[system])]
        cells[system] = Cell(
            system=system,
            tier=tier,
            output=output.id,
            interval=_interval(used, output) if used else None,
            num_used=len(used),
            num_ok=len(ok[system]),
            num_expected=len(counted),
            reasons=dict(gaps) | ({"no-clip": absent} if absent else {}),
        )
    cells = _with_worst_case(cells, ok, output, expected)
    scored = [row for row in rows if row["status"] == "ok"]
    kinds = sorted({row["weights_kind"] for row in scored} or {"none"})
    return Column(output, tier, cells, _notes(scored, complete, cells), "+".join(kinds))


def _interval(rows: list[Row], output: Output) -> Interval:
    found = mean_interval([row["value"] for row in rows], [row["identity"] for row in rows])
    if found.low is None or found.high is None:
        return found
    least, most = output.bounds
    low = found.low if least is None else max(found.low, least)
    high = found.high if most is None else min(found.high, most)
    return Interval(found.mean, low, high, found.num_clusters)


def _with_worst_case(
    cells: dict[str, Cell], ok: dict[str, dict[str, Row]], output: Output, expected: set[str]
) -> dict[str, Cell]:
    """Fill gaps with the worst value where coverage differs by more than two points."""
    scored = [cell for cell in cells.values() if cell.num_ok]
    if (
        output.better is None
        or not scored
        or max(c.coverage for c in scored) - min(c.coverage for c in scored) <= UNEQUAL_COVERAGE
    ):
        return cells
    values = [row["value"] for own in ok.values() for row in own.values()]
    least, most = output.bounds
    if output.better == "higher":
        worst = least if least is not None else min(values)
    elif output.better == "lower":
        worst = most if most is not None else max(values)
    else:
        worst = most if most is not None else max(map(abs, values))
    filled = {}
    for system, cell in cells.items():
        own = [comparable(row["value"], output) for item, row in ok[system].items() if item in expected]
        gaps = cell.num_expected - len(own)
        mean = (sum(own) + gaps * worst) / cell.num_expected if own and gaps > 0 else None
        filled[system] = Cell(**{**cell.__dict__, "worst_case": mean})
    return filled


def _notes(rows: list[Row], complete: bool, cells: dict[str, Cell]) -> tuple[str, ...]:
    notes = []
    for name, what in (
        ("device", "devices"),
        ("env", "environments"),
        ("params", "parameters"),
        ("metric_version", "metric versions"),
    ):
        different = {row[name] for row in rows}
        if len(different) > 1:
            notes.append(f"rows from {len(different)} different {what} are mixed")
    for kind in {row["weights_kind"] for row in rows} - {"none", "released"}:
        notes.append(f"scored with {kind} weights: not comparable with published scores")
    if len({tuple(sorted(row["weights"].items())) for row in rows}) > 1:
        notes.append("rows scored with different weight files are mixed")
    if (
        not complete
        and len([cell for cell in cells.values() if cell.num_ok]) > 1
        and any(c.num_ok < c.num_expected for c in cells.values() if c.num_ok)
    ):
        notes.append("systems are averaged over different clips")
    return tuple(notes)
