"""Making the shards that are missing, by one process or several; each shard is made by one of them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from talkbench import atomic
from talkbench.errors import TalkbenchError
from talkbench.ids import digest
from talkbench.progress import Progress

from ..config import Recipe
from ..pipeline import Encoders, build_encoders
from . import identity, shards
from .footage import Rejected, Source, encoded
from .shards import Encoded, Header, Rejection

_log = logging.getLogger(__name__)

CLIPS_PER_SHARD = 16
"""About 250 MB of samples of the 14B model with five chunks."""
NULL_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
"""What guidance takes for no text: Wan2.1's negative prompt (`wan/configs/shared_config.py`), as InfiniteTalk does."""


@dataclass(frozen=True)
class Work:
    """What every process needs to know to make any shard.

    Attributes:
        folder: Where shards go.
        source: Where clips come from.
        recipe: Whose encoders.
        weights_dir: Their weights; those that come with the recipe, else its random ones, if None.
        device: ``cpu``, or ``cuda``: processes share the GPUs there are.
    """

    folder: Path
    source: Source
    recipe: Recipe
    weights_dir: Path | None
    device: str

    def encoders(self, process: int) -> Encoders:
        """Return the encoders for one of the processes."""
        if self.device == "cpu":
            # One thread, so that the numbers do not depend on the machine's cores; more cores are more processes.
            torch.set_num_threads(1)
            return build_encoders(self.recipe, self.weights_dir)
        place = f"{self.device}:{process % torch.cuda.device_count()}" if self.device == "cuda" else self.device
        return build_encoders(self.recipe, self.weights_dir, device=place)

    def make_shard(self, encoders: Encoders, number: int) -> None:
        """Write one shard."""
        shards.write_shard(self.folder, number, self._outcomes(encoders, number))

    def _outcomes(self, encoders: Encoders, number: int) -> Iterator[Encoded | Rejection]:
        ids = self.source.ids
        first = number * CLIPS_PER_SHARD
        for place in range(first, min(first + CLIPS_PER_SHARD, len(ids))):
            try:
                yield encoded(encoders, ids[place], self.source.footage(place))
            except Rejected as refused:
                yield Rejection(ids[place], refused.reason, refused.message)


def prepare(work: Work, header: Header, *, jobs: int, progress: Progress) -> Counter[str]:
    """Make the shards that are missing, and the index; return how many clips there are by outcome.

    Args:
        work: What to do.
        header: Of the folder; must be the one there, if there is one.
        jobs: Processes.
        progress: Told about every shard.

    Raises:
        TalkbenchError: If the folder holds other data, or another process is writing it.
    """
    with atomic.lock(work.folder / ".lock", wait=False) as held:
        if not held:
            raise TalkbenchError(f"another process is writing {work.folder}. Wait for it, or choose another --out.")
        header.write(work.folder)
        tasks = _tasks(work.folder, header)
        progress.start("shards", len(tasks))
        for name in _made(work, tasks, jobs):
            progress.step(name)
        progress.finish()
        return shards.finish(work.folder, header)


@dataclass(frozen=True)
class _Task:
    """A shard, or the null text."""

    shard: int | None

    def run(self, work: Work, encoders: Encoders) -> str:
        """Write it; return its name."""
        if self.shard is None:
            shards.write_null_text(work.folder, encoders.encode_text(NULL_PROMPT))
            return "null text"
        work.make_shard(encoders, self.shard)
        return f"shard {self.shard}"


def num_shards(source: Source) -> int:
    """Return how many shards the clips of a source are spread over."""
    return -(-len(source.ids) // CLIPS_PER_SHARD)


def missing(folder: Path, count: int) -> list[int]:
    """Return those of `count` shards that are still to be made in a folder."""
    return [number for number in range(count) if not shards.is_complete(folder, number)]


def _tasks(folder: Path, header: Header) -> list[_Task]:
    tasks = [_Task(number) for number in missing(folder, header.num_shards)]
    return tasks if (folder / shards.NULL_TEXT).is_file() else [_Task(None), *tasks]


def _made(work: Work, tasks: Sequence[_Task], jobs: int) -> Iterator[str]:
    """Make what is missing; yield its names as it is finished."""
    if jobs == 1 or len(tasks) < 2:
        if tasks:
            encoders = work.encoders(0)
            yield from (task.run(work, encoders) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    begun = context.Value("i", 0)
    with ProcessPoolExecutor(min(jobs, len(tasks)), context, _begin, (work, begun)) as pool:
        try:
            for done in as_completed([pool.submit(_run, task) for task in tasks]):
                yield done.result()
        except BrokenProcessPool as error:
            raise TalkbenchError(
                f"a process that encoded into {work.folder} was killed; memory may be short. "
                "Run the same again, with fewer --jobs; what is finished is kept."
            ) from error
        except KeyboardInterrupt:
            _log.info("stopping when the shards under way are finished")
            raise
        finally:
            pool.shutdown(cancel_futures=True)


_own: dict[str, Any] = {}
"""Of a process of the pool: its work and its encoders."""


def _begin(work: Work, begun: Any) -> None:
    with begun.get_lock():
        place, begun.value = begun.value, begun.value + 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _own.update(work=work, encoders=work.encoders(place))


def _run(task: _Task) -> str:
    return task.run(_own["work"], _own["encoders"])


def _end_with_parent() -> None:
    """Leave when the parent is gone: a killed one cannot say so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def header_of(source: Source, recipe: Recipe, weights_dir: Path | None, chunks: int, command: str) -> Header:
    """Return the header of a folder with the samples of a source."""
    asked = {"ids": digest(list(source.ids)), "null_prompt": NULL_PROMPT, **source.identity}
    return Header(
        encoders=identity.of_encoders(recipe, weights_dir),
        chunks=chunks,
        clips=digest(asked),
        num_shards=num_shards(source),
        command=command,
    )
