"""`talkbench status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape


def status(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what is done, failed, unscorable and missing, per system and metric, and the next command.

    talkbench status runs/a

    talkbench status runs/a --json | jq .skipped
    """
    from rich.table import Table

    from talkbench import api
    from talkbench.cli import console

    found = api.status(run)
    if json:
        console.print_json(found)
        return
    every: dict[str, dict[str, int]] = next(iter(found["systems"].values()), {"metrics": {}})["metrics"]
    metrics = [name for name in every if name not in found["skipped"]]
    table = Table(title=f"{found['run']} ({found['suite']})", title_justify="left")
    table.add_column("system")
    table.add_column("clips", justify="right")
    table.add_column("generated", overflow="fold")
    for name in metrics:
        table.add_column(name, justify="right", overflow="fold")
    for name, entry in found["systems"].items():
        cells = [_cell(entry["metrics"][metric]) for metric in metrics]
        made = _generated(entry["generation"])
        table.add_row(escape(name), f"{entry['clips']} of {entry['expected']}", made, *cells)
    console.out.print(table)
    by_reason: dict[str, list[str]] = {}
    for name, reason in found["skipped"].items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        console.out.print(f"  skipped everywhere ({reason}): {', '.join(names)}", soft_wrap=True)
    for problem in found["problems"]:
        console.out.print(f"  {problem['rows']} rows {problem['status']}: {problem['reason']}")
    for clip in found["failed_clips"][:10]:
        console.out.print(f"  {clip['clip']}: {clip['message']} ({clip['path']})", markup=False, soft_wrap=True)
    if len(found["failed_clips"]) > 10:
        console.out.print(f"  and {len(found['failed_clips']) - 10} more clips (--json)")
    for note in found["notes"][:10]:
        console.out.print(f"  {escape(note['clip'])}: {escape(note['note'])}", soft_wrap=True)
    if len(found["notes"]) > 10:
        console.out.print(f"  and {len(found['notes']) - 10} more notes (--json)")
    console.out.print(f"next: {found['next']}", markup=False, soft_wrap=True)


def _generated(counts: dict[str, Any] | None) -> str:
    if counts is None:
        return "elsewhere"
    parts = [f"[green]{counts['made']} made[/]"] if counts["made"] else []
    parts += [f"[red]{number} {escape(reason)}[/]" for reason, number in counts["failed"].items()]
    parts += [f"[bold red]{counts['not_tried']} not tried[/]"] if counts["not_tried"] else []
    return " ".join(parts) or "-"


def _cell(counts: dict[str, int]) -> str:
    shown = [("ok", "green"), ("unscorable", "yellow"), ("failed", "red"), ("skipped", "dim"), ("missing", "bold red")]
    parts = [f"[{style}]{counts[name]} {name}[/]" for name, style in shown if counts[name]]
    return " ".join(parts) or "-"
