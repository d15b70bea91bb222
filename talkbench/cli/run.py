"""`talkbench run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talkbench.cli.generate import Gpus, LongSeconds, NumLong, NumShort, Size, suite_of
from talkbench.cli.score import AllowUnverified, Config, Device, Jobs, Metrics, Ray, Rerun, WeightsDir


def run(
    suite: Annotated[str | None, typer.Argument(help="Suite name, such as mini.")] = None,
    system: Annotated[
        list[str] | None, typer.Option("--system", "-s", help="Systems; `known` for all known-answer systems.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; created, or continued.")] = None,
    metric: Metrics = None,
    weights_dir: WeightsDir = None,
    allow_unverified: AllowUnverified = None,
    device: Device = None,
    size: Size = None,
    num_short: NumShort = None,
    num_long: NumLong = None,
    long_seconds: LongSeconds = None,
    gpus: Gpus = None,
    jobs: Jobs = None,
    ray: Ray = None,
    rerun: Rerun = None,
    config: Config = None,
    dry_run: Annotated[bool, typer.Option(help="Print what would be made and scored, and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Generate clips with systems and score them, in one go.

    talkbench run mini --system known --out runs/demo
    """
    from talkbench import api
    from talkbench.cli import console
    from talkbench.cli.options import finish, merged
    from talkbench.errors import TalkbenchError

    options = merged(
        config,
        suite=suite,
        systems=system,
        out=str(out) if out else None,
        metrics=metric,
        weights_dir=str(weights_dir) if weights_dir else None,
        allow_unverified=allow_unverified,
        device=device,
        gpus=gpus,
        jobs=jobs,
        ray=ray,
        rerun=rerun,
    )
    if not options.suite or not options.systems or not options.out:
        raise TalkbenchError(
            "say what, with what, and where: `talkbench run SUITE --system NAME --out RUN` (or --config)."
        )
    chosen = suite_of(options.suite, size, num_short, num_long, long_seconds)
    if dry_run:
        console.print_json(api.plan(chosen, options.systems, options.out, metrics=options.metrics))
        return
    summary = api.run(
        chosen,
        options.systems,
        options.out,
        metrics=options.metrics,
        params=options.params,
        weights_dir=options.weights_dir,
        allow_unverified=options.allow_unverified,
        device=options.device,
        jobs=options.jobs,
        gpus=options.gpus,
        ray=options.ray,
        rerun=options.rerun,
        progress=console.progress(),
    )
    finish(summary, as_json=json)
