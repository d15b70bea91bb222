"""One configuration measured: start-up, cold and warm; then chunk after chunk, with the time of every section.

Legend: F frames, H W pixels, N samples, T latent frames, h w latent rows and columns.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from talkbench import provenance
from talkbench.errors import PrerequisiteError

from . import emulation
from .config import Recipe
from .parallel.mesh import local_device
from .pipeline import Model, build
from .profile import facts
from .stand_in import picture_of, sound_of
from .stream import Samples, Stream
from .timing import SECTIONS, Timeline

POWER_PERIOD_MS = 200


def measured(recipe: Recipe, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the measurement of a recipe, on the first process only, and what its emulated ranks let us predict.

    Raises:
        PrerequisiteError: If there is no such device, or it is too small; said before anything is loaded.
    """
    device = _device(recipe, arguments.device)
    began = time.perf_counter()
    seed = 0 if arguments.random_weights else None
    model = build(recipe, arguments.weights_dir, device=device, random_seed=seed)
    _wait(device)
    found = _steady(model, arguments, time.perf_counter() - began)
    if _rank() == 0:
        yield found
    for count in arguments.emulate:
        yield emulation.predicted(model, count, found, arguments.warmup)
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(recipe: Recipe, kind: str) -> torch.device:
    if kind != "cuda":
        # The same cores for any number of processes: what is compared is how they are used.
        share = (os.cpu_count() or 1) // recipe.parallel.num_processes
        torch.set_num_threads(max(1, min(torch.get_num_threads(), share)))
        return torch.device(kind)
    if not torch.cuda.is_available():
        raise PrerequisiteError("PyTorch finds no CUDA device here. Use --device cpu, or --dry-run with a GPU's name.")
    return local_device(kind)


def _steady(model: Model, arguments: argparse.Namespace, load_seconds: float) -> dict[str, Any]:
    recipe, timeline = model.recipe, Timeline(model.device)
    picture, sound_N = picture_of(recipe), sound_of(recipe)
    stream = Stream(model, picture, timeline=timeline)
    _, cold_seconds = _chunk(stream, sound_N)
    for _ in range(arguments.warmup - 1):
        _chunk(stream, sound_N)
    began = time.perf_counter()
    stream = Stream(model, picture, timeline=timeline)
    _wait(model.device)
    stream_seconds = time.perf_counter() - began
    first_frame_seconds, _ = _chunk(stream, sound_N)
    sections: dict[str, list[float]] = defaultdict(list)
    cycles: list[float] = []
    with _power(model.device) as power:
        while _go_on(len(cycles) < arguments.chunks or sum(cycles) < arguments.seconds):
            timeline.clear()
            cycles.append(_chunk(stream, sound_N)[1])
            for name, seconds in _by_component(timeline.records, cycles[-1]):
                sections[name].append(seconds)
    return facts(recipe) | {
        "origin": "measured",
        "device_kind": model.device.type,
        "device": provenance.device_name("cpu" if model.device.type == "cpu" else str(model.device)),
        "attention": model.dit.kernel.name,
        "weights_kind": model.weights.split()[0],
        "sections": {name: sections[name] for name in (*SECTIONS, "rest") if name in sections},
        "cycles": cycles,
        "startup": {
            "load_seconds": load_seconds,
            "stream_seconds": stream_seconds,
            "cold_seconds": cold_seconds,
            "first_frame_seconds": first_frame_seconds,
        },
        "peak_memory_bytes": _peak_bytes(model.device),
        "power_watts": power.get("watts"),
        "power_limit_watts": power.get("limit"),
        "provenance": _provenance(model.device),
    }


def _by_component(records: list[tuple[str, float]], cycle: float) -> Iterator[tuple[str, float]]:
    """Yield each step by itself, the other sections summed over a chunk, and what is left of its cycle."""
    sums: dict[str, float] = defaultdict(float)
    for name, seconds in records:
        if name == "dit_step":
            yield name, seconds
        else:
            sums[name] += seconds
    yield from sums.items()
    # Sections on a GPU overlap what the host does, so that their sum may exceed the cycle by a hair.
    yield "rest", max(0.0, cycle - sum(seconds for _, seconds in records))


def _chunk(stream: Stream, sound_N: Samples) -> tuple[float, float]:
    """Return the seconds from handing over the sound of a chunk to its first frame on the host, and to its end.

    The end is when the device has nothing left to do: the motion latents are made while the last frames are copied.
    """
    arrived: list[float] = []
    began = time.perf_counter()
    stream.push(sound_N)
    for piece in stream:
        _ = piece.frames_FHWC  # waits for the copy
        arrived.append(time.perf_counter() - began)
    _wait(stream.model.device)
    return arrived[0], time.perf_counter() - began


def _go_on(wanted: bool) -> bool:
    """Return what the first process decided: all must make the same number of chunks."""
    if not dist.is_initialized():
        return wanted
    decision = [wanted]
    dist.broadcast_object_list(decision, src=0)
    return decision[0]


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _power(device: torch.device) -> Iterator[dict[str, float]]:
    """Yield a dictionary that holds mean power and limit of all processes' GPUs after the block; empty elsewhere."""
    found: dict[str, float] = {}
    if device.type != "cuda" or _rank() or not shutil.which("nvidia-smi"):
        yield found
        return
    query = ["nvidia-smi", "--query-gpu=index,power.draw,power.limit", "--format=csv,noheader,nounits"]
    command = [*query, f"--id={_gpu_ids()}", f"--loop-ms={POWER_PERIOD_MS}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603
        try:
            yield found
        finally:
            child.terminate()
            printed, _ = child.communicate()
    draws: dict[str, list[float]] = defaultdict(list)
    limits: dict[str, float] = {}
    for line in printed.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3 and all(field.replace(".", "", 1).isdigit() for field in fields):
            draws[fields[0]].append(float(fields[1]))
            limits[fields[0]] = float(fields[2])
    if draws:
        found["watts"] = sum(statistics.fmean(values) for values in draws.values())
        found["limit"] = sum(limits.values())


def _gpu_ids() -> str:
    """Return the GPUs of all processes as nvidia-smi takes them."""
    count = dist.get_world_size() if dist.is_initialized() else 1
    return ",".join(f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in range(count))


def _provenance(device: torch.device) -> dict[str, Any]:
    """Return where the numbers come from, beside what the host knows."""
    found = provenance.describe("cpu" if device.type == "cpu" else str(device))
    return found | {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "threads_per_process": torch.get_num_threads(),
        "machine": platform.machine(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
    }
