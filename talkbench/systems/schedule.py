"""Which clip is made where and when: the systems of a request share the GPUs and the memory of its machines.

Each machine has GPUs, host memory, and places for systems without GPUs. A *place* is as many GPUs of one machine as a
system needs; its worker keeps the model loaded.

* A place stays with its system until that has no clip left that fits; only then are its GPUs free for another one.
* What is free goes to the systems in order of need, most GPUs first, then most memory, then as asked: so a system of
  five GPUs runs beside three places of a system of one.
* The host memory of the clips being made at once never exceeds the machine's. A clip that does not fit now waits, and
  a shorter one of the same system may go first.
* A place where its system does not start is retired: its GPUs go to other systems, and that one keeps to those that
  are left. Without GPUs, it is the machine that the system opens no further place on.
* Systems without GPUs share one place per machine, unless more are asked for: they would slow each other, and the
  clips' timing events with them.

Nothing starves. Whenever a place is given up, at least as much is free as any system further down the order needs of
GPUs; and since places of systems that wait for nothing end with their clips, one that waits for memory gets its turn at
the latest when the others have none left.

This module decides and does nothing: `talkbench.systems.crew` and `talkbench.systems.cluster` do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from talkbench.systems.spec import SystemSpec
from talkbench.systems.task import Task


@dataclass(frozen=True)
class Node:
    """A machine, as far as it matters here.

    Attributes:
        name: Tells it from the others.
        gpus: GPUs to use.
        ram_gigabytes: Host memory to use; infinite if nobody says.
        plain_places: Workers of systems without GPUs at once.
    """

    name: str
    gpus: tuple[str, ...]
    ram_gigabytes: float
    plain_places: int = 1


@dataclass(frozen=True)
class Place:
    """Where a system runs, for as long as it has clips to make.

    Attributes:
        system: Name of the system.
        number: Tells it from other places of the system at the same time.
        node: Name of the machine.
        gpus: Those that its worker sees.
    """

    system: str
    number: int
    node: str
    gpus: tuple[str, ...]


class Schedule:
    """What waits, what runs, and what is free.

    Args:
        specs: The systems, by name.
        tasks: Clips to make; of one system, the first that fits is made first.
        nodes: The machines. Each clip fits one of them when nothing else runs there (`refusal`).
        max_places: Places with GPUs at once; as many as there is room for by default.
    """

    def __init__(
        self,
        specs: Mapping[str, SystemSpec],
        tasks: Sequence[Task],
        nodes: Sequence[Node],
        max_places: int | None = None,
    ) -> None:
        self._specs = specs
        self._nodes = {node.name: node for node in nodes}
        self._waiting = {name: deque(task for task in tasks if task.system == name) for name in specs}
        order = sorted(specs, key=lambda name: (-specs[name].needs.gpus, -(specs[name].needs.ram_gigabytes or 0.0)))
        self._order = tuple(order)
        self._free_gpus = {node.name: list(node.gpus) for node in nodes}
        self._max_places = max_places
        self._running: dict[Place, Task] = {}
        self._idle: list[Place] = []
        self._leaving: set[Place] = set()
        self._retired: set[Place] = set()

    @property
    def num_waiting(self) -> int:
        """Clips that are neither made nor being made."""
        return sum(map(len, self._waiting.values()))

    @property
    def is_busy(self) -> bool:
        """Whether something runs, or a place is being given up."""
        return bool(self._running or self._leaving)

    def next(self) -> tuple[Place, Task] | None:
        """Return a clip that can be begun now, and where; None if none can. It counts as running from here on."""
        for place in self._idle:
            task = None if place in self._retired else self._take(place.system, place.node)
            if task is not None:
                self._idle.remove(place)
                self._running[place] = task
                return place, task
        for name in self._order:
            for node in self._nodes.values():
                if self._has_room(name, node):
                    task = self._take(name, node.name)
                    if task is not None:
                        place = self._open(name, node)
                        self._running[place] = task
                        return place, task
        return None

    def to_leave(self) -> list[Place]:
        """Return the places that are of no more use; their GPUs are free once `left` is told. Call it after `next`."""
        self._leaving.update(self._idle)
        found, self._idle = self._idle, []
        return found

    def ended(self, place: Place) -> None:
        """Say that the clip at a place is made, or has failed; its worker waits for another one."""
        del self._running[place]
        self._idle.append(place)

    def left(self, place: Place) -> None:
        """Say that a place is given up, its worker gone."""
        self._leaving.remove(place)
        self._free_gpus[place.node] += place.gpus

    def retire(self, place: Place) -> None:
        """Say that a place whose clip has ended will not start its system again."""
        self._retired.add(place)

    def again(self, task: Task) -> None:
        """Put a task behind the others of its system."""
        self._waiting[task.system].append(task)

    def give_up(self, system: str) -> list[Task]:
        """Return what still waits of a system, which will not be begun."""
        found = list(self._waiting[system])
        self._waiting[system].clear()
        return found

    def _places(self) -> list[Place]:
        return [*self._running, *self._idle, *self._leaving]

    def _has_room(self, system: str, node: Node) -> bool:
        gpus = self._specs[system].needs.gpus
        if not gpus:
            if any((place.system, place.node) == (system, node.name) for place in self._retired):
                return False
            return sum(place.node == node.name and not place.gpus for place in self._places()) < node.plain_places
        if self._max_places is not None and sum(bool(place.gpus) for place in self._places()) >= self._max_places:
            return False
        return len(self._usable_gpus(system, node)) >= gpus

    def _usable_gpus(self, system: str, node: Node) -> list[str]:
        """Return the free GPUs of a machine, in its order, but for those that a system did not start on."""
        bad = {
            gpu for place in self._retired if (place.system, place.node) == (system, node.name) for gpu in place.gpus
        }
        return sorted(set(self._free_gpus[node.name]) - bad, key=node.gpus.index)

    def _take(self, system: str, node: str) -> Task | None:
        """Take the first waiting task of a system that the memory of a machine still has room for."""
        spec, waiting = self._specs[system], self._waiting[system]
        used = sum(
            self._specs[place.system].ram_gigabytes(task.item.duration_seconds)
            for place, task in self._running.items()
            if place.node == node
        )
        free = self._nodes[node].ram_gigabytes - used
        for task in waiting:
            if spec.ram_gigabytes(task.item.duration_seconds) <= free:
                waiting.remove(task)
                return task
        return None

    def _open(self, system: str, node: Node) -> Place:
        gpus = tuple(self._usable_gpus(system, node)[: self._specs[system].needs.gpus])
        self._free_gpus[node.name] = [gpu for gpu in self._free_gpus[node.name] if gpu not in gpus]
        taken = {place.number for place in self._places() if place.system == system}
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        return Place(system, number, node.name, gpus)


def refusal(spec: SystemSpec, task: Task, nodes: Sequence[Node]) -> str | None:
    """Return why a clip fits no machine even when nothing else runs there, or None if it fits one."""
    needed = spec.ram_gigabytes(task.item.duration_seconds)
    roomy = [node.ram_gigabytes for node in nodes if len(node.gpus) >= spec.needs.gpus]
    if needed <= max(roomy, default=0.0):
        return None
    return (
        f"{spec.name} needs about {needed:.0f} GB of host memory for {task.item.duration_seconds:g} s, "
        f"{max(roomy, default=0.0):.0f} GB can be used"
    )
