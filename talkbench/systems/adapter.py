"""Make clips with systems that run in processes of their own: a warm worker per place, a scratch folder per attempt."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from talkbench import atomic
from talkbench.media.normalise import LAYOUT, normalise
from talkbench.schema import Encode, Sidecar
from talkbench.systems import face_check
from talkbench.systems.inputs import Inputs, write_inputs
from talkbench.systems.machine import Machine
from talkbench.systems.scan import sidecar_path
from talkbench.systems.spec import SystemSpec
from talkbench.systems.task import Task
from talkbench.workers import scratch
from talkbench.workers.accept import accept, check_native
from talkbench.workers.host import SHIM, Finished, Limits, Worker, WorkerFailedError
from talkbench.workers.log import WorkerLog
from talkbench.workers.protocol import Job

GIVE_UP_AFTER = 2
"""Starts that fail in a row, after which none is tried any more: loading may take minutes."""


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
        self,
        spec: SystemSpec,
        machine: Machine,
        gpus: tuple[str, ...],
        *,
        log: Path,
        assets: Path | None,
    ) -> None:
        self._spec = spec
        self._machine = machine
        self._gpus = gpus
        self._assets = assets
        self._log = WorkerLog(log)
        self._open = ExitStack()
        self._folder = self._open.enter_context(scratch.folder())
        self._worker: Worker | None = None
        self._sizes: set[str] = set()
        self._failed_starts: list[WorkerFailedError] = []
        self._num_attempts = 0
        self._interrupted = threading.Event()
        self._device = ""

    @property
    def is_interrupted(self) -> bool:
        """Whether it was told to end: what fails from then on says nothing about the system."""
        return self._interrupted.is_set()

    @property
    def gave_up(self) -> str | None:
        """Why no further start is tried, or None while one would be."""
        if len(self._failed_starts) < GIVE_UP_AFTER:
            return None
        return f"not tried, since {GIVE_UP_AFTER} starts failed: {self._failed_starts[-1].message}"

    @property
    def device(self) -> str:
        """What the worker runs on, as it said; empty before it has said anything."""
        return self._device

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
                prompt=self._prompt(task),
                seed=task.item.seed,
                output=str(folder / "clip.mp4"),
                scratch=str(folder),
                encode=task.encode,
            )
            worker = self.worker()
            patience = self._spec.patience
            limit_seconds = patience.job_seconds + patience.job_seconds_per_second * inputs.audio_seconds
            finished = worker.run(job, limit_seconds)
            accepted = self._accept(Path(job.output), inputs, finished)
            if task.encode == "tap":
                normalise(Path(job.output), Path(job.output), inputs.audio, self._spec.frame_rate)
            sidecar = self._sidecar(task, worker, finished, accepted, inputs.audio_seconds)
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
        if self.gave_up is not None:
            raise WorkerFailedError(self._failed_starts[-1].reason, self.gave_up)
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
            gpus=self._gpus,
        )
        if self._interrupted.is_set():
            worker.interrupt()
        self._sizes = set()
        self._device = worker.greet().device
        return worker

    def _accept(self, clip: Path, inputs: Inputs, finished: Finished) -> dict[str, Any]:
        """Check a clip; return what was found.

        Raises:
            WorkerFailedError: ``bad-output``, if it does not count.
        """
        spec, limits = self._spec, self._spec.limits
        weights = self._machine.weights
        watcher = face_check.begin(inputs.image, weights if weights.is_dir() else None)
        accepted = accept(
            clip,
            audio_seconds=inputs.audio_seconds,
            frame_rate=spec.frame_rate,
            tolerance_frames=limits.tolerance_frames,
            num_frames_told=finished.num_frames,
            audio=inputs.audio,
            sizes=limits.sizes_px,
            reference=inputs.image,
            shows_reference=limits.shows_reference,
            watcher=watcher,
        )
        check_native(
            finished.details,
            lead_trim_frames=limits.lead_trim_frames,
            makes_sound=limits.makes_sound,
            frame_rate=spec.frame_rate,
        )
        face = watcher.finish(refuse=limits.shows_reference)
        return accepted.facts() | {"face": face_check.facts(face)}

    def _prompt(self, task: Task) -> str | None:
        """Return the item's text, which is part of its key, or the system's own words where the item has none."""
        return task.item.text or self._spec.prompt

    def _sidecar(
        self, task: Task, worker: Worker, finished: Finished, accepted: dict[str, Any], audio_seconds: float
    ) -> Sidecar:
        warmed_up = accepted["size"] in self._sizes
        self._sizes.add(accepted["size"])
        timing = finished.timing
        if timing is not None:
            timing = timing.model_copy(
                update={
                    "scenario": self._spec.scenario,
                    "warmed_up": warmed_up,
                    "audio_seconds": audio_seconds,
                    "num_gpus": len(self._gpus),
                }
            )
        return Sidecar(
            item=task.item.id,
            system=self._spec.name,
            job_key=task.key,
            settings={
                "system_version": self._spec.version,
                "seed": task.item.seed,
                "prompt": self._prompt(task),
                "worker": worker.hello.model_dump(mode="json", exclude={"type"}),
                "clip": finished.details,
                "accepted": accepted,
                "encode": _encoding(task.encode, finished),
                **finished.memory.facts(),
                "message_delay_seconds": round(finished.message_delay_seconds, 6),
                "adapter": self._spec.settings,
            },
            timing=timing,
        )


def _encoding(encode: Encode, finished: Finished) -> dict[str, Any]:
    """Return by whom picture and sound of the clip were encoded."""
    if encode == "tap":
        return {"policy": "tap", "sound": "benchmark", "layout": LAYOUT}
    return {"policy": "native", "sound": finished.details.get("clip", {}).get("sound", "native")}


def _publish(clip: Path, path: Path) -> None:
    """Put an accepted clip in its place: whole, or not at all; scratch may be on another disk.

    Whoever makes a clip holds the lock of its attempts, so what a killed process left of a copy is in nobody's use.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.mp4")
    try:
        shutil.copyfile(clip, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        sidecar_path(path).unlink(missing_ok=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
