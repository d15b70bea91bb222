"""`talkbench generate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkbench.errors import TalkbenchError

if TYPE_CHECKING:
    from talkbench.schema import Suite

Systems = Annotated[
    list[str],
    typer.Option(
        "--system",
        "-s",
        help="System (`talkbench system list`), or the path of an adapter.yaml; `known` for all known-answer systems. "
        "Repeat, or commas.",
    ),
]
WeightsDir = Annotated[Path | None, typer.Option(help="Folder with the weight folders that systems name.")]
Gpus = Annotated[int | None, typer.Option(min=0, help="GPUs to generate with; every visible one by default.")]
Size = Annotated[
    str | None, typer.Option(help="Mini only: picture size WIDTHxHEIGHT, 128 or more a side. Default 256x256.")
]
NumShort = Annotated[int | None, typer.Option(min=0, help="Mini only: number of short items. Default 24.")]
NumLong = Annotated[int | None, typer.Option(min=0, help="Mini only: number of long items. Default 3.")]
LongSeconds = Annotated[float | None, typer.Option(help="Mini only: length of long items, 60 or more. Default 120.")]


def generate(
    suite: Annotated[str, typer.Argument(help="Suite to make clips for: mini, or the path of a .jsonl of items.")],
    system: Systems,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; clips land in OUT/clips/SYSTEM/ITEM.mp4.")],
    size: Size = None,
    num_short: NumShort = None,
    num_long: NumLong = None,
    long_seconds: LongSeconds = None,
    items: Annotated[
        list[str] | None, typer.Option(help="Only items whose id matches, such as 'mini-s0*'. Repeat for several.")
    ] = None,
    weights_dir: WeightsDir = None,
    gpus: Gpus = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Processes; by default one per core (known-answer systems), one per GPU or group of GPUs, or one.",
        ),
    ] = None,
) -> None:
    """Make the clips of a suite with systems; clips that exist are kept.

    talkbench generate mini --system known --out runs/demo

    talkbench generate mini --system soulx-livetalk-tiny --out runs/tiny

    talkbench generate mini --system recorded,drift --out runs/hour --num-short 0 --num-long 1 --long-seconds 3600
    """
    from talkbench import api
    from talkbench.cli import console

    chosen = suite_of(suite, size, num_short, num_long, long_seconds)
    summary = api.generate(
        chosen,
        system,
        out,
        items=items or (),
        weights_dir=weights_dir,
        gpus=gpus,
        jobs=jobs,
        progress=console.progress(),
    )
    for failure in summary.failures:
        console.say(f"failed: {failure}")
    made = summary.num_clips - len(summary.failures)
    console.say(f"{summary.run}/clips: {made} of {summary.num_clips} clips; next: talkbench score {summary.run}")
    if summary.failures:
        raise typer.Exit(console.EXIT_SOME_FAILED)


def suite_of(
    suite: str, size: str | None, num_short: int | None, num_long: int | None, long_seconds: float | None
) -> str | Suite:
    """Return the suite's name, or talkbench-mini of another size.

    Raises:
        TalkbenchError: If sizes are given for another suite, or are no sizes.
    """
    options = {"num_short": num_short, "num_long": num_long, "long_seconds": long_seconds}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if size is not None:
        match = re.fullmatch(r"(\d+)x(\d+)", size)
        if match is None:
            raise TalkbenchError(f"--size {size!r}: expected WIDTHxHEIGHT, such as 416x720.")
        given |= {"width": int(match[1]), "height": int(match[2])}
    if not given:
        return suite
    if suite.partition(".")[0] != "mini":
        raise TalkbenchError(f"{', '.join(given)}: only talkbench-mini is made to measure; {suite} is frozen.")
    from talkbench.mini.suite import mini_suite

    return mini_suite(**given)
