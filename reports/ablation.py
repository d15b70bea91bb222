"""Tables 2 and 3 of an ablation: what the report's grid gives at tiny scale, with what the report prints beside it.

Values come from three places: the cost of each training, the measures that only the truth of drawn people allows, and
the rows of `talkbench score`. Every mean has the wider of two intervals: over people, and over trainings of one variant
with different seeds. Nothing is ranked, and a published value has a column of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from talkbench.errors import TalkbenchError
from talkbench.metrics.base import Output, declared_id
from talkbench.stats import aggregate
from talkbench.stats.intervals import Interval, mean_interval
from talkbench.store.run import Run

from . import quoted
from .spec import Spec
from .table import ABSENT, Block, Cell, Column, Footnotes, Row, Table, number

RECORD, MEASURES = "ablation.json", "measures.jsonl"
QUOTED = "#quoted"
COST = "train.minutes"
OURS = (
    Output(COST, "Training (min)", better="lower", digits=1, unit="s", scale=1 / 60,
           description="Wall time of one training, without what interrupted it."),
    Output("mouth.correlation", "Mouth r", better="higher", digits=2,
           description="Correlation of the mouth's opening, read off the frames, with the opening that is spoken."),
    Output("mouth.lag_frames", "Mouth lag", better="zero", digits=1, unit="frames",
           description="Where that correlation is largest; above 0 is a mouth that comes late."),
    Output("mouth.chance", "Mouth r by chance", digits=2,
           description="The same correlation with what is spoken at other times."),
    Output("film.distance", "Distance", better="lower", digits=1, unit="levels",
           description="Mean difference, of 255 levels, from the nearest true frame of the person."),
    Output("film.distance_first", "Distance, start", better="lower", digits=1, unit="levels",
           description="Mean difference, of 255 levels, from the nearest true frame, in the first two seconds."),
    Output("film.distance_last", "Distance, end", better="lower", digits=1, unit="levels",
           description="The same in the last two seconds of the clip: more than at the start is drift."),
    Output("sharpness_first", "Sharpness, start", digits=2,
           description="Difference of neighbouring pixels in the first two seconds, relative to the true film's."),
    Output("sharpness_last", "Sharpness, end", digits=2,
           description="Such sharpness in the last two seconds."),
)  # fmt: skip


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(_Record):
    """What a training took; `cells_at_once` shared the processor."""

    seconds: float
    passes: int
    steps: int
    cells_at_once: int


class Trial(_Record):
    """A system at a seed: why it failed, if it did, and its training, if it had one."""

    system: str
    seed: int
    failed: str | None
    training: Training | None


class Labelled(_Record):
    """A system of a table."""

    system: str
    label: str


class AblationRecord(_Record):
    """`ablation.json`, as `talkbench ablate` writes it."""

    scale: str
    asked: dict[str, Any]
    tables: dict[str, tuple[Labelled, ...]]
    references: tuple[Labelled, ...]
    cells: dict[str, Trial]
    reader: dict[str, float] = {}


@dataclass(frozen=True)
class Value:
    """One number about one clip, or one training."""

    value: float
    person: str
    seed: int


Values = dict[tuple[str, str], list[Value]]
"""By system, and output or `tier.output`."""


def table(run: Run, spec: Spec, name: str) -> Table:
    """Return the measured table of an ablation; published numbers in columns of their own if the spec says so.

    Raises:
        TalkbenchError: If the run is no ablation, or not of this table.
    """
    record = _record(run.path, name)
    found, kinds = _values(run, record)
    notes = Footnotes()
    columns = [_column(output, kinds, notes) for output in spec.outputs]
    published = quoted.published(spec.quoted) if spec.beside and spec.quoted else None
    printed = _printed(published, notes) if published else {}
    heads = _quoted_columns(published, printed, notes) if published else []
    variants = [
        _row(each, record, columns, found, notes, quoted_cells=printed.get(each.label, {}))
        for each in record.tables[name]
    ]
    references = [_row(each, record, columns, found, notes) for each in record.references]
    shown = tuple(c for c in columns if any(row.cells[c.id].value is not None for row in (*variants, *references)))
    first = [column for column in shown if column.id == COST]
    ordered = (*first, *heads, *(column for column in shown if column.id != COST))
    blocks = (Block("Stage 2, tiny scale", tuple(variants)), Block("To compare", tuple(references)))
    source = f" Quoted: {published.source}." if published else ""
    caption = f"{spec.caption.strip()} {_told(record)}{source}"
    return Table(name, spec.title, caption, ordered, blocks, "Variant", notes.texts)


def _record(folder: Path, name: str) -> AblationRecord:
    path = folder / RECORD
    command = f"`talkbench ablate {name} --out {folder}`"
    if not path.is_file():
        raise TalkbenchError(f"{folder} is no ablation (no {RECORD}). Make one: {command}.")
    try:
        record = AblationRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        raise TalkbenchError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    if name not in record.tables:
        raise TalkbenchError(f"{folder} has no {name}, only {', '.join(record.tables)}. Add it: {command}.")
    return record


def _values(run: Run, record: AblationRecord) -> tuple[Values, dict[str, set[str]]]:
    """Return all values, and by output the kinds of weights that they were scored with."""
    found: Values = {}
    for cell in record.cells.values():
        if cell.training is not None:
            found.setdefault((cell.system, COST), []).append(Value(cell.training.seconds, "", cell.seed))
    seeds: dict[str, int] = {}
    for each in _measures(run.path):
        seeds[each["item"]] = each["seed"]
        value = Value(each["value"], each["identity"], each["seed"])
        found.setdefault((each["system"], f"{each['tier']}.{each['name']}"), []).append(value)
    kinds: dict[str, set[str]] = {}
    for row in run.current_rows():
        if row["status"] == "ok" and row["item"] in seeds:
            output = f"{row['tier']}.{declared_id(row['output'])}"
            value = Value(row["value"], row["identity"], seeds[row["item"]])
            found.setdefault((row["system"], output), []).append(value)
            kinds.setdefault(output, set()).add(row["weights_kind"])
    return found, kinds


def _measures(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / MEASURES
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _column(output: str, kinds: dict[str, set[str]], notes: Footnotes) -> Column:
    """Return the head of an output, or of `tier.output`.

    Raises:
        TalkbenchError: If nothing of that name is measured.
    """
    known = aggregate.known_outputs() | {each.id: each for each in OURS}
    tier, _, base = ("", "", output) if output in known else output.partition(".")
    if base not in known:
        raise TalkbenchError(f"unknown output {output!r} of an ablation; known: {', '.join(each.id for each in OURS)}.")
    of = known[base]
    texts = [f"Scored with {kind} weights." for kind in sorted(kinds.get(output, set()) - {"none", "released"})]
    texts += [f"{of.label}: {of.description.rstrip('.')}."] if of in OURS else []
    return Column(
        output, f"{of.label}, {tier}" if tier else of.label, better=of.better, scale=of.scale, digits=of.digits,
        unit=of.unit, description=of.description, marks=tuple(map(notes.mark, texts)),
    )  # fmt: skip


def _row(
    row: Labelled,
    record: AblationRecord,
    columns: Sequence[Column],
    found: Values,
    notes: Footnotes,
    *,
    quoted_cells: dict[str, Cell] | None = None,
) -> Row:
    failed = {cell.seed: cell.failed for cell in record.cells.values() if cell.system == row.system and cell.failed}
    why = "; ".join(f"seed {seed}: {reason}" for seed, reason in sorted(failed.items()))
    cells = {column.id: _cell(found.get((row.system, column.id), []), column) for column in columns}
    counts = [cell.num_used for column, cell in zip(columns, cells.values(), strict=True) if column.id != COST]
    made = max(counts, default=0)
    return Row(
        row.label,
        cells | (quoted_cells or {}),
        "" if made == 0 else str(made),
        marks=(notes.mark(f"Not all of it: {why}."),) if why and made else (),
        reason="" if made else (why or "not tried"),
    )


def _cell(values: Sequence[Value], column: Column) -> Cell:
    if not values:
        return ABSENT
    interval = widest(values)
    text = number(interval.mean, column)
    if interval.low is not None and interval.high is not None:
        text += f" ± {number((interval.high - interval.low) / 2, column)}"
    return Cell(text, value=interval.mean, low=interval.low, high=interval.high, num_used=len(values))


def widest(values: Sequence[Value]) -> Interval:
    """Return the mean with the wider of its intervals over people and over seeds."""
    numbers = [each.value for each in values]
    seeds = mean_interval(numbers, [str(each.seed) for each in values])
    if any(not each.person for each in values):  # a training is of no person
        return seeds
    return max(mean_interval(numbers, [each.person for each in values]), seeds, key=_width)


def _width(interval: Interval) -> float:
    return -1.0 if interval.low is None or interval.high is None else interval.high - interval.low


def _printed(published: quoted.QuotedTable, notes: Footnotes) -> dict[str, dict[str, Cell]]:
    """Return published cells by row and column."""
    return {
        row.label: {
            f"{name}{QUOTED}": quoted.cell(text, row.notes.get(name), notes) for name, text in row.cells.items()
        }
        for block in published.blocks
        for row in block.rows
    }


def _quoted_columns(
    published: quoted.QuotedTable, printed: dict[str, dict[str, Cell]], notes: Footnotes
) -> list[Column]:
    given = {name for cells in printed.values() for name in cells}
    text = "Quoted, not measured by talkbench: the report's size and machines, never ranked or averaged with ours."
    return [
        Column(f"{head.id}{QUOTED}", f"{head.label} quoted", better=head.better, marks=(notes.mark(text),))
        for head in published.columns
        if f"{head.id}{QUOTED}" in given
    ]


def _told(record: AblationRecord) -> str:
    """Return in words how large the experiment was."""
    asked, cast = record.asked, record.asked["cast"]
    parts = [
        f"{record.scale.capitalize()} scale: 64x64 drawn people, {asked['seeds']} trainings of each variant, each "
        f"filmed with {cast['people']} people for {cast['seconds']:g} s (short) and {cast['long_people']} for "
        f"{cast['long_seconds']:g} s (long) whom no network has seen."
    ]
    trained = [cell.training for cell in record.cells.values() if cell.training is not None]
    if trained:
        most = max(each.cells_at_once for each in trained)
        parts.append(f"Trained on a CPU, one core each, {most} at once.")
    if "held_out_r2" in record.reader:
        parts.append(f"The mouth reader explains {record.reader['held_out_r2']:.0%} of the opening on true film.")
    parts.append("Mean ± half the width of the 95 % interval, the wider of that over people and that over trainings.")
    return " ".join(parts)
