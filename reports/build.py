"""Rows of a run + a spec -> Table: means, intervals, ranks with ties, coverage and footnotes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from talkbench.errors import TalkbenchError
from talkbench.metrics.base import Output, declared_id
from talkbench.schema import SystemRecord
from talkbench.stats import aggregate
from talkbench.stats.compare import paired_interval
from talkbench.store.run import Run

from .spec import Spec
from .table import ABSENT, Block, Cell, Column, Footnotes, Rank, Row, Table, number

STILL_PERCENT_PER_SECOND = 0.1
WORST = "#worst"

Measured = dict[tuple[str, str], aggregate.Column]


class NoValuesError(TalkbenchError):
    """The run has no value for anything that the table shows."""


def table(
    run: Run,
    spec: Spec,
    name: str,
    *,
    policy: aggregate.Policy = "complete",
    systems: Sequence[str] = (),
    notes: Footnotes | None = None,
) -> Table:
    """Return the measured table of a spec.

    Args:
        run: Whose rows.
        spec: Which outputs.
        name: The table's name.
        policy: What to do about missing rows; see `talkbench.stats.aggregate`.
        systems: Which systems, in order; all by default.
        notes: Footnotes to go on with, where several tables share theirs.

    Raises:
        NoValuesError: If the run has no value for any output of the spec.
        TalkbenchError: If the run has not that system.
    """
    notes = notes or Footnotes()
    present = {system.name: system for system in run.systems()}
    for system in systems:
        if system not in present:
            raise TalkbenchError(f"{run.path} has no system {system!r}. It has: {', '.join(present)}.")
    chosen = list(systems) or list(present)
    rows = run.current_rows()
    measured: Measured = {
        (column.tier, column.output.id): column for column in aggregate.columns(rows, chosen, run.suite, policy)
    }
    known = aggregate.known_outputs()
    wanted = [output for base in spec.outputs for output in known.values() if declared_id(output.id) == base]
    shown = [o for o in wanted if any(_has_value(column) for (_, out), column in measured.items() if out == o.id)]
    if not shown:
        raise NoValuesError(f"{run.path} has no value for {spec.title!r}. It needs: {spec.needs}.")
    columns = tuple(column for output in shown for column in _heads(output, measured, notes))
    blocks = tuple(
        Block(
            rule.title,
            tuple(
                _row(present[system], rule.name, shown, measured, rows, notes)
                for system in chosen
                if present[system].takes_part(rule.name)
            ),
        )
        for rule in run.suite.tiers
        if any((rule.name, output.id) in measured and _has_value(measured[rule.name, output.id]) for output in shown)
    )
    if len(blocks) == 0:
        raise NoValuesError(f"{run.path} has no scored clip.")
    caption = f"{spec.caption} {policy_told(policy)}"
    return Table(name, spec.title, caption, columns, blocks, footnotes=notes.texts | _hidden(spec, shown, rows))


def policy_told(policy: aggregate.Policy) -> str:
    """Return in words what is done about missing rows."""
    if policy == "complete":
        return (
            "Missing rows: each column is averaged over the clips for which every system has a value, if there are any."
        )
    return "Missing rows: each system is averaged over its own clips."


def _heads(output: Output, measured: Measured, notes: Footnotes) -> list[Column]:
    """Return the column of an output, and a worst-case column beside it where coverage differs."""
    head = _head(output, measured, notes)
    unequal = any(
        cell.worst_case is not None
        for (_, name), column in measured.items()
        if name == output.id
        for cell in column.cells.values()
    )
    if not unequal:
        return [head]
    text = "Worst case: the worst possible value stands in for every missing clip."
    worst = replace(head, id=output.id + WORST, label=f"{head.label} worst case", marks=(notes.mark(text),))
    return [head, worst]


def _head(output: Output, measured: Measured, notes: Footnotes) -> Column:
    texts = {note for (_, out), column in measured.items() if out == output.id for note in column.notes}
    # Which weights is a footnote: a column's head has no room for it, and no other kind ever shares the column.
    label = aggregate.known_outputs()[declared_id(output.id)].label
    if output.id.startswith("speed."):  # one word, many meanings: which one it is belongs under the table
        texts.add(f"{label}: {output.description.rstrip('.')}")
    return Column(
        id=output.id,
        label=label,
        better=output.better,
        scale=output.scale,
        digits=output.digits,
        unit=output.unit,
        description=output.description,
        marks=tuple(notes.mark(text[0].upper() + text[1:] + ".") for text in sorted(texts)),
    )


def _row(
    system: SystemRecord,
    tier: str,
    outputs: list[Output],
    measured: Measured,
    rows: list[dict[str, Any]],
    notes: Footnotes,
) -> Row:
    cells: dict[str, Cell] = {}
    counts: list[tuple[int, int]] = []
    for output in outputs:
        column = measured.get((tier, output.id))
        found = column.cells.get(system.name) if column else None
        if column is None or found is None or found.interval is None:
            cells[output.id] = _absent(found, notes)
            continue
        ranks = _ranks(column, tier, rows, measured)
        cells[output.id] = _cell(found, output, ranks.get(system.name), notes)
        cells[output.id + WORST] = _worst_cell(found, output)
        counts.append((found.num_used, found.num_expected))
    most = max(counts, default=(0, 0))
    marks = [notes.mark(system.caution)] if system.caution else []
    marks += (
        [notes.mark("Stands still: its steadiness and consistency mean nothing, and get no rank.")]
        if _is_still(system.name, tier, measured)
        else []
    )
    clips = f"{most[0]}/{most[1]}" if counts else "0"
    return Row(system.name, cells, clips, system.description, tuple(marks))


def _cell(found: aggregate.Cell, output: Output, rank: Rank | None, notes: Footnotes) -> Cell:
    assert found.interval is not None  # noqa: S101 - the caller asked
    column = Column(output.id, output.label, scale=output.scale, digits=output.digits)
    interval = found.interval
    text = number(interval.mean, column)
    if interval.low is not None and interval.high is not None:
        text += f" ± {number((interval.high - interval.low) / 2, column)}"
    marks = []
    if found.num_ok < found.num_expected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(found.reasons.items()))
        marks.append(notes.mark(f"{found.num_ok} of {found.num_expected} clips have a value ({reasons})."))
    return Cell(
        text,
        value=interval.mean,
        low=interval.low,
        high=interval.high,
        num_used=found.num_used,
        num_expected=found.num_expected,
        rank=rank,
        marks=tuple(marks),
    )


def _worst_cell(found: aggregate.Cell, output: Output) -> Cell:
    """Return the mean with every gap filled by the worst value; a system without gaps keeps its own."""
    assert found.interval is not None  # noqa: S101 - the caller asked
    value = found.interval.mean if found.worst_case is None else found.worst_case
    return Cell(number(value, Column(output.id, output.label, scale=output.scale, digits=output.digits)), value=value)


def _absent(found: aggregate.Cell | None, notes: Footnotes) -> Cell:
    if found is None or not found.reasons:
        return ABSENT
    mark = notes.mark(f"No clip has a value ({', '.join(sorted(found.reasons))}).")
    return Cell(ABSENT.text, num_expected=found.num_expected, marks=(mark,))


def _ranks(column: aggregate.Column, tier: str, rows: list[dict[str, Any]], measured: Measured) -> dict[str, Rank]:
    """Return who is best and second; systems whose paired interval to the leader includes zero share its place.

    A system that stands still is left out where stillness is what the output rewards.
    """
    output = column.output
    if output.better is None:
        return {}
    own: dict[str, dict[str, Any]] = {}
    for row in rows:
        if (
            row["tier"] == tier
            and row["output"] == output.id
            and row["status"] == "ok"
            and row["system"] in column.cells
            and not (output.rewards_stillness and _is_still(row["system"], tier, measured))
        ):
            own.setdefault(row["system"], {})[row["item"]] = row
    if len(own) < 2:
        return {}

    def level(system: str) -> float:
        values = [aggregate.comparable(row["value"], output) for row in own[system].values()]
        mean = sum(values) / len(values)
        return -mean if output.better == "higher" else mean

    ranks: dict[str, Rank] = {}
    left = sorted(own, key=level)
    for rank in ("best", "second"):
        if not left or (rank == "second" and len(left) < 1):
            break
        leader = left[0]
        tied = [leader]
        for other in left[1:]:
            interval = paired_interval(own[leader], own[other], output)
            same = level(leader) == level(other)
            if same or (
                interval is not None and interval.low is not None and not interval.excludes_zero and _noisy(interval)
            ):
                tied.append(other)
        ranks.update(dict.fromkeys(tied, rank))
        left = [system for system in left if system not in tied]
    return {} if len(set(ranks.values())) == 1 and len(ranks) == len(own) else ranks


def _noisy(interval: Any) -> bool:
    return bool(interval.high > interval.low or interval.mean == 0)


def _is_still(system: str, tier: str, measured: Measured) -> bool:
    column = measured.get((tier, "motion.amount"))
    cell = column.cells.get(system) if column else None
    return cell is not None and cell.interval is not None and cell.interval.mean < STILL_PERCENT_PER_SECOND


def _has_value(column: aggregate.Column) -> bool:
    return any(cell.interval is not None for cell in column.cells.values())


def _hidden(spec: Spec, shown: list[Output], rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return one footnote that says which columns are left out, and why."""
    known = aggregate.known_outputs()
    missing = [output for output in spec.outputs if output not in {declared_id(o.id) for o in shown}]
    if not missing:
        return {}
    told: dict[str, list[str]] = {}
    for output in missing:
        label = known[output].label if output in known else spec.labels.get(output, output)
        own = [row for row in rows if row["output"] == output]
        reasons = sorted({row["reason"] for row in own if row["reason"]})
        why = ", ".join(reasons) if reasons else ("not scored" if output in known else "no runner in this version")
        told.setdefault(why, []).append(label)
    groups = [f"{', '.join(labels)} ({why})" for why, labels in told.items()]
    return {"*": f"Not shown: {'; '.join(groups)}."}
