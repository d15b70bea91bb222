"""`talkbench score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Rerun = Annotated[
    Literal["missing", "failed", "all", "none"] | None,
    typer.Option(help="What to compute: what has no row (the default), also what failed, everything, or nothing."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        "-m",
        help="Metric or group: flicker, motion, speed, av, subject, background, smoothness, sync (sync_direct and "
        "sync_frame), sync_official, qalign; vbench (subject, background, smoothness, flicker), all (the default). "
        "Repeat, or separate by commas.",
    ),
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, help="Processes; one per core, or per GPU, by default.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Score on a Ray cluster: auto, local or HOST:PORT. Its machines must share the run, clips and weights.",
    ),
]
WeightsDir = Annotated[
    Path | None,
    typer.Option(help="Folder with weight files under their official names; else those that `weights fetch` got."),
]
AllowUnverified = Annotated[
    bool | None,
    typer.Option(
        "--allow-unverified", help="Accept weight files that no published digest vouches for; scores are marked."
    ),
]
Device = Annotated[str | None, typer.Option(help="Where networks run: cpu (the default), cuda (every GPU), cuda:1.")]
Config = Annotated[
    Path | None,
    typer.Option(
        help="YAML file with most of these options as keys (metrics, systems, suite, ...; a wrong key lists them all), "
        "and params: {motion: {noise_levels: 3}}, which has no option; the command line wins."
    ),
]


def score(
    clips: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders of <item id>.mp4, one system each (FOLDER or NAME=FOLDER), or one run folder to go on with."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; created, or continued.")] = None,
    suite: Annotated[
        str | None, typer.Option(help="Suite name (`talkbench manifest list`) or .jsonl; none for any folder.")
    ] = None,
    items: Annotated[
        list[str] | None, typer.Option(help="Only items whose id matches, such as 'mini-s*'; repeat for more.")
    ] = None,
    metric: Metrics = None,
    weights_dir: WeightsDir = None,
    allow_unverified: AllowUnverified = None,
    device: Device = None,
    jobs: Jobs = None,
    ray: Ray = None,
    rerun: Rerun = None,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Score clips: one decode per clip feeds every metric; rows are stored as each clip ends.

    Stop it at any time, even by kill -9: the same command goes on where it was. Exit code 3 means that some clips
    failed; `talkbench status RUN` says which and why.

        talkbench score clips/ours clips/theirs --suite short --out runs/a

        talkbench score ~/videos --out runs/b
    """
    from talkbench import api
    from talkbench.cli import console
    from talkbench.cli.options import finish, merged

    options = merged(
        config,
        clips=clips,
        out=str(out) if out else None,
        suite=suite,
        items=items,
        metrics=metric,
        weights_dir=str(weights_dir) if weights_dir else None,
        allow_unverified=allow_unverified,
        device=device,
        jobs=jobs,
        ray=ray,
        rerun=rerun,
    )
    summary = api.score(
        options.clips,
        options.out,
        suite=options.suite,
        items=options.items,
        metrics=options.metrics,
        params=options.params,
        weights_dir=options.weights_dir,
        allow_unverified=options.allow_unverified,
        device=options.device,
        jobs=options.jobs,
        ray=options.ray,
        rerun=options.rerun,
        progress=console.progress(),
    )
    finish(summary, as_json=json)
