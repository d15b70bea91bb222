"""One attempt to make a clip, recorded in the run whatever becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from talkbench.errors import TalkbenchError
from talkbench.store import attempts
from talkbench.systems.adapter import Station
from talkbench.systems.failures import Failure, explain
from talkbench.systems.scan import read_sidecar
from talkbench.systems.task import Task
from talkbench.workers.host import WorkerFailedError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt.

    Attributes:
        task: What was to be made.
        failure: Why there is no clip; None if there is one, or if another process is making it now.
        busy: Another process is making it now.
    """

    task: Task
    failure: Failure | None = None
    busy: bool = False


Note = Callable[[Outcome], None]
"""Told what became of each task, in the end, on the thread of whoever asked."""


class InterruptedAttemptError(Exception):
    """The attempt was cut short by us; its record says so by having no end."""


def exists(task: Task) -> bool:
    """Tell whether the clip of a task is there, made under the task's key."""
    if not task.path.is_file():
        return False
    try:
        sidecar = read_sidecar(task.path)
    except TalkbenchError:
        return False
    return sidecar is not None and sidecar.job_key == task.key


def at_station(station: Station, task: Task, run_path: Path) -> Outcome:
    """Have a station make a clip.

    Raises:
        InterruptedAttemptError: If the station was told to end.
    """
    return recorded(task, run_path, lambda: station.make(task), station)


def recorded(task: Task, run_path: Path, make: Callable[[], object], station: Station | None = None) -> Outcome:
    """Make a clip and record the attempt; a clip that another process has made since it was planned is left alone.

    Args:
        task: What to make.
        run_path: The run folder.
        make: Makes it, or raises what `failures.explain` knows.
        station: Where it is made, if at a station.

    Raises:
        InterruptedAttemptError: If the station was told to end.
    """
    try:
        attempt = attempts.Attempt(run_path, task.system, task.item.id, task.key)
    except BlockingIOError:
        return Outcome(task, busy=True)
    with attempt:
        if exists(task) and not task.force:
            attempt.made("")
            return Outcome(task)
        try:
            make()
        except (WorkerFailedError, TalkbenchError, OSError) as error:
            if station is not None and station.is_interrupted:
                raise InterruptedAttemptError from error
            failure = explain(error)
            attempt.failed(failure.reason, failure.message, failure.last_words, station.device if station else "")
            return Outcome(task, failure)
        attempt.made(station.device if station else "")
        return Outcome(task)


def refused(task: Task, run_path: Path, failure: Failure) -> Outcome:
    """Record that a clip is not even tried, unless the last record of it says so already."""
    if attempts.outcome(run_path, task.system, task.item.id, task.key) != failure.reason:
        try:
            with attempts.Attempt(run_path, task.system, task.item.id, task.key) as attempt:
                attempt.failed(failure.reason, failure.message)
        except BlockingIOError:
            _log.info("%s: another process makes it, with other limits than ours", task.label)
    return Outcome(task, failure)
