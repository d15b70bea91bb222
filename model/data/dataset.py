"""Encoded clips, read one at a time, and the order in which training takes them.

    dataset = Dataset(Path("data"))
    order = Order(dataset, batch_size=32, seed=0)
    for index in order.for_rank(step, rank, world):     # one clip per micro-step
        sample = dataset.sample(index)

The order is a function of the seed and the step alone: the same on every rank and for any number of ranks, and a run
that goes on at step n needs no other state.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from torch import Tensor

from talkbench.errors import TalkbenchError

from . import shards
from .sample import Sample
from .shards import Entry, Header

TENSORS = tuple(field.name for field in fields(Sample) if field.name != "id")
OPEN_SHARDS = 64
"""Mapped at a time, by least recent use."""


class Dataset:
    """A folder of encoded clips, mapped into memory and checked sample by sample.

    Args:
        folder: Of `python -m model.data.prepare`.

    Attributes:
        header: What the clips have in common.
        entries: One per sample, in the order of the folder.

    Raises:
        TalkbenchError: If the folder is not complete, or holds no clip; names the command that makes it so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.header = folder, Header.read(folder)
        self.entries = tuple(shards.read_index(folder))
        if not self.entries:
            raise TalkbenchError(f"{folder} holds no sample: all were refused. {folder / shards.REJECTIONS} says why.")
        self._open = lru_cache(OPEN_SHARDS)(self._opened)

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.entries)

    def sample(self, index: int) -> Sample:
        """Return a sample.

        Raises:
            TalkbenchError: If its shard is missing or damaged; names it, and the commands that make it again.
        """
        entry = self.entries[index]
        try:
            file = self._open(entry.shard)
            tensors = {name: file.get_tensor(f"{entry.id}/{name}") for name in TENSORS}
        except (OSError, SafetensorError) as error:
            raise self._damaged(entry, str(error)) from error
        if shards.digest_of(tensors) != entry.digest:
            raise self._damaged(entry, f"sample {entry.id} is not what was written")
        return Sample(id=entry.id, **tensors)

    @cached_property
    def null_text_LC(self) -> Tensor:
        """Text tokens that stand for no text."""
        path = self.folder / shards.NULL_TEXT
        try:
            with safe_open(path, framework="pt") as file:
                text_LC: Tensor = file.get_tensor(shards.NULL_TEXT_NAME)
        except (OSError, SafetensorError) as error:
            raise TalkbenchError(
                f"{path} cannot be read: {error}. Make it again with\n  rm -f {path}\n  {self._rebuild}"
            ) from error
        return text_LC

    @property
    def _rebuild(self) -> str:
        return self.header.rebuild(self.folder)

    def _opened(self, shard: int) -> Any:
        return safe_open(shards.shard_path(self.folder, shard), framework="pt")

    def _damaged(self, entry: Entry, what: str) -> TalkbenchError:
        path = shards.shard_path(self.folder, entry.shard)
        return TalkbenchError(f"shard {path} is damaged: {what}. Make it again with\n  rm -f {path}\n  {self._rebuild}")


class Order:
    """Which sample a step takes: every epoch anew, batches of one bucket where there are enough clips of it.

    Clips that are too few for a batch of their bucket share batches with others. Every epoch leaves out the clips that
    fill no batch, others each time; a folder with fewer clips than a batch gives some of them twice.

    Args:
        dataset: Whose samples.
        batch_size: Samples per step, over all ranks.
        seed: Of the shuffling.

    Raises:
        ValueError: If the batch holds nothing.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batches of {batch_size} samples; expected 1 or more")
        self.batch_size, self.seed = batch_size, seed
        self._num_samples = len(dataset)
        self.steps_per_epoch = max(1, len(dataset) // batch_size)
        buckets: dict[str, list[int]] = defaultdict(list)
        for index, entry in enumerate(dataset.entries):
            buckets[entry.bucket].append(index)
        self._buckets = [np.array(buckets[name]) for name in sorted(buckets)]
        self._epoch = lru_cache(2)(self._drawn)

    def at(self, step: int, place: int) -> int:
        """Return the sample at a place of a step's batch."""
        if not 0 <= place < self.batch_size:
            raise ValueError(f"place {place} of a batch of {self.batch_size}")
        epoch, batch = divmod(step, self.steps_per_epoch)
        return int(self._epoch(epoch)[batch, place])

    def for_rank(self, step: int, rank: int, world: int) -> list[int]:
        """Return the samples of one of `world` ranks, one per micro-step; micro-step j of all ranks is `world` places.

        Raises:
            ValueError: If the ranks cannot share a batch evenly.
        """
        if self.batch_size % world:
            raise ValueError(f"a batch of {self.batch_size} clips cannot be shared by {world} processes evenly")
        return [self.at(step, place) for place in range(rank, self.batch_size, world)]

    def _drawn(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the batches of an epoch `[steps, batch_size]`."""
        rng = np.random.default_rng((self.seed, epoch))
        batches: list[npt.NDArray[np.int64]] = []
        left: list[npt.NDArray[np.int64]] = []
        for members in self._buckets:
            shuffled = rng.permutation(members)
            whole = len(shuffled) // self.batch_size * self.batch_size
            batches += list(shuffled[:whole].reshape(-1, self.batch_size))
            left.append(shuffled[whole:])
        mixed = rng.permutation(np.concatenate(left))
        missing = self.steps_per_epoch - len(batches)
        if missing:
            batches += list(np.resize(mixed, (missing, self.batch_size)))
        return np.stack(batches)[rng.permutation(len(batches))]
