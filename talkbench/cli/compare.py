"""`talkbench compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    first: Annotated[str, typer.Argument(help="System A.")],
    second: Annotated[str, typer.Argument(help="System B.")],
    output: Annotated[
        list[str] | None, typer.Option(help="Only these outputs, such as vbench.temporal_flickering.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Compare two systems on the clips they share: paired differences, intervals, Holm-corrected p-values.

    Clips of one identity count together. With few identities no small p-value is possible; the table says so.

    talkbench compare runs/a ours theirs

    talkbench compare runs/a ours theirs --output sync.confidence --output vbench.subject_consistency --json
    """
    from rich.markup import escape
    from rich.table import Table

    from talkbench import api
    from talkbench.cli import console
    from talkbench.stats.aggregate import known_outputs

    found = api.compare(run, first, second, outputs=output)
    if json:
        console.print_json(
            {"first": first, "second": second, "comparisons": [comparison.as_dict() for comparison in found]}
        )
        return
    known = known_outputs()
    table = Table(title=f"{escape(first)} (A) minus {escape(second)} (B)", title_justify="left")
    for head in ("tier", "output", "A - B", "95 % interval", "clips (ids)", "p", "p Holm", "A wins", "verdict"):
        table.add_column(head, justify="left" if head in {"tier", "output", "verdict"} else "right")
    for c in found:
        scale, digits = (known[c.output].scale, known[c.output].digits + 1) if c.output in known else (1.0, 4)
        low, high = c.difference.low, c.difference.high
        table.add_row(
            c.tier,
            c.output,
            f"{c.difference.mean * scale:+.{digits}f}",
            f"{low * scale:+.{digits}f} to {high * scale:+.{digits}f}" if low is not None and high is not None else "-",
            f"{c.num_clips} ({c.num_identities})",
            f"{c.p_value:.4f}",
            f"{c.p_holm:.4f}",
            f"{c.win_rate:.0%}" if c.win_rate is not None else "-",
            {"A": f"[green]{escape(first)}[/]", "B": f"[green]{escape(second)}[/]"}.get(c.verdict, c.verdict),
        )
    console.out.print(table)
    least = max((c for c in found), key=lambda c: c.p_least)
    if least.p_least > 0.05:
        console.out.print(
            f"With {least.num_identities} identities ({least.tier}) no p-value below {least.p_least:.3g} is possible."
        )
