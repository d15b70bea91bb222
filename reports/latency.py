"""Latency profiles of a run as Table 4: component times by number of GPUs. `cycles.py` draws the same as Figure 6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from talkbench.errors import TalkbenchError
from talkbench.schema import ProfileRecord
from talkbench.store.run import Run

from .spec import Spec
from .table import ABSENT, Block, Cell, Column, Footnotes, Row, Table, number

LABELS = {
    "dit_step_eager": "DiT step, eager",
    "dit_step_compiled": "DiT step, compiled",
    "decode": "VAE decode",
    "encode": "VAE encode",
    "cycle": "Cycle",
}
NAMES = {"audio": "speech features", "dit_step": "DiT step", "decode": "decode", "encode": "encode", "rest": "the rest"}
WEIGHTS = {
    "random": "Random weights: as fast as any, and nothing to look at.",
    "mini-domain": "Weights trained on drawn people: as fast as any, and no measure of quality.",
}
ON_CPU = "Processes of one CPU, not GPUs: they say nothing about a GPU's times or how they scale."
PREDICTED = "Predicted, not measured."
EAGER = "Not compiled."


def table(run: Run, spec: Spec, name: str) -> Table:
    """Return the measured table: a row per number of GPUs, predicted ones in a block of their own, none ranked.

    Raises:
        TalkbenchError: If the run has no profile.
    """
    records = profiles(run)
    notes = Footnotes()
    columns = tuple(_column(output, records) for output in spec.outputs)
    found = [column for column in columns if any(_seconds(record, column.id) is not None for record in records)]
    blocks = []
    for setting in dict.fromkeys(map(setting_of, records)):
        own = [record for record in records if setting_of(record) == setting]
        mixed = len({record.compiled for record in own}) > 1
        counts = sorted({record.num_processes for record in own})
        rows = [_row([r for r in own if r.num_processes == count], found, notes, mixed=mixed) for count in counts]
        blocks.append(Block(str(setting), tuple(rows)))
    kinds = {record.device_kind for record in records}
    head = {"cpu": "Processes", "cuda": "GPUs"}[kinds.pop()] if len(kinds) == 1 else "GPUs or processes"
    settings = "; ".join(dict.fromkeys(str(setting_of(record)) for record in records))
    caption = f"{spec.caption.strip()} {settings}. {_evidence(records)}"
    return Table(name, spec.title, caption, tuple(found), tuple(blocks), head, notes.texts)


def profiles(run: Run) -> list[ProfileRecord]:
    """Return the profiles of a run, without predictions of what was measured after all.

    Raises:
        TalkbenchError: If there are none.
    """
    records = run.profiles()
    if not records:
        raise TalkbenchError(f"{run.path} has no profile. Make one: `talkbench profile SYSTEM --out {run.path}`.")
    measured = {_place(record) for record in records if record.origin == "measured"}
    return [record for record in records if record.origin == "measured" or _place(record) not in measured]


@dataclass(frozen=True)
class Setting:
    """What must agree for rows to stand in one block."""

    system: str
    device: str
    dtype: str
    height: int
    width: int
    origin: str

    def __str__(self) -> str:
        predicted = ", predicted" if self.origin == "predicted" else ""
        return f"{self.system} on {self.device}, {self.dtype}, {self.height}x{self.width}{predicted}"


def setting_of(record: ProfileRecord) -> Setting:
    """Return the block of a record."""
    return Setting(record.system, record.device, record.dtype, record.height, record.width, record.origin)


def _place(record: ProfileRecord) -> tuple[object, ...]:
    return record.system, record.device, record.num_processes, record.compiled


def _column(output: str, records: Sequence[ProfileRecord]) -> Column:
    if output == "fps":
        return Column(
            output, "FPS", better="higher", unit="frames / s", description="New frames per cycle over the median cycle."
        )
    values = [seconds for record in records if (seconds := _seconds(record, output)) is not None]
    smallest = min(values, default=1.0)
    digits = 0 if smallest >= 0.1 else 1 if smallest >= 0.01 else 2
    return Column(
        output, LABELS[output], better="lower", scale=1e3, digits=digits, unit="s", description="Median; printed in ms."
    )


def _seconds(record: ProfileRecord, output: str) -> float | None:
    """Return a record's value for a column, or None if it has none."""
    if output == "fps":
        return record.fps
    if output == "cycle":
        return record.cycle.p50_seconds
    if output.startswith("dit_step"):
        return record.components["dit_step"].p50_seconds if output.endswith(mode(record)) else None
    return record.components[output].p50_seconds


def mode(record: ProfileRecord) -> str:
    """Return ``compiled`` or ``eager``."""
    return "compiled" if record.compiled else "eager"


def _row(records: Sequence[ProfileRecord], columns: Sequence[Column], notes: Footnotes, *, mixed: bool) -> Row:
    """Return one number of GPUs; what is not said of either mode is taken from the compiled one."""
    chosen = max(records, key=lambda record: record.compiled)
    cells = {}
    for column in columns:
        own = [record for record in records if _seconds(record, column.id) is not None]
        if not own:
            cells[column.id] = ABSENT
            continue
        source = max(own, key=lambda record: record.compiled)
        told = mixed and not column.id.startswith("dit_step") and not source.compiled
        marks = [notes.mark(EAGER)] if told else []
        if source.origin == "predicted":
            marks.insert(0, notes.mark(_prediction(source)))
        value = _seconds(source, column.id)
        assert value is not None  # noqa: S101 - filtered above
        cells[column.id] = Cell(number(value, column), value=value, marks=tuple(marks))
    marks = [notes.mark(WEIGHTS[chosen.weights_kind])] if chosen.weights_kind in WEIGHTS else []
    marks += [notes.mark(ON_CPU)] if chosen.device_kind == "cpu" else []
    return Row(str(chosen.num_processes), cells, description=_describe(chosen), marks=tuple(marks))


def _prediction(record: ProfileRecord) -> str:
    basis: dict[str, list[str]] = {}
    for component, text in record.basis.items():
        basis.setdefault(text, []).append(NAMES[component])
    told = "; ".join(f"{', '.join(components)}: {text}" for text, components in basis.items())
    return f"{PREDICTED} {told}." if told else PREDICTED


def _describe(record: ProfileRecord) -> str:
    parts = [record.origin, mode(record), f"{record.cycle.count} cycles" if record.cycle.count else ""]
    if record.cycle.p90_seconds is not None:
        parts.append(f"p90 of the cycle {1e3 * record.cycle.p90_seconds:.0f} ms")
    if record.startup is not None:
        parts.append(f"first frame after {1e3 * record.startup.first_frame_seconds:.0f} ms")
    if record.peak_memory_bytes:
        parts.append(f"peak memory {record.peak_memory_bytes / 1e9:.1f} GB")
    if record.power_watts is not None:
        parts.append(f"{record.power_watts:.0f} W")
    return ", ".join(filter(None, parts))


def _evidence(records: Sequence[ProfileRecord]) -> str:
    counts = [record.cycle.count for record in records if record.origin == "measured"]
    dates = sorted({record.written_at[:10] for record in records})
    told = f"Medians over {min(counts)} cycles or more. " if counts else "Nothing here was measured. "
    return f"{told}Written {' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
