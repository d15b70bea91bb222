"""Component times of a system: starts its profiler in a process of its own, and turns raw seconds into records.

The profiler (`python -m talkbench_model.profile`) prints one JSON object per configuration, with every single duration
in it. What is summed up from them, and how many are enough, is decided here and in `scenarios.yaml`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.provenance import describe, device_name, gpus
from talkbench.schema import Durations, ProfileRecord, Startup
from talkbench.speed import scenarios
from talkbench.workers.log import WorkerLog
from talkbench.workers.process import OutputEnded, WorkerProcess

PROFILER = (sys.executable, "-m", "talkbench_model.profile")
SCENARIO = "profile"
SILENCE_SECONDS = 3600.0
"""Longest wait for a measurement; loading, compiling and measuring the largest takes minutes."""
LEAVE_SECONDS = 60.0
"""From its last line to its end: it has to give back a device and stop its processes."""
MAX_LINE_BYTES = 1 << 24
FITTED = "a performance model fitted to the report's own Table 4; no GPU of ours was involved"
FACTS = (
    "recipe", "num_processes", "ulysses", "ring", "vae", "compiled", "device_kind", "device", "dtype", "attention",
    "weights_kind", "height", "width", "frame_rate", "chunk_frames", "num_steps",
)  # fmt: skip
"""What a measurement says about itself, taken over as it is."""

DeviceKind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Configuration:
    """What is measured in one go.

    Attributes:
        recipe: Of the model.
        num_processes: One per GPU.
        compiled: Whether `torch.compile` is on.
        device_kind: Where it runs.
        emulated: Counts of GPUs that are not there: one of their ranks is measured, the rest is predicted.
        weights: The profiler's options that say which weights.
    """

    recipe: str
    num_processes: int
    compiled: bool
    device_kind: DeviceKind
    emulated: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """The profiler's command line."""
        scenario = scenarios.load()[0][SCENARIO]
        found = ["--recipe", self.recipe, "--device", self.device_kind, "--processes", str(self.num_processes)]
        found += ["--warmup", str(scenario.warmup_chunks), "--chunks", str(scenario.min_chunks)]
        found += ["--seconds", str(scenario.min_seconds), "--compile", "on" if self.compiled else "off"]
        if self.emulated:
            found += ["--emulate", ",".join(map(str, self.emulated))]
        return [*found, *self.weights]


def device_found(kind: DeviceKind) -> str:
    """Return the name of the device that would be measured.

    Raises:
        PrerequisiteError: If there is none of the kind.
    """
    if kind == "cpu":
        return device_name()
    found = gpus()
    if not found:
        raise PrerequisiteError(
            "no NVIDIA GPU here (nvidia-smi finds none). Measure the processor with `--device cpu --processes 1,2`, "
            "or see what a GPU should need and take with `--device H200 --dry-run`."
        )
    return found[0].partition(",")[0].strip()


def plan(
    recipe: str,
    counts: Sequence[int],
    compiled: Sequence[bool],
    device_kind: DeviceKind,
    *,
    present: int,
    weights: tuple[str, ...] = (),
    known: Sequence[ProfileRecord] = (),
) -> list[Configuration]:
    """Return what has to be run for these counts, without what `known` records hold already.

    Args:
        recipe: Of the model.
        counts: Of processes, each on a device of its own.
        compiled: With and without, or one of them.
        device_kind: Where it runs.
        present: Devices of this machine; counts beyond it become emulated ranks of a run on one.
        weights: As in `Configuration`.
        known: Of the same system and device.
    """
    wanted = []
    for compilation in compiled:
        own = [record for record in known if record.compiled == compilation]
        have = {
            record.num_processes for record in own if (record.origin == "measured") == (record.num_processes <= present)
        }
        runs = {count for count in counts if count <= present} - have
        beyond = tuple(sorted({count for count in counts if count > present} - have))
        if beyond:
            runs.add(1)
        for count in sorted(runs):
            emulated = beyond if count == 1 else ()
            wanted.append(Configuration(recipe, count, compilation, device_kind, emulated, weights))
    return wanted


def measure(configuration: Configuration, log: Path) -> Iterator[dict[str, Any]]:
    """Run the profiler; yield its measurements as they are printed.

    Args:
        configuration: What to measure.
        log: File for what it says besides.

    Raises:
        TalkbenchError: If the profiler fails; its own last words are the message.
    """
    yield from _lines(configuration.arguments, log)


def estimate(recipe: str, device: str, counts: Sequence[int], compiled: Sequence[bool]) -> list[dict[str, Any]]:
    """Return memory and time estimates of each count and compilation; nothing is loaded.

    Raises:
        TalkbenchError: If recipe or device are unknown.
    """
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for compilation in compiled:
            arguments = ["--recipe", recipe, "--device", device, "--dry-run"]
            arguments += ["--processes", ",".join(map(str, counts)), "--compile", "on" if compilation else "off"]
            found += _lines(arguments, Path(folder) / "dry-run.log")
    return found


