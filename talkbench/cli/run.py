"""`talkbench run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from talkbench.cli.generate import Encode, Gpus, Items, LongSeconds, NumLong, NumShort, Retries, Size, Slurm, suite_of
from talkbench.cli.score import AllowUnverified, Config, Device, Jobs, Metrics


def run(
    suite: Annotated[str | None, typer.Argument(help="mini, open, or the path of a .jsonl of items.")] = None,
    system: Annotated[
        list[str] | None, typer.Option("--system", "-s", help="Systems; `known` for all known-answer systems.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; created, or continued.", show_default="runs/SUITE")
    ] = None,
    items: Items = None,
    metric: Metrics = None,
    weights_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the metrics' weight files and the systems' weight folders; the cache by default "
            "(`talkbench doctor` names it)."
        ),
    ] = None,
    allow_unverified: AllowUnverified = None,
    device: Device = None,
    size: Size = None,
    num_short: NumShort = None,
    num_long: NumLong = None,
    long_seconds: LongSeconds = None,
    gpus: Gpus = None,
    jobs: Jobs = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Generate and score on a Ray cluster: auto, local or HOST:PORT."),
    ] = None,
    slurm: Slurm = None,
    encode: Encode = None,
    rerun: Annotated[
        Literal["missing", "failed", "all", "none"] | None,
        typer.Option(help="What to make and to score: what is missing (the default), also what failed, all, or none."),
    ] = None,
    retries: Retries = None,
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be made and what it takes, and stop.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary, or the plan, as JSON.")] = False,
) -> None:
    """Generate clips with systems and score them, in one go.

    talkbench run mini --system known --out runs/demo

    talkbench run short --system ditto,liveavatar,soulx-livetalk --gpus 8 --dry-run
    """
    from talkbench import api
    from talkbench.cli import console
    from talkbench.cli.options import finish, merged
    from talkbench.cli.plan import show
    from talkbench.errors import TalkbenchError

    options = merged(
        config,
        suite=suite,
        systems=system,
        out=str(out) if out else None,
        items=items,
        metrics=metric,
        weights_dir=str(weights_dir) if weights_dir else None,
        allow_unverified=allow_unverified,
        device=device,
        gpus=gpus,
        jobs=jobs,
        ray=ray,
        slurm=slurm,
        encode=encode,
        rerun=rerun,
        retries=retries,
    )
    if not options.suite or not options.systems:
        raise TalkbenchError("say what, and with what: `talkbench run SUITE --system NAME` (or --config).")
    folder = options.out or str(Path("runs") / Path(options.suite).name.removesuffix(".jsonl"))
    chosen = suite_of(options.suite, size, num_short, num_long, long_seconds)
    if dry_run:
        for name in ("ray", "slurm"):
            if getattr(options, name) is not None:
                raise TalkbenchError(
                    f"--dry-run plans for this machine: leave out --{name}, and give --gpus N for the GPUs of another."
                )
        show(
            api.plan(
                chosen,
                options.systems,
                folder,
                items=options.items,
                metrics=options.metrics,
                weights_dir=options.weights_dir,
                jobs=options.jobs,
                gpus=options.gpus,
                encode=options.encode,
                rerun=options.rerun,
            ),
            as_json=json,
        )
        return
    summary = api.run(
        chosen,
        options.systems,
        folder,
        items=options.items,
        metrics=options.metrics,
        params=options.params,
        weights_dir=options.weights_dir,
        allow_unverified=options.allow_unverified,
        device=options.device,
        jobs=options.jobs,
        gpus=options.gpus,
        ray=options.ray,
        slurm=options.slurm,
        encode=options.encode,
        rerun=options.rerun,
        retries=options.retries,
        progress=console.progress(),
    )
    finish(summary, as_json=json)
