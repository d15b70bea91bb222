"""`python -m reports.readme RUN README.md`: put a run's Table 1 between the marks in a README."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talkbench.atomic import write_text
from talkbench.cli.console import guarded
from talkbench.errors import TalkbenchError
from talkbench.store.run import Run

from . import build, render, spec

START, END = "<!-- demo table", "<!-- end of demo table -->"


def insert(run: Run, readme: Path) -> None:
    """Replace what stands between the marks by the run's Table 1 and where it comes from.

    Raises:
        TalkbenchError: If the marks are not there.
    """
    text = readme.read_text(encoding="utf-8")
    start, end = text.find(START), text.find(END)
    if start < 0 or end < start:
        raise TalkbenchError(f"{readme} has no {START!r} and {END!r} marks.")
    head = text[start : text.index("\n", start) + 1]
    last = run.sessions()[-1]
    device = last.provenance.get("device", "an unknown device")
    table = render.markdown(build.table(run, spec.load("table1"), "table1"))
    note = f"Measured {last.started_at[:10]} on {device}, {last.provenance.get('cores')} cores; `make demo`.\n"
    write_text(readme, f"{text[:start]}{head}\n{table}\n{note}{text[end:]}")


def main(
    run: Annotated[Path, typer.Argument(help="Run folder, such as that of `make demo`: runs/demo.")],
    readme: Annotated[Path, typer.Argument(help="File with the marks.")],
) -> None:
    """Put a run's Table 1 between the marks in a README."""
    insert(Run(run), readme)


if __name__ == "__main__":
    guarded(lambda: typer.run(main))