def _lines(arguments: Sequence[str], log_file: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines that the profiler prints; it ends with us, whatever happens."""
    log = WorkerLog(log_file)
    command = [*PROFILER, *arguments, "--out", "-"]
    log.mark(" ".join(command[1:]))
    with tempfile.TemporaryDirectory() as folder:
        process = WorkerProcess(
            command, folder=Path(folder), log=log, environment={}, max_line_bytes=MAX_LINE_BYTES
        )  # fmt: skip
        try:
            while line := process.next_line(SILENCE_SECONDS):
                found = json.loads(line[0])
                if "error" in found:
                    told = found["exit_code"] == PrerequisiteError.exit_code
                    raise (PrerequisiteError if told else TalkbenchError)(found["error"])
                yield found
            raise TalkbenchError(f"the profiler said nothing for {SILENCE_SECONDS:.0f} s. Its log: {log_file}")
        except OutputEnded:
            process.leave(LEAVE_SECONDS)
            if not (ended := process.how_it_ended()).endswith("exit code 0"):
                last = (log.tail() or (ended,))[-1]
                raise TalkbenchError(f"{last} (profiler: {ended}; its log: {log_file})") from None
        finally:
            process.end()
            log.close()


def summarise(measurement: dict[str, Any], system: str) -> ProfileRecord:
    """Return the record of one measurement, or of one prediction.

    Raises:
        TalkbenchError: If fewer cycles were measured than the scenario asks for.
    """
    facts = {name: measurement[name] for name in FACTS}
    playing = measurement["chunk_frames"] / float(Fraction(measurement["frame_rate"]))
    provenance = describe() | {"profiler": measurement["provenance"]}
    if measurement["origin"] == "predicted":
        components = {name: _predicted(seconds) for name, seconds in measurement["predicted"].items()}
        cycle = components.pop("cycle")
        return ProfileRecord(
            system=system, origin="predicted", basis=measurement["basis"], components=components, cycle=cycle,
            fps=measurement["chunk_frames"] / cycle.p50_seconds, real_time_factor=cycle.p50_seconds / playing,
            missed_deadlines=None, provenance=provenance, **facts,
        )  # fmt: skip
    cycles = measurement["cycles"]
    _refuse_short(cycles)
    return ProfileRecord(
        system=system,
        origin="measured",
        components={name: durations(seconds) for name, seconds in measurement["sections"].items()},
        cycle=durations(cycles),
        fps=measurement["chunk_frames"] / float(np.median(cycles)),
        real_time_factor=sum(cycles) / (len(cycles) * playing),
        missed_deadlines=sum(seconds > playing for seconds in cycles) / len(cycles),
        startup=Startup.model_validate(measurement["startup"]),
        peak_memory_bytes=measurement["peak_memory_bytes"],
        power_watts=measurement["power_watts"],
        power_limit_watts=measurement["power_limit_watts"],
        provenance=provenance,
        **facts,
    )


def prediction(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of `estimate` as a prediction that rests on no measurement of ours."""
    seconds = {name: value for name, value in entry["predicted"].items() if name != "fps"}
    return entry | {
        "origin": "predicted",
        "predicted": seconds,
        "basis": {name: FITTED for name in seconds if name != "cycle"},
        "device_kind": "cuda",
        "attention": "unknown",
        "weights_kind": "released",
        "provenance": {},
    }


def durations(seconds: Sequence[float]) -> Durations:
    """Return mean and percentiles; one that would rest on too few durations is left out."""
    least = scenarios.load()[1]

    def percentile(rank: int) -> float | None:
        return float(np.percentile(seconds, rank)) if len(seconds) >= least[rank] else None

    return Durations(
        count=len(seconds),
        mean_seconds=float(np.mean(seconds)),
        p50_seconds=float(np.median(seconds)),
        p90_seconds=percentile(90),
        p99_seconds=percentile(99),
    )


def _predicted(seconds: float) -> Durations:
    return Durations(count=0, mean_seconds=seconds, p50_seconds=seconds)


def _refuse_short(cycles: Sequence[float]) -> None:
    scenario = scenarios.load()[0][SCENARIO]
    if len(cycles) < scenario.min_chunks or sum(cycles) < scenario.min_seconds:
        raise TalkbenchError(
            f"{len(cycles)} cycles over {sum(cycles):.1f} s after warm-up; scenario {SCENARIO!r} needs "
            f"{scenario.min_chunks} over {scenario.min_seconds:.0f} s. Nothing was stored."
        )
