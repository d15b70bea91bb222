"""`talkbench env`."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from talkbench.cli.generate import WeightsDir

app = typer.Typer(no_args_is_help=True, help="Environments of systems and of the official packages: made from locks.")

_Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
_Name = Annotated[str, typer.Argument(help="Environment, as `talkbench env list` shows it.")]


@app.command("list")
def list_(weights_dir: WeightsDir = None, json: _Json = False) -> None:
    """List the environments: what runs in each, its size, and whether it is here."""
    from rich.markup import escape
    from rich.table import Table

    from talkbench import environments
    from talkbench.cli import console

    listed = environments.listing(weights_dir)
    if json:
        console.print_json(listed)
        return
    table = Table()
    for head in ("environment", "for", "Python", "packages", "GB", "state"):
        table.add_column(head, justify="right" if head in {"packages", "GB"} else "left", overflow="fold")
    for each in listed:
        size = f"{each['about_gigabytes']:g}"
        cells = (each["name"], ", ".join(each["for"]), each["python"], str(each["packages"]), size, each["state"])
        table.add_row(*map(escape, cells))
    console.out.print(table)


@app.command()
def create(
    name: _Name,
    weights_dir: WeightsDir = None,
    source: Annotated[
        bool, typer.Option("--source", help="Clone the official code as well, at its pinned commit.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and leave.")] = False,
) -> None:
    """Make an environment from its lock with uv, which downloads gigabytes; can be stopped and run again.

    talkbench env create ditto --source
    """
    from talkbench import environments
    from talkbench.cli import console
    from talkbench.progress import Logged

    each = environments.select(name, weights_dir)
    if dry_run:
        for line in environments.commands(name, weights_dir=weights_dir):
            typer.echo(line)
        return
    logging.getLogger("talkbench").setLevel(logging.INFO)
    python = environments.create(name, source=source, weights_dir=weights_dir, progress=Logged())
    console.say(f"{name}: {python}")
    if each.code is not None and not source:
        lines = environments.commands(name, weights_dir=weights_dir)
        console.say("Its official code, unless it is there (or: --source):\n  " + "\n  ".join(lines[-2:]))
    console.say(f"Then: talkbench env check {name}")


@app.command()
def check(name: _Name, weights_dir: WeightsDir = None, json: _Json = False) -> None:
    """Start an environment's interpreter; compare versions with the lock, import its main modules, look for GPUs.

    talkbench env check ditto
    """
    from talkbench import environments
    from talkbench.cli import console

    found = environments.check(name, weights_dir=weights_dir)
    if json:
        console.print_json(found)
    else:
        for problem in found["problems"]:
            console.say(f"{name}: {problem}")
        state = f"{len(found['problems'])} problem(s)" if found["problems"] else "as its lock says"
        console.say(f"{name}: {state}; Python {found['python']}, GPUs: {', '.join(found['gpus']) or 'none'}")
    if found["problems"]:
        raise typer.Exit(console.EXIT_PREREQUISITE)
