"""Speed from timing events, not from pixels: several rates, each with its own beginning and end.

One "FPS" hides a factor of two and more, so there are four, after the timing protocol of the benchmark's notes on
baselines:

    speed.fps               new frames per steady cycle: the report's own arithmetic (28 / 0.876 s = 31.96)
    speed.generate_fps      all frames, from the conditions being encoded to the last frame on the host
    speed.end_to_end_fps    all frames, from a loaded model to a closed file
    speed.cold_fps          all frames, from starting the process to its end

Clocks are monotonic and taken when frames are on the host. A system whose model stays in memory is loaded when the job
comes, and its file is closed when it says so; of one that is started for every clip, only what its own output tells of
is known. What no event tells of is missing, with the event's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from talkbench.errors import NotApplicable, Unscorable
from talkbench.media.clip import ClipFacts
from talkbench.metrics.base import Needs, Output, Runner, Scores
from talkbench.schema import Timing, TimingEvent
from talkbench.speed import scenarios

PERCENTILES = (50, 90, 99)


def real_time_factor(num_frames: int, frame_rate: float, busy_seconds: float) -> float:
    """Return generation time divided by playback time; below 1.0 is faster than real time.

    Raises:
        ValueError: If `num_frames` is 0 or `busy_seconds` is not positive.
    """
    if num_frames < 1 or busy_seconds <= 0:
        raise ValueError(f"{num_frames} frames in {busy_seconds} s have no real-time factor")
    return busy_seconds * frame_rate / num_frames


class SpeedRunner(Runner):
    """`speed.*` from the events in a clip's sidecar."""

    name = "speed"
    version = "2"
    outputs = (
        Output("speed.fps", "FPS", unit="frames / s", better="higher", bounds=(0.0, None),
               description="New frames per steady cycle (median), warm-up chunks excluded; loading, the first chunk "
               "and writing the file are outside."),
        Output("speed.generate_fps", "FPS generating", unit="frames / s", better="higher", bounds=(0.0, None),
               description="All frames the system made over the time from encoded conditions to the last frame; "
               "loading and writing the file are outside."),
        Output("speed.end_to_end_fps", "FPS end to end", unit="frames / s", better="higher", bounds=(0.0, None),
               description="All frames the system made over the time from a loaded model with its job to a closed "
               "file."),
        Output("speed.cold_fps", "FPS cold", unit="frames / s", better="higher", bounds=(0.0, None),
               description="All frames the system made over the life of a process that was started for this clip, "
               "imports and loading inside."),
        Output("speed.gpu_seconds_per_second", "GPU s / s", unit="s / s", better="lower", bounds=(0.0, None),
               description="GPUs times seconds from a loaded model with its job to a closed file, per second of "
               "sound."),
        Output("speed.first_frame_seconds", "First frame", unit="s", better="lower", bounds=(0.0, None),
               description="From a loaded model with its job to the first frame on the host."),
        Output("speed.generate_real_time_factor", "RTF generating", unit="1", better="lower", bounds=(0.0, None),
               digits=3, description="Time from encoded conditions to the last frame over the length of the sound; "
               "under 1 is real time."),
        Output("speed.real_time_factor", "RTF", unit="1", better="lower", bounds=(0.0, None), digits=3,
               description="Generation time over playback time of the steady cycles; under 1 is real time."),
        Output("speed.missed_deadlines", "Missed", unit="1", better="lower", bounds=(0.0, 1.0), scale=100.0,
               description="Percent of steady cycles that took longer than their frames play."),
        *(
            Output(f"speed.cycle_p{p}_seconds", f"Cycle p{p}", unit="s", better="lower", bounds=(0.0, None), digits=3,
                   description=f"{p}th percentile of the steady cycle.")
            for p in PERCENTILES
        ),
    )  # fmt: skip
    needs = Needs(frames=False, timing=True)

    def start(self, clip: ClipFacts) -> None:
        """Take the events."""
        if clip.timing is None:
            raise NotApplicable("no-timing", "the clip has no timing events beside it (<clip>.clip.json)")
        if not clip.timing.chunks and not clip.timing.events:
            raise NotApplicable("no-timing", "the timing events name no chunk and no stage")
        self._timing: Timing = clip.timing
        self._frame_rate = float(clip.frame_rate)

    def finish(self) -> Scores:
        """Return what the events allow; a number without enough evidence is missing with the reason."""
        timing = self._timing
        values: dict[str, float] = {}
        missing: dict[str, Unscorable] = {}
        whole: dict[str, Callable[[], float]] = {
            "speed.generate_fps": lambda: self._num_frames() / self._between("cond_end", "gen_end"),
            "speed.end_to_end_fps": lambda: self._num_frames() / self._between("load_end", "encode_end"),
            "speed.cold_fps": lambda: self._num_frames() / self._between("spawn", "exit"),
            "speed.gpu_seconds_per_second": self._gpu_seconds_per_second,
            "speed.first_frame_seconds": lambda: self._between("load_end", "first_frames"),
            "speed.generate_real_time_factor": lambda: self._between("cond_end", "gen_end") / self._sound_seconds(),
        }
        for name, compute in whole.items():
            try:
                values[name] = compute()
            except Unscorable as reason:
                missing[name] = reason
        details = {
            "scenario": timing.scenario,
            "device": timing.device,
            "num_devices": timing.num_devices,
            "num_gpus": timing.num_gpus,
            "warmed_up": timing.warmed_up,
            "num_chunks": len(timing.chunks),
            "events": sorted(timing.events),
        }
        try:
            cycles = scenarios.steady_cycles(timing)
            self._refuse_contradiction()
            values |= self._steady(cycles, missing)
            details["fps_quartiles"] = [round(float(q), 3) for q in np.percentile(_rates(cycles), (25, 75))]
        except Unscorable as reason:
            missing |= {name: reason for output in self.outputs if (name := output.id) not in {*values, *missing}}
        return Scores(values, missing=missing, details=details)

    def _between(self, first: TimingEvent, last: TimingEvent) -> float:
        """Return the seconds from one event to another.

        Raises:
            Unscorable: ``no-event`` if one is not known, ``contradictory-events`` if they are in the wrong order.
        """
        timing = self._timing
        known = dict(timing.events)
        if timing.first_frame_ns is not None:
            known["first_frames"] = timing.first_frame_ns
        if "spawn" not in known:
            known.setdefault("load_end", timing.job_received_ns)
            known.setdefault("encode_end", timing.file_closed_ns)
        unknown = [name for name in (first, last) if name not in known]
        if unknown:
            raise Unscorable("no-event", f"nothing tells of {' or '.join(unknown)}")
        seconds = (known[last] - known[first]) / 1e9
        if seconds <= 0:
            raise Unscorable("contradictory-events", f"{last} comes {-seconds:.3f} s before {first}")
        return seconds

    def _num_frames(self) -> int:
        timing = self._timing
        found = timing.num_frames or sum(chunk.num_frames for chunk in timing.chunks)
        if not found:
            raise Unscorable("no-event", "nothing tells of the number of frames")
        return found

    def _sound_seconds(self) -> float:
        """Return the length of the sound; records from before it was noted tell it by their frames."""
        return self._timing.audio_seconds or self._num_frames() / self._frame_rate

    def _gpu_seconds_per_second(self) -> float:
        num_gpus = self._timing.num_gpus
        if not num_gpus:
            told = "it ran without a GPU" if num_gpus == 0 else "nobody noted how many GPUs it had"
            raise Unscorable("no-gpu", told)
        return num_gpus * self._between("load_end", "encode_end") / self._sound_seconds()

    def _refuse_contradiction(self) -> None:
        """Refuse cycles of a program that printed of more frames than it made."""
        told, made = sum(chunk.num_frames for chunk in self._timing.chunks), self._timing.num_frames
        if made is not None and told > made:
            raise Unscorable("contradictory-events", f"the cycles have {told} frames, the system made {made}")

    def _steady(self, cycles: list[tuple[int, float]], missing: dict[str, Unscorable]) -> dict[str, float]:
        frames = np.array([count for count, _ in cycles], dtype=np.float64)
        seconds = np.array([duration for _, duration in cycles])
        values = {
            "speed.fps": float(np.median(_rates(cycles))),
            "speed.real_time_factor": real_time_factor(int(frames.sum()), self._frame_rate, float(seconds.sum())),
            "speed.missed_deadlines": float((seconds > frames / self._frame_rate).mean()),
        }
        for percentile, least in scenarios.load()[1].items():
            name = f"speed.cycle_p{percentile}_seconds"
            if len(cycles) >= least:
                values[name] = float(np.percentile(seconds, percentile))
            else:
                missing[name] = Unscorable(
                    "too-few-chunks", f"p{percentile} needs {least} cycles, the clip has {len(cycles)}"
                )
        return values


def _rates(cycles: Sequence[tuple[int, float]]) -> NDArray[np.float64]:
    """Return the frames per second of each cycle."""
    return np.array([frames / seconds for frames, seconds in cycles])
