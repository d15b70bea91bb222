"""Processes of one stream: who is there (from torchrun), the process groups, and stopping together.

A process that dies must not leave the others waiting:

* before the first exchange, `together` runs what may fail on one process only (a missing kernel, a full disk) and
  raises on all of them;
* later, gloo and NCCL calls of the survivors fail or are killed: torchrun ends every process within seconds of the
  first non-zero exit, and gloo notices the closed connection by itself;
* a machine that vanishes without closing anything is noticed after the groups' timeout.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from talkbench.errors import TalkbenchError

from ..config import ParallelConfig

T = TypeVar("T")

# Longer than the slowest cold start of one process beside the others (loading and compiling take minutes).
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Mesh:
    """Processes r*U .. r*U+U-1 form Ulysses group r; processes u, U+u, 2U+u, ... form ring group u.

    Source: the layout of USP (Fang and Zhao, arXiv:2405.07719), heads exchanged between neighbours.

    Attributes:
        rank: Of this process among all.
        ulysses: Processes that share heads (U).
        ring: Groups that pass keys and values around (R).
        group: All processes.
        ulysses_group: The processes that this one exchanges heads with; None when U is 1.
        ring_group: The processes that this one passes keys and values along; None when R is 1.
    """

    rank: int
    ulysses: int
    ring: int
    group: dist.ProcessGroup | None
    ulysses_group: dist.ProcessGroup | None
    ring_group: dist.ProcessGroup | None

    @property
    def size(self) -> int:
        """Processes in all (n)."""
        return self.ulysses * self.ring

    @property
    def ring_rank(self) -> int:
        """Number of this process's Ulysses group."""
        return self.rank // self.ulysses

    def ulysses_ranks(self, ring_rank: int) -> range:
        """Return the ranks of a Ulysses group."""
        return range(ring_rank * self.ulysses, (ring_rank + 1) * self.ulysses)


def launched() -> int | None:
    """Return how many processes torchrun started; None if it started none."""
    count = os.environ.get("WORLD_SIZE")
    return None if count is None else int(count)


def launched_here() -> int:
    """Return how many processes torchrun started on this machine; 1 if it started none."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process speaks and writes for all."""
    return not dist.is_initialized() or dist.get_rank() == 0


def local_device(device_type: str) -> torch.device:
    """Return this process's device: GPU number `LOCAL_RANK`, or the CPU.

    Raises:
        TalkbenchError: If torchrun started more processes on this machine than it has GPUs.
    """
    if device_type != "cuda":
        return torch.device(device_type)
    local, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= available:
        raise TalkbenchError(
            f"process {local} on this machine has no GPU: {available} found. "
            f"Start as many processes as GPUs: `torchrun --nproc_per_node={max(available, 1)} ...`."
        )
    return torch.device("cuda", local)


def check_degrees(parallel: ParallelConfig, num_heads: int) -> None:
    """Refuse degrees that fit neither the processes that torchrun started nor the heads of the network.

    Raises:
        TalkbenchError: Naming both numbers and the command that fits.
    """
    ulysses, ring, expected = parallel.ulysses, parallel.ring, parallel.num_processes
    started = dist.get_world_size() if dist.is_initialized() else launched() or 1
    if min(ulysses, ring) < 1:
        raise TalkbenchError(f"parallel degrees are ulysses {ulysses} and ring {ring}; both must be at least 1.")
    if started != expected:
        raise TalkbenchError(
            f"{started} process(es) were started, but ulysses {ulysses} x ring {ring} needs {expected}. "
            f"Start with `torchrun --nproc_per_node={expected} ...` or change the degrees."
        )
    if num_heads % ulysses:
        fitting = [degree for degree in range(1, expected + 1) if expected % degree == 0 == num_heads % degree]
        raise TalkbenchError(
            f"{num_heads} heads do not divide by a Ulysses degree of {ulysses}. On {expected} processes use "
            + " or ".join(f"ulysses {degree} x ring {expected // degree}" for degree in reversed(fitting))
            + "."
        )


def connect(parallel: ParallelConfig, device: torch.device, timeout: timedelta = TIMEOUT) -> Mesh:
    """Join the process group that torchrun describes, unless that is done, and form the groups of the degrees.

    Groups are made here and not by `init_device_mesh`, whose groups would wait 10 to 30 minutes whatever the timeout.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timeout)
    ulysses, ring, size = parallel.ulysses, parallel.ring, parallel.num_processes
    adjacent = [list(range(r * ulysses, (r + 1) * ulysses)) for r in range(ring)]
    strided = [list(range(u, size, ulysses)) for u in range(ulysses)]
    return Mesh(
        dist.get_rank(), ulysses, ring, dist.group.WORLD, _subgroup(adjacent, timeout), _subgroup(strided, timeout)
    )


def _subgroup(ranks: list[list[int]], timeout: timedelta) -> dist.ProcessGroup | None:
    """Return this process's group of a partition; None if it is alone, the group of all if that is the only one."""
    if len(ranks[0]) == 1:
        return None
    if len(ranks) == 1:
        return dist.group.WORLD
    group: dist.ProcessGroup
    group, _ = dist.new_subgroups_by_enumeration(ranks, timeout=timeout)
    return group


def together(action: Callable[[], T], group: dist.ProcessGroup | None = None) -> list[T]:
    """Run `action` on every process and return what each returned; if it fails on one, fail on all.

    Args:
        action: Returns something small that can be pickled. Must not communicate.
        group: The processes; by default all.

    Raises:
        TalkbenchError: On the processes that succeeded, naming one that did not; that one raises its own error.
    """
    failure, outcome = None, None
    try:
        outcome = action()
    except Exception as error:  # noqa: BLE001 - raised again below, once the others know
        failure = error
    report = (outcome, None if failure is None else f"{type(failure).__name__}: {failure}")
    reports: list[tuple[T, str | None]] = [report] * dist.get_world_size(group)  # type: ignore[list-item]
    dist.all_gather_object(reports, report, group=group)
    if failure is not None:
        raise failure
    for rank, (_, message) in enumerate(reports):
        if message is not None:
            raise TalkbenchError(f"process {rank} failed: {message}")
    return [result for result, _ in reports]


def on_first(action: Callable[[], object]) -> None:
    """Run something on the first process; if it fails there, fail on all, as `together` does."""
    if not dist.is_initialized():
        action()
        return
    together(lambda: action() if is_first() else None)
