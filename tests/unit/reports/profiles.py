"""Latency profiles as a run stores them, with numbers chosen by the test."""

from __future__ import annotations

from typing import Any

from talkbench.schema import Durations, ProfileRecord, Startup

H200 = {"device_kind": "cuda", "device": "NVIDIA H200", "dtype": "bfloat16"}


def durations(seconds: float, count: int = 20) -> Durations:
    return Durations(count=count, mean_seconds=seconds, p50_seconds=seconds)


def profile(num: int, step: float, *, compiled: bool = False, predicted: bool = False, **changes: Any) -> ProfileRecord:
    """Return a profile whose decode, encode and other parts follow from the step."""
    count = 0 if predicted else 20
    parts = {"audio": 0.03, "dit_step": step, "decode": 1.2 * step, "encode": step / 10, "rest": 0.02}
    if not predicted:
        parts |= {"color": 0.004, "copy": 0.002}
    cycle = 4 * step + sum(seconds for name, seconds in parts.items() if name != "dit_step")
    fields: dict[str, Any] = {
        "system": "soulx-livetalk", "recipe": "flashtalk_14b", "origin": "predicted" if predicted else "measured",
        "num_processes": num, "ulysses": num, "ring": 1, "vae": "exact", "compiled": compiled, "device_kind": "cpu",
        "device": "Some CPU", "dtype": "float32", "attention": "math", "weights_kind": "released", "height": 720,
        "width": 416, "frame_rate": "25", "chunk_frames": 28, "num_steps": 4,
        "components": {name: durations(seconds, count) for name, seconds in parts.items()},
        "cycle": durations(cycle, count), "fps": 28 / cycle, "real_time_factor": cycle / 1.12,
        "missed_deadlines": None if predicted else 0.0,
    }  # fmt: skip
    if not predicted:
        fields["startup"] = Startup(load_seconds=3, stream_seconds=1, cold_seconds=9, first_frame_seconds=0.4)
    return ProfileRecord(**(fields | changes))
