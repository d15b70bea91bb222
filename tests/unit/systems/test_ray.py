"""Generating over a cluster, on a stand-in for Ray whose actors live in this process and die on request."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from talkbench import api
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.store.attempts import read
from talkbench.systems import cluster
from tests import instant
from tests.support import make_clip


class Died(Exception):
    """Ray's word for an actor that is gone."""


class Answer:
    """What a call gives when it is fetched, once."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def get(self) -> Any:
        if not hasattr(self, "_value"):
            self._value = self._call()
        return self._value


class Handle:
    """One actor."""

    def __init__(self, ray: FakeRay) -> None:
        self.ray, self.actor, self.alive = ray, cluster.Actor(), True
        self.start = SimpleNamespace(remote=self._start)
        self.make = SimpleNamespace(remote=lambda task: Answer(lambda: self._make(task)))
        self.leave = SimpleNamespace(remote=lambda: Answer(self.actor.leave))

    def _start(self, *given: Any) -> Answer:
        self.started = Answer(lambda: self.actor.start(*given))
        return self.started

    def _make(self, task: Any) -> Any:
        self.started.get()  # an actor's calls run in the order in which they were made
        if task.item.id in self.ray.deadly:
            self.ray.deadly.remove(task.item.id)
            self.actor.leave()
            raise Died("The actor died unexpectedly\n\tpid: 7")
        return self.actor.make(task)


class FakeRay(ModuleType):
    """As much of Ray as `systems.cluster` uses."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.deadly: list[str] = []
        self.machines: list[dict[str, float]] = [{"CPU": 2.0}]
        self.handles: list[Handle] = []
        self.asked: list[dict[str, Any]] = []
        self.connected = False
        self.exceptions = SimpleNamespace(
            RayActorError=Died, WorkerCrashedError=Died, NodeDiedError=Died, OutOfMemoryError=Died
        )

    def is_initialized(self) -> bool:
        return self.connected

    def init(self, **given: Any) -> None:
        self.connected = True

    def shutdown(self) -> None:
        self.connected = False

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "NodeManagerAddress": f"10.0.0.{n}", "Resources": found}
            for n, found in enumerate(self.machines)
        ]

    def remote(self, **options: Any) -> Callable[[type], Any]:
        self.asked.append(options)
        return lambda _: SimpleNamespace(remote=self._new)

    def _new(self) -> Handle:
        self.handles.append(Handle(self))
        return self.handles[-1]

    def wait(self, answers: list[Answer], timeout: float) -> tuple[list[Answer], list[Answer]]:
        return answers[:1], answers[1:]

    def get(self, answer: Answer) -> Any:
        return answer.get()

    def kill(self, handle: Handle) -> None:
        handle.alive = False


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=0.4)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instant.suite(tmp_path_factory.mktemp("suite"), 3, seconds=0.4)


def adapter(folder: Path, clip: Path, **needs: Any) -> str:
    return str(instant.adapter(folder, clip, {"one": {"needs": needs}}, frames=10))


def test_the_cluster_makes_the_clips_and_records_that_this_machine_makes_and_is_left_afterwards(
    ray: FakeRay, suite: Path, clip: Path, tmp_path: Path
) -> None:
    path = adapter(tmp_path, clip)
    api.generate(str(suite), [path], tmp_path / "a")
    summary = api.generate(str(suite), [path], tmp_path / "b", ray="auto")
    assert (summary.made, summary.failures) == (3, ())
    changing = {"attempt", "seconds", "written_at"}
    a, b = (
        [record.model_dump(exclude=changing) for n in range(3) for record in read(tmp_path / x, "one", f"item-{n:03d}")]
        for x in "ab"
    )
    assert a == b
    assert len(a) == 3
    assert len(ray.handles) == 1
    assert not any(handle.alive for handle in ray.handles)
    assert not ray.connected


def test_actors_get_the_gpus_and_the_machine_that_the_schedule_chose(
    ray: FakeRay, suite: Path, clip: Path, tmp_path: Path
) -> None:
    ray.machines = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 5.0}]
    summary = api.generate(str(suite), [adapter(tmp_path, clip, gpus=2)], tmp_path / "run", ray="auto")
    assert summary.made == 3
    assert {(given["num_gpus"], *given["resources"]) for given in ray.asked} == {
        (2, "node:10.0.0.0"),
        (2, "node:10.0.0.1"),
    }
    assert len(ray.asked) == 3


def test_needs_that_no_machine_of_the_cluster_meets_are_refused(
    ray: FakeRay, suite: Path, clip: Path, tmp_path: Path
) -> None:
    ray.machines = [{"GPU": 2.0}, {"GPU": 5.0, "memory": 10e9}]
    with pytest.raises(PrerequisiteError, match=r"it needs 6 GPU\(s\), 5 can be used"):
        api.generate(str(suite), [adapter(tmp_path, clip, gpus=6)], tmp_path / "run", ray="auto")


def test_a_dead_actor_costs_an_attempt_and_its_clip_is_tried_again_elsewhere(
    ray: FakeRay, suite: Path, clip: Path, tmp_path: Path
) -> None:
    ray.deadly = ["item-001"]
    summary = api.generate(str(suite), [adapter(tmp_path, clip)], tmp_path / "run", ray="auto")
    assert (summary.made, summary.failures) == (3, ())
    outcomes = [(record.outcome, record.reason) for record in read(tmp_path / "run", "one", "item-001")]
    assert outcomes == [("failed", "crashed"), ("made", None)]
    assert len(ray.handles) == 2


def test_an_actor_that_cannot_even_start_ends_the_request_with_the_cause(
    ray: FakeRay, suite: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Died("No module named 'talkbench'")

    monkeypatch.setattr(cluster.Actor, "start", die)
    with pytest.raises(TalkbenchError, match="cannot run talkbench: No module named 'talkbench'"):
        api.generate(str(suite), [adapter(tmp_path, clip)], tmp_path / "run", ray="auto")


def test_a_machine_that_does_not_see_the_files_is_named(tmp_path: Path) -> None:
    found = cluster.Actor().start(None, tmp_path, tmp_path, tmp_path / "log", None, [tmp_path / "run.json"])  # type: ignore[arg-type]
    assert isinstance(found, TalkbenchError)
    assert "does not see" in str(found)
    assert "under the same paths" in str(found)


def test_an_unknown_address_is_refused_before_anything_is_written(
    ray: FakeRay, suite: Path, clip: Path, tmp_path: Path
) -> None:
    with pytest.raises(TalkbenchError, match="unknown Ray address 'head'"):
        api.generate(str(suite), [adapter(tmp_path, clip)], tmp_path / "run", ray="head")
    assert not (tmp_path / "run").exists()
