"""How the command line talks: progress bars, messages, exit codes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from talkbench.errors import TalkbenchError
from talkbench.progress import Logged
from talkbench.progress import Progress as ProgressProtocol

EXIT_SOME_FAILED, EXIT_PREREQUISITE = 3, 4

WIDTH_OF_FILES = 120

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
err = Console(stderr=True, highlight=False)


class Bars:
    """One bar per stage: clips done, failures so far, time left."""

    def __init__(self) -> None:
        self._bars: Progress | None = None

    def start(self, stage: str, total: int) -> None:
        """Draw a bar, unless there is nothing to do."""
        if not total:
            return
        self._failed = 0
        self._bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[label]}"),
            console=err,
        )
        self._bars.start()
        self._task = self._bars.add_task(stage, total=total, label="", failed="")

    def step(self, label: str, *, ok: bool = True) -> None:
        """Advance."""
        if self._bars is None:
            return
        self._failed += not ok
        failed = f"[red]{self._failed} failed[/]" if self._failed else ""
        self._bars.update(self._task, advance=1, label=label, failed=failed)

    def finish(self) -> None:
        """Leave the finished bar on the screen."""
        if self._bars is not None:
            self._bars.update(self._task, label="")
            self._bars.stop()
            self._bars = None


def progress() -> ProgressProtocol:
    """Return bars on a terminal, a log line a minute elsewhere."""
    return Bars() if err.is_terminal else Logged()


def set_up_logging() -> None:
    """Show warnings (and progress lines where there is no terminal) on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("talkbench")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if err.is_terminal else logging.INFO)
    logging.getLogger("libav").setLevel(logging.ERROR)


def print_json(data: Any) -> None:
    """Print data as JSON on stdout, nothing else."""
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def say(message: str) -> None:
    """Print one line to the user, with no markup interpreted."""
    err.print(message, markup=False, soft_wrap=True)


def guarded(main: Callable[[], Any]) -> None:
    """Run the command line: user mistakes and Ctrl-C print a message, bugs keep their traceback."""
    set_up_logging()
    try:
        main()
    except TalkbenchError as error:
        say(f"talkbench: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
