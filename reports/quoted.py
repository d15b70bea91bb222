"""Published tables, entered exactly as printed: shown beside measured rows, never ranked with them."""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from . import spec
from .table import ABSENT, Block, Cell, Column, Row, Table

PAPER = "paper"
_INCOMPLETE = "An en dash is a cell that was not available to us in checkable form; it is left out, not zero."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QuotedColumn(_Strict):
    """Head of a published column."""

    id: str
    label: str
    better: Literal["higher", "lower"] | None = None


class QuotedRow(_Strict):
    """A published row: text per column id, as printed."""

    label: str
    cells: dict[str, str]


class QuotedBlock(_Strict):
    """A published block."""

    title: str
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
    published = QuotedTable.model_validate(_read(f"{name}.yaml"))
    given = {name for block in published.blocks for row in block.rows for name in row.cells}
    columns = tuple(Column(c.id, c.label, better=c.better) for c in published.columns if c.id in given)
    left_out = [column.label for column in published.columns if column.id not in given]
    blocks = tuple(
        Block(
            block.title,
            tuple(Row(row.label, {c.id: _cell(row.cells.get(c.id)) for c in columns}) for row in block.rows),
        )
        for block in published.blocks
    )
    notes = {"quoted": f"From {published.source}; not measured by talkbench."}
    if not published.complete:
        notes["–"] = _INCOMPLETE + (f" So are whole columns: {', '.join(left_out)}." if left_out else "")
    return Table(
        f"{name}_quoted", f"{published.title} (quoted)", published.caption, columns, blocks, published.row_head, notes
    )


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


def _cell(text: str | None) -> Cell:
    if text is None:
        return Cell(ABSENT.text, quoted=True)
    try:
        value = float(text)
    except ValueError:
        value = None
    return Cell(text, value=value, quoted=True)
