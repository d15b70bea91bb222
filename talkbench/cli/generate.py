"""`talkbench generate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
Items = Annotated[
    list[str] | None, typer.Option(help="Only items whose id matches, such as 'mini-s0*'. Repeat for several.")
]
Gpus = Annotated[
    int | None, typer.Option(min=0, help="GPUs of this machine to generate with; every visible one by default.")
]
Rerun = Annotated[
    Literal["missing", "failed", "all", "none"] | None,
    typer.Option(
        help="What to make: clips never tried or only interrupted (the default), also those that failed, all anew, or "
        "none."
    ),
]
Retries = Annotated[
    int | None,
    typer.Option(min=0, help="How often a clip is tried again after a crash, a time limit, a failed start. Default 1."),
]
Encode = Annotated[
    Literal["native", "tap"] | None,
    typer.Option(
        help="native: clips as their systems write them (the default); tap: adapters' clips in one layout of high "
        "quality, with the benchmark's own sound."
    ),
]
Slurm = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...",
        help="Generate in Slurm jobs with these options of submitit (slurm_partition=gpu,timeout_min=720), and "
        "shares=N jobs per system; waits for them.",
    ),
]
Size = Annotated[
    str | None, typer.Option(help="Mini only: picture size WIDTHxHEIGHT, 128 or more a side. Default 256x256.")
]
NumShort = Annotated[int | None, typer.Option(min=0, help="Mini only: number of short items. Default 24.")]
NumLong = Annotated[int | None, typer.Option(min=0, help="Mini only: number of long items. Default 3.")]
LongSeconds = Annotated[float | None, typer.Option(help="Mini only: length of long items, 60 or more. Default 120.")]


def generate(
    suite: Annotated[str, typer.Argument(help="mini, open, or the path of a .jsonl of items.")],
    system: Systems,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; clips land in OUT/clips/SYSTEM/ITEM.mp4.")],
    size: Size = None,
    num_short: NumShort = None,
    num_long: NumLong = None,
    long_seconds: LongSeconds = None,
    items: Items = None,
    weights_dir: WeightsDir = None,
    gpus: Gpus = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Workers; by default one per core (known-answer systems), one per GPU or group of GPUs, or one.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Generate on a Ray cluster: auto, local or HOST:PORT. Its machines must share run, items and weights.",
        ),
    ] = None,
    slurm: Slurm = None,
    encode: Encode = None,
    rerun: Rerun = None,
    retries: Retries = None,
) -> None:
    """Make the clips of a suite with systems, which share the GPUs; clips that exist are kept.

    Every attempt is recorded. Stop it at any time, even by kill -9: the same command goes on where it was. Exit code 3
    means that some clips failed; `talkbench status RUN` says why, and --rerun failed tries them again.

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
        ray=ray,
        slurm=slurm,
        encode=encode or "native",
        rerun=rerun or "missing",
        retries=1 if retries is None else retries,
        progress=console.progress(),
    )
    for failure in summary.failures:
        console.say(f"failed: {failure}")
    before = f"; {summary.failed_before} failed before (--rerun failed tries them)" if summary.failed_before else ""
    console.say(
        f"{summary.run}/clips: {summary.made} of {summary.num_clips} clips{before}; next: talkbench score {summary.run}"
    )
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
