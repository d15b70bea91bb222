"""`talkbench manifest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Inspect suites: which exist, what is in them, whether they are sound.")
_Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
_Name = Annotated[str, typer.Argument(help="Suite name, or the path of a .jsonl file.")]


@app.command("list")
def list_(json: _Json = False) -> None:
    """List the suites that come with talkbench."""
    from rich.table import Table

    from talkbench.cli import console
    from talkbench.manifests import load as manifests

    suites = [manifests.load(name) for name in manifests.names()]
    if json:
        console.print_json(
            [suite.model_dump(exclude={"items"}) | {"items": len(suite.items or ())} for suite in suites]
        )
        return
    table = Table()
    for head in ("suite", "items", "title", "licence", "description"):
        table.add_column(head, overflow="fold")
    for suite in suites:
        items = str(len(suite.items)) if suite.items is not None else "not frozen"
        table.add_row(suite.id, items, suite.title, suite.licence, suite.description)
    console.out.print(table)


@app.command()
def show(name: _Name, json: _Json = False) -> None:
    """Show the items of a suite."""
    from rich.markup import escape
    from rich.table import Table

    from talkbench.cli import console
    from talkbench.manifests import load as manifests

    suite = manifests.load(name)
    if json:
        console.print_json(suite.model_dump(mode="json"))
        return
    table = Table(title=f"{suite.id}: {suite.title}", title_justify="left")
    for head in ("item", "tier", "seconds", "identity", "language", "tags"):
        table.add_column(head, justify="right" if head == "seconds" else "left")
    for item in suite.items or ():
        cells = (item.id, item.tier, f"{item.duration_seconds:.2f}", item.identity, item.language, " ".join(item.tags))
        table.add_row(*map(escape, cells))
    console.out.print(table if suite.items else f"{suite.id}: {suite.description}")


@app.command()
def check(name: _Name, json: _Json = False) -> None:
    """Check a suite: schema, durations against tiers, licences, doubles; with a path, the files beside it too."""
    from talkbench.cli import console
    from talkbench.manifests import check as checking
    from talkbench.manifests import load as manifests

    suite = manifests.load(name)
    problems = checking.check(suite, manifests.folder_of(name))
    spoken = checking.languages(suite)
    if json:
        console.print_json({"suite": suite.id, "languages": spoken, "problems": problems})
    else:
        for problem in problems:
            console.say(f"{suite.id}: {problem}")
        shown = ", ".join(f"{count} {language}" for language, count in spoken.items()) or "none"
        console.say(f"{suite.id}: {len(suite.items or ())} items ({shown}), {len(problems)} problems")
    if problems:
        raise typer.Exit(console.EXIT_SOME_FAILED)


@app.command()
def fetch(
    name: _Name,
    to: Annotated[
        Path | None, typer.Option(help="Folder for manifest and files.", show_default="runs/suites/SUITE")
    ] = None,
    json: _Json = False,
) -> None:
    """Put a suite's files beside its manifest, each checked by sha256; of a suite given by path, check those there."""
    from talkbench.cli import console
    from talkbench.manifests import fetch as fetching
    from talkbench.manifests import load as manifests

    suite = manifests.load(name)
    done = fetching.fetch(
        suite, to or Path("runs") / "suites" / suite.id, beside=manifests.folder_of(name), progress=console.progress()
    )
    if json:
        console.print_json({"folder": str(done.folder), "files": done.num_files, "problems": done.problems})
    else:
        for item, problem in done.problems:
            console.say(f"item {item}: {problem}")
        console.say(f"{done.folder}: {done.num_files} files, {len(done.problems)} problems")
    if done.problems:
        raise typer.Exit(console.EXIT_SOME_FAILED)
