"""`talkbench export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    parquet: Annotated[bool, typer.Option("--parquet", help="Write rows.parquet (the default).")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Write rows.csv.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the files; the run folder by default.")
    ] = None,
) -> None:
    """Write a run's rows, one line per clip and output, as Parquet or CSV.

    talkbench export runs/a --parquet --csv --out tables
    """
    from talkbench import api
    from talkbench.cli import console

    for suffix in ([".parquet"] if parquet or not csv else []) + ([".csv"] if csv else []):
        path = (out or run) / f"rows{suffix}"
        console.say(f"{path}: {api.export(run, path)} rows")
