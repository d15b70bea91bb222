"""Generating as Slurm jobs, through submitit: one array per system, one task of it per share of the clips.

Each task makes its share as `talkbench generate` does on the machine it lands on, with the records and clips in the
same run folder, which all machines must see under the same path. A task that is pre-empted and started again goes on
where it was; a request that is stopped cancels its jobs, and the same request again makes what is missing.

    talkbench generate open --system ditto --out runs/a --slurm slurm_partition=gpu,timeout_min=720,shares=4
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.schema import now
from talkbench.store import attempts
from talkbench.systems import crew
from talkbench.systems.attempt import Note, Outcome, exists, refused
from talkbench.systems.failures import NEEDS_MEMORY, NOT_TRIED, Failure
from talkbench.systems.machine import Machine
from talkbench.systems.schedule import Node, Schedule, refusal
from talkbench.systems.spec import SystemSpec
from talkbench.systems.task import Task
from talkbench.workers import orphans

SHARES = 8
"""Tasks of an array at most, unless `shares=N` says otherwise."""
POLL_SECONDS = 2.0
_OURS = ("shares", "cluster")
_BAR = f"\n{'-' * 22}\n"


def parse(options: str) -> dict[str, str]:
    """Return `KEY=VALUE,KEY=VALUE` as a dictionary.

    Raises:
        TalkbenchError: If a part of it is no such pair, or `shares` is no number.
        PrerequisiteError: If submitit is not installed.
    """
    _submitit()
    found = {}
    for part in options.split(","):
        name, equals, value = part.strip().partition("=")
        if not name or not equals or not value:
            raise TalkbenchError(
                f"--slurm {part!r}: expected KEY=VALUE,... with submitit's names, such as "
                "slurm_partition=gpu,timeout_min=720,mem_gb=200; shares=N is the number of jobs per system."
            )
        found[name] = value
    shares = found.get("shares", "1")
    if not shares.isdigit() or not int(shares):
        raise TalkbenchError(f"--slurm shares={shares}: expected a number of jobs per system, 1 or more.")
    return found


@dataclass(frozen=True)
class Share:
    """What one job does; sent to it as it is.

    Attributes:
        spec: The system.
        tasks: Its clips.
        weights: Folder with the weight folders.
        run_path: The run folder.
        assets: Folder that the items' paths are relative to.
        retries: How often a clip is tried again whose failure may pass.
        log_name: Folder of the run for what workers print.
        asked_at: When it was asked for: what was made before that is not the answer, even under the same key.
    """

    spec: SystemSpec
    tasks: tuple[Task, ...]
    weights: Path
    run_path: Path
    assets: Path | None
    retries: int
    log_name: str
    asked_at: str

    def __call__(self) -> list[Outcome]:
        """Make the clips that are missing, on all GPUs that the job was given.

        Raises:
            PrerequisiteError: If the system cannot run on this machine.
        """
        machine = Machine.this(weights_dir=self.weights)
        machine.require(self.spec)
        orphans.reap()
        node = Node("here", machine.gpus, machine.ram_gigabytes)
        told: list[Outcome] = []
        possible = []
        for task in self.tasks:
            if task.force and self.became(task) == attempts.MADE:  # before the job was pre-empted
                told.append(Outcome(task))
                continue
            why = refusal(self.spec, task, [node])
            if why is None:
                possible.append(task)
            else:
                told.append(refused(task, self.run_path, Failure(NEEDS_MEMORY, f"{NEEDS_MEMORY}: {why}")))
        specs = {self.spec.name: self.spec}
        threads = crew.Threads(
            specs, machine, self.run_path, logs=self.run_path / "logs" / self.log_name, assets=self.assets
        )
        crew.make_all(Schedule(specs, possible, [node]), threads, told.append, retries=self.retries)
        return told

    def checkpoint(self) -> Any:
        """Return what submitit starts when the job is pre-empted: the same again, which skips what is made."""
        return _submitit().helpers.DelayedSubmission(self)

    def became(self, task: Task) -> str | None:
        """Return what the last attempt at a clip came to (`attempts.outcome`); None if there was none since asking."""
        found = attempts.read(self.run_path, task.system, task.item.id)
        if not any(record.job_key == task.key and record.written_at >= self.asked_at for record in found):
            return None
        return attempts.outcome(self.run_path, task.system, task.item.id, task.key)


def make_all(
    specs: Mapping[str, SystemSpec],
    tasks: Sequence[Task],
    options: Mapping[str, str],
    machine: Machine,
    run_path: Path,
    *,
    assets: Path | None,
    retries: int,
    note: Note,
) -> None:
    """Submit the jobs of all systems, and wait for them; `note` is told of each clip once.

    Args:
        specs: The systems, by name.
        tasks: Clips to make.
        options: From `parse`; `shares` and `cluster` (submitit's, `slurm` by default) are ours.
        machine: Its weights; on every machine under this path.
        run_path: The run folder.
        assets: Folder that the items' paths are relative to.
        retries: How often a clip is tried again whose failure may pass.
        note: Told on the calling thread.

    Raises:
        PrerequisiteError: If there is no Slurm here.
        TalkbenchError: If submitit does not know an option, or Slurm refuses it.
    """
    jobs: dict[Any, Share] = {}
    try:
        for spec in specs.values():
            shares = list(_shares(spec, tasks, options, machine, run_path.resolve(), assets, retries))
            if shares:
                jobs |= dict(zip(_submit(spec, shares, options, run_path), shares, strict=True))
        _wait(jobs, note)
    except BaseException:
        for job in jobs:
            job.cancel(check=False)
        raise


def _shares(
    spec: SystemSpec,
    tasks: Sequence[Task],
    options: Mapping[str, str],
    machine: Machine,
    run_path: Path,
    assets: Path | None,
    retries: int,
) -> Iterator[Share]:
    asked_at = now()
    own = [replace(task, path=task.path.resolve()) for task in tasks if task.system == spec.name]
    number = min(int(options.get("shares", SHARES)), len(own))
    for first in range(number):
        log_name = f"{spec.name}-share-{first}"
        chosen = tuple(own[first::number])
        yield Share(spec, chosen, machine.weights, run_path, assets, retries, log_name, asked_at)


def _submit(spec: SystemSpec, shares: list[Share], options: Mapping[str, str], run_path: Path) -> list[Any]:
    submitit = _submitit()
    try:
        executor = submitit.AutoExecutor(run_path / "logs" / "slurm", cluster=options.get("cluster", "slurm"))
    except (RuntimeError, ValueError) as error:
        raise PrerequisiteError(f"--slurm: {error}. Is this a machine that `sbatch` works on?") from error
    given = {name: _number_or_text(value) for name, value in options.items() if name not in _OURS}
    try:
        executor.update_parameters(**({"name": spec.name, "gpus_per_node": spec.needs.gpus} | given))
        return list(executor.submit_array(shares))
    except (NameError, AssertionError, submitit.core.utils.FailedJobError) as error:
        raise TalkbenchError(f"--slurm: {error}") from error


def _wait(jobs: Mapping[Any, Share], note: Note) -> None:
    """Tell of clips as they appear, and of the rest of a share when its job has ended."""
    waiting = dict(jobs)
    told: set[str] = set()

    def tell(outcome: Outcome) -> None:
        if outcome.task.label not in told:
            told.add(outcome.task.label)
            note(outcome)

    while waiting:
        for job, share in list(waiting.items()):
            for task in share.tasks:
                if not task.force and task.label not in told and exists(task):
                    tell(Outcome(task))
            if job.done():
                del waiting[job]
                for outcome in _ended(job, share):
                    tell(outcome)
        if waiting:
            time.sleep(POLL_SECONDS)


def _ended(job: Any, share: Share) -> list[Outcome]:
    """Return what became of a share; if its job failed, or was killed, what is known of each of its clips."""
    try:
        outcomes: list[Outcome] = job.result()
    except _submitit().core.utils.UncompletedJobError as error:
        message = f"job {job.job_id} ended early: {_cause(error)}"
        words = [share.became(task) for task in share.tasks]
        return [
            Outcome(task, None if word == attempts.MADE else Failure(word or NOT_TRIED, message))
            for task, word in zip(share.tasks, words, strict=True)
        ]
    return outcomes


def _cause(error: Exception) -> str:
    """Return the line of submitit's account of a job that says why it ended: the last of the traceback, or of the log.

    After a traceback comes a bar, and then where the logs are.
    """
    text = str(error)
    if isinstance(error, _submitit().core.utils.FailedJobError):
        text = text.rpartition(_BAR)[0] or text
    return text.strip().splitlines()[-1]


def _number_or_text(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _submitit() -> Any:
    try:
        return importlib.import_module("submitit")
    except ImportError as error:
        raise PrerequisiteError("--slurm needs submitit: pip install 'talkbench[cluster]'.") from error
