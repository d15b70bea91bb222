"""Handing jobs to a cluster, on a stand-in for Ray whose actors live in this process and die on request."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from talkbench import api
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.metrics import cluster
from talkbench.provenance import host_name
from talkbench.store import rows
from talkbench.store.rows import RowWriter
from talkbench.store.run import Run
from tests.support import make_clip


class Died(Exception):
    """Ray's word for an actor that is gone."""


class Handle:
    """One actor; its calls run when their answer is fetched."""

    def __init__(self, ray: FakeRay) -> None:
        self.ray, self.actor, self.alive = ray, cluster.Actor(), True
        self.start = SimpleNamespace(remote=lambda *given: lambda: self.actor.start(*given))
        self.score = SimpleNamespace(remote=lambda job, wait: lambda: self._score(job, wait))

    def _score(self, job: Any, wait: bool) -> Any:
        if job.records[0].item in self.ray.deadly:
            self.alive = False
            raise Died("The actor died unexpectedly\n\tpid: 7")
        return self.actor.score(job, wait=wait)


class FakeRay(ModuleType):
    """As much of Ray as `cluster` uses."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.deadly: set[Any] = set()
        self.resources: dict[str, float] = {"CPU": 2.0}
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

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **options: Any) -> Callable[[type], Any]:
        self.asked.append(options)
        return lambda _: SimpleNamespace(remote=self._new)

    def _new(self) -> Handle:
        self.handles.append(Handle(self))
        return self.handles[-1]

    def wait(self, answers: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return answers[-1:], answers[:-1]

    def get(self, answer: Any) -> Any:
        return answer()

    def kill(self, handle: Handle) -> None:
        if hasattr(handle.actor, "_scorer"):
            handle.actor._scorer.close()
            del handle.actor._scorer
        handle.alive = False


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for number in range(4):
        make_clip(tmp_path / "ours" / f"{number}.mp4", seconds=0.3, seed=number)
    return tmp_path / "ours"


def test_the_cluster_gives_the_rows_that_this_machine_gives_and_is_left_afterwards(
    ray: FakeRay, clips: Path, tmp_path: Path
) -> None:
    api.score([clips], tmp_path / "a" / "run", metrics=["flicker"], jobs=1)
    summary = api.score([clips], tmp_path / "b" / "run", metrics=["flicker"], ray="auto")
    a, b = ({r["item"]: r["value"] for r in Run(tmp_path / x / "run").current_rows()} for x in "ab")
    assert a == b
    assert summary.written == {"ok": 4}
    assert len(ray.handles) == 2
    assert not any(handle.alive for handle in ray.handles)
    assert not ray.connected


def test_a_dead_actor_costs_its_clip_a_row_and_is_replaced(ray: FakeRay, clips: Path, tmp_path: Path) -> None:
    ray.deadly = {"2"}
    summary = api.score([clips], tmp_path / "run", metrics=["flicker"], ray="auto", jobs=1)
    assert summary.written == {"ok": 3, "failed": 1}
    (row,) = [row for row in Run(tmp_path / "run").current_rows() if row["status"] == "failed"]
    assert (row["item"], row["reason"]) == ("2", "worker-died")
    assert row["message"].endswith("The actor died unexpectedly pid: 7")
    assert len(ray.handles) == 2


def test_an_actor_that_cannot_even_start_ends_the_run_with_the_cause(
    ray: FakeRay, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Died("No module named 'talkbench'")

    monkeypatch.setattr(cluster.Actor, "start", die)
    with pytest.raises(TalkbenchError, match="cannot run talkbench: No module named 'talkbench'"):
        api.score([clips], tmp_path / "run", metrics=["flicker"], ray="auto")


def test_a_machine_that_does_not_see_the_run_is_named(tmp_path: Path) -> None:
    found = cluster.Actor().start(tmp_path, cluster.Context(), [tmp_path / "run.json"])
    assert isinstance(found, TalkbenchError)
    assert str(found).startswith(f"machine {host_name()} of the Ray cluster does not see {tmp_path}/run.json.")


def test_a_machine_with_only_a_copy_of_the_run_is_refused(
    ray: FakeRay, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: exists(path) and path.parent.name != "sessions")
    with pytest.raises(TalkbenchError, match=r"does not see .*/sessions/.*\.json\. The run folder"):
        api.score([clips], tmp_path / "run", metrics=["flicker"], ray="auto")


def test_actors_take_a_gpu_each_where_the_device_is_cuda(
    ray: FakeRay, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.Actor, "start", lambda _, run, context, needed: TalkbenchError(repr(context)))
    with pytest.raises(PrerequisiteError, match="no device for --device cuda"):
        api.score([clips], tmp_path / "run", metrics=["flicker"], ray="auto", device="cuda")
    ray.resources["GPU"] = 1.0
    with pytest.raises(TalkbenchError, match=r"device='cuda', threads=2"):
        api.score([clips], tmp_path / "run", metrics=["flicker"], ray="auto", device="cuda")
    assert ray.asked == [{"num_cpus": 1, "num_gpus": 1, "max_restarts": 0}]
    assert len(ray.handles) == 1


def test_without_ray_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, clips: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'talkbench\[cluster\]'"):
        api.score([clips], tmp_path / "run", metrics=["flicker"], ray="auto")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("address", "device", "message"),
    [("head", "cpu", "unknown Ray address 'head'"), ("auto", "cuda:1", "device 'cuda:1' with Ray")],
)
def test_an_unknown_address_or_device_is_refused(ray: FakeRay, address: str, device: str, message: str) -> None:
    with pytest.raises(TalkbenchError, match=message):
        cluster.refuse_unknown(address, device)


def test_a_head_node_that_nobody_runs_is_named_at_once(ray: FakeRay, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="no Ray cluster at localhost:1: .*ray start --head"):
        api.score([clips], tmp_path / "run", metrics=["flicker"], ray="localhost:1")


def test_every_machine_writes_parts_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = []
    for name in ("one", "two", "two"):
        monkeypatch.setattr(rows, "host_name", lambda name=name: name)
        writers.append(RowWriter(tmp_path))
    for writer in writers:
        writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "part-one-0000.jsonl", "part-two-0000.jsonl", "part-two-0001.jsonl"
    ]  # fmt: skip
