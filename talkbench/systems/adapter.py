"""Make clips with systems that run in processes of their own: a warm worker per place, a scratch folder per attempt."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue

from talkbench import atomic
from talkbench.config import cache_folder, visible_gpus
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.provenance import gpus
from talkbench.schema import Sidecar
from talkbench.systems.inputs import write_inputs
from talkbench.systems.scan import sidecar_path
from talkbench.systems.spec import SystemSpec
from talkbench.systems.task import Task
from talkbench.workers import scratch
from talkbench.workers.accept import Accepted, accept
from talkbench.workers.host import SHIM, Finished, Limits, Worker, WorkerFailedError
from talkbench.workers.log import WorkerLog
from talkbench.workers.protocol import Job

GIVE_UP_AFTER = 2
"""Starts that fail in a row, after which the rest of the jobs is not tried: loading may take minutes."""


@dataclass(frozen=True)
class Machine:
    """What systems are run with.

    Attributes:
        weights: Folder with the weight folders that systems name.
        gpus: GPUs to use, as `CUDA_VISIBLE_DEVICES` names them.
    """

    weights: Path
    gpus: tuple[str, ...]

    @classmethod
    def this(cls, *, weights_dir: Path | None = None, num_gpus: int | None = None) -> Machine:
        """Return this machine, with all its visible GPUs or the first `num_gpus` of them.

        Raises:
            PrerequisiteError: If it has fewer.
        """
        visible = visible_gpus(len(gpus()))
        if num_gpus is not None and num_gpus > len(visible):
            raise PrerequisiteError(f"{num_gpus} GPUs were asked for, {len(visible)} are visible here (nvidia-smi).")
        weights = (weights_dir or cache_folder() / "weights").expanduser().resolve()
        return cls(weights, tuple(visible[:num_gpus]))

    def lacks(self, spec: SystemSpec) -> list[str]:
        """Return what a system needs and this machine does not have, one sentence each."""
        needs, found = spec.needs, []
        absent = [name for name in needs.modules if find_spec(name) is None]
        if absent:
            how = f": {needs.install}" if needs.install else "."
            found.append(f"Python modules {', '.join(absent)} are not installed{how}")
        if needs.gpus > len(self.gpus):
            found.append(f"it needs {needs.gpus} GPU(s), {len(self.gpus)} can be used here (nvidia-smi).")
        return found + self.lacks_weights(spec)

    def lacks_weights(self, spec: SystemSpec) -> list[str]:
        """Return which weight files of a system are not here, one sentence per folder."""
        found = []
        for group in spec.needs.weights:
            folder = self.weights / group.folder
            missing = [name for name in group.files if not (folder / name).is_file()]
            if missing:
                found.append(
                    f"{folder} lacks {', '.join(missing[:3])}{' ...' if missing[3:] else ''} "
                    f"(about {group.about_gigabytes:g} GB, {group.licence}): get {group.url}, "
                    "or name the folder that has it with --weights-dir."
                )
        return found

    def require(self, spec: SystemSpec) -> None:
        """Refuse a system that cannot run here.

        Raises:
            PrerequisiteError: With everything that is missing.
        """
        lacking = self.lacks(spec)
        if lacking:
            listed = "".join(f"\n  {sentence}" for sentence in lacking)
            raise PrerequisiteError(f"{spec.name} cannot run here:{listed}\nThen: talkbench system check {spec.name}")

    def places(self, spec: SystemSpec, num_workers: int | None) -> list[tuple[str, ...]]:
        """Return the GPUs of each worker to be run at once.

        A system without GPUs gets one worker unless more are asked for: they would slow each other, and the clips'
        timing events with them.
        """
        if not spec.needs.gpus:
            return [()] * (num_workers or 1)
        each = spec.needs.gpus
        groups = [self.gpus[first : first + each] for first in range(0, len(self.gpus) - each + 1, each)]
        return groups[:num_workers]


class Station:
    """One place where a system runs. Its worker stays warm; one that ended is started again for the next task.

    Args:
        spec: The system.
        machine: Where it runs.
        gpus: Those that the worker sees.
        log: File for what it prints.
        assets: Folder that paths of items are relative to.
    """

    def __init__(
        self, spec: SystemSpec, machine: Machine, gpus: tuple[str, ...], *, log: Path, assets: Path | None
    ) -> None:
        self._spec = spec
        self._machine = machine
        self._gpus = gpus
        self._assets = assets
        self._log = WorkerLog(log)
        self._open = ExitStack()
        self._folder = self._open.enter_context(scratch.folder())
        self._worker: Worker | None = None
        self._sizes: set[tuple[int, int]] = set()
        self._failed_starts: list[WorkerFailedError] = []
        self._num_attempts = 0
        self._interrupted = threading.Event()

    def make(self, task: Task) -> Sidecar:
        """Make a clip and put it, with its sidecar, where it belongs.

        Raises:
            WorkerFailedError: If the worker fails, or its clip is not accepted.
            TalkbenchError: If the item's files cannot be used.
        """
        self._num_attempts += 1
        folder = self._folder / f"attempt-{self._num_attempts:04d}"
        folder.mkdir()
        try:
            inputs = write_inputs(task.item, folder, self._assets)
            job = Job(
                id=task.item.id,
                image=str(inputs.image),
                audio=str(inputs.audio),
                audio_seconds=inputs.audio_seconds,
                prompt=self._spec.prompt,
                seed=task.item.seed,
                output=str(folder / "clip.mp4"),
                scratch=str(folder),
            )
            worker = self.worker()
            patience = self._spec.patience
            limit_seconds = patience.job_seconds + patience.job_seconds_per_second * inputs.audio_seconds
            finished = worker.run(job, limit_seconds)
            accepted = accept(
                Path(job.output),
                audio_seconds=inputs.audio_seconds,
                frame_rate=self._spec.frame_rate,
                tolerance_frames=self._spec.limits.tolerance_frames,
                num_frames_told=finished.num_frames,
                audio=inputs.audio,
            )
            sidecar = self._sidecar(task, worker, finished, accepted)
            _publish(Path(job.output), task.path)
            atomic.write_text(sidecar_path(task.path), sidecar.to_json() + "\n")
            return sidecar
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def worker(self) -> Worker:
        """Return the worker, started if there is none that can take a task.

        Raises:
            WorkerFailedError: If it does not start; at once, if that has happened twice in a row.
        """
        if self._worker is not None and self._worker.is_alive:
            return self._worker
        if len(self._failed_starts) == GIVE_UP_AFTER:
            last = self._failed_starts[-1]
            raise WorkerFailedError(last.reason, f"not tried, since {GIVE_UP_AFTER} starts failed: {last.message}")
        try:
            worker = self._start()
        except WorkerFailedError as error:
            self._failed_starts.append(error)
            raise
        self._failed_starts.clear()
        return worker

    def close(self) -> None:
        """Say bye to the worker, and clean up."""
        if self._worker is not None:
            self._worker.stop()
        self._log.close()
        self._open.close()

    def interrupt(self) -> None:
        """End the worker from another thread; a task that runs fails, and none is begun."""
        self._interrupted.set()
        if self._worker is not None:
            self._worker.interrupt()

    def _start(self) -> Worker:
        command = self._spec.command(
            python=sys.executable, shim=SHIM, weights=self._machine.weights, gpus=max(1, len(self._gpus))
        )
        patience = self._spec.patience
        worker = self._worker = Worker(
            command,
            folder=self._folder,
            log=self._log,
            limits=Limits(patience.start_seconds, patience.silence_seconds),
            environment={"CUDA_VISIBLE_DEVICES": ",".join(self._gpus)},
        )
        if self._interrupted.is_set():
            worker.interrupt()
        self._sizes = set()
        worker.greet()
        return worker

    def _sidecar(self, task: Task, worker: Worker, finished: Finished, accepted: Accepted) -> Sidecar:
        warmed_up = accepted.size in self._sizes
        self._sizes.add(accepted.size)
        timing = finished.timing
        if timing is not None:
            timing = timing.model_copy(update={"scenario": self._spec.scenario, "warmed_up": warmed_up})
        return Sidecar(
            item=task.item.id,
            system=self._spec.name,
            job_key=task.key,
            settings={
                "system_version": self._spec.version,
                "seed": task.item.seed,
                "worker": worker.hello.model_dump(mode="json", exclude={"type"}),
                "clip": finished.details,
                "accepted": accepted.facts(),
                "message_delay_seconds": round(finished.message_delay_seconds, 6),
                "adapter": self._spec.settings,
            },
            timing=timing,
        )


def make_all(stations: Sequence[Station], tasks: Sequence[Task], note: Callable[[Task, str | None], None]) -> None:
    """Let stations share tasks; `note` is told, on the calling thread, of each one and why it failed, if it did.

    Ctrl-C, or any other exception of the caller, ends the workers; clips that were finished stay.
    """
    waiting, told = deque(tasks), SimpleQueue[tuple[Task, str | None] | None]()

    def work(station: Station) -> None:
        try:
            for task in iter(partial(_take, waiting), None):
                outcome = attempt(station, task)
                told.put((task, outcome if isinstance(outcome, str) else None))
        finally:
            told.put(None)

    pool = ThreadPoolExecutor(max(1, len(stations)))
    try:
        working = [pool.submit(work, station) for station in stations]
        left = len(working)
        while left:
            news = told.get()
            if news is None:
                left -= 1
            else:
                note(*news)
        for each in working:
            each.result()
    except BaseException:
        waiting.clear()
        for station in stations:
            station.interrupt()
        raise
    finally:
        pool.shutdown()
        for station in stations:
            station.close()


def _take(waiting: deque[Task]) -> Task | None:
    """Return the next task; None if another station took the last one."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


def attempt(station: Station, task: Task) -> Sidecar | str:
    """Return what is known of the clip, or why there is none, with the last words of the worker."""
    try:
        return station.make(task)
    except WorkerFailedError as error:
        return str(error) + "".join(f"\n    | {line}" for line in error.last_words)
    except (TalkbenchError, OSError) as error:
        return f"{type(error).__name__}: {error}"


def _publish(clip: Path, path: Path) -> None:
    """Put an accepted clip in its place: whole, or not at all; scratch may be on another disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem[:60]}.{os.getpid()}.partial.mp4")
    try:
        shutil.copyfile(clip, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
