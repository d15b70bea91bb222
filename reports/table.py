"""A table as an object: cells with value, interval, count, rank and links. Rendered afterwards, never parsed back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Rank = Literal["best", "second"]

ARROWS = {"higher": "↑", "lower": "↓", "zero": "→0"}


@dataclass(frozen=True)
class Column:
    """Head of a column.

    Attributes:
        id: Output id, or another stable name.
        label: As printed.
        better: Direction, for the arrow; None for none.
        scale: Factor from stored value to printed value.
        digits: Decimals printed.
        unit: Of the stored value.
        description: One sentence.
        marks: Footnote marks after the label.
    """

    id: str
    label: str
    better: Literal["higher", "lower", "zero"] | None = None
    scale: float = 1.0
    digits: int = 2
    unit: str = "1"
    description: str = ""
    marks: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """Label with its arrow."""
        return f"{self.label} {ARROWS[self.better]}" if self.better else self.label


@dataclass(frozen=True)
class Cell:
    """One number, or the reason for its absence.

    Attributes:
        text: As printed, without markup; an en dash if there is no value.
        value: Stored value, unscaled; None without one.
        low: Lower end of the 95 % interval, unscaled.
        high: Upper end.
        num_used: Clips in the mean.
        num_expected: Clips that should be.
        rank: Best or second in its column and block; quoted cells have none.
        marks: Footnote marks.
        quoted: Whether the value was printed by somebody else rather than measured here.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    num_used: int = 0
    num_expected: int = 0
    rank: Rank | None = None
    marks: tuple[str, ...] = ()
    quoted: bool = False


ABSENT = Cell("–")


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        label: Name of the system.
        cells: By column id.
        clips: Coverage in words: ``24/24``.
        description: What the system is.
        marks: Footnote marks after the label.
        reason: Why it has no value of its own; stands where its coverage would.
    """

    label: str
    cells: dict[str, Cell]
    clips: str = ""
    description: str = ""
    marks: tuple[str, ...] = ()
    reason: str = ""

    @property
    def coverage(self) -> str:
        """What stands in the last column: how many clips, or why none."""
        return self.reason or self.clips


@dataclass(frozen=True)
class Block:
    """Rows under one heading: a tier."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A whole table.

    Attributes:
        name: File-name stem: ``table1``.
        title: One line.
        caption: What is measured and how to read it.
        columns: In order.
        blocks: Tiers.
        row_head: Head of the first column.
        footnotes: Mark -> text.
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    row_head: str = "System"
    footnotes: dict[str, str] = field(default_factory=dict)

    @property
    def has_counts(self) -> bool:
        """Whether any row states its coverage."""
        return any(row.coverage for block in self.blocks for row in block.rows)


class Footnotes:
    """Hands out marks a, b, c ... for texts; the same text gets the same mark."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def mark(self, text: str) -> str:
        """Return the mark of `text`."""
        for mark, known in self.texts.items():
            if known == text:
                return mark
        number = len(self.texts)
        mark = chr(ord("a") + number % 26) * (1 + number // 26)
        self.texts[mark] = text
        return mark


def number(value: float, column: Column) -> str:
    """Return a stored value as the column prints it, with a true minus sign."""
    text = f"{value * column.scale:.{column.digits}f}"
    return text.replace("-", "−" if float(text) else "")
