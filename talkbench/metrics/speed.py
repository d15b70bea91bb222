"""Speed from timing events, not from pixels: steady rate, first frame, chunk latency, real-time factor.

Definitions follow the report's own arithmetic: FPS is new frames per steady cycle (28 / 0.876 s = 31.96), so loading,
the first chunk and file writing are outside; `speed.end_to_end_fps` has them inside. Clocks are monotonic and taken
when frames are on the host.
"""

from __future__ import annotations

import numpy as np

from talkbench.errors import NotApplicable, Unscorable
from talkbench.media.clip import ClipFacts
from talkbench.metrics.base import Needs, Output, Runner, Scores
from talkbench.schema import Timing
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
    version = "1"
    outputs = (
        Output("speed.fps", "FPS", unit="frames / s", better="higher", bounds=(0.0, None),
               description="New frames per steady cycle (median), warm-up chunks excluded."),
        Output("speed.end_to_end_fps", "FPS end to end", unit="frames / s", better="higher", bounds=(0.0, None),
               description="All frames over the time from job to closed file."),
        Output("speed.first_frame_seconds", "First frame", unit="s", better="lower", bounds=(0.0, None),
               description="From receiving the job to the first frame on the host."),
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
        if not clip.timing.chunks:
            raise NotApplicable("no-timing", "the timing events name no chunk")
        self._timing: Timing = clip.timing
        self._frame_rate = float(clip.frame_rate)

    def finish(self) -> Scores:
        """Return what the events allow; a number without enough evidence is missing with the reason."""
        timing = self._timing
        num_frames = sum(chunk.num_frames for chunk in timing.chunks)
        values = {
            "speed.end_to_end_fps": num_frames / ((timing.file_closed_ns - timing.job_received_ns) / 1e9),
            "speed.first_frame_seconds": (timing.first_frame_ns - timing.job_received_ns) / 1e9,
        }
        details = {
            "scenario": timing.scenario,
            "device": timing.device,
            "num_devices": timing.num_devices,
            "warmed_up": timing.warmed_up,
            "num_chunks": len(timing.chunks),
        }
        missing: dict[str, Unscorable] = {}
        try:
            values |= self._steady(scenarios.steady_cycles(timing), missing)
        except Unscorable as reason:
            missing |= {output.id: reason for output in self.outputs if output.id not in values}
        return Scores(values, missing=missing, details=details)

    def _steady(self, cycles: list[tuple[int, float]], missing: dict[str, Unscorable]) -> dict[str, float]:
        frames = np.array([count for count, _ in cycles], dtype=np.float64)
        seconds = np.array([duration for _, duration in cycles])
        values = {
            "speed.fps": float(np.median(frames / seconds)),
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
