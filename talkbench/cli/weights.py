"""`talkbench weights`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from talkbench.weights.catalog import Entry

app = typer.Typer(no_args_is_help=True, help="Official weight files: which exist, fetch them, verify them.")
_Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
_Folder = Annotated[
    Path | None,
    typer.Option("--weights-dir", help="Folder with weight files under their official names.", show_default="cache"),
]


@app.command("list")
def list_(weights_dir: _Folder = None, json: _Json = False) -> None:
    """List the official weight files: size, licence, what needs them, where they lie here."""
    from rich.table import Table

    from talkbench.cli import console
    from talkbench.weights import store
    from talkbench.weights.catalog import catalog

    where = {entry.name: store.find(entry, weights_dir) for entry in catalog().values()}
    if json:
        rows = [entry.model_dump() | {"path": _text(where[entry.name])} for entry in catalog().values()]
        console.print_json(rows)
        return
    table = Table()
    for head in ("name", "file", "MB", "licence", "needed by", "here"):
        table.add_column(head, overflow="fold", justify="right" if head == "MB" else "left")
    for entry in catalog().values():
        licence = f"{entry.licence}\nnon-commercial" if entry.non_commercial else entry.licence
        here = _text(where[entry.name]) or "missing"
        table.add_row(entry.name, entry.file, f"{entry.about_megabytes:g}", licence, "\n".join(entry.needed_by), here)
    console.out.print(table)


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Catalog names.", show_default="all, 17 GB: qalign is 16 of them")
    ] = None,
    weights_dir: _Folder = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Agree to the terms of files for non-commercial use.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Touch no network; say what is missing.")] = False,
    json: _Json = False,
) -> None:
    """Fetch weight files from their official addresses; goes on where an earlier try ended."""
    from talkbench.cli import console
    from talkbench.weights import catalog, store
    from talkbench.weights import fetch as fetching

    wanted = catalog.entries(names or ["all"])
    if offline:
        fetching.require_at_hand(wanted, weights_dir)
        fetched = {entry.name: store.find(entry, weights_dir) for entry in wanted}
    else:
        agreed = _agreed(wanted, accepted=accept_licence)
        fetching.require_consent(wanted, accept_licence=agreed)
        fetched = {
            entry.name: fetching.fetch(
                entry, weights_dir or store.fetched_folder(), accept_licence=agreed, progress=console.progress()
            )
            for entry in wanted
        }
    if json:
        console.print_json({name: _text(path) for name, path in fetched.items()})
        return
    for name, path in fetched.items():
        console.say(f"{name}: {path}")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Catalog names.", show_default="all that are here")] = None,
    weights_dir: _Folder = None,
    json: _Json = False,
) -> None:
    """Compute the digests of weight files and compare them with the published or recorded ones."""
    from talkbench.cli import console
    from talkbench.weights.catalog import catalog, entries

    chosen = entries(names) if names else tuple(catalog().values())
    rows = [_verdict(entry, weights_dir) for entry in chosen]
    if not names:
        rows = [row for row in rows if row["state"] != "missing"]
    if json:
        console.print_json(rows)
    else:
        for row in rows:
            console.say(f"{row['name']}: {row['state']}. {row['message']}")
        if not rows:
            console.say("no weight files here: talkbench weights list")
    if any(row["state"] == "missing" for row in rows):
        raise typer.Exit(console.EXIT_PREREQUISITE)
    if any(row["state"] in {"damaged", "unverified"} for row in rows):
        raise typer.Exit(console.EXIT_SOME_FAILED)


def _verdict(entry: Entry, weights_dir: Path | None) -> dict[str, Any]:
    from talkbench.weights import store
    from talkbench.weights.read import BadWeights

    path = store.find(entry, weights_dir)
    row: dict[str, Any] = {"name": entry.name, "path": _text(path), "sha256": None}
    if path is None:
        return row | {"state": "missing", "message": store.missing_message(entry, weights_dir)}
    try:
        found = store.examine(entry, path)
    except BadWeights as error:
        return row | {"state": "damaged", "message": str(error)}
    if found.kind == "unverified":
        return row | {"sha256": found.sha256, "state": found.kind, "message": store.unverified_message(entry, found)}
    return row | {"sha256": found.sha256, "state": found.kind, "message": f"{path}, sha256 {found.sha256}"}


def _agreed(wanted: tuple[Entry, ...], *, accepted: bool) -> bool:
    """Show what each file may be used for, before anything is fetched; ask where that matters and somebody is there."""
    from talkbench.cli import console

    for entry in wanted:
        terms = ", NON-COMMERCIAL USE ONLY" if entry.non_commercial else ""
        console.say(f"{entry.name}: {entry.file}, about {entry.about_megabytes:g} MB from {' or '.join(entry.urls)}")
        console.say(f"  licence {entry.licence}{terms}: {entry.licence_note}")
    asked = [entry.name for entry in wanted if entry.non_commercial]
    if asked and not accepted and sys.stdin.isatty():
        return typer.confirm(f"Do you agree to the terms of {', '.join(asked)}?")
    return accepted


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
