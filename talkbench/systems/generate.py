"""Make the clips of a suite with systems, skipping what is there; a killed run goes on where it stopped.

Clips land as `<folder>/<system>/<item>.mp4` with a sidecar, the same layout that `talkbench score` takes from users.
Known-answer systems run in a pool of our own processes, all others as workers (`talkbench.systems.adapter`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from talkbench import atomic
from talkbench.errors import TalkbenchError
from talkbench.ids import digest, key
from talkbench.manifests.load import matches
from talkbench.progress import Progress
from talkbench.provenance import device_name
from talkbench.schema import Item, Sidecar, Suite
from talkbench.systems.adapter import Machine, Station, make_all
from talkbench.systems.discover import System, select
from talkbench.systems.known import SYSTEMS, KnownSystem
from talkbench.systems.scan import read_sidecar, sidecar_path
from talkbench.systems.spec import SystemSpec
from talkbench.systems.stopwatch import Stopwatch
from talkbench.systems.task import Task

__all__ = ["asked_of", "generate", "make_known", "plan", "select"]

_log = logging.getLogger(__name__)


def asked_of(system: System, suite: Suite, patterns: Sequence[str] = ()) -> list[Item]:
    """Return the items of a suite that a system makes clips for; with patterns, those whose id matches one."""
    return [
        item
        for item in suite.items or ()
        if (system.tiers is None or item.tier in system.tiers) and matches(item.id, patterns)
    ]


def plan(suite: Suite, systems: Sequence[System], folder: Path, patterns: Sequence[str] = ()) -> list[Task]:
    """Return the clips that do not exist yet, longest first.

    Raises:
        TalkbenchError: If the suite has no items to generate from, or no item matches the patterns.
    """
    if not suite.items:
        raise TalkbenchError(
            f"suite {suite.id} has no frozen item list, so nothing can be generated for it. Try `mini`."
        )
    if patterns and not any(asked_of(system, suite, patterns) for system in systems):
        known = ", ".join(item.id for item in suite.items[:5])
        raise TalkbenchError(f"no item of {suite.id} matches {', '.join(patterns)}. Items: {known}, ...")
    tasks = [
        Task(
            system=system.name,
            item=item,
            path=folder / system.name / f"{item.id}.mp4",
            key=key({"item": digest(item.model_dump(mode="json")), "system": system.digest}),
        )
        for system in systems
        for item in asked_of(system, suite, patterns)
    ]
    return sorted((task for task in tasks if not _exists(task)), key=lambda task: -task.item.duration_seconds)


def generate(
    tasks: Sequence[Task],
    systems: Sequence[System],
    machine: Machine,
    *,
    logs: Path,
    assets: Path | None,
    num_workers: int | None,
    progress: Progress,
) -> list[str]:
    """Make the clips; return one message per clip that failed.

    Args:
        tasks: From `plan`.
        systems: Those that the tasks name.
        machine: What adapters may use.
        logs: Folder for what workers print.
        assets: Folder that the items' paths are relative to.
        num_workers: Processes at once; by default one per core, or per group of GPUs, as the system needs.
        progress: Told about every clip.

    Raises:
        PrerequisiteError: If a system with something to do cannot run here; nothing has been made then.
        TalkbenchError: If a process of the pool dies; what is made so far stays.
    """
    specs = [system for system in systems if isinstance(system, SystemSpec)]
    own = {spec.name: [task for task in tasks if task.system == spec.name] for spec in specs}
    for spec in specs:
        if own[spec.name]:
            machine.require(spec)
    noted = _Noted(progress)
    progress.start("generate", len(tasks))
    known = {system.name: system for system in systems if isinstance(system, KnownSystem)}
    _with_known([(known[task.system], task) for task in tasks if task.system in known], num_workers, noted)
    for spec in specs:
        _with_workers(spec, own[spec.name], machine, num_workers, logs, assets, noted)
    progress.finish()
    return noted.failures


def make_known(system: KnownSystem, task: Task) -> str | None:
    """Make one clip and its sidecar; return why it failed, or None."""
    try:
        watch = Stopwatch()
        truth = system.generate(task.item, task.path, watch)
        sidecar = Sidecar(
            item=task.item.id,
            system=system.name,
            job_key=task.key,
            timing=watch.stop(device_name()),
            truth=truth,
        )
        atomic.write_text(sidecar_path(task.path), sidecar.to_json() + "\n")
    except (OSError, ValueError, TalkbenchError) as error:
        return f"{type(error).__name__}: {error}"
    return None


class _Noted:
    """What became of each task."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.failures: list[str] = []

    def __call__(self, task: Task, failure: str | None) -> None:
        if failure is not None:
            failure = f"{task.system}/{task.item.id}: {failure}"
            _log.error("%s", failure)
            self.failures.append(failure)
        self._progress.step(f"{task.system}/{task.item.id}", ok=failure is None)


def _with_known(tasks: Sequence[tuple[KnownSystem, Task]], num_workers: int | None, noted: _Noted) -> None:
    num_workers = min(num_workers or os.cpu_count() or 1, len(tasks))
    if num_workers <= 1:
        for system, task in tasks:
            noted(task, make_known(system, task))
        return
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_make_by_name, system.name, task): task for system, task in tasks}
        try:
            for future in as_completed(waiting):
                noted(waiting[future], future.result())
        except BrokenProcessPool as error:
            raise TalkbenchError("a generating process died. Run the same command again to go on.") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _make_by_name(name: str, task: Task) -> str | None:
    """Make a clip in another process, which knows the system by its name: functions inside it cannot be sent."""
    return make_known(next(system for system in SYSTEMS if system.name == name), task)


def _with_workers(
    spec: SystemSpec,
    tasks: Sequence[Task],
    machine: Machine,
    num_workers: int | None,
    logs: Path,
    assets: Path | None,
    noted: _Noted,
) -> None:
    refused = {task.item.id: why for task in tasks if (why := spec.refuses(task.item)) is not None}
    for task in tasks:
        if task.item.id in refused:
            noted(task, refused[task.item.id])
    possible = [task for task in tasks if task.item.id not in refused]
    places = machine.places(spec, num_workers)[: len(possible)]
    stations = [
        Station(spec, machine, gpus, log=logs / f"{spec.name}-{number}.log", assets=assets)
        for number, gpus in enumerate(places)
    ]
    make_all(stations, possible, noted)


def _exists(task: Task) -> bool:
    if not task.path.is_file():
        return False
    try:
        sidecar = read_sidecar(task.path)
    except TalkbenchError:
        return False
    return sidecar is not None and sidecar.job_key == task.key
