"""`talkbench system`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from talkbench.cli.generate import Gpus, WeightsDir

app = typer.Typer(no_args_is_help=True, help="Inspect the systems that talkbench can run.")

Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@app.command("list")
def list_(weights_dir: WeightsDir = None, json: Json = False) -> None:
    """List the known-answer systems and those that adapters describe, and whether they can run here."""
    from rich.markup import escape
    from rich.table import Table

    from talkbench import api
    from talkbench.cli import console

    listed = api.list_systems(weights_dir=weights_dir)
    if json:
        console.print_json(listed)
        return
    table = Table()
    for title in ("system", "what it is", "licence", "weights", "runs here"):
        table.add_column(title)
    for entry in listed:
        runs = "yes" if not entry["lacks"] else f"no (talkbench system check {entry['name']})"
        cells = (entry["name"], entry["description"], entry["licence"], entry["weights"], runs)
        table.add_row(*map(escape, cells))
    console.out.print(table)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="System, or the path of an adapter.yaml.")],
    weights_dir: WeightsDir = None,
    gpus: Gpus = None,
    json: Json = False,
) -> None:
    """Start a system, have it make a clip of two seconds, and say how that went; nothing is kept.

    talkbench system check soulx-livetalk-tiny
    """
    from talkbench import api
    from talkbench.cli import console

    tried = api.check_systems([name], weights_dir=weights_dir, gpus=gpus)
    if json:
        console.print_json(tried)
    else:
        for found in tried:
            _show(found)
    if any(found["failure"] for found in tried):
        raise typer.Exit(console.EXIT_SOME_FAILED)


def _show(found: dict[str, Any]) -> None:
    from talkbench.cli import console

    if found["failure"]:
        console.say(f"{found['system']} failed after {found['seconds']:.1f} s: {found['failure']}")
        return
    worker = found["worker"]
    console.say(f"{found['system']} works: {found['seconds']:.1f} s, loading included, on {worker['device']}")
    if "frames" in found:
        first = found.get("first_frame_seconds")
        told = "" if first is None else f", the first after {first:.2f} s"
        console.say(
            f"  {found['frames']} frames in {found['job_seconds']:.2f} s{told}, in a process that had made none before"
        )
    for label, value in {**worker["versions"], **worker["details"]}.items():
        console.say(f"  {label}: {value}")
