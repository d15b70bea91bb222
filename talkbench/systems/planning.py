"""What there is to do: which clips of a suite are there, which failed before, and which are to be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from talkbench.errors import TalkbenchError
from talkbench.manifests.load import matches
from talkbench.schema import Encode, Item, Suite
from talkbench.store import attempts
from talkbench.systems import failures
from talkbench.systems.attempt import exists
from talkbench.systems.discover import System
from talkbench.systems.spec import SystemSpec
from talkbench.systems.task import Task, job_key

Rerun = Literal["missing", "failed", "all", "none"]


@dataclass(frozen=True)
class Plan:
    """What a request comes to.

    Attributes:
        asked: All clips of the request.
        there: Those that exist and stay as they are.
        failed: Those that failed before and are not tried again: `--rerun failed` does.
        to_make: Those to be made, longest first.
    """

    asked: tuple[Task, ...]
    there: tuple[Task, ...]
    failed: tuple[Task, ...]
    to_make: tuple[Task, ...]


def asked_of(system: System, suite: Suite, patterns: Sequence[str] = ()) -> list[Item]:
    """Return the items of a suite that a system makes clips for; with patterns, those whose id matches one."""
    return [
        item
        for item in suite.items or ()
        if (system.tiers is None or item.tier in system.tiers) and matches(item.id, patterns)
    ]


def plan(
    suite: Suite,
    systems: Sequence[System],
    run_path: Path,
    patterns: Sequence[str] = (),
    rerun: Rerun = "missing",
    encode: Encode = "native",
) -> Plan:
    """Return what there is to do.

    Args:
        suite: The items.
        systems: What makes their clips.
        run_path: The run folder, which need not exist.
        patterns: Of item ids; all by default.
        rerun: ``missing`` makes clips that were never tried under their present key, or only interrupted; ``failed``
            also those that failed; ``all`` every one anew; ``none`` nothing.
        encode: Who encodes the clips (`Task.encode`); those of known-answer systems are always native.

    Raises:
        TalkbenchError: If the suite has no items to generate from, or no item matches the patterns.
    """
    if not suite.items:
        raise TalkbenchError(
            f"suite {suite.id} has no frozen item list, so nothing can be generated for it. Name `mini`, `open`, or "
            f"the .jsonl of {suite.name} that `talkbench data render` writes."
        )
    if patterns and not any(asked_of(system, suite, patterns) for system in systems):
        known = ", ".join(item.id for item in suite.items[:5])
        raise TalkbenchError(f"no item of {suite.id} matches {', '.join(patterns)}. Items: {known}, ...")
    asked = tuple(
        Task(
            system=system.name,
            item=item,
            path=run_path / "clips" / system.name / f"{item.id}.mp4",
            key=job_key(item, system.digest, policy),
            force=rerun == "all",
            encode=policy,
        )
        for system in systems
        for policy in (encode if isinstance(system, SystemSpec) else "native",)
        for item in asked_of(system, suite, patterns)
    )
    there = tuple(task for task in asked if rerun != "all" and exists(task))
    found = {task.label for task in there}
    absent = [task for task in asked if task.label not in found]
    failed = tuple(task for task in absent if rerun in {"missing", "none"} and _has_failed(run_path, task))
    left = found | {task.label for task in failed} if rerun != "none" else {task.label for task in asked}
    to_make = [task for task in asked if task.label not in left]
    return Plan(asked, there, failed, tuple(sorted(to_make, key=lambda task: -task.item.duration_seconds)))


def _has_failed(run_path: Path, task: Task) -> bool:
    """Tell whether the last attempt at a clip failed, other than by a refusal, which is made up anew every time."""
    last = attempts.outcome(run_path, task.system, task.item.id, task.key)
    return last not in {None, attempts.MADE, attempts.INTERRUPTED, *failures.REFUSALS}
