"""What systems there are and whether they run: a list for reading, and a trial with one short clip."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from talkbench.errors import TalkbenchError
from talkbench.mini.suite import mini_suite
from talkbench.schema import Item, Sidecar
from talkbench.systems.adapter import Station
from talkbench.systems.discover import adapters
from talkbench.systems.failures import explain
from talkbench.systems.known import SYSTEMS
from talkbench.systems.machine import Machine
from talkbench.systems.spec import SystemSpec
from talkbench.systems.task import Task
from talkbench.workers import scratch
from talkbench.workers.host import WorkerFailedError

TRIAL_SECONDS = 2.0


@dataclass(frozen=True)
class Listed:
    """A system as `talkbench system list` shows it.

    Attributes:
        name: As in tables.
        kind: ``known-answer`` or ``adapter``.
        description: One line.
        licence: Of its code.
        weights: ``none``, ``present`` or ``missing``.
        lacks: What it needs and this machine does not have.
    """

    name: str
    kind: str
    description: str
    licence: str
    weights: str
    lacks: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """What became of a system's trial.

    Attributes:
        system: Its name.
        failure: Why it failed, or None.
        seconds: From the start of the process to the end of the clip, loading included.
        sidecar: What is known of the clip, if there is one: the worker's hello, timing events.
    """

    system: str
    failure: str | None
    seconds: float
    sidecar: Sidecar | None


def listing(machine: Machine) -> list[Listed]:
    """Return every system: known-answer ones first."""
    known = [Listed(s.name, "known-answer", s.description, "Apache-2.0", "none", ()) for s in SYSTEMS]
    return known + [
        Listed(
            spec.name,
            "adapter",
            spec.description,
            spec.licence,
            _state_of_weights(spec, machine),
            tuple(machine.lacks(spec)),
        )
        for spec in adapters().values()
    ]


def trial(spec: SystemSpec, machine: Machine) -> Trial:
    """Have a system make a clip of two seconds, in a folder that is then deleted.

    Raises:
        PrerequisiteError: If it cannot run here.
    """
    machine.require(spec)
    began = time.monotonic()
    with scratch.folder() as folder:
        task = Task(spec.name, _short_item(), folder / "clip.mp4", "trial")
        gpus = machine.gpus[: spec.needs.gpus]
        station = Station(spec, machine, gpus, log=folder / "worker.log", assets=None)
        sidecar, failure = None, None
        try:
            sidecar = station.make(task)
        except (WorkerFailedError, TalkbenchError, OSError) as error:
            failure = str(explain(error))
        except BaseException:
            station.interrupt()
            raise
        finally:
            station.close()
    return Trial(spec.name, failure, time.monotonic() - began, sidecar)


def facts(tried: Trial) -> dict[str, Any]:
    """Return a trial as plain data."""
    found: dict[str, Any] = {"system": tried.system, "failure": tried.failure, "seconds": round(tried.seconds, 3)}
    if tried.sidecar is not None:
        found["worker"] = tried.sidecar.settings["worker"]
        timing = tried.sidecar.timing
        if timing is not None:
            found["frames"] = tried.sidecar.settings["accepted"]["picture"]["num_frames"]
            found["job_seconds"] = round((timing.file_closed_ns - timing.job_received_ns) / 1e9, 3)
            if timing.first_frame_ns is not None:
                found["first_frame_seconds"] = round((timing.first_frame_ns - timing.job_received_ns) / 1e9, 3)
    return found


def _short_item() -> Item:
    (item,) = mini_suite(num_short=1, num_long=0, height=256, width=256).items or ()
    return item.model_copy(update={"id": "trial", "duration_seconds": TRIAL_SECONDS})


def _state_of_weights(spec: SystemSpec, machine: Machine) -> str:
    if not spec.needs.weights:
        return "none"
    return "missing" if machine.lacks_weights(spec) else "present"
