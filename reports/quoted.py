"""Published tables, entered exactly as printed: shown beside measured rows, never ranked with them."""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from . import spec
from .table import ABSENT, Block, Cell, Column, Footnotes, Row, Table

PAPER = "paper"
_INCOMPLETE = "An en dash is a cell that was not available to us in checkable form; it is left out, not zero."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QuotedColumn(_Strict):
    """Head of a published column."""

    id: str
    label: str
    better: Literal["higher", "lower"] | None = None
    note: str | None = None


class QuotedRow(_Strict):
    """A published row: text per column id, as printed; `notes` says by column id what to doubt about it."""

    label: str
    cells: dict[str, str]
    notes: dict[str, str] = {}


class QuotedBlock(_Strict):
    """A published block; `tier` is the block of ours that it stands beside."""

    title: str
    tier: str | None = None
    rows: tuple[QuotedRow, ...]


class QuotedTable(_Strict):
    """A published table."""

    source: str
    title: str
    caption: str
    complete: bool
    row_head: str = "System"
    columns: tuple[QuotedColumn, ...]
    blocks: tuple[QuotedBlock, ...]


class QuotedSystem(_Strict):
    """A system of the report and the systems of ours that run it.

    Attributes:
        label: As printed.
        adapters: Names of systems, the one closest to the report first.
        tiers: Where the report has a row of it.
        absent: Why it has none elsewhere.
    """

    label: str
    adapters: tuple[str, ...]
    tiers: tuple[str, ...] = ("short", "long")
    absent: str = ""


class QuotedCycle(_Strict):
    """A published cycle by component, in milliseconds."""

    source: str
    label: str
    chunk_frames: int
    cycle: float
    components: dict[str, float]


class Finding(_Strict):
    """A place where the report disagrees with itself."""

    what: str
    text: str
    table: str
    comment: str


def table(name: str) -> Table:
    """Return a published table; every cell is marked quoted, none has a rank."""
    found = published(name)
    notes = Footnotes()
    given = {name for block in found.blocks for row in block.rows for name in row.cells}
    columns = tuple(
        Column(c.id, c.label, better=c.better, marks=(notes.mark(c.note),) if c.note else ())
        for c in found.columns
        if c.id in given
    )
    left_out = [column.label for column in found.columns if column.id not in given]
    blocks = tuple(
        Block(
            block.title,
            tuple(
                Row(row.label, {c.id: cell(row.cells.get(c.id), row.notes.get(c.id), notes) for c in columns})
                for row in block.rows
            ),
        )
        for block in found.blocks
    )
    texts = notes.texts | {"quoted": f"From {found.source}; not measured by talkbench."}
    if not found.complete:
        texts["–"] = _INCOMPLETE + (f" So are whole columns: {', '.join(left_out)}." if left_out else "")
    return Table(f"{name}_quoted", f"{found.title} (quoted)", found.caption, columns, blocks, found.row_head, texts)


def published(name: str) -> QuotedTable:
    """Return a published table as it is stored."""
    return QuotedTable.model_validate(_read(f"{name}.yaml"))


def systems() -> tuple[QuotedSystem, ...]:
    """Return the systems of the report's Table 1, in its order."""
    return tuple(QuotedSystem.model_validate(entry) for entry in _read("systems.yaml")["systems"])


def cell(text: str | None, doubt: str | None, notes: Footnotes) -> Cell:
    """Return a published value, as printed and as a number, with what is to be doubted about it as a footnote."""
    if text is None:
        return Cell(ABSENT.text, quoted=True)
    try:
        value = float(text)
    except ValueError:
        value = None
    return Cell(text, value=value, marks=(notes.mark(doubt),) if doubt else (), quoted=True)


def cycle() -> QuotedCycle:
    """Return the published cycle that Figure 6 stands beside."""
    return QuotedCycle.model_validate(_read("figure6.yaml"))


def findings() -> tuple[Finding, ...]:
    """Return the report's own inconsistencies."""
    return tuple(Finding.model_validate(entry) for entry in _read("inconsistencies.yaml")["findings"])


def reading() -> list[dict[str, str]]:
    """Return what the report's columns can and cannot mean; `evidence` names a function of `meaning`."""
    found: list[dict[str, str]] = _read("reading.yaml")["columns"]
    return found


def _read(name: str) -> Any:
    return yaml.safe_load((spec.folder() / "published" / PAPER / name).read_text(encoding="utf-8"))
