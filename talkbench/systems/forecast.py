"""What a request would take, before anything is made: clips, GPU hours, memory, disk, licences, what is missing."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from talkbench.schema import Encode, Suite, TierRule
from talkbench.systems.discover import System
from talkbench.systems.machine import Machine
from talkbench.systems.planning import Plan, Rerun, plan
from talkbench.systems.scan import read_sidecar
from talkbench.systems.spec import SystemSpec
from talkbench.systems.task import Task
from talkbench.workers import envs

ASSUMED_ITEMS = {"short": 100, "long": 20}
"""Clips per tier of TalkBench as the report counts them, for suites whose list is not frozen."""

ASSUMED_MEGABITS_PER_SECOND = 1.5
"""Of a clip, where the run has none to go by: between the bit rates that the systems' encoders reach at 25 fps."""

_NON_COMMERCIAL = re.compile(r"non-?commercial|\bNC\b|research only", re.IGNORECASE)


@dataclass(frozen=True)
class Forecast:
    """What the clips of one system would take.

    Attributes:
        system: Its name.
        clips: Clips to make.
        clips_there: Clips that exist already.
        seconds: Of video to make.
        gpus_per_job: GPUs of one worker.
        side_by_side: Workers at once, if it has the machine to itself.
        gpu_hours: GPUs times hours; None if nobody says how fast it is.
        gpu_hours_from: ``measured`` on clips of this run, ``quoted`` from its adapter, ``none needed`` or ``unknown``.
        ram_gigabytes: Host memory of all its workers at once, at the most.
        gpu_gigabytes: Memory of each GPU; None if nobody says.
        weights_gigabytes: Disk for the weight folders and the environment that are missing.
        clips_gigabytes: Disk for its clips.
        clips_from: Where that number comes from.
        licences: Of its code and weights.
        non_commercial: Whether one of them says so.
        lacks: What is missing to run it here, one sentence each.
    """

    system: str
    clips: int
    clips_there: int
    seconds: float
    gpus_per_job: int
    side_by_side: int
    gpu_hours: float | None
    gpu_hours_from: str
    ram_gigabytes: float
    gpu_gigabytes: float | None
    weights_gigabytes: float
    clips_gigabytes: float
    clips_from: str
    licences: tuple[str, ...]
    non_commercial: bool
    lacks: tuple[str, ...]


def forecast(
    suite: Suite,
    systems: Sequence[System],
    run_path: Path,
    machine: Machine,
    *,
    here: Machine,
    patterns: Sequence[str] = (),
    rerun: Rerun = "missing",
    encode: Encode = "native",
    num_workers: int | None = None,
) -> list[Forecast]:
    """Return what each system would take; nothing need be installed, and the run folder need not exist.

    Args:
        suite: The items.
        systems: What would make their clips.
        run_path: The run folder.
        machine: Where they would run (`Machine.imagined`).
        here: This machine: what is missing is missing here.
        patterns: Of item ids; all by default.
        rerun: As in `planning.plan`.
        encode: As in `planning.plan`.
        num_workers: Workers at once; as many as there is room for by default.

    Raises:
        TalkbenchError: If no item matches the patterns.
    """
    plans = {
        system.name: plan(suite, [system], run_path, patterns, rerun, encode) if suite.items else None
        for system in systems
    }
    megabits, megabits_from = _bit_rate([task for planned in plans.values() if planned for task in planned.there])
    found = []
    for system in systems:
        planned = plans[system.name]
        spec = system if isinstance(system, SystemSpec) else None
        lengths = _lengths(suite, system, planned)
        seconds = sum(lengths)
        per_second, origin = _gpu_seconds(spec, planned.there if planned else ())
        ram = spec.ram_gigabytes(max(lengths, default=0.0)) if spec else 0.0
        places = _places(spec, machine, ram, num_workers, len(lengths))
        licences = _licences(spec)
        found.append(
            Forecast(
                system=system.name,
                clips=len(lengths),
                clips_there=len(planned.there) if planned else 0,
                seconds=round(seconds, 1),
                gpus_per_job=spec.needs.gpus if spec else 0,
                side_by_side=places,
                gpu_hours=None if per_second is None else round(seconds * per_second / 3600, 2),
                gpu_hours_from=origin,
                ram_gigabytes=round(ram * places, 1),
                gpu_gigabytes=spec.needs.gpu_gigabytes if spec else None,
                weights_gigabytes=missing_gigabytes([system], here),
                clips_gigabytes=round(seconds * megabits / 8000, 3),
                clips_from=megabits_from,
                licences=licences,
                non_commercial=any(_NON_COMMERCIAL.search(licence) for licence in licences),
                lacks=tuple(here.lacks(spec)) if spec else _lacks_truth(suite, system),
            )
        )
    return found


