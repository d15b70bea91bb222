"""`talkbench doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

LEAST_FREE_BYTES = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One thing about this machine."""

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    fix: str = ""


def doctor(json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Check this machine: versions, decoder, GPUs, disk, cache; each problem with its fix."""
    from rich.markup import escape
    from rich.table import Table

    from talkbench.cli import console

    findings = examine()
    if json:
        console.print_json([asdict(finding) for finding in findings])
    else:
        table = Table()
        for head in ("", "what", "found", "fix"):
            table.add_column(head, overflow="fold")
        mark = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}
        for finding in findings:
            table.add_row(mark[finding.state], finding.name, escape(finding.found), escape(finding.fix))
        console.out.print(table)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(console.EXIT_PREREQUISITE)


def examine() -> list[Finding]:
    """Return what was found, most basic first."""
    from talkbench import __version__, provenance
    from talkbench.config import cache_folder

    packages = provenance.package_versions()
    gpus = provenance.gpus()
    return [
        Finding("talkbench", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        _decoder(),
        Finding(
            "packages", "ok", ", ".join(f"{name} {number}" for name, number in packages.items() if name != "talkbench")
        ),
        Finding("cores", "ok", str(os.cpu_count())),
        Finding(
            "GPU",
            "ok" if gpus else "note",
            "; ".join(gpus) or "none (nvidia-smi not found)",
            "" if gpus else "networks run on the CPU, many times slower",
        ),
        _networks(packages),
        _weights(),
        _environments(),
        _disk(Path.cwd()),
        _writable(cache_folder()),
        _browser(),
    ]


def _decoder() -> Finding:
    import av

    from talkbench import provenance

    versions = ", ".join(
        f"{name} {number}"
        for name, number in provenance.decoder_build().items()
        if name in {"libavcodec", "libswscale"}
    )
    missing = [codec for codec in ("libx264", "aac") if codec not in av.codecs_available]
    if missing:
        return Finding(
            "decoder",
            "problem",
            f"PyAV without {', '.join(missing)}",
            "pip install --force-reinstall --only-binary :all: av",
        )
    return Finding("decoder", "ok", f"PyAV {av.__version__}, {versions}, H.264 and AAC encoders")


def _networks(packages: dict[str, str]) -> Finding:
    if "torch" in packages:
        return Finding("networks", "ok", f"PyTorch {packages['torch']}")
    return Finding(
        "networks", "note", "no PyTorch: metrics with networks are skipped", "pip install 'talkbench[metrics]'"
    )


def _weights() -> Finding:
    from talkbench.weights import store
    from talkbench.weights.catalog import catalog

    wanted = [entry for entry in catalog().values() if not entry.packaged]
    missing = [entry.name for entry in wanted if store.find(entry, None) is None]
    found = f"{len(wanted) - len(missing)} of {len(wanted)} in {store.fetched_folder()}"
    if missing:
        return Finding("weights", "note", f"{found}; missing: {', '.join(missing)}", "talkbench weights fetch")
    return Finding("weights", "ok", found)


def _environments() -> Finding:
    from talkbench import environments

    listed = environments.listing()
    here = [each["name"] for each in listed if each["state"] in {"ready", "own"}]
    found = f"{len(here)} of {len(listed)} environments of systems and oracles: {', '.join(here) or 'none'}"
    half = [each["name"] for each in listed if each["state"] in {"unfinished", "outdated"}]
    if half:
        return Finding("environments", "note", f"{found}; to be made again: {', '.join(half)}", _making(half[0]))
    return Finding("environments", "ok" if here else "note", found, "" if here else _making("NAME"))


def _making(name: str) -> str:
    return f"talkbench env create {name} (talkbench env list)"


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.0f} GiB free in {folder}"
    if free < LEAST_FREE_BYTES:
        return Finding("disk", "problem", found, "free some space: the demo needs about 1 GiB")
    return Finding("disk", "ok", found)


def _writable(folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".doctor"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        return Finding(
            "cache", "problem", f"{folder}: {error.strerror}", "set TALKBENCH_CACHE to a folder you can write to"
        )
    return Finding("cache", "ok", str(folder))


def _browser() -> Finding:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    fix = "" if found else "only the tests of the report page need one: apt-get install chromium"
    return Finding("browser", "ok" if found else "note", found or f"no Chromium on PATH of {sys.executable}", fix)
