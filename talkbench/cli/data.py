"""`talkbench data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkbench.data.folder import DEFAULT
from talkbench.data.protocol import SEED

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(
    no_args_is_help=True,
    help="Build TalkBench from pinned metadata: index, select, fetch, check, render, verify; check training lists "
    "against it.",
)
_Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
_Out = Annotated[Path, typer.Option("--out", help="Build folder; every stage keeps its files there.")]


@app.command()
def index(
    talkvid: Annotated[list[Path] | None, typer.Option(help="TalkVid metadata: JSON file, or folder of them.")] = None,
    speakervid: Annotated[list[Path] | None, typer.Option(help="SpeakerVid-5M: folder with merged_anno/.")] = None,
    hdtf: Annotated[list[Path] | None, typer.Option(help="HDTF: checkout with HDTF_dataset/.")] = None,
    estimates: Annotated[
        Path | None,
        typer.Option(help="JSON lines of estimated labels for SpeakerVid and HDTF clips (clip_id, gender, ...)."),
    ] = None,
    out: _Out = DEFAULT,
    json: _Json = False,
) -> None:
    """Read the source sets' metadata into one table of candidates; goes on where an earlier run ended."""
    from talkbench.cli import console
    from talkbench.data.folder import Build
    from talkbench.data.index import index as run

    build = Build(out)
    report = run(
        build,
        talkvid=talkvid or (),
        speakervid=speakervid or (),
        hdtf=hdtf or (),
        estimates=estimates,
        progress=console.progress(),
    )
    if json:
        console.print_json(report.__dict__)
        return
    console.say(f"{build.candidates}: {report.rows} candidates of {report.read} records")
    _print_counts("rejected", report.rejected)
    _print_counts("unknown fields", report.unknown_fields)
    console.say(f"  next: talkbench data select --out {out}")


@app.command()
def select(
    seed: Annotated[int, typer.Option(help="Enters every rank.")] = SEED,
    adults: Annotated[
        Path | None, typer.Option(help="Person keys labelled 0-19 whom a public source shows to be adults, one a line.")
    ] = None,
    out: _Out = DEFAULT,
    json: _Json = False,
) -> None:
    """Choose samples and reserve by the protocol, and write what trainers must leave out."""
    from talkbench.cli import console
    from talkbench.data.folder import Build
    from talkbench.data.select import read_adults
    from talkbench.data.select import select as run

    build = Build(out)
    report = run(build, seed=seed, adults=read_adults(adults))
    if json:
        console.print_json(report.__dict__)
        return
    for tier, number in report.accepted.items():
        console.say(f"{tier}: {number} accepted, {report.reserve[tier]} in reserve")
        _print_counts("rejected", report.rejected[tier])
        for axis, cells in report.quotas[tier].items():
            shown = ", ".join(f"{cell} {got}/{wanted}" for cell, (wanted, got) in cells.items())
            console.say(f"  {axis} (achieved/wanted): {shown}")
    console.say(f"  next: talkbench data fetch --out {out}")


