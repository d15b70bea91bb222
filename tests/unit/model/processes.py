"""Run one function on several fresh processes that form a gloo group, and collect what each rank returned.

    results = run(checks, 4, tmp_path, argument)     # calls checks(rank, 4, argument) on every rank

The function must sit at the top level of an importable module. Processes are forked from a clean server that has
imported torch and nothing of ours, so a world of eight starts in about a second on two cores. A rank that raises leaves
at once; the others then fail in their next collective instead of waiting for it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

COLLECTIVE_TIMEOUT = timedelta(seconds=30)
# The last two are imported late, by the first backward pass and the first `assert_close`: half a second per process.
PRELOAD = ["torch", "torch.distributed", "torch.fx.experimental.symbolic_shapes", "torch.distributed.tensor"]


class RankError(AssertionError):
    """What went wrong on one rank, with its traceback as text."""


def run(
    function: Callable[..., Any], num_processes: int, tmp_path: Path, *args: Any, timeout_seconds: float = 120.0
) -> list[Any]:
    """Return what `function(rank, num_processes, *args)` returned on each rank.

    Raises:
        RankError: If any rank failed, died or did not finish; the message holds every failing rank's traceback.
    """
    results = outcomes(function, num_processes, tmp_path, *args, timeout_seconds=timeout_seconds)
    errors = [str(result) for result in results if isinstance(result, RankError)]
    if errors:
        raise RankError("\n".join(errors))
    return results


def outcomes(
    function: Callable[..., Any], num_processes: int, tmp_path: Path, *args: Any, timeout_seconds: float = 120.0
) -> list[Any]:
    """Like `run`, but hand back a `RankError` in the place of each rank that failed."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    # Plain pickle: multiprocessing's own would pass tensors as shared memory that dies with its sender.
    payload = pickle.dumps((function, args))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    processes = [
        context.Process(target=_work, args=(rank, num_processes, str(folder), payload), daemon=True)
        for rank in range(num_processes)
    ]
    deadline = time.monotonic() + timeout_seconds
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [_outcome(rank, process, folder, timeout_seconds) for rank, process in enumerate(processes)]
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


def _outcome(rank: int, process: ForkServerProcess, folder: Path, timeout_seconds: float) -> Any:
    file = folder / f"{rank}.pickle"
    if file.is_file():
        return pickle.loads(file.read_bytes())
    if process.is_alive():
        return RankError(f"rank {rank} did not finish within {timeout_seconds:g} s")
    return RankError(f"rank {rank} died with exit code {process.exitcode}")


def _work(rank: int, num_processes: int, folder: str, payload: bytes) -> None:
    """Join the group, call the function and leave its result, or its traceback, in a file."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_processes))
    result: Any
    try:
        store = f"file://{folder}/store"
        dist.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=num_processes, timeout=COLLECTIVE_TIMEOUT
        )
        function, args = pickle.loads(payload)
        result = function(rank, num_processes, *args)
        failed = False
    except BaseException:
        result = RankError(f"rank {rank} of {num_processes}:\n{traceback.format_exc()}")
        failed = True
    partial = Path(folder) / f"{rank}.partial"
    partial.write_bytes(pickle.dumps(result))
    partial.rename(partial.with_suffix(".pickle"))
    if failed:
        os._exit(1)  # a tidy exit would wait for collectives that will never be matched
    dist.destroy_process_group()
