"""Spec names to tables, tables to files and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from talkbench.atomic import write_text
from talkbench.errors import TalkbenchError
from talkbench.registry import suggest
from talkbench.store.run import Run

from . import ablation, build, comparison, latency, quoted, render, spec
from .table import Table

Policy = Literal["complete", "available"]


def tables(
    run: Run, name: str, *, others: Sequence[Run] = (), policy: Policy = "complete", systems: Sequence[str] = ()
) -> list[Table]:
    """Return the measured table of a spec and the published one, in one table where the spec says so.

    Args:
        run: Whose rows.
        name: Of the spec, or its path.
        others: Further runs, for a table whose blocks are several suites.
        policy: What to do about missing rows.
        systems: Which systems; all by default.

    Raises:
        TalkbenchError: If the run has nothing for the spec and nothing is published either, or the table is made from
            one run only.
    """
    wanted = spec.load(name)
    runs = [run, *others]
    if wanted.source == "rows" and wanted.beside and (others or comparison.applies(runs)):
        return [comparison.table(runs, wanted, Path(name).stem, policy=policy, systems=systems)]
    if others:
        raise TalkbenchError(f"{name} is made from one run: give --run once.")
    found: list[Table] = []
    try:
        found.append(measured(run, wanted, Path(name).stem, policy=policy, systems=systems))
    except TalkbenchError:
        if wanted.quoted is None:
            raise
        found.append(
            Table(Path(name).stem, wanted.title, f"No measured rows in {run.path}. They need: {wanted.needs}.", (), ())
        )
    holds_quoted = wanted.source == "ablation" and wanted.beside and bool(found[0].columns)
    if wanted.quoted is not None and not holds_quoted:
        found.append(quoted.table(wanted.quoted))
    return found


def measured(
    run: Run, wanted: spec.Spec, name: str, *, policy: Policy = "complete", systems: Sequence[str] = ()
) -> Table:
    """Return the table of a spec from whatever of the run it is made from.

    Raises:
        TalkbenchError: If the run has nothing for it.
    """
    if wanted.source == "profiles":
        return latency.table(run, wanted, name)
    if wanted.source == "ablation":
        return ablation.table(run, wanted, name)
    return build.table(run, wanted, name, policy=policy, systems=systems)


def show(found: Sequence[Table], console: Console) -> None:
    """Print tables."""
    for table in found:
        if table.columns:
            console.print(render.terminal(table))
        else:
            console.print(f"{table.title}\n{table.caption}", markup=False)
        console.print()


def summary(run_path: Path, console: Console) -> None:
    """Print the measured Table 1 after scoring, and the table of drift if there are long clips."""
    run = Run(run_path)
    show(tables(run, "table1")[:1], console)
    if any(row["output"].startswith("drift.") for row in run.current_rows()):
        show([build.table(run, spec.load("drift"), "drift")], console)


def write(found: Sequence[Table], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write tables as `<name>.<suffix>`; a published table goes into the same file, after the measured one.

    Raises:
        TalkbenchError: If a format is unknown.
    """
    for name in formats:
        if name not in render.FORMATS:
            raise TalkbenchError(
                f"unknown format {name!r}.{suggest(name, render.FORMATS)} Known: {', '.join(render.FORMATS)}."
            )
    paths = []
    for name in formats:
        suffix, draw = render.FORMATS[name]
        path = folder / f"{found[0].name}{suffix}"
        texts = [draw(table) for table in found]
        if name == "csv":
            texts = [texts[0], *(text.partition("\n")[2] for text in texts[1:])]
        write_text(path, ("" if name == "csv" else "\n").join(texts))
        paths.append(path)
    return paths
