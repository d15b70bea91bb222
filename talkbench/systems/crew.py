"""Doing what the schedule says: one loop, whoever has the places; here, threads that each drive a worker."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from talkbench.systems.adapter import Station
from talkbench.systems.attempt import InterruptedAttemptError, Note, Outcome, at_station
from talkbench.systems.failures import NOT_TRIED, Failure
from talkbench.systems.machine import Machine
from talkbench.systems.schedule import Place, Schedule
from talkbench.systems.spec import SystemSpec
from talkbench.systems.task import Task

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """An attempt has ended.

    Attributes:
        place: Where.
        outcome: What became of it.
        gave_up: Why the place will not start its system again, if it will not.
    """

    place: Place
    outcome: Outcome
    gave_up: str | None = None


@dataclass(frozen=True)
class Left:
    """A place is given up: its worker is gone, its GPUs are free."""

    place: Place


class Crew(Protocol):
    """Whoever has the places; every call but `wait` returns at once."""

    def begin(self, place: Place, task: Task) -> None:
        """Begin a clip at a place; the first one there starts a worker."""

    def leave(self, place: Place) -> None:
        """End the worker of a place."""

    def wait(self) -> Ended | Left:
        """Return the next thing that has happened.

        Raises:
            Exception: Whatever ends the request: an error that no clip is to blame for.
        """

    def stop(self, *, at_once: bool) -> None:
        """End what is left; at once if the request is over before its clips are made."""


def make_all(schedule: Schedule, crew: Crew, note: Note, *, retries: int) -> None:
    """Make all clips of a schedule; `note` is told of each once, when nothing more is tried.

    Ctrl-C, or any other exception of the caller, ends the workers; clips that were finished stay.

    Args:
        schedule: What to make.
        crew: Who makes it.
        note: Told on the calling thread.
        retries: How often a clip is tried again whose failure may pass.
    """
    failed_before: dict[str, Outcome] = {}
    gave_up: dict[str, str] = {}
    tries: Counter[str] = Counter()
    at_once = True
    try:
        while True:
            while (begun := schedule.next()) is not None:
                crew.begin(*begun)
            for place in schedule.to_leave():
                crew.leave(place)
            if not schedule.is_busy:  # what waits now has no place left
                for system, why in gave_up.items():
                    dropped = schedule.give_up(system)
                    for task in sorted(dropped, key=lambda task: task.label not in failed_before):
                        note(failed_before.get(task.label, Outcome(task, Failure(NOT_TRIED, why))))
                break
            news = crew.wait()
            if isinstance(news, Left):
                schedule.left(news.place)
                continue
            schedule.ended(news.place)
            outcome = news.outcome
            label = outcome.task.label
            tries[label] += 1
            if outcome.failure is not None and outcome.failure.may_pass and tries[label] <= retries:
                _log.warning("%s: %s; it is tried again", label, outcome.failure.message)
                failed_before[label] = outcome
                schedule.again(outcome.task)
            else:
                note(outcome)
            if news.gave_up is not None:
                schedule.retire(news.place)
                gave_up[news.place.system] = news.gave_up
                gpus = f" on GPU {', '.join(news.place.gpus)}" if news.place.gpus else ""
                _log.warning("%s is left out%s (%s): %s", news.place.system, gpus, news.place.node, news.gave_up)
        if schedule.num_waiting:
            raise RuntimeError(f"{schedule.num_waiting} clips wait for a place that there is not: a mistake of ours")
        at_once = False
    finally:
        crew.stop(at_once=at_once)


class Threads:
    """The places of this machine; each drives its worker on a thread.

    Args:
        specs: The systems, by name.
        machine: Where they run.
        run_path: The run folder.
        logs: Folder for what workers print.
        assets: Folder that the items' paths are relative to.
    """

    def __init__(
        self, specs: Mapping[str, SystemSpec], machine: Machine, run_path: Path, *, logs: Path, assets: Path | None
    ) -> None:
        self._specs = specs
        self._machine = machine
        self._run_path = run_path
        self._logs = logs
        self._assets = assets
        self._stations: dict[Place, Station] = {}
        self._news: SimpleQueue[Ended | Left | Exception] = SimpleQueue()
        # Every place has at most one thing to do, so that no thread is waited for.
        self._pool = ThreadPoolExecutor(max_workers=1 << 10)

    def begin(self, place: Place, task: Task) -> None:
        """Begin a clip at a place; the first one there starts a worker."""
        if place not in self._stations:
            self._stations[place] = Station(
                self._specs[place.system],
                self._machine,
                place.gpus,
                log=self._logs / f"{place.system}-{place.number}.log",
                assets=self._assets,
            )
        station = self._stations[place]

        def work() -> Ended:
            outcome = at_station(station, task, self._run_path)
            return Ended(place, outcome, station.gave_up)

        self._submit(work)

    def leave(self, place: Place) -> None:
        """End the worker of a place."""
        station = self._stations.pop(place)

        def work() -> Left:
            station.close()
            return Left(place)

        self._submit(work)

    def wait(self) -> Ended | Left:
        """Return the next thing that has happened, or raise what a thread did."""
        news = self._news.get()
        if isinstance(news, Exception):
            raise news
        return news

    def stop(self, *, at_once: bool) -> None:
        """End what is left."""
        if at_once:
            for station in self._stations.values():
                station.interrupt()
        self._pool.shutdown()
        for station in self._stations.values():
            station.close()

    def _submit(self, work: Callable[[], Ended | Left]) -> None:
        def told() -> None:
            try:
                self._news.put(work())
            except InterruptedAttemptError:
                pass
            except Exception as error:  # noqa: BLE001 - raised where the request is made
                self._news.put(error)

        self._pool.submit(told)
