"""What the columns of Table 1 can and cannot mean, with the evidence that a run's own rows give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from talkbench.metrics.base import Output, declared_id
from talkbench.stats.aggregate import known_outputs

from . import quoted
from .build import STILL_PERCENT_PER_SECOND

Row = dict[str, Any]
NO_EVIDENCE = "Nothing in this run."
_MAX_NAMED = 3


@dataclass(frozen=True)
class Reading:
    """How to read some columns.

    Attributes:
        columns: Their heads.
        published: What the report prints.
        can: What they can mean.
        cannot: What they cannot.
        here: What this run shows of it.
    """

    columns: str
    published: str
    can: str
    cannot: str
    here: str


def readings(rows: Iterable[Row]) -> list[Reading]:
    """Return all readings with the evidence of a run's current rows."""
    scored = [row for row in rows if row["status"] == "ok"]
    return [
        Reading(
            **{name: text for name, text in entry.items() if name != "evidence"},
            here=EVIDENCE[entry["evidence"]](scored),
        )
        for entry in quoted.reading()
    ]


def show(found: list[Reading], console: Console) -> None:
    """Print readings."""
    table = RichTable(title="What the columns of Table 1 can and cannot mean", title_justify="left", show_lines=True)
    for head in ("columns", "the report prints", "can", "cannot", "in this run"):
        table.add_column(head, overflow="fold")
    for each in found:
        table.add_row(each.columns, each.published, each.can, each.cannot, each.here)
    console.print(table)


def _means(rows: list[Row], output: str) -> dict[str, float]:
    """Return the mean over clips of each system."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["output"] == output:
            values.setdefault(row["system"], []).append(row["value"])
    return {system: sum(own) / len(own) for system, own in values.items()}


def _scored(rows: list[Row], *bases: str) -> list[Output]:
    present = {row["output"] for row in rows}
    return [o for o in known_outputs().values() if o.id in present and declared_id(o.id) in bases]


def _printed(value: float, output: Output) -> str:
    return f"{value * output.scale:.{output.digits}f}"


def protocols(rows: list[Row]) -> str:
    """Compare the confidences that different protocols give to the same clips."""
    texts = []
    for output in _scored(rows, "sync.confidence", "sync.frame.confidence", "sync.official.confidence"):
        own = [row["value"] for row in rows if row["output"] == output.id]
        texts.append(f"{output.label} {_printed(sum(own) / len(own), output)} ({len(own)} clips)")
    return f"Mean over all clips: {'; '.join(texts)}." if texts else NO_EVIDENCE


def opinion(rows: list[Row]) -> str:
    """Count scores behind which the five words were not told apart."""
    texts = []
    for output in _scored(rows, "qalign.quality", "qalign.aesthetics"):
        own = [row for row in rows if row["output"] == output.id]
        name = declared_id(output.id)
        guesses = sum(bool(row["details"].get("uninformative", {}).get(name)) for row in own)
        texts.append(f"{output.label}: {guesses} of {len(own)} clips no better than a guess")
    return f"{'; '.join(texts)}." if texts else NO_EVIDENCE


def stillness(rows: list[Row]) -> str:
    """Show what systems that stand still get, beside the best that moves."""
    still = [name for name, value in _means(rows, "motion.amount").items() if value < STILL_PERCENT_PER_SECOND]
    texts = []
    for output in [o for o in known_outputs().values() if o.rewards_stillness and not o.id.startswith("drift.")]:
        means = _means(rows, output.id)
        moving = {name: value for name, value in means.items() if name not in still}
        for name in [name for name in still if name in means][:_MAX_NAMED]:
            best = max(moving, key=lambda each: moving[each], default=None)
            beside = f"; the best that moves ({best}) {_printed(moving[best], output)}" if best else ""
            texts.append(f"{output.label}: {name} {_printed(means[name], output)}{beside}")
    return f"{'. '.join(texts)}." if texts else "No system of this run stands still."


def means(rows: list[Row]) -> str:
    """Give the mean over clips beside the mean over frames."""
    texts = []
    for output in _scored(rows, "vbench.subject_consistency", "vbench.background_consistency"):
        own = [row for row in rows if row["output"] == output.id]
        weights = [row["details"].get("num_terms", 0) for row in own]
        over_clips = sum(row["value"] for row in own) / len(own)
        over_frames = sum(r["value"] * w for r, w in zip(own, weights, strict=True)) / max(1, sum(weights))
        digits = output.digits + 1
        texts.append(
            f"{output.label}: {over_clips * output.scale:.{digits}f} over clips, "
            f"{over_frames * output.scale:.{digits}f} over frames"
        )
    return f"{'; '.join(texts)} (all systems)." if texts else NO_EVIDENCE


def none(_rows: list[Row]) -> str:
    """Say that rows have nothing to add."""
    return NO_EVIDENCE


EVIDENCE: dict[str, Callable[[list[Row]], str]] = {
    each.__name__: each for each in (protocols, opinion, stillness, means, none)
}