def missing_gigabytes(systems: Sequence[System], machine: Machine) -> float:
    """Return the disk for what is missing of weight folders and environments; what systems share counts once."""
    missing: dict[Path, float] = {}
    for spec in systems:
        if isinstance(spec, SystemSpec):
            missing |= {
                machine.weights / group.folder: group.about_gigabytes for group in machine.missing_folders(spec)
            }
            recipe = spec.recipe(machine.weights)
            if recipe is not None and envs.lacking(recipe):
                missing[recipe.folder] = recipe.about_gigabytes
    return round(sum(missing.values()), 1)


def assumption(suite: Suite) -> str | None:
    """Return what is taken for the items of a suite whose list is not frozen; None if it is."""
    if suite.items is not None:
        return None
    parts = [f"{ASSUMED_ITEMS.get(rule.name, 0)} clips of {_seconds(rule):g} s ({rule.name})" for rule in suite.tiers]
    return f"the list of {suite.id} is not frozen: assuming {', '.join(parts)}"


def _lengths(suite: Suite, system: System, planned: Plan | None) -> list[float]:
    """Return the lengths of the clips to make; without a plan, those that are assumed."""
    if planned is None:
        rules = [rule for rule in suite.tiers if system.tiers is None or rule.name in system.tiers]
        return [_seconds(rule) for rule in rules for _ in range(ASSUMED_ITEMS.get(rule.name, 0))]
    return [
        task.item.duration_seconds
        for task in planned.to_make
        if not (isinstance(system, SystemSpec) and system.refuses(task.item))
    ]


def _seconds(rule: TierRule) -> float:
    """Return how long a clip of a tier is at the most, or at least where it has no upper bound."""
    return rule.max_seconds if rule.max_seconds is not None else rule.min_seconds


def _places(
    spec: SystemSpec | None, machine: Machine, ram_gigabytes: float, num_workers: int | None, num_clips: int
) -> int:
    """Return how many workers run at once if a system has the machine to itself; at least one, even if none fits."""
    if spec is None or not spec.needs.gpus:
        fitting = num_workers or 1
    else:
        fitting = len(machine.gpus) // spec.needs.gpus
        fitting = min(fitting, num_workers) if num_workers is not None else fitting
    if ram_gigabytes:
        fitting = int(min(fitting, machine.ram_gigabytes // ram_gigabytes))
    return max(1, min(fitting, num_clips))


def _gpu_seconds(spec: SystemSpec | None, there: Sequence[Task]) -> tuple[float | None, str]:
    """Return the GPU seconds per second of video, and where they come from."""
    if spec is None or not spec.needs.gpus:
        return 0.0, "none needed"
    measured = []
    for task in there:
        sidecar = read_sidecar(task.path)
        if sidecar is not None and sidecar.timing is not None:
            busy_seconds = (sidecar.timing.file_closed_ns - sidecar.timing.job_received_ns) / 1e9
            measured.append(busy_seconds * spec.needs.gpus / task.item.duration_seconds)
    if measured:
        return statistics.median(measured), "measured"
    quoted = spec.needs.gpu_seconds_per_second
    return quoted, "unknown" if quoted is None else "quoted"


def _bit_rate(there: Sequence[Task]) -> tuple[float, str]:
    """Return the megabits per second of the clips that are there, and how that is known."""
    found = [task.path.stat().st_size * 8e-6 / task.item.duration_seconds for task in there]
    if found:
        return statistics.median(found), f"the bit rates of {len(found)} clips of this run"
    return ASSUMED_MEGABITS_PER_SECOND, f"{ASSUMED_MEGABITS_PER_SECOND:g} Mbit/s, assumed"


def _licences(spec: SystemSpec | None) -> tuple[str, ...]:
    if spec is None:
        return ("Apache-2.0",)
    weights = [f"{group.folder}: {group.licence}" for group in spec.needs.weights if not _is_ours(group.folder)]
    return (spec.licence, *dict.fromkeys(weights))


def _is_ours(folder: str) -> bool:
    """Tell environments and checkouts, whose licence is the code's, from weights."""
    return folder.endswith(("/env", "/source"))


def _lacks_truth(suite: Suite, system: System) -> tuple[str, ...]:
    if suite.items and all((item.generator or {}).get("name") == "mini" for item in suite.items):
        return ()
    return (
        f"{system.name} is a known-answer system: it is made from talkbench-mini's own truth, not from {suite.id}.",
    )
