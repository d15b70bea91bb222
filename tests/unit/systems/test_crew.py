"""What becomes of clips when a place does not start its system: without a process."""

from __future__ import annotations

import math
from collections import deque

import pytest

from talkbench.systems.attempt import Outcome
from talkbench.systems.crew import Ended, Left, make_all
from talkbench.systems.failures import Failure
from talkbench.systems.schedule import Node, Place, Schedule
from talkbench.systems.task import Task
from tests.unit.systems.test_schedule import schedule, spec


class Machine:
    """A crew whose system starts on some GPUs and not on others, where it gives up after two failed starts."""

    def __init__(self, bad: str) -> None:
        self.bad = bad
        self.news: deque[Ended | Left] = deque()
        self.num_failed = 0

    def begin(self, place: Place, task: Task) -> None:
        if set(place.gpus) & set(self.bad):
            self.num_failed += 1
            gave_up = None if self.num_failed % 2 else "not tried, since 2 starts failed: no driver"
            failure = Failure("no-handshake", "no driver", may_pass=True)
            self.news.append(Ended(place, Outcome(task, failure), gave_up))
        else:
            self.news.append(Ended(place, Outcome(task)))

    def leave(self, place: Place) -> None:
        self.news.append(Left(place))

    def wait(self) -> Ended | Left:
        return self.news.popleft()

    def stop(self, *, at_once: bool) -> None:
        assert not at_once


def outcomes(plan: Schedule, bad: str) -> list[str]:
    found: list[str] = []
    make_all(plan, Machine(bad), lambda told: found.append(told.failure.reason if told.failure else "made"), retries=0)
    return sorted(found)


def test_one_bad_gpu_costs_its_own_clips_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert outcomes(schedule((spec("a", 1), 20)), "3") == ["made"] * 18 + ["no-handshake"] * 2
    assert "a is left out on GPU 3 (here): not tried, since 2 starts failed: no driver" in caplog.text


def test_a_system_that_starts_nowhere_is_given_up_when_no_gpu_is_left() -> None:
    plan = schedule((spec("a", 1), 6), (spec("b", 1), 1), nodes=[Node("here", ("0", "1"), math.inf)])
    assert outcomes(plan, "01") == ["no-handshake"] * 5 + ["not-tried"] * 2
