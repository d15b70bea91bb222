"""Scoring all jobs: in this process, in processes side by side on this machine, or over a Ray cluster.

Each worker has its own decoder, runners and part file. A worker that dies (out of memory, a crash in native code)
costs its clip a row with the reason and is replaced. If this process dies, each worker finishes its clip, stores it,
and leaves.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.metrics import cluster
from talkbench.metrics.base import Context
from talkbench.metrics.jobs import Job, Outcome, Scorer, record_crash, score_job
from talkbench.provenance import device_name
from talkbench.store.rows import RowWriter
from talkbench.store.run import Run

_spawn = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None


def devices(asked: str) -> tuple[str, ...]:
    """Return the devices that `cpu`, `cuda` (every GPU) or `cuda:1` stands for.

    Raises:
        TalkbenchError: If it is not such a name.
        PrerequisiteError: If there is no such GPU, or no PyTorch.
    """
    if asked == "cpu":
        return ("cpu",)
    match = re.fullmatch(r"cuda(?::(\d+))?", asked)
    if match is None:
        raise TalkbenchError(f"unknown device {asked!r}. Known: cpu, cuda (every GPU), cuda:0, cuda:1, ...")
    try:
        import torch
    except ImportError as error:
        raise PrerequisiteError(f"{asked} needs PyTorch: pip install 'talkbench[metrics]'.") from error
    number = torch.cuda.device_count()
    if number <= int(match.group(1) or 0):
        raise PrerequisiteError(f"{asked}: PyTorch sees {number} GPUs. `talkbench doctor` says more; or --device cpu.")
    return (asked,) if match.group(1) else tuple(f"cuda:{index}" for index in range(number))


def score_all(
    run: Run,
    jobs: list[Job],
    devices: tuple[str, ...],
    *,
    num_workers: int | None,
    ray: str | None = None,
    on_outcome: Callable[[Outcome], None],
) -> None:
    """Score all jobs; those that another process holds are awaited at the end.

    Args:
        run: Where rows go.
        jobs: What to do.
        devices: Where networks run; the processes take turns.
        num_workers: Processes; None for one per core, or one per GPU. One works in this process.
        ray: Address of the Ray cluster whose machines score instead of this one (`cluster.refuse_unknown`).
        on_outcome: Called once per job as it ends.
    """
    busy: list[Job] = []
    for job, outcome in _outcomes(run, jobs, devices, num_workers, ray):
        if outcome.busy:
            busy.append(job)
        else:
            on_outcome(outcome)
    # One process waits for the clips of others: they are few, and most are done by then.
    for _, outcome in _outcomes(run, busy, devices, 1, ray, wait=True):
        on_outcome(outcome)


def _outcomes(
    run: Run, jobs: list[Job], devices: tuple[str, ...], num_workers: int | None, ray: str | None, *, wait: bool = False
) -> Iterator[tuple[Job, Outcome]]:
    if not jobs:
        return iter(())
    if ray is not None:
        return cluster.outcomes(run, jobs, ray, devices[0], num_workers=num_workers, wait=wait)
    cores = os.cpu_count() or 1
    number = min(num_workers or (cores if devices == ("cpu",) else len(devices)), len(jobs))
    threads = max(1, cores // max(1, number))
    contexts = [Context(devices[index % len(devices)], threads) for index in range(max(1, number))]
    return _here(run, jobs, contexts[0], wait=wait) if number <= 1 else _side_by_side(run, jobs, contexts)


def _here(run: Run, jobs: list[Job], context: Context, *, wait: bool) -> Iterator[tuple[Job, Outcome]]:
    writer = RowWriter(run.path / "rows")
    try:
        for job in jobs:
            yield job, score_job(run, writer, job, context, wait=wait)
    finally:
        writer.close()


def _side_by_side(run: Run, jobs: list[Job], contexts: list[Context]) -> Iterator[tuple[Job, Outcome]]:
    queue = deque(jobs)
    workers = [_start(run.path, context) for context in contexts]
    try:
        for worker in workers:
            _hand_over(worker, queue)
        while any(worker.job for worker in workers):
            ready = wait([worker.connection for worker in workers if worker.job])
            for number, worker in enumerate(workers):
                if worker.connection not in ready or worker.job is None:
                    continue
                job = worker.job
                try:
                    outcome = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    outcome = _bury(run, worker, job, contexts[number])
                    worker = workers[number] = _start(run.path, contexts[number])  # noqa: PLW2901
                if isinstance(outcome, Exception):
                    raise outcome
                _hand_over(worker, queue)
                yield job, outcome
    finally:
        for worker in workers:
            worker.connection.close()
            if worker.job is not None:
                worker.process.terminate()
        for worker in workers:
            worker.process.join(timeout=10)


def _start(run_path: Path, context: Context) -> _Worker:
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_work, args=(theirs, run_path, context), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _hand_over(worker: _Worker, queue: deque[Job]) -> None:
    worker.job = queue.popleft() if queue else None
    if worker.job is not None:
        worker.connection.send(worker.job)


def _bury(run: Run, worker: _Worker, job: Job, context: Context) -> Outcome:
    worker.process.join(timeout=10)
    message = f"the worker process died with exit code {worker.process.exitcode} while scoring this clip"
    return record_crash(run, job, device_name(context.device), message)


def _work(connection: Connection, run_path: Path, context: Context) -> None:
    """Body of a worker: take jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    scorer = Scorer(run_path, context)
    while True:
        try:
            job = connection.recv()
        except (EOFError, ConnectionResetError):
            break
        try:
            connection.send(scorer.score(job))
        except (BrokenPipeError, ConnectionResetError):
            break
    scorer.close()
