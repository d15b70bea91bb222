"""Make clips with known-answer systems, in a pool of our own processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from talkbench import atomic
from talkbench.errors import TalkbenchError
from talkbench.provenance import device_name
from talkbench.schema import Sidecar
from talkbench.systems.attempt import Note, Outcome, recorded
from talkbench.systems.known import SYSTEMS, KnownSystem
from talkbench.systems.scan import sidecar_path
from talkbench.systems.stopwatch import Stopwatch
from talkbench.systems.task import Task


def make_all(tasks: Sequence[tuple[KnownSystem, Task]], num_workers: int | None, run_path: Path, note: Note) -> None:
    """Make the clips; `note` is told of each.

    Args:
        tasks: What to make, and with what.
        num_workers: Processes; one per core by default. One works in this process.
        run_path: The run folder.
        note: Told on the calling thread.

    Raises:
        TalkbenchError: If a process dies; what is made so far stays.
    """
    num_workers = min(num_workers or os.cpu_count() or 1, len(tasks))
    if num_workers <= 1:
        for system, task in tasks:
            note(recorded(task, run_path, partial(make_known, system, task)))
        return
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_make_by_name, system.name, task, run_path) for system, task in tasks]
        try:
            for future in as_completed(waiting):
                note(future.result())
        except BrokenProcessPool as error:
            raise TalkbenchError("a generating process died. Run the same command again to go on.") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def make_known(system: KnownSystem, task: Task) -> None:
    """Make one clip of a known-answer system, and its sidecar.

    Raises:
        TalkbenchError: If it cannot be made of this item.
        OSError: If it cannot be written.
    """
    watch = Stopwatch()
    try:
        truth = system.generate(task.item, task.path, watch)
    except ValueError as error:
        raise TalkbenchError(f"{type(error).__name__}: {error}") from error
    sidecar = Sidecar(
        item=task.item.id, system=system.name, job_key=task.key, timing=watch.stop(device_name()), truth=truth
    )
    atomic.write_text(sidecar_path(task.path), sidecar.to_json() + "\n")


def _make_by_name(name: str, task: Task, run_path: Path) -> Outcome:
    """Make a clip in another process, which knows the system by its name: functions inside it cannot be sent."""
    system = next(system for system in SYSTEMS if system.name == name)
    return recorded(task, run_path, partial(make_known, system, task))
