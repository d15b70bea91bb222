"""Scoring over a Ray cluster: one actor per CPU core or GPU of all its machines, fed one job at a time.

Every actor writes its own part of the run, so the run folder, the clips and the weights must lie on a file system that
all machines share under the same paths; each actor checks that before its first job. An actor that dies costs its clip
a row with the reason and is replaced.

    ray start --head                                 # on one machine; `ray start --address HOST:6379` on the others
    talkbench score clips/ours --out runs/a --ray auto
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkbench import ray_cluster
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.metrics.base import Context
from talkbench.metrics.jobs import Job, Outcome, Scorer, record_crash
from talkbench.provenance import device_name
from talkbench.store.run import Run

_log = logging.getLogger(__name__)


class Actor:
    """What runs on the machines of the cluster; `start` answers before the first job is handed over."""

    def start(self, run_path: Path, context: Context, needed: list[Path]) -> str | Exception:
        """Return the name of this actor's device, or why it cannot score.

        Args:
            run_path: The run folder.
            context: Where networks run.
            needed: What this machine must be able to see.
        """
        try:
            ray_cluster.see(needed, "the run folder, the clips and the weights")
            self._scorer = Scorer(run_path, context)
            return device_name(context.device)
        except Exception as error:  # noqa: BLE001 - raised where the user sees it
            return error

    def score(self, job: Job, *, wait: bool) -> Outcome | Exception:
        """Return what became of a job, or the exception that ends the run."""
        return self._scorer.score(job, wait=wait)


@dataclass
class _Worker:
    handle: Any
    answer: Any
    device: str = ""
    job: Job | None = None


def refuse_unknown(address: str, device: str) -> None:
    """Check a request before anything is written.

    Raises:
        TalkbenchError: If it is not such an address, or a device that a cluster cannot hand out.
        PrerequisiteError: If Ray is not installed.
    """
    ray_cluster.refuse_unknown(address)
    if device not in {"cpu", "cuda"}:
        raise TalkbenchError(f"device {device!r} with Ray, which hands them out. Known: cpu, cuda (every GPU).")


def outcomes(
    run: Run, jobs: list[Job], address: str, device: str, *, num_workers: int | None, wait: bool
) -> Iterator[tuple[Job, Outcome]]:
    """Score jobs on the cluster; yield each as it ends.

    Args:
        run: Where rows go.
        jobs: What to do; at least one.
        address: ``auto``, ``local`` (a cluster of this machine alone, for this call) or ``HOST:PORT``.
        device: ``cpu`` (one actor per core) or ``cuda`` (one per GPU).
        num_workers: Actors at most; None for all that the cluster has room for.
        wait: Wait for clips that another process holds.

    Raises:
        PrerequisiteError: If there is no such cluster, or no such device in it.
        TalkbenchError: If a machine cannot score: it does not see the files, or lacks talkbench.
    """
    ray = ray_cluster.module()
    with ray_cluster.connected(ray, address):
        resources = ray.cluster_resources()
        slots = int(resources.get("GPU" if device == "cuda" else "CPU", 0))
        if not slots:
            raise PrerequisiteError(f"the Ray cluster at {address} has no device for --device {device}: {resources}.")
        number = min(num_workers or slots, slots, len(jobs))
        threads = max(1, int(resources.get("CPU", 1)) // slots)
        start = _starter(ray, run, Context(device, threads), _needed(run, jobs))
        workers = [start() for _ in range(number)]
        try:
            yield from _feed(ray, run, deque(jobs), workers, start, wait=wait)
        finally:
            for worker in workers:
                ray.kill(worker.handle)


def _feed(
    ray: Any, run: Run, queue: deque[Job], workers: list[_Worker], start: Any, *, wait: bool
) -> Iterator[tuple[Job, Outcome]]:
    while queue or any(worker.job for worker in workers):
        waiting = [worker.answer for worker in workers if worker.answer is not None]
        ready, _ = ray.wait(waiting, timeout=ray_cluster.PATIENCE_SECONDS)
        if not ready:
            _log.info("no answer for %d s; %d clips are not handed out yet", ray_cluster.PATIENCE_SECONDS, len(queue))
            continue
        number = next(n for n, worker in enumerate(workers) if worker.answer == ready[0])
        worker, job = workers[number], workers[number].job
        try:
            answer = ray.get(ready[0])
        except ray_cluster.deaths(ray) as error:
            if job is None:
                raise TalkbenchError(f"a machine of the Ray cluster cannot run talkbench: {error}") from error
            answer = _bury(run, worker, job, error)
            ray.kill(worker.handle)
            workers[number] = start()
        else:
            if isinstance(answer, Exception):
                raise answer
            worker.device = worker.device or answer
            worker.job = queue.popleft() if queue else None
            worker.answer = worker.handle.score.remote(worker.job, wait=wait) if worker.job else None
        if job is not None:
            yield job, answer


def _bury(run: Run, worker: _Worker, job: Job, death: Exception) -> Outcome:
    how = ray_cluster.how(death)
    return record_crash(run, job, worker.device, f"the Ray actor died while scoring this clip: {how}")


def _starter(ray: Any, run: Run, context: Context, needed: list[Path]) -> Any:
    actor = ray.remote(num_cpus=1, num_gpus=int(context.device == "cuda"), max_restarts=0)(Actor)

    def start() -> _Worker:
        handle = actor.remote()
        return _Worker(handle, handle.start.remote(run.path.resolve(), context, needed))

    return start


def _needed(run: Run, jobs: list[Job]) -> list[Path]:
    """Return what every machine must see: among it this session's record, which no mere copy of the run has."""
    folders = {Path(record.path).parent for job in jobs for record in job.records}
    weights = {file.path.absolute() for job in jobs for metric in job.metrics for file in metric.weights.values()}
    own = [run.path.resolve() / "run.json", *sorted((run.path.resolve() / "sessions").glob("*.json"))]
    return [*own, *(path for path in sorted(folders | weights) if path.exists())]
