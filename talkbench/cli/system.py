"""`talkbench system`."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Inspect the systems that talkbench can run.")


@app.callback()
def _group() -> None:
    """Keep `list` a sub-command while it is the only one."""


@app.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the known-answer systems and what each does to the truth."""
    from rich.table import Table

    from talkbench.cli import console
    from talkbench.systems.known import SYSTEMS

    if json:
        console.print_json([{"name": system.name, "description": system.description} for system in SYSTEMS])
        return
    table = Table()
    table.add_column("system")
    table.add_column("what it is")
    for system in SYSTEMS:
        table.add_row(system.name, system.description)
    console.out.print(table)
