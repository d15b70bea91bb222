"""What several commands share: merging a configuration file with options, and the closing summary."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from talkbench.api import Summary
from talkbench.cli import console
from talkbench.config import RunConfig, load
from talkbench.errors import TalkbenchError


def merged(config: Path | None, **given: Any) -> RunConfig:
    """Return the configuration file with command-line options over it.

    Raises:
        TalkbenchError: If a value is wrong.
    """
    base = load(config) if config is not None else RunConfig()
    chosen = {name: value for name, value in given.items() if value not in (None, "", [], ())}
    try:
        return base.with_overrides(**chosen)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise TalkbenchError(f"--{option} {first.get('input')!r}: {first['msg']}.") from error


def finish(summary: Summary, *, as_json: bool) -> None:
    """Print what was done and what to do next; leave with 3 if some clips failed."""
    if as_json:
        console.print_json(
            {
                "run": str(summary.run),
                "clips": summary.num_clips,
                "rows": summary.written,
                "reused": summary.reused,
                "failures": list(summary.failures),
                "unavailable": {name: problem.message for name, problem in summary.unavailable.items()},
            }
        )
    else:
        rows = ", ".join(f"{count} {status}" for status, count in summary.written.items()) or "nothing new"
        reused = f"; {summary.reused} files reused from earlier work" if summary.reused else ""
        console.say(f"{summary.run}: {summary.num_clips} clips, rows written: {rows}{reused}")
        _print_unavailable(summary)
        for failure in summary.failures:
            console.say(f"  failed: {failure}")
        if summary.any_failed:
            console.say(f"  some clips failed: talkbench status {summary.run}")
        _print_summaries(summary.run)
        console.say(f"  next: talkbench report page --run {summary.run}")
    if summary.any_failed:
        raise typer.Exit(console.EXIT_SOME_FAILED)


_ADVICE = {
    "no-weights": ("for lack of weights", "talkbench weights list"),
    "no-torch": ("without PyTorch", "pip install 'talkbench[metrics]'"),
}


def _print_unavailable(summary: Summary) -> None:
    """Say in one line each what lacks weights or PyTorch, and in full what has another reason."""
    for reason, (why, command) in _ADVICE.items():
        names = [name for name, problem in summary.unavailable.items() if problem.reason == reason]
        if names:
            console.say(f"  not computed {why}: {', '.join(names)} ({command})")
    for name, problem in summary.unavailable.items():
        if problem.reason not in _ADVICE:
            console.say(f"  {name} not computed: {problem.message}")


def _print_summaries(run: Path) -> None:
    """Let installed reporters (group `talkbench.summary`) print what the run says now."""
    for point in entry_points(group="talkbench.summary"):
        try:
            show = point.load()
        except ImportError as error:
            console.say(f"  summary {point.name!r} of {point.value} is not available: {error}")
            continue
        show(run, console.out)
