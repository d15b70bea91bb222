"""`talkbench report`: tables, figures and the page of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from talkbench.stats.aggregate import Policy
    from talkbench.store.run import Run

STRIPS = ("figure3", "figure4", "figure5")


@dataclass(frozen=True)
class Asked:
    """What every report of an invocation has in common.

    Attributes:
        runs: The runs; most reports are made from one.
        folder: For files.
        formats: Of files; none prints what can be printed.
        systems: Only these, in this order; all by default.
        policy: What to do about missing rows.
        item: Figures 3 to 5: of which item.
        times: Figures 3 to 5: seconds.
        box: Figure 5: the mouth.
    """

    runs: tuple[Run, ...]
    folder: Path
    formats: tuple[str, ...]
    systems: tuple[str, ...]
    policy: Policy
    item: str | None
    times: tuple[float, ...]
    box: tuple[float, ...]


def report(
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC...",
            help="table1 to table4, figure3 to figure6, drift, speed, meaning, figures, validity, page, or the path of "
            "a .yaml spec; one or several.",
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

    talkbench report table2 table3 --run runs/ablate

    talkbench report figure4 --run runs/long --times 10,100,300

    talkbench report page --run runs/demo
    """
    from talkbench.store.run import Run

    runs = tuple(Run(path) for path in run)
    asked = Asked(
        runs=runs,
        folder=out or runs[0].path / "report",
        formats=tuple(_names(format)),
        systems=tuple(name for given in system or () for name in _names(given)),
        policy=missing,
        item=item,
        times=_numbers(times, "--times"),
        box=_numbers(box, "--box"),
    )
    for spec in specs:
        _report(spec, asked)


def _report(spec: str, asked: Asked) -> None:
    """Print or write one report.

    Raises:
        TalkbenchError: If its name is unknown, or the runs have nothing for it.
    """
    from talkbench.cli import console
    from talkbench.errors import TalkbenchError

    from . import make

    opened, *others = asked.runs
    if others and spec != "table1" and not spec.endswith((".yaml", ".yml")):
        raise TalkbenchError(f"{spec} is made from one run: give --run once.")
    if spec in STRIPS:
        from . import strips

        wanted = strips.Wanted(asked.systems, asked.item, asked.times, asked.box)
        for path in strips.write(opened, spec, wanted, asked.folder, asked.formats or ("svg", "png", "pdf")):
            console.say(str(path))
        return
    if spec == "page":
        from . import html

        console.say(f"page: {html.write_page(opened, asked.folder, policy=asked.policy).resolve()}")
        return
    if spec == "meaning":
        from . import meaning

        meaning.show(meaning.readings(opened.current_rows()), console.out)
        return
    if (paths := _figures(spec, opened, asked.folder, asked.formats)) is not None:
        for path in paths:
            console.say(str(path))
        return
    tables = make.tables(opened, spec, others=others, policy=asked.policy, systems=asked.systems)
    if not asked.formats:
        make.show(tables, console.out)
        return
    for path in make.write(tables, asked.folder, asked.formats):
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
