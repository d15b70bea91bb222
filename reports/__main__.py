"""`python -m reports SPEC --run RUN` from a checkout; installed, it is `talkbench report`."""

import typer

from talkbench.cli.console import guarded

from .cli import report

if __name__ == "__main__":
    guarded(lambda: typer.run(report))
