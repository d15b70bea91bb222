"""Generating over a Ray cluster: one actor per place, on a machine and with the GPUs that the schedule has chosen.

The run folder, the items' files, the weights and the environments of systems must lie on a file system that all
machines share under the same paths; each actor checks that before its first clip. An actor that dies costs its clip an
attempt (`crashed`), and the next clip at its place gets a new one.

    talkbench generate open --system ditto --out runs/a --ray auto
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from talkbench import ray_cluster
from talkbench.config import visible_gpus
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.store.attempts import Attempt
from talkbench.systems.adapter import Station
from talkbench.systems.attempt import Outcome, at_station
from talkbench.systems.crew import Ended, Left
from talkbench.systems.failures import Failure
from talkbench.systems.machine import Machine
from talkbench.systems.schedule import Node, Place
from talkbench.systems.spec import SystemSpec
from talkbench.systems.task import Task
from talkbench.workers import orphans

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def nodes(address: str, plain_places: int) -> Iterator[list[Node]]:
    """Be connected to a cluster for a while; yield its machines.

    Args:
        address: ``auto``, ``local`` (a cluster of this machine alone, for this request) or ``HOST:PORT``.
        plain_places: Workers of systems without GPUs at once, on each machine.

    Raises:
        PrerequisiteError: If there is no such cluster, or no Ray.
    """
    ray = ray_cluster.module()
    with ray_cluster.connected(ray, address):
        found = [_node(entry, plain_places) for entry in ray.nodes() if entry["Alive"]]
        if not found:
            raise PrerequisiteError(f"the Ray cluster at {address} has no machine that is alive (`ray status`).")
        yield found


def largest(machine: Machine, nodes: Sequence[Node]) -> Machine:
    """Return a machine of the cluster to check needs against: the most GPUs and memory there are in one."""
    gpus = max((node.gpus for node in nodes), key=len)
    return replace(machine, gpus=gpus, ram_gigabytes=max(node.ram_gigabytes for node in nodes))


class Actor:
    """What runs on the machines of the cluster."""

    def start(
        self, spec: SystemSpec, weights: Path, run_path: Path, log: Path, assets: Path | None, needed: list[Path]
    ) -> Exception | None:
        """Prepare a place; return why clips cannot be made here, or None."""
        try:
            ray_cluster.see(needed, "the run folder, the items' files and the weights")
            orphans.reap()
            gpus = tuple(visible_gpus(spec.needs.gpus)) if spec.needs.gpus else ()
            self._run_path = run_path
            self._station = Station(spec, Machine(weights, gpus), gpus, log=log, assets=assets)
        except Exception as error:  # noqa: BLE001 - raised where the user sees it
            return error
        return None

    def make(self, task: Task) -> tuple[Outcome, str | None] | Exception:
        """Return what became of a task, and why the place will not start its system again, if it will not."""
        try:
            return at_station(self._station, task, self._run_path), self._station.gave_up
        except Exception as error:  # noqa: BLE001 - the request decides
            return error

    def leave(self) -> None:
        """End the worker."""
        self._station.close()


@dataclass
class _Hand:
    """An actor and what it does: an answer that is awaited, and the task that it is about."""

    handle: Any
    started: Any
    answer: Any = None
    task: Task | None = None


class Actors:
    """The places of a cluster.

    Args:
        specs: The systems, by name.
        machine: Its weights; on every machine under this path.
        run_path: The run folder.
        logs: Folder for what workers print.
        assets: Folder that the items' paths are relative to.
    """

    def __init__(
        self, specs: Mapping[str, SystemSpec], machine: Machine, run_path: Path, *, logs: Path, assets: Path | None
    ) -> None:
        self._specs = specs
        self._weights = machine.weights
        self._run_path = run_path.resolve()
        self._logs = logs.resolve()
        self._assets = assets.resolve() if assets is not None else None
        self._hands: dict[Place, _Hand] = {}
        self._ray = ray_cluster.module()

    def begin(self, place: Place, task: Task) -> None:
        """Begin a clip at a place; the first one there starts an actor."""
        if place not in self._hands:
            self._hands[place] = self._hire(place)
        hand = self._hands[place]
        hand.task, hand.answer = task, hand.handle.make.remote(replace(task, path=task.path.resolve()))

    def leave(self, place: Place) -> None:
        """End the actor of a place, its worker first."""
        hand = self._hands.get(place)
        if hand is None:  # it died with its last clip
            hand = self._hands[place] = _Hand(None, None)
        hand.task, hand.answer = None, hand.handle.leave.remote() if hand.handle is not None else None

    def wait(self) -> Ended | Left:
        """Return the next thing that has happened.

        Raises:
            TalkbenchError: If a machine cannot make clips: it does not see the files, or lacks talkbench.
        """
        for place, hand in self._hands.items():
            if hand.handle is None:
                del self._hands[place]
                return Left(place)
        while True:
            waiting = [hand.answer for hand in self._hands.values() if hand.answer is not None]
            ready, _ = self._ray.wait(waiting, timeout=ray_cluster.PATIENCE_SECONDS)
            if ready:
                break
            _log.info("no answer for %d s; %d clips are being made", ray_cluster.PATIENCE_SECONDS, len(waiting))
        place, hand = next(pair for pair in self._hands.items() if pair[1].answer == ready[0])
        return self._left(place, hand) if hand.task is None else self._ended(place, hand, hand.task)

    def stop(self, *, at_once: bool) -> None:
        """End what is left; workers whose actor is killed are ended by its guard."""
        del at_once
        for hand in self._hands.values():
            if hand.handle is not None:
                self._ray.kill(hand.handle)

    def _hire(self, place: Place) -> _Hand:
        spec = self._specs[place.system]
        options = {
            "num_cpus": 0 if place.gpus else 1,
            "num_gpus": len(place.gpus),
            "max_restarts": 0,
            "resources": {place.node: 0.001},  # every machine of a cluster has a resource of its own name
        }
        handle = self._ray.remote(**options)(Actor).remote()
        log = self._logs / f"{place.system}-{place.number}.log"
        needed = [self._run_path / "run.json", *([self._assets] if self._assets is not None else [])]
        if spec.needs.weights:
            needed.append(self._weights)
        return _Hand(handle, handle.start.remote(spec, self._weights, self._run_path, log, self._assets, needed))

    def _ended(self, place: Place, hand: _Hand, task: Task) -> Ended:
        deaths = ray_cluster.deaths(self._ray)
        try:
            unable = self._ray.get(hand.started)
        except deaths as error:
            raise TalkbenchError(f"a machine of the Ray cluster cannot run talkbench: {error}") from error
        if unable is not None:
            raise unable
        try:
            answer = self._ray.get(hand.answer)
        except deaths as error:
            del self._hands[place]
            return Ended(place, self._bury(task, error))
        if isinstance(answer, Exception):
            raise answer
        outcome, gave_up = answer
        return Ended(place, replace(outcome, task=task), gave_up)

    def _left(self, place: Place, hand: _Hand) -> Left:
        with contextlib.suppress(*ray_cluster.deaths(self._ray)):
            self._ray.get(hand.answer)
        self._ray.kill(hand.handle)
        del self._hands[place]
        return Left(place)

    def _bury(self, task: Task, death: Exception) -> Outcome:
        failure = Failure("crashed", f"the Ray actor died: {ray_cluster.how(death)}", may_pass=True)
        # The dead actor's line has no end and holds no lock; this attempt is the same one, told by us.
        with Attempt(self._run_path, task.system, task.item.id, task.key) as attempt:
            attempt.failed(failure.reason, failure.message)
        return Outcome(task, failure)


def _node(entry: dict[str, Any], plain_places: int) -> Node:
    resources = entry["Resources"]
    gpus = tuple(str(number) for number in range(int(resources.get("GPU", 0))))
    name = f"node:{entry['NodeManagerAddress']}"
    return Node(name, gpus, float(resources.get("memory", float("inf"))) / 1e9, plain_places)
