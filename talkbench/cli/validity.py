"""`talkbench validity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talkbench.cli.score import AllowUnverified, Device, Jobs, WeightsDir

if TYPE_CHECKING:
    from talkbench.validity.battery import Verdict


def validity(
    metric: Annotated[list[str], typer.Argument(help="Metrics or groups: sync, vbench, qalign, all.")],
    clips: Annotated[
        Path | None, typer.Option(help="Folder of at least two clips; talkbench-mini's short ones by default.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; created, or continued.")] = Path(
        "runs/validity"
    ),
    weights_dir: WeightsDir = None,
    allow_unverified: AllowUnverified = None,
    device: Device = None,
    jobs: Jobs = None,
    json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Show how metrics respond to known harm: blur, noise, late sound, another face; and what they must not notice.

    Every clip is spoiled in grades and scored. Exit code 3 means that an output did not respond as it must. Scores
    from weights of unknown origin are shown, never judged.

    talkbench validity sync --out runs/validity
    """
    from talkbench import checks
    from talkbench.cli import console

    verdicts = checks.validity(
        metric,
        out,
        clips=clips,
        weights_dir=weights_dir,
        allow_unverified=bool(allow_unverified),
        device=device or "cpu",
        jobs=jobs,
        progress=console.progress(),
    )
    failed = [verdict for verdict in verdicts if verdict.passed is False]
    if json:
        console.print_json([verdict.as_dict() for verdict in verdicts])
    else:
        _print(verdicts)
        console.say(f"{len(verdicts)} responses, {len(failed)} failed; curves: {out / 'validity.json'}")
        console.say(f"  next: talkbench report validity --run {out}")
    if failed or not verdicts:
        raise typer.Exit(console.EXIT_SOME_FAILED)


def _print(verdicts: list[Verdict]) -> None:
    from rich.table import Table

    from talkbench.cli import console
    from talkbench.stats.aggregate import known_outputs
    from talkbench.validity.degradations import BY_NAME

    known = known_outputs()
    mark = {True: "[green]pass[/]", False: "[red]fail[/]", None: "[dim]shown[/]"}
    table = Table()
    for head in ("output", "as is", "harm", "change at each level", "must", "verdict", "why"):
        table.add_column(head, justify="right" if head == "as is" else "left", overflow="fold")
    for verdict in verdicts:
        output, harm = known[verdict.output], BY_NAME[verdict.degradation]
        steps = "  ".join(
            f"{step.level:g}: "
            + ("no value" if step.change is None else f"{step.change * output.scale:+.{output.digits + 1}f}")
            for step in verdict.steps
        )
        table.add_row(
            verdict.output,
            f"{verdict.as_is * output.scale:.{output.digits}f}",
            f"{harm.name} ({harm.unit})",
            steps,
            verdict.must,
            mark[verdict.passed],
            verdict.why,
        )
    console.out.print(table)
