"""Make the clips of a suite with systems, skipping what is there; a killed run goes on where it stopped.

Clips land as `<run>/clips/<system>/<item>.mp4` with a sidecar, the same layout that `talkbench score` takes from
users, and every attempt is recorded beside them (`talkbench.store.attempts`). Known-answer systems run in a pool of our
own processes, all others as workers: on this machine, over a Ray cluster, or as Slurm jobs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from talkbench.errors import PrerequisiteError
from talkbench.progress import Progress
from talkbench.systems import cluster, failures, known_pool, slurm
from talkbench.systems.attempt import Outcome, refused
from talkbench.systems.crew import Threads, make_all
from talkbench.systems.discover import System
from talkbench.systems.failures import Failure
from talkbench.systems.known import KnownSystem
from talkbench.systems.machine import Machine
from talkbench.systems.schedule import Node, Schedule, refusal
from talkbench.systems.spec import SystemSpec
from talkbench.systems.task import Task
from talkbench.workers import orphans

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Where:
    """Where the clips are made.

    Attributes:
        machine: This one, and what it is run with.
        num_workers: Workers at once; by default one per core (known-answer systems), per group of GPUs, or one.
        ray: Address of a Ray cluster whose machines make them instead.
        slurm: Options of the Slurm jobs that make them instead.
    """

    machine: Machine
    num_workers: int | None = None
    ray: str | None = None
    slurm: Mapping[str, str] | None = None


def generate(
    tasks: Sequence[Task],
    systems: Sequence[System],
    where: Where,
    run_path: Path,
    *,
    assets: Path | None,
    retries: int,
    progress: Progress,
) -> list[str]:
    """Make the clips; return one message per clip that failed.

    Args:
        tasks: From `planning.plan`.
        systems: Those that the tasks name.
        where: On which machines.
        run_path: The run folder.
        assets: Folder that the items' paths are relative to.
        retries: How often a clip is tried again whose failure may pass: a crash, a time limit, a start that failed.
        progress: Told about every clip.

    Raises:
        PrerequisiteError: If a system with something to do cannot run here; nothing has been made then.
        TalkbenchError: If a process of the pool dies; what is made so far stays.
    """
    noted = _Noted(progress)
    known = {system.name: system for system in systems if isinstance(system, KnownSystem)}
    specs = {system.name: system for system in systems if isinstance(system, SystemSpec)}
    busy = {name: spec for name, spec in specs.items() if any(task.system == name for task in tasks)}
    with ExitStack() as connections:
        nodes = _nodes(busy, where, connections)
        progress.start("generate", len(tasks))
        theirs = [(known[task.system], task) for task in tasks if task.system in known]
        known_pool.make_all(theirs, where.num_workers, run_path, noted)
        possible = []
        for task in tasks:
            if task.system in busy:
                failure = _refusal(busy[task.system], task, nodes)
                if failure is None:
                    possible.append(task)
                else:
                    noted(refused(task, run_path, failure))
        if where.slurm is not None:
            slurm.make_all(
                busy,
                possible,
                where.slurm,
                where.machine,
                run_path,
                assets=assets,
                retries=retries,
                note=noted,
            )
        elif possible:
            kind = Threads if where.ray is None else cluster.Actors
            crew = kind(busy, where.machine, run_path, logs=run_path / "logs", assets=assets)
            make_all(Schedule(busy, possible, nodes, where.num_workers), crew, noted, retries=retries)
    progress.finish()
    return noted.failures


class _Noted:
    """What became of each task."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.failures: list[str] = []

    def __call__(self, outcome: Outcome) -> None:
        label = outcome.task.label
        if outcome.failure is not None:
            failure = f"{label}: {outcome.failure}"
            _log.error("%s", failure)
            self.failures.append(failure)
        if outcome.busy:
            _log.warning("%s: another process is making it now, and is left to it", label)
        self._progress.step(label, ok=outcome.failure is None)


def _nodes(specs: Mapping[str, SystemSpec], where: Where, connections: ExitStack) -> list[Node]:
    """Return the machines that clips are made on, after looking at what systems lack there.

    What machines Slurm has is not known here: each job looks at its own.
    """
    if not specs:
        return []
    plain_places = where.num_workers or 1
    if where.slurm is not None:
        machine = where.machine
        for spec in specs.values():
            lacking = [*machine.lacks_code(spec), *machine.lacks_weights(spec)]
            if lacking:
                listed = "".join(f"\n  {sentence}" for sentence in lacking)
                raise PrerequisiteError(f"{spec.name} cannot run in Slurm jobs:{listed}")
        return []
    if where.ray is not None:
        nodes = connections.enter_context(cluster.nodes(where.ray, plain_places))
        machine = cluster.largest(where.machine, nodes)
    else:
        machine = where.machine
        nodes = [Node("here", machine.gpus, machine.ram_gigabytes, plain_places)]
    for spec in specs.values():
        machine.require(spec)
    number = orphans.reap()
    if number:
        _log.warning("ended %d processes of systems that an earlier talkbench, now gone, had started", number)
    return nodes


def _refusal(spec: SystemSpec, task: Task, nodes: Sequence[Node]) -> Failure | None:
    """Return why a clip is not even tried, or None if it is."""
    why = spec.refuses(task.item)
    if why is not None:
        return Failure(failures.UNSUPPORTED, why)
    why = refusal(spec, task, nodes) if nodes else None
    return Failure(failures.NEEDS_MEMORY, f"{failures.NEEDS_MEMORY}: {why}") if why is not None else None
