"""`talkbench ablate`: Tables 2 and 3 of the report as experiments that run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

SOME_FAILED = 3


def ablate(
    table: Annotated[Literal["table2", "table3"], typer.Argument(help="table2: chunks rolled out. table3: motion.")],
    scale: Annotated[
        Literal["tiny", "14b"],
        typer.Option(
            help="tiny runs here; 14b prints the commands that train and film on a cluster (`short` must be frozen "
            "first)."
        ),
    ] = "tiny",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant.")] = 3,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder; both tables may share one.")] = Path("runs/ablate"),
    data: Annotated[
        Path | None, typer.Option(help="Encoded clips; by default data/tiny, drawn there the first time.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Stage-1 run, or weights folder; by default runs/sft_tiny, or what is shipped.")
    ] = None,
    weights_dir: Annotated[
        Path | None, typer.Option(help="Autoencoder and encoders, if not those that come with the package.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of each training; the recipe's by default.")] = None,
    people: Annotated[int, typer.Option(min=1, help="Filmed for each seed, in short clips.")] = 6,
    seconds: Annotated[float, typer.Option(min=2, help="Length of a short clip.")] = 4,
    long_people: Annotated[int, typer.Option(min=0, help="Filmed for each seed, in long clips.")] = 2,
    long_seconds: Annotated[float, typer.Option(min=4, help="Length of a long clip.")] = 60,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Cells at once.")] = 2,
    dry_run: Annotated[bool, typer.Option(help="Print the grid and what it takes; run nothing.")] = False,
) -> None:
    """Train the variants of a table, film and score each, at tiny scale: 64x64 drawn people, on a CPU.

    Stop it at any time, even by kill -9: the same command goes on where it was. Exit code 3 means that a variant
    failed; its row says why, and the same command tries it again.

        talkbench ablate table2 ; talkbench ablate table3

        talkbench report table2 table3 --run runs/ablate
    """
    from rich.console import Console

    from .training.variants import TABLES, expected_passes, options

    console = Console(stderr=True, highlight=False)

    def tell(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    if scale == "14b":
        asked_14b = (data or Path("latents"), init or Path("runs/sft_14b"))
        for line in _cluster_commands(table, seeds, out, *asked_14b, weights_dir, steps):
            typer.echo(line)
        return
    from .tiny.ablation import REFERENCES, Ablation, Asked
    from .tiny.cast import Cast
    from .train import DRAWN, draw, stage_1
    from .training.config import DistillConfig
    from .training.recipes import train_recipe

    recipe = train_recipe("distill_tiny")
    start = init or stage_1(recipe)
    assert start is not None  # noqa: S101 - the tiny world comes with one
    asked = Asked(data or DRAWN, start, seeds, steps, Cast(people, seconds, long_people, long_seconds), weights_dir)
    if dry_run:
        for variant in TABLES[table]:
            recipe = asked.recipe(variant, 0)
            assert isinstance(recipe.stage, DistillConfig)  # noqa: S101 - the recipe is of stage 2
            passes = expected_passes(recipe.stage, recipe.model.sampler.num_steps)
            changes = " ".join(options(variant)) or "as the report"
            told = f"{seeds} x {recipe.stage.steps} steps, about {passes:.0f} forward passes each"
            typer.echo(f"{variant.label:<24} {told}; {changes}")
        frames = 25 * (people * seconds + long_people * long_seconds)
        systems = len(TABLES[table]) + len(REFERENCES)
        typer.echo(f"then {systems} systems x {seeds} seeds x {frames:.0f} frames are made and scored")
        return
    if data is None:
        draw(recipe)
    failed = Ablation(out, table, asked, jobs=jobs, tell=tell).run()
    tell(f"next: talkbench report {table} --run {out}")
    if failed:
        raise typer.Exit(SOME_FAILED)


def _cluster_commands(
    table: str, seeds: int, out: Path, data: Path, init: Path, weights_dir: Path | None, steps: int | None
) -> list[str]:
    """Return what trains, films, scores and reports the grid at the report's size, a line per step."""
    import shlex

    from .training.variants import TABLES, options

    lines, filmed = [], []
    for seed in range(seeds):
        for variant in TABLES[table]:
            cell = out / "cells" / f"{variant.name}-seed{seed}"
            command = ["torchrun", "--nproc-per-node", "8", "-m", f"{__package__}.train", "--recipe", "distill_14b"]
            command += ["--device", "cuda", "--data", str(data), "--init", str(init), "--seed", str(seed)]
            command += ["--weights-dir", str(weights_dir or "weights")]
            command += ["--steps", str(steps)] if steps is not None else []
            lines.append(shlex.join([*command, *options(variant), "--out", str(cell)]))
            made = ["talkbench", "generate", "short", "--system", "soulx-livetalk", "--weights-dir", f"{cell}/export"]
            lines.append(shlex.join([*made, "--out", f"{cell}/film"]))
            filmed.append(f"{cell.name}={cell}/film/clips/soulx-livetalk")
    lines.append(shlex.join(["talkbench", "score", *filmed, "--suite", "short", "--out", f"{out}/scored"]))
    lines.append(shlex.join(["talkbench", "report", "table1", "--run", f"{out}/scored"]))
    return lines
