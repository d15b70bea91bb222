"""`talkbench report`: tables, figures and the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def report(
    spec: Annotated[
        str,
        typer.Argument(
            help="table1 to table4, figure6, drift, speed, meaning, figures, validity, page, or the path of a .yaml "
            "spec."
        ),
    ],
    run: Annotated[Path, typer.Option("--run", "-r", help="Run folder.")],
    format: Annotated[  # noqa: A002
        str, typer.Option(help="Files to write: md, tex, csv, html (figures: svg, png, pdf); several by commas.")
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for files; RUN/report by default.")] = None,
    system: Annotated[
        list[str] | None, typer.Option("--system", "-s", help="Only these systems, in this order.")
    ] = None,
    missing: Annotated[
        Literal["complete", "available"],
        typer.Option(help="Missing rows: average over clips that all systems have, or over each system's own."),
    ] = "complete",
) -> None:
    """Print a table of a run, write it as files, or build the page.

    talkbench report table1 --run runs/demo --format md,tex,csv,html

    talkbench report meaning --run runs/demo

    talkbench report page --run runs/demo
    """
    from talkbench.cli import console
    from talkbench.store.run import Run

    from . import make

    opened = Run(run)
    folder = out or opened.path / "report"
    if spec == "figures":
        from . import figures

        for path in figures.write(opened, folder, _names(format) or ("svg", "png", "pdf")):
            console.say(str(path))
        return
    if spec == "figure6":
        from . import cycles

        for path in cycles.write(opened, folder, _names(format) or ("svg", "png", "pdf")):
            console.say(str(path))
        return
    if spec == "meaning":
        from . import meaning

        meaning.show(meaning.readings(opened.current_rows()), console.out)
        return
    if spec == "validity":
        from . import responses

        for path in responses.write(opened, folder, _names(format) or ("svg", "png")):
            console.say(str(path))
        return
    if spec == "page":
        from . import html

        console.say(f"page: {html.write_page(opened, folder, policy=missing).resolve()}")
        return
    tables = make.tables(opened, spec, policy=missing, systems=system or [])
    if not format:
        make.show(tables, console.out)
        return
    for path in make.write(tables, folder, _names(format)):
        console.say(str(path))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
