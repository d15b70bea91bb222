"""Table 1 with the systems of the report: what runs measured, and the published values in columns of their own beside.

All seven systems stand in both blocks, whatever the runs hold; a row without a value says why. A published value is
never ranked, never averaged and never shares a column with a measured one: who made it, on what and by which protocol
differs. It stands in the first row of its system, since the report does not say which variant it ran.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from talkbench.errors import TalkbenchError
from talkbench.metrics.base import declared_id
from talkbench.schema import SystemRecord
from talkbench.stats import aggregate
from talkbench.store import attempts
from talkbench.store.run import Run

from . import build, quoted
from .spec import Spec
from .table import Block, Cell, Column, Footnotes, Row, Table

PUBLISHED = ("short", "long")
"""Suites that are what the report measured."""
SUITES = (*PUBLISHED, "open")
"""Suites whose table has the seven rows even if none of the systems took part."""
QUOTED = "#quoted"
NOT_HERE, UNMADE = "not in this run", "not generated"


def applies(runs: Sequence[Run]) -> bool:
    """Tell whether the table of these runs shows the systems of the report.

    It does for the suites that are about them, and for any other suite with the report's tiers as soon as one of them
    takes part. Seven empty rows would drown the demo's table, which is about systems with known answers.
    """
    named = {adapter for entry in quoted.systems() for adapter in entry.adapters}
    tiers = {block.tier for block in quoted.published("table1").blocks}
    return any(
        {rule.name for rule in run.suite.tiers} & tiers
        and (run.suite.name in SUITES or named & {system.name for system in run.systems()})
        for run in runs
    )


def table(
    runs: Sequence[Run], spec: Spec, name: str, *, policy: aggregate.Policy = "complete", systems: Sequence[str] = ()
) -> Table:
    """Return one table of all runs and the published values.

    Args:
        runs: At most one for each tier: the short and the long suite are two runs.
        spec: Which outputs; names the published table.
        name: The table's name.
        policy: What to do about missing rows; see `talkbench.stats.aggregate`.
        systems: Only these; no row then stands for a system of the report that took no part.

    Raises:
        TalkbenchError: If two runs have the same tier, or no run has one of `systems`.
    """
    tiers = Counter(rule.name for run in runs for rule in run.suite.tiers)
    if twice := [tier for tier, count in tiers.items() if count > 1]:
        folders = " and ".join(str(run.path) for run in runs if twice[0] in {rule.name for rule in run.suite.tiers})
        raise TalkbenchError(f"{folders} both have the tier {twice[0]!r}: give one --run for each.")
    _refuse_strangers(runs, systems)
    notes = Footnotes()
    published = quoted.published(spec.quoted or "table1")
    parts = [_Part.of(run, spec, name, policy, systems, notes) for run in runs]
    columns = tuple(_columns(parts, published, spec, runs, notes))
    blocks = [
        _block(block.title, block.tier, parts, published, systems, notes) for block in published.blocks if block.tier
    ]
    blocks += [
        _block(rule.title, rule.name, parts, published, systems, notes)
        for part in parts
        for rule in part.run.suite.tiers
        if rule.name not in {block.tier for block in published.blocks}
    ]
    caption = f"{spec.caption.strip()} Quoted: {published.source}. {build.policy_told(policy)}"
    texts = notes.texts | dict(_remarks(parts))
    return Table(name, spec.title, caption, columns, tuple(blocks), footnotes=texts)


@dataclass(frozen=True)
class _Part:
    """What one run gives.

    Attributes:
        run: The run.
        built: Its measured table, or why there is none.
        systems: Those that are shown.
        rows: Its current rows.
    """

    run: Run
    built: Table | str
    systems: tuple[SystemRecord, ...]
    rows: list[dict[str, Any]]

    @classmethod
    def of(
        cls, run: Run, spec: Spec, name: str, policy: aggregate.Policy, chosen: Sequence[str], notes: Footnotes
    ) -> _Part:
        """Read a run."""
        present = {system.name: system for system in run.systems()}
        shown = [name for name in chosen if name in present] if chosen else list(present)
        built: Table | str
        try:
            built = build.table(run, spec, name, policy=policy, systems=shown, notes=notes)
        except build.NoValuesError as reason:
            built = str(reason)
        return cls(run, built, tuple(present[name] for name in shown), run.current_rows())

    def title(self, tier: str) -> str | None:
        """Return the title of a tier, or None if the run has no such tier."""
        return next((rule.title for rule in self.run.suite.tiers if rule.name == tier), None)

    def row(self, system: SystemRecord, tier: str, notes: Footnotes, unmade: str = UNMADE) -> Row:
        """Return a system's row as measured, with the reason if it has no value."""
        blocks = self.built.blocks if isinstance(self.built, Table) else ()
        own = [
            row for block in blocks if block.title == self.title(tier) for row in block.rows if row.label == system.name
        ]
        row = own[0] if own else Row(system.name, {}, description=system.description)
        if any(cell.value is not None for cell in row.cells.values()):
            failed = self._not_made(system.name, tier)
            marks = (notes.mark(f"{_told('Not generated', failed)}."),) if failed else ()
            return replace(row, marks=row.marks + marks)
        return replace(row, reason=self._why_empty(system.name, tier) or unmade)

    def why_absent(self) -> str:
        """Return why a system of the report, each of which needs a GPU, has not been tried."""
        return f"{UNMADE}: needs GPU" if _had_no_gpu(self.run) else UNMADE

    def _why_empty(self, system: str, tier: str) -> str:
        """Return why a system has no value, or nothing if it has not been tried."""
        rows = [row for row in self.rows if row["system"] == system and row["tier"] == tier]
        if not rows:
            made = any(clip.system == system and clip.tier == tier for clip in self.run.clips())
            made = made or any((self.run.path / "clips" / system).glob("*.mp4"))
            failed = self._not_made(system, tier)
            return "not scored" if made else _told(UNMADE, failed) if failed else ""
        worst = {(row["item"], row["reason"]) for row in rows if row["status"] in {"failed", "unscorable"}}
        counts = Counter(reason for _, reason in worst)
        return _told("no value", counts) if counts else "not scored"

    def _not_made(self, system: str, tier: str) -> Counter[str]:
        """Count by reason the items of a tier at which the last attempt failed."""
        if self.run.suite.items is None:
            counts = Counter(attempts.summary(self.run).get(system, {}))
        else:
            items = [item.id for item in self.run.suite.items if item.tier == tier]
            outcomes = (attempts.outcome(self.run.path, system, item) for item in items)
            counts = Counter(outcome for outcome in outcomes if outcome is not None)
        return Counter({why: n for why, n in counts.items() if why not in {attempts.MADE, attempts.NOT_TRIED}})


