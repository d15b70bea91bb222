"""`talkbench report`: tables, figures and the page of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from talkbench.store.run import Run

STRIPS = ("figure3", "figure4", "figure5")


def report(
    spec: Annotated[
        str,
        typer.Argument(
            help="table1 to table4, figure3 to figure6, drift, speed, meaning, figures, validity, page, or the path of "
            "a .yaml spec."
        ),
    ],
    run: Annotated[
        list[Path], typer.Option("--run", "-r", help="Run folder; table1 takes one for each suite: short and long.")
    ],
    format: Annotated[  # noqa: A002
        str, typer.Option(help="Files to write: md, tex, csv, html (figures: svg, png, pdf); several by commas.")
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for files; RUN/report by default.")] = None,
    system: Annotated[
        list[str] | None,
        typer.Option("--system", "-s", help="Only these systems, in this order. Repeat, or commas."),
    ] = None,
    missing: Annotated[
        Literal["complete", "available"],
        typer.Option(help="Missing rows: average over clips that all systems have, or over each system's own."),
    ] = "complete",
    item: Annotated[
        str | None, typer.Option(help="Figures 3 to 5: of which item; by default one that most systems have.")
    ] = None,
    times: Annotated[
        str, typer.Option(help="Figures 3 to 5: seconds, by commas; by default spread over the clip, or its phones.")
    ] = "",
    box: Annotated[
        str, typer.Option(help="Figure 5: the mouth as LEFT,TOP,RIGHT,BOTTOM in shares of the picture, 0 to 1.")
    ] = "",
) -> None:
    """Print a table of a run, write it as files, draw its figures, or build the page.

    talkbench report table1 --run runs/short --run runs/long --format md,tex,csv,html

    talkbench report figure4 --run runs/long --times 10,100,300

    talkbench report page --run runs/demo
    """
    from talkbench.cli import console
    from talkbench.errors import TalkbenchError
    from talkbench.store.run import Run

    from . import make

    opened, *others = [Run(path) for path in run]
    folder = out or opened.path / "report"
    systems = tuple(name for given in system or () for name in _names(given))
    if others and spec != "table1" and not spec.endswith((".yaml", ".yml")):
        raise TalkbenchError(f"{spec} is made from one run: give --run once.")
    if spec in STRIPS:
        from . import strips

        wanted = strips.Wanted(systems, item, _numbers(times, "--times"), _numbers(box, "--box"))
        for path in strips.write(opened, spec, wanted, folder, _names(format) or ("svg", "png", "pdf")):
            console.say(str(path))
        return
    if spec == "page":
        from . import html

        console.say(f"page: {html.write_page(opened, folder, policy=missing).resolve()}")
        return
    if spec == "meaning":
        from . import meaning

        meaning.show(meaning.readings(opened.current_rows()), console.out)
        return
    if (paths := _figures(spec, opened, folder, _names(format))) is not None:
        for path in paths:
            console.say(str(path))
        return
    tables = make.tables(opened, spec, others=others, policy=missing, systems=systems)
    if not format:
        make.show(tables, console.out)
        return
    for path in make.write(tables, folder, _names(format)):
        console.say(str(path))


def _figures(spec: str, run: Run, folder: Path, formats: Sequence[str]) -> list[Path] | None:
    """Write the figures of that name; return None if it names no figures made of numbers."""
    if spec == "figures":
        from . import figures

        return figures.write(run, folder, formats or ("svg", "png", "pdf"))
    if spec == "figure6":
        from . import cycles

        return cycles.write(run, folder, formats or ("svg", "png", "pdf"))
    if spec == "validity":
        from . import responses

        return responses.write(run, folder, formats or ("svg", "png"))
    return None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str, option: str) -> tuple[float, ...]:
    from talkbench.errors import TalkbenchError

    try:
        return tuple(float(each) for each in _names(text))
    except ValueError as error:
        raise TalkbenchError(f"{option} {text!r}: numbers by commas, such as {option} 0.5,1") from error
