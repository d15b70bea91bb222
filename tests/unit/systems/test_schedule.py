"""Who gets which GPUs and when: the policy alone, without a process."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from talkbench.schema import Item
from talkbench.systems.schedule import Node, Place, Schedule, refusal
from talkbench.systems.spec import Needs, Source, SystemSpec
from talkbench.systems.task import Task


def spec(name: str, gpus: int, ram: float | None = None, per_second: float = 0.0) -> SystemSpec:
    return SystemSpec(
        name=name, version=1, description="d", title="t", licence="MIT", source=Source(repo="a/b"), launch=("x",),
        needs=Needs(gpus=gpus, ram_gigabytes=ram, ram_gigabytes_per_second=per_second), path=Path("adapter.yaml"),
    )  # fmt: skip


def tasks(system: str, number: int, seconds: float = 1.0) -> list[Task]:
    items = [Item(id=f"{n:03d}", tier="short", identity="x", duration_seconds=seconds) for n in range(number)]
    return [Task(system, item, Path(item.id), "key") for item in items]


def schedule(*systems: tuple[SystemSpec, int], nodes: list[Node] | None = None, **options) -> Schedule:
    specs = {each.name: each for each, _ in systems}
    waiting = [task for each, number in systems for task in tasks(each.name, number)]
    return Schedule(specs, waiting, nodes or [Node("here", tuple("01234567"), math.inf)], **options)


def begin_all(plan: Schedule) -> list[tuple[Place, Task]]:
    return list(iter(plan.next, None))


def test_systems_of_one_and_of_five_gpus_run_beside_each_other_on_eight() -> None:
    begun = begin_all(schedule((spec("small", 1), 9), (spec("large", 5), 9)))
    assert [(place.system, "".join(place.gpus)) for place, _ in begun] == [
        ("large", "01234"), ("small", "5"), ("small", "6"), ("small", "7"),
    ]  # fmt: skip


def test_a_place_stays_with_its_system_until_that_has_nothing_left_and_is_then_free_only_once_it_is_left() -> None:
    plan = schedule((spec("a", 8), 2), (spec("b", 8), 1))
    ((place, first),) = begin_all(plan)
    plan.ended(place)
    ((again, second),) = begin_all(plan)
    assert (again, first.item.id, second.item.id) == (place, "000", "001")
    plan.ended(place)
    assert plan.next() is None
    assert plan.to_leave() == [place]
    assert plan.next() is None, "its GPUs were given away while its worker still held them"
    plan.left(place)
    ((other, _),) = begin_all(plan)
    assert other.system == "b"


def test_no_more_places_are_opened_than_there_are_clips_or_than_asked_for() -> None:
    assert len(begin_all(schedule((spec("a", 1), 3)))) == 3
    assert len(begin_all(schedule((spec("a", 1), 8), max_places=2))) == 2


def test_systems_without_gpus_take_turns_at_one_place_unless_more_are_asked_for() -> None:
    plan = schedule((spec("a", 0), 2), (spec("b", 0), 2))
    assert [place.system for place, _ in begin_all(plan)] == ["a"]
    several = schedule((spec("a", 0), 2), (spec("b", 0), 2), nodes=[Node("here", (), math.inf, plain_places=3)])
    assert sorted(place.system for place, _ in begin_all(several)) == ["a", "a", "b"]


def test_the_memory_of_running_clips_never_exceeds_the_machines() -> None:
    hungry = spec("hungry", 1, ram=10, per_second=1)
    waiting = [*tasks("hungry", 1, 50.0), *tasks("hungry", 1, 35.0), *tasks("hungry", 1, 20.0)]
    node = Node("here", tuple("01234567"), 95.0)
    plan = Schedule({"hungry": hungry}, waiting, [node])
    begun = begin_all(plan)
    assert [task.item.duration_seconds for _, task in begun] == [50.0, 20.0]
    plan.ended(begun[1][0])
    assert plan.next() is None
    plan.ended(begun[0][0])
    assert [task.item.duration_seconds for _, task in begin_all(plan)] == [35.0]


def test_a_clip_that_fits_no_machine_is_refused_in_words() -> None:
    hungry = spec("hungry", 5, ram=10, per_second=1)
    nodes = [Node("a", tuple("0123"), 1000.0), Node("b", tuple("01234"), 50.0)]
    (long,), (short,) = tasks("hungry", 1, 300.0), tasks("hungry", 1, 40.0)
    assert refusal(hungry, short, nodes) is None
    assert refusal(hungry, long, nodes) == "hungry needs about 310 GB of host memory for 300 s, 50 GB can be used"


def test_a_system_that_is_given_up_leaves_what_waits_and_a_second_try_comes_after_the_others() -> None:
    plan = schedule((spec("a", 8), 3))
    place, first = begin_all(plan)[0]
    plan.ended(place)
    plan.again(first)
    assert [task.item.id for task in plan.give_up("a")] == ["001", "002", "000"]
    assert (plan.num_waiting, plan.next()) == (0, None)


def test_a_place_that_fails_to_start_is_lost_to_its_system_and_to_no_other() -> None:
    plan = schedule((spec("a", 1), 3), (spec("b", 1), 1), nodes=[Node("here", ("0", "1"), math.inf)])
    (bad, _), (good, _) = begin_all(plan)
    plan.ended(bad)
    plan.retire(bad)
    assert (plan.next(), plan.to_leave()) == (None, [bad])
    plan.left(bad)
    ((other, _),) = begin_all(plan)
    assert (other.system, other.gpus) == ("b", bad.gpus), "the GPU that failed went to the same system, or to nobody"
    plan.ended(good)
    ((again, _),) = begin_all(plan)
    assert again == good


def test_a_system_without_gpus_that_does_not_start_opens_no_further_place_there() -> None:
    plan = schedule((spec("a", 0), 3), nodes=[Node("here", (), math.inf)])
    ((place, _),) = begin_all(plan)
    plan.ended(place)
    plan.retire(place)
    assert plan.next() is None
    plan.left(*plan.to_leave())
    assert (plan.next(), plan.is_busy, plan.num_waiting) == (None, False, 2)


def test_places_never_span_machines() -> None:
    nodes = [Node("a", tuple("012"), math.inf), Node("b", tuple("01234"), math.inf)]
    begun = begin_all(schedule((spec("four", 4), 5), (spec("one", 1), 9), nodes=nodes))
    assert [(place.system, place.node) for place, _ in begun].count(("four", "b")) == 1
    assert sum(len(place.gpus) for place, _ in begun) == 8


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_everything_is_made_and_nothing_is_given_twice(seed: int) -> None:
    rng = random.Random(seed)
    nodes = [
        Node(f"n{n}", tuple(map(str, range(8))), rng.choice([math.inf, 100.0]), 2) for n in range(rng.randint(1, 2))
    ]
    systems = [(spec(f"s{n}", rng.randint(0, 8), rng.choice([None, 20.0, 90.0])), rng.randint(1, 7)) for n in range(6)]
    plan, running, leaving, made = schedule(*systems, nodes=nodes), [], [], []
    while True:
        running += begin_all(plan)
        leaving += plan.to_leave()
        used = [(p.node, gpu) for p in [*(place for place, _ in running), *leaving] for gpu in p.gpus]
        assert len(used) == len(set(used)), "a GPU was given twice"
        held = {(p.system, p.number) for p, _ in running}
        assert len(held) == len(running), "two workers share a log"
        if not running and not leaving:
            break
        if leaving and rng.random() < 0.5:
            plan.left(leaving.pop(rng.randrange(len(leaving))))
        elif running:
            place, task = running.pop(rng.randrange(len(running)))
            plan.ended(place)
            if rng.random() < 0.1:
                plan.again(task)
            else:
                made.append(task.label)
        else:
            plan.left(leaving.pop())
    assert sorted(made) == sorted(task.label for each, number in systems for task in tasks(each.name, number))
    assert not plan.num_waiting