@app.command()
def fetch(
    downloader: Annotated[str, typer.Option(help="yt-dlp, by name or path.")] = "yt-dlp",
    ffmpeg: Annotated[str, typer.Option(help="ffmpeg, by name or path.")] = "ffmpeg",
    timeout: Annotated[float, typer.Option(help="Seconds per section.")] = 1800.0,
    host: Annotated[
        str | None,
        typer.Option(help="Folder, or https address of one, with the files that TalkVid-Bench hosts."),
    ] = None,
    checks: Annotated[
        bool, typer.Option(help="Freeze only what `talkbench data check` has looked at, and go by what it measured.")
    ] = True,
    rejected: Annotated[
        Path | None, typer.Option(help="JSON lines (dataset, clip_id, reason) of clips refused by other measurements.")
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Count what may still come as unavailable.")] = False,
    out: _Out = DEFAULT,
    json: _Json = False,
) -> None:
    """Fetch what was selected and freeze what was found; afterwards bring back what is missing, replacing nothing."""
    from datetime import UTC, datetime

    from talkbench.cli import console
    from talkbench.data import fetch as stage
    from talkbench.data.downloader import Downloader
    from talkbench.data.folder import Build
    from talkbench.data.hosted import Host

    report = stage.fetch(
        Build(out),
        Downloader(downloader, ffmpeg, timeout),
        day=datetime.now(UTC).date().isoformat(),
        host=None if host is None else Host(host),
        checks=checks,
        rejected=stage.read_rejected(rejected),
        freeze=freeze,
        progress=console.progress(),
    )
    if json:
        console.print_json(report.__dict__)
    else:
        _print_coverage(report.coverage)
        _print_counts("out", report.failures)
        _print_counts("worth another try", report.pending)
        unseen = report.pending[stage.UNCHECKED]
        more = "check (then fetch again)" if unseen else "fetch (or fetch --freeze to settle it as it is)"
        following = "render" if report.frozen else more
        console.say(f"  next: talkbench data {following} --out {out}")
    if report.pending:
        raise typer.Exit(console.EXIT_SOME_FAILED)


@app.command()
def check(
    weights_dir: Annotated[Path | None, typer.Option(help="Folder with the weight files of S3FD and SyncNet.")] = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Accept weight files that no published digest vouches for.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    out: _Out = DEFAULT,
    json: _Json = False,
) -> None:
    """Let networks look at what was fetched (faces, lip sync) and write down what they measure, once per file."""
    from talkbench import vetting
    from talkbench.cli import console
    from talkbench.data.folder import Build

    report = vetting.check(
        Build(out),
        weights_dir=weights_dir,
        allow_unverified=allow_unverified,
        device=device,
        progress=console.progress(),
    )
    if json:
        console.print_json(report.__dict__)
        return
    console.say(f"{report.measured} clips measured, {report.known} known, {report.waiting} not fetched yet")
    _print_counts("verdict", report.verdicts)
    console.say(f"  next: talkbench data fetch --out {out}")


@app.command()
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of a manifest line."""
    from talkbench.data.manifest import json_schema

    typer.echo(json_schema(), nl=False)


@app.command()
def render(
    version: Annotated[str, typer.Option(help="Version to write, major.minor.patch.")] = "1.0.0",
    out: _Out = DEFAULT,
    json: _Json = False,
) -> None:
    """Make pictures, sound and manifest from the frozen snapshot; the same bytes on every run."""
    from talkbench.cli import console
    from talkbench.data.folder import Build
    from talkbench.data.render import render as stage

    report = stage(Build(out), version=version, progress=console.progress())
    if json:
        console.print_json(report.__dict__)
    else:
        _print_coverage(report.coverage)
        for slot, reason in report.missing.items():
            console.say(f"  missing: {slot}: {reason}")
        console.say(f"{report.folder}/manifest.jsonl: sha256 {report.manifest_sha256}")
        console.say(f"  next: talkbench data verify {version} --out {out}")
    if report.missing:
        raise typer.Exit(console.EXIT_SOME_FAILED)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="short.v1, long.v1, a version, or the folder of one.")],
    out: _Out = DEFAULT,
    json: _Json = False,
) -> None:
    """Check a version: schema, digests, lengths, uniqueness, strata; show what is missing as coverage."""
    from talkbench.cli import console
    from talkbench.data.folder import Build
    from talkbench.data.verify import find
    from talkbench.data.verify import verify as stage

    report = stage(*find(name, Build(out)))
    if json:
        console.print_json(report.__dict__)
    else:
        for what, why in report.problems:
            console.say(f"  wrong: {what}: {why}")
        _print_missing(report.missing)
        _print_coverage(report.coverage)
        console.say(f"{report.folder}: {len(report.problems)} problems; manifest sha256 {report.manifest_sha256}")
    if report.problems or report.missing:
        raise typer.Exit(console.EXIT_SOME_FAILED)


@app.command("check-overlap")
def check_overlap(
    ids: Annotated[Path, typer.Argument(help="Training ids, one a line, or JSON.")],
    exclusions: Annotated[
        Path | None, typer.Option(help="An exclusions.json.", show_default="that of the build folder")
    ] = None,
    out: _Out = DEFAULT,
    json: _Json = False,
) -> None:
    """Say whether a training list shares clips, source videos or persons with TalkBench; leave with 3 if it does."""
    from talkbench.cli import console
    from talkbench.data.exclusions import check_overlap as check
    from talkbench.data.folder import Build, read_json

    excluded = read_json(exclusions or Build(out).exclusions, "talkbench data select")
    found = check(ids, excluded)
    if json:
        console.print_json({**found.__dict__, "clean": found.clean})
    else:
        for name, what in found.examples:
            console.say(f"  {name}: {what}")
        _print_counts("unreadable", found.unreadable)
        hits = ", ".join(f"{count} by {kind}" for kind, count in found.hits.items())
        if found.overlapping:
            console.say(f"{ids}: OVERLAP: {found.overlapping} of {found.read} ids are excluded ({hits})")
        elif found.unreadable:
            console.say(f"{ids}: UNDECIDED: no overlap in {found.read} ids, but some lines could not be read")
        else:
            console.say(f"{ids}: CLEAN: none of {found.read} ids is excluded")
    if not found.clean:
        raise typer.Exit(console.EXIT_SOME_FAILED)


def _print_counts(what: str, counts: Mapping[str, Any]) -> None:
    from talkbench.cli import console

    for reason, count in counts.items():
        console.say(f"  {what}: {count} {reason}")


def _print_coverage(coverage: Mapping[str, list[int]]) -> None:
    from talkbench.cli import console

    for tier, (here, slots) in coverage.items():
        console.say(f"{tier}: {here}/{slots}")


def _print_missing(missing: list[tuple[str, str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from talkbench.cli import console

    if missing:
        table = Table("sample", "missing", title="not here", title_justify="left")
        for sample, why in missing:
            table.add_row(escape(sample), escape(why))
        console.err.print(table)
