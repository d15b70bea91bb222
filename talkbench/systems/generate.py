"""Make the clips of a suite with systems, skipping what is there; a killed run goes on where it stopped.

Clips land as `<folder>/<system>/<item>.mp4` with a sidecar, the same layout that `talkbench score` takes from users.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from talkbench import atomic
from talkbench.errors import TalkbenchError
from talkbench.ids import digest, key
from talkbench.progress import Progress
from talkbench.provenance import device_name
from talkbench.registry import suggest
from talkbench.schema import Item, Sidecar, Suite
from talkbench.systems.known import SYSTEMS, KnownSystem
from talkbench.systems.scan import read_sidecar, sidecar_path
from talkbench.systems.stopwatch import Stopwatch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """One clip to make."""

    system: str
    item: Item
    path: Path

    @property
    def key(self) -> str:
        """Changes whenever the clip would."""
        return key({"item": digest(self.item.model_dump(mode="json")), "system": _by_name(self.system).digest})


def select(names: Sequence[str]) -> tuple[KnownSystem, ...]:
    """Return the systems that `names` stand for; ``known`` stands for all known-answer systems.

    Raises:
        TalkbenchError: If a name is unknown.
    """
    wanted: dict[str, None] = {}
    for name in [part.strip() for entry in names for part in entry.split(",") if part.strip()]:
        wanted.update(dict.fromkeys([system.name for system in SYSTEMS] if name == "known" else [_by_name(name).name]))
    return tuple(_by_name(name) for name in wanted)


def asked_of(system: KnownSystem, suite: Suite) -> list[Item]:
    """Return the items of a suite that a system makes clips for."""
    return [item for item in suite.items or () if item.tier in system.tiers]


def plan(suite: Suite, systems: Sequence[KnownSystem], folder: Path) -> list[Generation]:
    """Return the clips that do not exist yet, longest first.

    Raises:
        TalkbenchError: If the suite has no items to generate from.
    """
    if not suite.items:
        raise TalkbenchError(
            f"suite {suite.id} has no frozen item list, so nothing can be generated for it. Try `mini`."
        )
    jobs = [
        Generation(system.name, item, folder / system.name / f"{item.id}.mp4")
        for system in systems
        for item in asked_of(system, suite)
    ]
    return sorted((job for job in jobs if not _exists(job)), key=lambda job: -job.item.duration_seconds)


def generate(jobs: list[Generation], *, num_workers: int, progress: Progress) -> list[str]:
    """Make the clips; return one message per clip that failed.

    Raises:
        TalkbenchError: If a worker process dies; what is made so far stays.
    """
    failures: list[str] = []
    progress.start("generate", len(jobs))
    if num_workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            _note(job, make(job), failures, progress)
    else:
        with ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(make, job): job for job in jobs}
            try:
                for future in as_completed(waiting):
                    _note(waiting[future], future.result(), failures, progress)
            except BrokenProcessPool as error:
                raise TalkbenchError("a generating process died. Run the same command again to go on.") from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    progress.finish()
    return failures


def make(job: Generation) -> str | None:
    """Make one clip and its sidecar; return why it failed, or None."""
    try:
        watch = Stopwatch()
        truth = _by_name(job.system).generate(job.item, job.path, watch)
        sidecar = Sidecar(
            item=job.item.id,
            system=job.system,
            job_key=job.key,
            timing=watch.stop(device_name()),
            truth=truth,
        )
        atomic.write_text(sidecar_path(job.path), sidecar.to_json() + "\n")
    except (OSError, ValueError, TalkbenchError) as error:
        return f"{job.system}/{job.item.id}: {type(error).__name__}: {error}"
    return None


def _note(job: Generation, failure: str | None, failures: list[str], progress: Progress) -> None:
    if failure:
        _log.error("%s", failure)
        failures.append(failure)
    progress.step(f"{job.system}/{job.item.id}", ok=failure is None)


def _exists(job: Generation) -> bool:
    if not job.path.is_file():
        return False
    try:
        sidecar = read_sidecar(job.path)
    except TalkbenchError:
        return False
    return sidecar is not None and sidecar.job_key == job.key


def _by_name(name: str) -> KnownSystem:
    for system in SYSTEMS:
        if system.name == name:
            return system
    known = [system.name for system in SYSTEMS]
    raise TalkbenchError(
        f"unknown system {name!r}.{suggest(name, known)} Known: {', '.join(known)}; `known` is all of them."
    )
