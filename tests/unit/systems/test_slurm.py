"""Slurm jobs that die or are pre-empted: what is told of their clips, without Slurm."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from talkbench.schema import now
from talkbench.store.attempts import Attempt
from talkbench.systems import slurm
from talkbench.systems.attempt import Outcome
from talkbench.systems.crew import Threads
from talkbench.systems.schedule import Place
from talkbench.systems.slurm import Share
from talkbench.systems.task import Task
from tests.unit.systems.test_schedule import spec, tasks

TRACE = f"""Job (task=0) failed during processing with trace:
{"-" * 22}
Traceback (most recent call last):
  File "x.py", line 1, in <module>
talkbench.errors.PrerequisiteError: s needs 5 GPU(s)

{"-" * 22}
You can check full logs with 'job.stderr(0)' and 'job.stdout(0)'or at paths:
  - /runs/a/logs/slurm/7_0_log.err
  - /runs/a/logs/slurm/7_0_log.out"""
KILLED = f"""Job 7 (task: 0) with path /runs/a/logs/slurm/7_0_result.pkl
has not produced any output (state: OUT_OF_MEMORY)
Error stream produced:
{"-" * 40}
slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch."""


class UncompletedJobError(RuntimeError):
    """submitit's word for a job that left nothing."""


class FailedJobError(UncompletedJobError):
    """submitit's word for a job that raised."""


@pytest.fixture(autouse=True)
def submitit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much of submitit as is used of it when jobs end."""
    fake = ModuleType("submitit")
    errors = SimpleNamespace(FailedJobError=FailedJobError, UncompletedJobError=UncompletedJobError)
    vars(fake).update(core=SimpleNamespace(utils=errors), helpers=SimpleNamespace(DelayedSubmission=lambda work: work))
    monkeypatch.setitem(sys.modules, "submitit", fake)


def make(run: Path, task: Task) -> None:
    with Attempt(run, task.system, task.item.id, task.key) as attempt:
        attempt.made("")


def share(run: Path, number: int, asked_at: str) -> Share:
    forced = tuple(replace(task, force=True) for task in tasks("s", number))
    return Share(spec("s", 0), forced, run, run, None, 0, "s-share-0", asked_at)


class Dead:
    """A job that ended with an error."""

    job_id = "7"

    def __init__(self, error: Exception) -> None:
        self._error = error

    def done(self) -> bool:
        return True

    def result(self) -> None:
        raise self._error


def ended(wanted: Share, error: Exception) -> list[Outcome]:
    told: list[Outcome] = []
    slurm._wait({Dead(error): wanted}, told.append)
    return told


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (FailedJobError(TRACE), "talkbench.errors.PrerequisiteError: s needs 5 GPU(s)"),
        (UncompletedJobError(KILLED), "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch."),
    ],
)
def test_a_job_that_dies_has_made_only_what_was_made_since_it_was_asked_for(
    tmp_path: Path, error: Exception, why: str
) -> None:
    old, new = share(tmp_path, 2, "2999-01-01T00:00:00.000Z"), share(tmp_path, 2, now())
    make(tmp_path, new.tasks[0])
    assert [outcome.failure and outcome.failure.reason for outcome in ended(new, error)] == [None, "not-tried"]
    failures = [outcome.failure for outcome in ended(old, error)]
    assert [failure and failure.reason for failure in failures] == ["not-tried"] * 2
    assert failures[0] is not None
    assert failures[0].message == f"job 7 ended early: {why}"


def test_a_job_that_was_preempted_makes_no_clip_twice_and_tells_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def begin(crew: Threads, place: Place, task: Task) -> None:
        begun.append(task.item.id)
        crew._submit(lambda: SimpleNamespace(place=place, outcome=Outcome(task), gave_up=None))  # type: ignore[arg-type,return-value]

    monkeypatch.setattr(Threads, "begin", begin)
    monkeypatch.setattr(Threads, "leave", lambda crew, place: crew._submit(lambda: slurm.crew.Left(place)))
    wanted = share(tmp_path, 3, now())
    make(tmp_path, wanted.tasks[1])
    told = wanted.checkpoint()()
    assert begun == ["000", "002"]
    assert sorted(outcome.task.item.id for outcome in told) == ["000", "001", "002"]