def _told(head: str, counts: Counter[str] | dict[str, int]) -> str:
    reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(counts.items()))
    return f"{head}: {reasons}" if reasons else head


def _had_no_gpu(run: Run) -> bool:
    seen = [session.provenance.get("gpus") for session in run.sessions()]
    return bool(seen) and all(gpus == [] for gpus in seen)


def _refuse_strangers(runs: Sequence[Run], systems: Sequence[str]) -> None:
    present = {system.name for run in runs for system in run.systems()}
    for system in systems:
        if system not in present:
            raise TalkbenchError(f"{runs[0].path} has no system {system!r}. It has: {', '.join(sorted(present))}.")


def _block(
    title: str,
    tier: str,
    parts: Sequence[_Part],
    published: quoted.QuotedTable,
    chosen: Sequence[str],
    notes: Footnotes,
) -> Block:
    part = next((part for part in parts if part.title(tier) is not None), None)
    own = {system.name: system for system in part.systems if system.takes_part(tier)} if part else {}
    texts = {row.label: row for block in published.blocks if block.tier == tier for row in block.rows}
    rows: list[Row] = []
    for entry in quoted.systems() if texts else ():
        cells = _quoted_cells(texts.get(entry.label), notes)
        rows += _rows_of(entry, tier, part, own, chosen, cells, notes)
    known = {adapter for entry in quoted.systems() for adapter in entry.adapters} if texts else set()
    rows += [part.row(system, tier, notes) for name, system in own.items() if name not in known] if part else []
    return Block((part and part.title(tier)) or title, tuple(rows))


