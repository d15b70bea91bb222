"""`talkbench calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talkbench.cli.score import Jobs


def calibrate(
    package: Annotated[str, typer.Argument(help="Official package: vbench, syncnet, pyiqa.")],
    clips: Annotated[Path, typer.Option(help="Folder of .mp4 files.")],
    weights_dir: Annotated[Path, typer.Option(help="Folder with weight files under their official names.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; runs/calibrate-PACKAGE by default.")
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option(help="Interpreter of an environment with the package; else it is installed into the cache."),
    ] = None,
    jobs: Jobs = None,
    json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """Show our value and the official package's on the same clips and weights, clip by clip.

    The package runs in an environment of its own, installed from a committed lock file the first time. Exit code 3
    means that a difference is beyond its tolerance, or a value could not be compared.

    talkbench calibrate vbench --clips clips/ours --weights-dir weights
    """
    from rich.markup import escape
    from rich.table import Table

    from talkbench import checks
    from talkbench.cli import console

    folder = out or Path("runs") / f"calibrate-{package}"
    found = checks.calibrate(package, clips, weights_dir, folder, python=python, jobs=jobs, progress=console.progress())
    failed = [difference for difference in found if not difference.agrees]
    if json:
        console.print_json([difference.as_dict() for difference in found])
    else:
        table = Table()
        for head in ("output", "clip", "ours", "official", "difference", "tolerance", ""):
            table.add_column(head, justify="left" if head in {"output", "clip", ""} else "right", overflow="fold")
        for each in found:
            table.add_row(
                each.output,
                escape(each.clip),
                "-" if each.ours is None else f"{each.ours:.6f}",
                "-" if each.official is None else f"{each.official:.6f}",
                "-" if each.difference is None else f"{each.difference:+.1e}",
                f"{each.tolerance:g}",
                "[green]agrees[/]" if each.agrees else f"[red]{escape(each.reason or 'differs')}[/]",
            )
        console.out.print(table)
        num_absent = sum(each.reason is not None for each in failed)
        counts = f"{len(found)} values, {len(failed) - num_absent} beyond tolerance, {num_absent} not compared"
        console.say(f"{counts}: {folder / f'calibrate-{package}.json'}")
    if failed or not found:
        raise typer.Exit(console.EXIT_SOME_FAILED)