def _rows_of(
    entry: quoted.QuotedSystem,
    tier: str,
    part: _Part | None,
    own: dict[str, SystemRecord],
    chosen: Sequence[str],
    cells: dict[str, Cell],
    notes: Footnotes,
) -> list[Row]:
    """Return the rows of a system of the report: one per variant that took part, or one that says why none did."""
    members = [name for name in entry.adapters if name in own]
    if part is None or not members:
        if chosen:
            return []
        why = NOT_HERE if part is None else part.why_absent()
        return [Row(entry.label, cells, reason=entry.absent if tier not in entry.tiers else why)]
    found = []
    for place, name in enumerate(members):
        row = part.row(own[name], tier, notes, part.why_absent())
        label = entry.label if name == entry.adapters[0] else f"{entry.label} ({name})"
        found.append(replace(row, label=label, cells=row.cells | (cells if place == 0 else {})))
    return found


def _quoted_cells(row: quoted.QuotedRow | None, notes: Footnotes) -> dict[str, Cell]:
    if row is None:
        return {}
    return {f"{output}{QUOTED}": quoted.cell(text, row.notes.get(output), notes) for output, text in row.cells.items()}


def _columns(
    parts: Sequence[_Part], published: quoted.QuotedTable, spec: Spec, runs: Sequence[Run], notes: Footnotes
) -> Iterator[Column]:
    """Yield the measured columns in the order of the spec, each output's published one after them."""
    heads = {column.id: column for column in published.columns}
    given = {output for block in published.blocks for row in block.rows for output in row.cells}
    for base in spec.outputs:
        merged: dict[str, Column] = {}
        for column in (column for part in parts if isinstance(part.built, Table) for column in part.built.columns):
            if declared_id(column.id.removesuffix(build.WORST)) == base:
                before = merged.get(column.id, column).marks
                merged[column.id] = replace(column, marks=tuple(dict.fromkeys(before + column.marks)))
        yield from merged.values()
        if base in given:
            head = heads[base]
            texts = ["Quoted, not measured by talkbench: never ranked or averaged. An en dash is not known to us."]
            texts += [head.note] if head.note else []
            if any(run.suite.name not in PUBLISHED for run in runs):
                texts.append("Quoted values are of other clips than those measured here.")
            yield Column(
                f"{base}{QUOTED}",
                f"{head.label} quoted",
                better=head.better,
                description=f"As printed in {published.source}.",
                marks=tuple(map(notes.mark, texts)),
            )


def _remarks(parts: Sequence[_Part]) -> Iterator[tuple[str, str]]:
    """Yield what stands under the table without a mark in it: devices, and what is not shown."""
    for part in parts:
        suffix = f" {part.run.path.name}" if len(parts) > 1 else ""
        if told := _hardware(part.rows):
            yield f"hardware{suffix}", told
        missing = part.built if isinstance(part.built, str) else part.built.footnotes.get("*")
        if missing:
            yield f"*{suffix}", missing


def _hardware(rows: Sequence[dict[str, Any]]) -> str:
    """Return what the clips were made on, as their timing events say, and what they were scored on."""
    made: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["metric"] == "speed" and "device" in row["details"]:
            device = f"{row['details'].get('num_devices', 1)} x {row['details']['device']}"
            made.setdefault(device, {})[row["system"]] = None
    scored = sorted({row["device"] for row in rows if row["status"] == "ok"})
    parts = [f"Made on {device}: {', '.join(systems)}." for device, systems in made.items()]
    parts += [f"Scored on {', '.join(scored)}."] if scored else []
    return " ".join(parts)
